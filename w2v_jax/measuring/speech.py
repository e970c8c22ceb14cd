"""Speech for measurements: that of the package in any amount, recordings drawn from a manifest."""

from pathlib import Path

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE, encode, read
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.shards import write_shards
from w2v_jax.data.sources import open_sources

SAMPLES = Path(__file__).parent.parent / "samples"
MINUTES = 15  # of the corpus
TYPICAL_SECONDS = 14.0  # an utterance of LibriSpeech


def speech(size: int) -> np.ndarray:
    """`size` samples (int16) of the package's recordings put end to end, over and over."""
    parts: list[np.ndarray] = []
    for path in sorted(SAMPLES.glob("*/*/*/*.ogg")):
        if sum(map(len, parts)) < size:
            parts.append(read(path))
    return np.resize(np.concatenate(parts), size)


def make_corpora(folder: Path) -> dict[str, str]:
    """The package's speech cut as LibriSpeech is; what `open_sources` takes for each kind of file
    and of shards."""
    size = round(TYPICAL_SECONDS * SAMPLE_RATE)
    count = round(MINUTES * 60 / TYPICAL_SECONDS)
    rows = speech(count * size).reshape(count, size)
    sources = {}
    for kind in ("flac", "wav", "opus"):
        (folder / kind).mkdir()
        for i, row in enumerate(rows):
            (folder / kind / f"{i}.{kind}").write_bytes(encode(row, kind))
        names = [f"{kind}/{i}.{kind}" for i in range(count)]
        sources[kind] = str(folder / f"{kind}.arrow")
        Manifest(folder, names, [size] * count).write(sources[kind])
    for kind in ("pcm", "flac"):
        sources[f"{kind} shards"] = str(folder / f"{kind}-shards")
        manifest = Manifest.read(sources["flac"])
        write_shards(manifest, sources[f"{kind} shards"], shard_format=kind, processes=1)
    return sources


def read_minutes(data: str, minutes: float) -> list[np.ndarray]:
    """Recordings (int16) drawn from a manifest without repeats until there are so many minutes."""
    corpus = Corpus(open_sources(data))
    recordings: list[np.ndarray] = []
    for item in np.random.default_rng(0).permutation(len(corpus)):
        if sum(map(len, recordings)) >= 60 * minutes * SAMPLE_RATE:
            break
        recordings.append(corpus.audio(item, 0, corpus.length(item)))
    return recordings
