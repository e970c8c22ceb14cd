"""From a batch plan to global device arrays, through grain: batch = f(seed, step)."""

import dataclasses
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import jax
import numpy as np
from absl import flags

from w2v_jax.data.plan import BatchSpec
from w2v_jax.data.sharing import remove_files
from w2v_jax.errors import UserError
from w2v_jax.stopping import Stopped, stop

POLL = 0.2  # seconds between two looks at whether to stop, while a batch is waited for


class Spec(Protocol):
    """The content of one global batch: `data.plan.BatchSpec` and `data.streams.StreamSpec`."""

    step: int
    parts: Mapping[str, BatchSpec]  # by the prefix of the arrays' names, "" where there is none
    shape: Any  # hashable; equal for batches whose arrays have the same shapes


class Plan(Protocol):
    """The batches of a training, step by step: `data.plan.BatchPlan`, `data.streams.StreamPlan`."""

    shapes: Sequence  # of all batches, or of what they are made of

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> Spec: ...


class BatchLoader(Protocol):
    """What reads batches: `data.loader.Loader`, `data.text.TextLoader`, and for several streams
    `data.streams.StreamLoader`."""

    parts: tuple[int, ...]  # of the rows of a micro-batch, cut into `of` equal parts, those
    of: int  # that this process reads

    def arrays(self, shape: Any) -> dict[str, tuple[tuple[int, ...], type]]:
        """{name: (shape, type)} of the arrays of a batch of all processes; the shape of a spec."""

    def load(self, spec: Spec) -> tuple[dict[str, np.ndarray], Sequence]:
        """The arrays [A, B, ...] of this process, and what could not be read for them."""

    def amount(self, spec: Spec) -> float:
        """How much data is in the batch of all processes, padding not counted."""

    def note(self, problems: Sequence) -> None:
        """Takes what could not be read from the worker processes."""

    def for_workers(self, count: int) -> "BatchLoader":
        """The loader of each of `count` worker processes."""

    def metrics(self) -> dict[str, float]:
        """Scalars for every line of the log."""

    @property
    def meta(self) -> dict[str, str]:
        """What must be the same when a run continues."""


class _From:
    """`specs` from `start` on.

    grain's own state is a nested dict per worker, which fits no other number of workers. A slice of
    the plan needs none: the position of the data stays the step.
    """

    def __init__(self, specs: Sequence[Spec], start: int):
        self._specs, self._start = specs, start

    def __len__(self) -> int:
        return max(len(self._specs) - self._start, 0)

    def __getitem__(self, index: int) -> Spec:
        return self._specs[int(index) + self._start]


@dataclasses.dataclass
class _Load:
    """(batch, amount of data, what could not be read) of a spec."""

    loader: BatchLoader

    def __call__(self, spec: Spec):
        batch, problems = self.loader.load(spec)
        return batch, self.loader.amount(spec), problems


def iterate(
    specs: Sequence[Spec],
    loader: BatchLoader,
    *,
    start: int = 0,
    threads: int = 2,
    workers: int = 0,
    sharding=None,
) -> Generator[tuple[dict[str, Any], float], None, None]:
    """Yields (batch, seconds of audio or tokens in it) of specs[start], specs[start + 1], ...

    specs: a plan or a list of specs. The batches are read by `threads` of this process or
    of each of `workers` processes, which get the manifest as a file's name and share the cache
    between them; the batches do not depend on either. What could not be read is noted in the
    loader of this process, when its batch is asked for. With `sharding` the batch consists of
    global jax.Arrays, put on the devices one batch ahead; without, of NumPy arrays. Raises Stopped
    where this process is asked to stop, also while storage does not answer.
    """
    reader = loader.for_workers(workers) if workers else loader
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=threads + 1 if threads else 0
    )
    dataset = grain.MapDataset.source(_From(specs, start)).map(_Load(reader))
    dataset = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # grain's processes have flags; a notebook parses none
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _deaf)
    iterator = iter(dataset)

    def put(batch: dict[str, np.ndarray]):
        if sharding is None:
            return batch
        return {name: _global(array, sharding, loader) for name, array in batch.items()}

    waiting = _Waiting(iterator)
    try:
        previous = None
        for batch, amount, problems in waiting:
            loader.note(problems)
            current = put(batch), amount
            if previous is not None:
                yield previous
            previous = current
        if previous is not None:
            yield previous
    finally:
        if not waiting.abandoned:  # to close it would wait for what is read
            iterator.close()


class _Waiting:
    """The items of an iterator, fetched by a thread: this one hears a signal while it waits."""

    def __init__(self, items: Iterator[Any]):
        self._items = items
        self._wanted, self._fetched = queue.SimpleQueue(), queue.SimpleQueue()
        self.abandoned = False  # the thread still waits for an item that nobody wants

    def __iter__(self) -> Iterator[Any]:
        threading.Thread(target=self._fetch, name="batches", daemon=True).start()
        try:
            with stop.leaving(remove_files):
                while True:
                    self._wanted.put(True)
                    item, error = self._answer()
                    if isinstance(error, StopIteration):
                        return
                    if error is not None:
                        raise error
                    yield item
        finally:
            self._wanted.put(False)

    def _answer(self) -> tuple[Any, BaseException | None]:
        while True:
            if stop.asked:
                self.abandoned = True
                raise Stopped
            try:
                return self._fetched.get(timeout=POLL)
            except queue.Empty:
                continue

    def _fetch(self) -> None:
        while self._wanted.get():
            try:
                self._fetched.put((next(self._items), None))
            except BaseException as error:  # whatever it is, it is for the one who waits
                self._fetched.put((None, error))


def _deaf(worker: int, workers: int) -> None:
    """A signal to all processes of a run is for the one that trains, which needs batches until it
    has saved. It ends the others; so does its own end, whatever it was."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    trains = multiprocessing.parent_process()

    def follow() -> None:
        trains.join()
        os._exit(1)

    if trains is not None:
        threading.Thread(target=follow, name="parent", daemon=True).start()


def _global(array: np.ndarray, sharding, loader: BatchLoader) -> jax.Array:
    """The batch array [A, B, ...] of which the loader has read the rows of this process."""
    rows = array.shape[1] // len(loader.parts)  # of a part
    shape = (array.shape[0], rows * loader.of, *array.shape[2:])

    def local(index):
        start, stop, _ = index[1].indices(shape[1])
        part = start // rows
        here = start + rows * (loader.parts.index(part) - part)
        return array[:, here : here + stop - start]

    return jax.make_array_from_callback(shape, sharding, local)


def check_rows(counts: Iterable[int], parts: int, accumulation: int) -> None:
    """Raises UserError where the rows of a batch, one of `counts`, do not make equal parts."""
    for rows in counts:
        if rows % (parts * accumulation):
            raise UserError(
                f"the {rows} rows of a batch are not divisible by "
                f"accumulation * data * fsdp = {accumulation} * {parts}; set "
                f"--config.data.row_multiple={parts * accumulation}"
            )
