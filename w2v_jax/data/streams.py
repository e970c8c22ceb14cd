"""Several streams of batches in one training: labelled speech beside unlabelled, say.

The batch of an update is the union of the arrays of one batch of each stream that has its turn
there, their names behind the prefix of the stream: `audio` of one, `labelled_audio` of another.
Which streams, and which of their batches, is a function of (seed, step).
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from w2v_jax.data.batches import BatchLoader
from w2v_jax.data.order import Interleaving
from w2v_jax.data.plan import BatchPlan, BatchSpec, Bucket

Shape = tuple[tuple[str, tuple[int, int]], ...]  # (prefix, (rows, samples)) of every stream


@dataclasses.dataclass(frozen=True)
class StreamSpec:
    """The content of one global batch."""

    step: int
    parts: Mapping[str, BatchSpec]  # by prefix; without the streams that have no turn

    @property
    def shape(self) -> Shape:
        return tuple((prefix, part.shape) for prefix, part in self.parts.items())


class StreamPlan(abc.ABC):
    """An endless sequence of batches, `plan[step]`, as a `BatchPlan` is.

    streams: the buckets of every stream, by prefix.
    """

    def __init__(self, streams: Mapping[str, Sequence[Bucket]], *, num_steps: int):
        self.streams = {prefix: list(buckets) for prefix, buckets in streams.items()}
        self._num_steps = num_steps

    @abc.abstractmethod
    def parts(self, step: int) -> dict[str, BatchSpec]:
        """What `StreamSpec.parts` says of a step. The `step` of each must be another whenever its
        crops and augmentation shall be."""

    def __len__(self) -> int:
        return self._num_steps

    @property
    def shapes(self) -> list[Shape]:
        """Of the batches of every stream alone."""
        return [
            ((prefix, (bucket.rows, bucket.samples)),)
            for prefix, buckets in self.streams.items()
            for bucket in buckets
        ]

    def __getitem__(self, step: int) -> StreamSpec:
        return StreamSpec(int(step), self.parts(int(step)))


class Accompanied(StreamPlan):
    """A batch of the stream without a prefix in every update, and in the share `ratio` (above 0, up
    to 1) of the updates, at random but in proportion, one of another stream."""

    def __init__(
        self,
        main: Sequence[Bucket],
        other: Sequence[Bucket],
        prefix: str,
        ratio: float,
        *,
        seed: int,
        num_steps: int,
    ):
        super().__init__({"": main, prefix: other}, num_steps=num_steps)
        self._prefix = prefix
        self._main = BatchPlan(main, seed=seed, num_steps=num_steps)
        self._other = BatchPlan(other, seed=stream_seed(seed, 1), num_steps=num_steps)
        self._turns = Interleaving([1 - ratio, ratio], (seed, 5))

    def parts(self, step: int) -> dict[str, BatchSpec]:
        (stream,), (turn,) = self._turns(np.array([step]))
        parts = {"": self._main[step]}
        return parts | ({self._prefix: self._other[int(turn)]} if stream == 1 else {})


def stream_seed(seed: int, number: int) -> int:
    """The seed of a further stream: two streams of the same files are not in the same order."""
    return int(np.random.SeedSequence([seed, 6, number]).generate_state(1)[0])


class StreamLoader:
    """Reads the batches of a StreamPlan; see `data.batches.BatchLoader`.

    loaders: of every stream, by prefix; one may serve several. They share the memory that each
    might use for decoded audio.
    """

    def __init__(self, loaders: Mapping[str, BatchLoader]):
        count = len({id(loader) for loader in loaders.values()})
        self.loaders = _each(loaders, lambda loader: loader.for_workers(count))
        first, *_ = self.loaders.values()  # all read the same rows
        self.parts, self.of = first.parts, first.of

    def arrays(self, shape: Shape) -> dict[str, tuple[tuple[int, ...], type]]:
        """{name: (shape, type)} of the arrays of a batch of all processes."""
        return {
            prefix + name: array
            for prefix, part in shape
            for name, array in self.loaders[prefix].arrays(part).items()
        }

    def load(self, spec: StreamSpec) -> tuple[dict[str, np.ndarray], list]:
        """The arrays [A, B, ...] of this process, and what could not be read for them."""
        batch, problems = {}, []
        for prefix, part in spec.parts.items():
            arrays, bad = self.loaders[prefix].load(part)
            batch |= {prefix + name: array for name, array in arrays.items()}
            problems += [(prefix, problem) for problem in bad]
        return batch, problems

    def amount(self, spec: StreamSpec) -> float:
        """Of all streams."""
        return sum(self.loaders[prefix].amount(part) for prefix, part in spec.parts.items())

    def note(self, problems: Sequence[tuple]) -> None:
        """Each to the loader that found it."""
        for prefix, problem in problems:
            self.loaders[prefix].note([problem])

    def for_workers(self, count: int) -> "StreamLoader":
        """The loader of each of `count` worker processes."""
        other = object.__new__(StreamLoader)
        other.parts, other.of = self.parts, self.of
        other.loaders = _each(self.loaders, lambda loader: loader.for_workers(count))
        return other

    def metrics(self) -> dict[str, float]:
        """Those of every loader, the prefix of its first stream in their names."""
        return {
            key.replace("/", f"/{prefix}"): value
            for prefix, loader in self._once()
            for key, value in loader.metrics().items()
        }

    @property
    def meta(self) -> dict[str, str]:
        """What must be the same when a run continues."""
        return {
            prefix.replace("_", " ") + key: value
            for prefix, loader in self._once()
            for key, value in loader.meta.items()
        }

    def _once(self) -> list[tuple[str, BatchLoader]]:
        """(prefix of its first stream, loader) of every loader."""
        found: dict[int, tuple[str, BatchLoader]] = {}
        for prefix, loader in self.loaders.items():
            found.setdefault(id(loader), (prefix, loader))
        return list(found.values())


def _each(loaders: Mapping[str, BatchLoader], make: Callable) -> dict[str, BatchLoader]:
    """make(loader) for every stream, once for a loader that serves several."""
    made = {id(loader): make(loader) for loader in {id(x): x for x in loaders.values()}.values()}
    return {prefix: made[id(loader)] for prefix, loader in loaders.items()}
