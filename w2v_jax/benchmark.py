"""Measures the parts of a training run.

    python -m w2v_jax.benchmark data --config=configs/wav2vec2.py:base --seconds=20

prints how many seconds of audio the input pipeline delivers per second, in all and per core: with
0, 1 and 2 worker processes, and what decoding, cropping, augmentation and the transfer to the
devices cost. It reads the manifests or shards in config.data.train. Without any it makes a corpus
of the speech in the package, as flac, wav and opus files and as shards, and measures them all.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE, encode, read
from w2v_jax.data import augmentation
from w2v_jax.data.batches import check_rows, iterate
from w2v_jax.data.items import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, crop_buckets
from w2v_jax.data.shards import write_shards
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError
from w2v_jax.training.sharding import batch_sharding, make_mesh, shards_of_batch

WORKERS = (0, 1, 2)
SAMPLES = Path(__file__).parent / "samples"
MINUTES = 15  # of the corpus that is made where there is none
CROP_SECONDS = (2.0, 4.0, 8.0, 12.0, 15.6)  # where a config does not crop
TYPICAL_SECONDS = 14.0  # an utterance of LibriSpeech


class _Timed:
    """Stands for an object whose one method `name` is timed, in CPU seconds of this process."""

    def __init__(self, target: Any, name: str):
        self._target, self._name = target, name
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __len__(self) -> int:
        return len(self._target)

    def _timed(self, *arguments):
        begin = time.process_time()
        try:
            return getattr(self._target, self._name)(*arguments)
        finally:
            self.seconds += time.process_time() - begin

    def audio(self, *arguments):
        return self._timed(*arguments)

    __call__ = _timed


def stages(plan: BatchPlan, loader: Loader, sharding, seconds: float) -> dict[str, float]:
    """CPU milliseconds per second of audio of every stage, one after the other in one thread."""
    changes = loader.augmentation
    if changes is not None:
        changes = _Timed(changes, "__call__")
    corpus = _Timed(loader.corpus, "audio")
    loader = Loader(corpus, loader.seed, loader.accumulation, augmentation=changes)
    total = transfer = audio = 0.0
    for step in _for_a_while(seconds):
        spec = plan[step]
        begin = time.process_time()
        batch = loader(spec)
        middle = time.process_time()
        jax.block_until_ready(
            [jax.make_array_from_process_local_data(sharding, x) for x in batch.values()]
        )
        transfer += time.process_time() - middle
        total += middle - begin
        audio += loader.amount(spec)
    decode, augment = corpus.seconds, 0.0 if changes is None else changes.seconds
    parts = {"decode": decode, "crop": total - decode - augment, "augment": augment}
    parts["transfer"] = transfer
    return {name: 1000 * value / audio for name, value in parts.items()}


def _for_a_while(seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    step = 0
    while step == 0 or time.monotonic() < end:
        yield step
        step += 1


def rates(
    plan: BatchPlan, loader: Loader, sharding, seconds: float, *, threads: int, workers: int
) -> tuple[float, float]:
    """Seconds of audio per second of time, and per second of CPU time of all processes.

    The clock starts with the second batch: the start of the worker processes is not part of it.
    """
    stream = iterate(plan, loader, threads=threads, workers=workers, sharding=sharding)
    try:
        next(stream)
        begin, used, audio = time.monotonic(), _cpu_seconds(), 0.0
        while time.monotonic() < begin + seconds:
            batch, heard = next(stream)
            jax.block_until_ready(batch)
            audio += heard
        elapsed, used = time.monotonic() - begin, _cpu_seconds() - used
    finally:
        stream.close()
    return audio / elapsed, audio / used


def _cpu_seconds() -> float:
    """CPU time of this process and its living children."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def make_corpora(folder: Path) -> dict[str, str]:
    """The package's speech put end to end and cut as LibriSpeech is, over and over; what
    `open_sources` takes for each kind of file and of shards."""
    size = round(TYPICAL_SECONDS * SAMPLE_RATE)
    count = round(MINUTES * 60 / TYPICAL_SECONDS)
    parts: list[np.ndarray] = []
    for path in sorted(SAMPLES.glob("*/*/*/*.ogg")):
        if sum(map(len, parts)) < count * size:
            parts.append(read(path))
    speech = np.concatenate(parts)
    sources = {}
    for kind in ("flac", "wav", "opus"):
        (folder / kind).mkdir()
        for i in range(count):
            part = np.take(speech, np.arange(i * size, (i + 1) * size), mode="wrap")
            (folder / kind / f"{i}.{kind}").write_bytes(encode(part, kind))
        names = [f"{kind}/{i}.{kind}" for i in range(count)]
        sources[kind] = str(folder / f"{kind}.arrow")
        Manifest(folder, names, [size] * count).write(sources[kind])
    for kind in ("pcm", "flac"):
        sources[f"{kind} shards"] = str(folder / f"{kind}-shards")
        manifest = Manifest.read(sources["flac"])
        write_shards(manifest, sources[f"{kind} shards"], shard_format=kind, processes=1)
    return sources


def benchmark_data(config: ConfigDict, seconds: float) -> list[dict[str, Any]]:
    """Measures and prints every source for about `seconds`; returns the numbers printed."""
    if not config.data.train:
        with tempfile.TemporaryDirectory() as folder:
            print(f"no --config.data.train: {MINUTES} minutes of the package's speech, in "
                  f"utterances of {TYPICAL_SECONDS:g} s")  # fmt: skip
            return _benchmark(config, make_corpora(Path(folder)), seconds)
    return _benchmark(config, {config.data.train: config.data.train}, seconds)


def _benchmark(config: ConfigDict, sources: dict[str, str], seconds: float) -> list[dict]:
    data = config.data
    crops = [round(length * SAMPLE_RATE) for length in data.get("crop_seconds", CROP_SECONDS)]
    changes = augmentation.open_augmentation(data.augment, config.seed)
    mesh = make_mesh(config.mesh)
    sharding = batch_sharding(mesh)
    device = jax.devices()[0]
    print(f"{os.cpu_count()} cores, {jax.device_count()} x {device.device_kind}; batches of "
          f"{data.batch_seconds:g} s, {data.threads} threads per process")  # fmt: skip
    print(f"{'':>12}  CPU ms per second of audio            seconds of audio per second: "
          "per core (in all)")  # fmt: skip
    print(f"{'':>12}  decode    crop augment transfer  "
          + "".join(f"{w:>10} workers  " for w in WORKERS))  # fmt: skip
    table = []
    for name, source in sources.items():
        corpus = Corpus(open_sources(source))
        batch = round(data.batch_seconds * SAMPLE_RATE)
        buckets = crop_buckets(corpus.lengths, crops, batch, data.row_multiple)
        check_rows(buckets, shards_of_batch(mesh), data.accumulation)
        plan = BatchPlan(buckets, seed=config.seed, num_steps=10**9)
        loader = Loader(corpus, config.seed, data.accumulation, augmentation=changes)
        loader(plan[0])  # the first touch of files and libraries is not measured
        share = seconds / (1 + len(WORKERS))
        row: dict[str, Any] = {"source": name} | stages(plan, loader, sharding, share)
        text = (f"{name[-12:]:>12}  {row['decode']:6.3f}  {row['crop']:6.3f}  "
                f"{row['augment']:6.3f}   {row['transfer']:6.3f}  ")  # fmt: skip
        for workers in WORKERS:
            wall, core = rates(plan, loader, sharding, share, threads=data.threads, workers=workers)
            row[f"{workers} workers"] = core
            text += f"{core:8,.0f} ({wall:7,.0f})  "
        print(text, flush=True)
        table.append(row)
    return table


SUBCOMMANDS: dict[str, Callable[[ConfigDict, float], Any]] = {"data": benchmark_data}


def main(argv: list[str]) -> None:
    names = ", ".join(SUBCOMMANDS)
    if len(argv) != 2 or argv[1] not in SUBCOMMANDS:
        raise UserError(f"name what is measured, one of {names}, and nothing else: {argv[1:]}")
    try:
        config = flags.FLAGS.config
        config.keys()  # ml_collections reports a file that it could not load only now
    except OSError as error:
        raise UserError(f"the config file cannot be read: {error}") from None
    SUBCOMMANDS[argv[1]](config, flags.FLAGS.seconds)


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "a file of configs/")
    flags.DEFINE_float("seconds", 20.0, "time per source", 1.0)
    flags.mark_flag_as_required("config")
    command_line.run(main)
