"""Plans and reads batches of a very large corpus in many processes and prints what it costs.

    python -m tests.measure.large_loader --rows=10000000 --workers=8

All rows are parts of one short recording, so that every one can be read. The memory is the sum of
the proportional set sizes of all processes, each with Python, NumPy, grain and JAX loaded.
"""

import argparse
import multiprocessing
import os
import tempfile
import time

import numpy as np
import pyarrow as pa

from tests.measure.large_manifest import memory
from w2v_jax.audio.waveform import encode
from w2v_jax.data.batches import iterate
from w2v_jax.data.columns import BYTES
from w2v_jax.data.corpus import Corpus, concatenated
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.mixing import by_config
from w2v_jax.data.plan import BatchPlan, crop_buckets
from w2v_jax.data.sources import open_sources

SECONDS = 60  # of the recording


def write(folder: str, rows: int) -> None:
    """A manifest of rows of 2 to 35 s, of 4 corpora and 100 languages."""
    rng = np.random.default_rng(0)
    noise = (rng.normal(size=SECONDS * 16_000) * 1000).astype(np.int16)
    with open(os.path.join(folder, "a.flac"), "wb") as file:
        file.write(encode(noise, "flac"))
    samples = rng.integers(32_000, 560_000, rows)

    def labels(count):
        names = pa.array([f"{i:05d}".encode() for i in range(count)], BYTES)
        codes = pa.array(rng.integers(0, count, rows).astype(np.int32))
        return pa.DictionaryArray.from_arrays(codes, names)

    batch = Manifest(folder, ["a.flac"], [1])._batch
    columns = {
        "path": pa.array(np.full(rows, b"a.flac"), BYTES),
        "samples": pa.array(samples),
        "text": pa.array(np.full(rows, b""), BYTES),
        "speaker": labels(50_000),
        "language": labels(100),
        "start": pa.array(rng.integers(0, SECONDS * 16_000 - samples)),
        "corpus": labels(4),
    }
    table = pa.RecordBatch.from_pydict({name: columns[name] for name in batch.schema.names})
    manifest = object.__new__(Manifest)._set(folder, table)
    manifest.write(os.path.join(folder, "large.arrow"))


def main(rows: int, workers: int, concatenate: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(folder, rows))
        writer.start()
        writer.join()
        before, begin = memory(), time.perf_counter()
        corpus = Corpus(open_sources(os.path.join(folder, "large.arrow")))
        if concatenate:
            corpus = concatenated(corpus, round(concatenate * 16_000), seed=0)
        lengths = [32_000, 64_000, 128_000, 192_000, 249_600]
        buckets = crop_buckets(corpus.lengths, lengths, 640 * 16_000, 8)
        buckets = by_config(buckets, corpus, "temperature")
        plan = BatchPlan(buckets, seed=0, num_steps=10**6)
        seconds = time.perf_counter() - begin
        print(f"{rows:,} rows, {corpus.hours:,.0f} h, planned in {seconds:.1f} s")
        print(f"the plan holds {memory() - before:.0f} MB")
        begin = time.perf_counter()
        for step in range(100):
            plan[step]
        print(f"a batch is planned in {(time.perf_counter() - begin) * 10:.1f} ms")
        stream = iterate(plan, Loader(corpus, 0), threads=1, workers=workers)
        begin = time.perf_counter()
        for count in range(3 * max(workers, 1)):
            next(stream)
            if not count:
                print(f"first batch after {time.perf_counter() - begin:.1f} s")
        costs = [memory(child.pid) for child in multiprocessing.active_children()]
        own = memory()
        stream.close()
        print(f"{len(costs)} workers hold {', '.join(f'{cost:.0f}' for cost in costs)} MB, "
              f"this process {own:.0f}; together {sum(costs) + own:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--concatenate", type=float, default=0.0, help="seconds; 0: rows alone")
    main(**vars(parser.parse_args()))
