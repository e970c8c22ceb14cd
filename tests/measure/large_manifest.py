"""Opens a large manifest in several processes and prints what it costs.

    python -m tests.measure.large_manifest --rows=10000000 --workers=8

Every worker gets the opened manifest as a loader's worker would, pickled; then all look up the
lengths and speakers of all rows and the paths of many, in random order. The memory is the sum of
the proportional set sizes (/proc/PID/smaps_rollup), which counts a shared page once.
"""

import argparse
import multiprocessing
import os
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w2v_jax.data.columns import BYTES
from w2v_jax.data.manifest import Manifest

LOOK_UPS = 100_000  # paths that every worker asks for
SPEAKERS = 50_000


def synthetic(rows: int) -> Manifest:
    """Rows as those of Libri-Light cut by voice activity, with texts as long as LibriSpeech's."""
    rng = np.random.default_rng(0)
    speakers = np.sort(rng.integers(0, SPEAKERS, rows))
    number = pa.array(np.arange(rows)).cast(pa.large_string()).cast(BYTES)
    speaker = pa.array(speakers).cast(pa.large_string()).cast(BYTES)

    def join(*parts, between=b""):
        return pc.binary_join_element_wise(*parts, pa.scalar(between, BYTES))

    text = pa.scalar(b"WHICH EVERY ONE OF THEM HAD HEARD SAID OF A HOUSE BY THE SEA " * 3, BYTES)
    manifest = Manifest("/audio", ["-"], [1])
    columns = {
        "path": join(speaker, pa.scalar(b"some_book_of_librivox_64kb_mp3", BYTES),
                     join(pa.scalar(b"chapter_", BYTES), number, pa.scalar(b".flac", BYTES)),
                     between=b"/"),
        "samples": pa.array(rng.integers(32_000, 560_000, rows)),
        "text": join(text, number),
        "speaker": _labels(speakers, [f"{i:06d}" for i in range(SPEAKERS)]),
        "language": _labels(np.zeros(rows), ["en"]),
        "start": pa.array(np.zeros(rows, np.int64)),
        "corpus": _labels(np.arange(rows) % 4, ["a", "b", "c", "d"]),
    }  # fmt: skip
    return manifest._set("/audio", pa.RecordBatch.from_pydict(columns))


def _labels(codes, names) -> pa.DictionaryArray:
    names = pa.array([name.encode() for name in names], BYTES)
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), names)


def memory(process: int | str = "self") -> float:
    """Proportional set size in MB."""
    with open(f"/proc/{process}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


def work(manifest: Manifest, seed: int, ready, finish) -> None:
    heard = manifest.samples.sum() + manifest.starts.sum()
    speakers = np.bincount(manifest.speakers.codes)
    rng = np.random.default_rng(seed)
    begin = time.perf_counter()
    letters = sum(len(manifest.path(int(i))) for i in rng.integers(0, len(manifest), LOOK_UPS))
    ready.put((int(heard), len(speakers), letters, time.perf_counter() - begin))
    finish.wait()


def main(rows: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "large.arrow")
        # written by a process of its own, whose memory is gone afterwards
        context = multiprocessing.get_context("spawn")
        begin = time.perf_counter()
        writer = context.Process(target=_write, args=(rows, path))
        writer.start()
        writer.join()
        print(f"{rows:,} rows, {os.path.getsize(path) / 1e6:.0f} MB, made and written in "
              f"{time.perf_counter() - begin:.1f} s")  # fmt: skip
        before = memory()
        begin = time.perf_counter()
        manifest = Manifest.read(path)
        opened = time.perf_counter() - begin
        hours = manifest.hours
        print(f"opened in {opened:.3f} s, with {hours:,.0f} hours added up in "
              f"{time.perf_counter() - begin:.3f} s, digest {manifest.digest[:12]}")  # fmt: skip
        ready, finish = context.Queue(), context.Event()
        processes = [
            context.Process(target=work, args=(manifest, seed, ready, finish))
            for seed in range(workers)
        ]
        for process in processes:
            process.start()
        answers = [ready.get() for _ in processes]
        costs = [memory(process.pid) for process in processes]
        own = memory()
        finish.set()
        for process in processes:
            process.join()
        assert len({answer[:2] for answer in answers}) == 1, answers
        slowest = max(answer[3] for answer in answers)
        print(f"{workers} workers hold {min(costs):.0f} to {max(costs):.0f} MB each, this process "
              f"{own:.0f} MB ({before:.0f} before); {LOOK_UPS:,} paths took at most "
              f"{slowest:.2f} s; together {sum(costs) + own:.0f} MB")  # fmt: skip


def _write(rows: int, path: str) -> None:
    synthetic(rows).write(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=8)
    main(**vars(parser.parse_args()))
