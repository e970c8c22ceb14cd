"""The batches of a run are the same bytes however they are read.

    python -m tests.measure.determinism --steps=200

compares them with 0, 1 and 2 worker processes, on 1, 2 and 4 hosts, from files and from shards, and
after a restart at any step. Everything that could spoil it is on: several corpora mixed by
temperature, joined utterances, all augmentation, and a file that cannot be read.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from w2v_jax.audio.waveform import read
from w2v_jax.data.audio_files import Files
from w2v_jax.data.augmentation import DEFAULTS, Augmentation
from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus, concatenated
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.mixing import mixed, mixture
from w2v_jax.data.plan import BatchPlan, crop_buckets
from w2v_jax.data.shards import write_shards
from w2v_jax.data.sources import open_sources

SAMPLES = Path(__file__).parents[2] / "w2v_jax" / "samples"
AUGMENT = DEFAULTS | {f"{kind}_prob": 0.3 for kind in ("speed", "pitch", "reverb", "noise", "gain")}


def make_data(folder: Path, files: int) -> dict[str, str]:
    """Two corpora of speech as FLAC, the first file of one damaged, and shards of both. Returns
    what `open_sources` takes, for "files", "pcm" and "flac"."""
    names = {"files": [], "pcm": [], "flac": []}
    for language, split in (("en", "train-clean"), ("xx", "dev-clean")):
        paths = sorted((SAMPLES / split).rglob("*.ogg"))[:files]
        audio = [read(path) for path in paths]
        (folder / language).mkdir()
        for i, part in enumerate(audio):
            soundfile.write(folder / language / f"{i}.flac", part, 16_000)
        if language == "xx":
            (folder / language / "0.flac").write_bytes(b"fLaC and nothing more")
        manifest = Manifest(
            folder, [f"{language}/{i}.flac" for i in range(len(audio))],
            [len(part) for part in audio], None, [f"s{i % 3}" for i in range(len(audio))],
            [language] * len(audio),
        )  # fmt: skip
        manifest.write(folder / f"{language}.arrow")
        names["files"].append(f"{folder}/{language}.arrow")
        for kind in ("pcm", "flac"):
            names[kind].append(f"{folder}/{kind}/{language}")
            write_shards(
                manifest, names[kind][-1], shard_format=kind, megabytes=2, processes=1,
                max_bad_share=0.5,
            )  # fmt: skip
    return {kind: ",".join(paths) for kind, paths in names.items()}


def make_loader(names: str, steps: int) -> tuple[BatchPlan, Loader]:
    corpus = concatenated(Corpus(open_sources(names), cache_bytes=10**6), 40_000, seed=0)
    buckets = crop_buckets(corpus.lengths, [16_000, 32_000], 256_000, 4)
    buckets = mixed(buckets, mixture(corpus, "temperature"))
    rng = np.random.default_rng(0)
    recordings = Path(names.split(",")[0]).parent / "noise"
    if not recordings.exists():
        recordings.mkdir()
        soundfile.write(recordings / "0.wav", (rng.normal(size=50_000) * 300).astype("i2"), 16_000)
    noise = Corpus(Files(Manifest(recordings, ["0.wav"], [50_000])))
    plan = BatchPlan(buckets, seed=3, num_steps=steps)
    augmentation = Augmentation(AUGMENT, 3, noise, noise)
    return plan, Loader(corpus, 3, 1, views={"audio": augmentation}, max_bad_share=0.9)


def digests(
    names: str, steps: int, *, start: int = 0, workers: int = 0, hosts: int = 1
) -> list[str]:
    """A digest per step from `start` on, of the batches of all hosts put together."""
    readers = []
    for host in range(hosts):
        plan, loader = make_loader(names, steps)
        loader.parts, loader.of = (host,), hosts
        readers.append(iterate(plan, loader, start=start, workers=workers, threads=1))
    result = []
    for parts in zip(*readers, strict=True):
        digest = hashlib.sha256()
        for name in sorted(parts[0][0]):
            whole = np.concatenate([batch[name] for batch, _ in parts], axis=1)
            digest.update(f"{name} {whole.shape} {whole.dtype}".encode())
            digest.update(whole.tobytes())
        result.append(digest.hexdigest())
    return result


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        names = make_data(Path(folder), 120)
        expected = digests(names["files"], steps)
        assert len(set(expected)) == steps, "no two batches are alike"
        cases = [dict(workers=w, hosts=h) for w in (0, 1, 2) for h in (1, 2, 4)]
        cases += [dict(start=s, workers=w) for s in (1, steps // 2, steps - 1) for w in (0, 1, 2)]
        cases += [dict(start=steps // 3, workers=2, hosts=2)]
        for kind in names:
            for case in cases:
                begin = time.perf_counter()
                found = digests(names[kind], steps, **case)
                seconds = time.perf_counter() - begin
                text = ", ".join(f"{key} {value}" for key, value in case.items())
                assert found == expected[case.get("start", 0) :], f"{kind}, {text}: other bytes"
                print(f"{kind}, {text}: {len(found)} batches, the same bytes ({seconds:.1f} s)",
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    main(**vars(parser.parse_args()))
