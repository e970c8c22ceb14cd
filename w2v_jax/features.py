"""Writes what the layers of a model say of every frame of recordings: features.

python -m w2v_jax.features --checkpoint=runs/base --layers=6,9 --data=train.arrow --output=base-6-9
python -m w2v_jax.features --checkpoint=hubert-base-ls960 --layers=all --output=feats *.wav
python -m w2v_jax.features --checkpoint=mfcc --data=train.tsv,dev.tsv --output=mfcc

--checkpoint is a model (an export, a run, a directory of transformers or a .pt file of fairseq),
mfcc, or mel. The folder holds an array TAP.npy [frames, width] per layer, bounds.npy, which says
where each row of the manifest begins, and features.json (docs/features.md). Interrupted, the same
command goes on where it was. In Python:

    extract = w2v_jax.features.load("hubert-base-ls960", layers=(6, 9))
    found = extract("speech.wav")
    found.arrays["hidden_9"], found.times

    store = w2v_jax.analysis.store.FeatureStore("base-6-9")
    store.of("hidden_9", 3), store.times(3)
"""

import os
import sys
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

import numpy as np
from absl import flags

from w2v_jax import command_line
from w2v_jax.analysis.extraction import (
    SPECTRA,
    WINDOW_SECONDS,
    Extractor,
    Part,
    open_extractor,
    taps_of,
)
from w2v_jax.analysis.progress import Progress
from w2v_jax.analysis.store import DTYPES, FeatureWriter, check_local, written
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, probe
from w2v_jax.data.audio_files import Files
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError


def load(
    checkpoint: str | os.PathLike,
    layers: str | int | Sequence[int] = "",
    taps: str | Sequence[str] = (),
    *,
    batch_seconds: float = WINDOW_SECONDS,
) -> Extractor:
    """A function of a file, or of samples at 16 kHz, that returns their Features: arrays, tap ->
    float32 [T, width], and times [T], the seconds of the middle of every frame.

    checkpoint: a model, mfcc or mel. layers: numbers of blocks, 0 for the input of the first, or
    "all"; of them the tap hidden_N is taken. taps: others, by their names (docs/features.md).
    Without either it is all layers. Raises UserError where there is no such model, layer or tap.
    """
    if os.fspath(checkpoint) in SPECTRA and layers == "all":
        layers = ""
    taps = (taps,) if isinstance(taps, str) else taps
    return open_extractor(checkpoint, (*taps_of(layers), *taps), batch_seconds=batch_seconds)


def opened(data: str, files: Sequence[str]) -> tuple[Corpus, dict[int, AudioError]]:
    """(the rows of manifests, or of files; those of the files that cannot be read, and why)."""
    if bool(data) == bool(files):
        raise UserError("name manifests with --data, or audio files after the flags")
    if data:
        corpus = Corpus(open_sources(data))
        if not len(corpus):
            raise UserError(f"--data={data} has no rows; there is nothing to do")
        return corpus, {}

    def samples(path: str) -> int | AudioError:
        try:
            return probe(path, decode=False)
        except AudioError as error:
            return error

    with ThreadPool(os.cpu_count()) as pool:
        found = pool.map(samples, files)
    failed = {i: x for i, x in enumerate(found) if isinstance(x, AudioError)}
    lengths = [0 if i in failed else x for i, x in enumerate(found)]
    return Corpus(Files(Manifest("/", [os.path.abspath(file) for file in files], lengths))), failed


def fill(
    writer: FeatureWriter, extractor: Extractor, corpus: Corpus, failed: dict[int, AudioError]
) -> None:
    """Computes and writes the rows that are missing; names on stderr those that cannot be read."""

    def fail(row: int, error: AudioError) -> None:
        print(f"error: {error}", file=sys.stderr, flush=True)
        writer.fail(row)

    for row, error in failed.items():
        fail(row, error)
    rows = np.flatnonzero(~writer.done)
    rows = rows[~np.isin(rows, list(failed))]
    # of about one length together: little is padded
    rows = rows[np.argsort(-corpus.lengths[rows], kind="stable")]
    frames = extractor.frames(corpus.lengths[rows])
    progress = Progress(len(rows), int(frames.sum()), SAMPLE_RATE / extractor.stride)
    for found in extractor.parts(corpus.row(int(row)) for row in rows):
        row = int(rows[found[0]])
        if isinstance(found, Part):
            count = len(next(iter(found.arrays.values())))
            progress.add(count, whole=writer.write(row, found.first, found.arrays))
        else:
            progress.add(int(frames[found[0]]), whole=True)
            fail(row, found[1])
        if progress.due():
            writer.flush()
            print(progress.line(), flush=True)
    writer.flush()
    if len(rows):
        print(progress.line(), flush=True)


def extract_all(
    extractor: Extractor, data: str, files: Sequence[str], output: str, dtype: str = "float16"
) -> int:
    """Fills the folder `output` with features of the rows of manifests (`data`, with commas), or of
    files. Returns how many could not be read: these are named on stderr, zeros and marked. Raises
    UserError."""
    check_local(output)
    corpus, failed = opened(data, files)
    frames = np.asarray(extractor.frames(np.asarray(corpus.lengths)), np.int64)
    arguments = extractor.taps, extractor.description, frames, extractor.times(2), corpus.digest
    with written(output, *arguments, dtype) as writer:
        if files:
            corpus.sources[0].manifest.write(f"{output}/manifest.arrow")
        if before := int(writer.done.sum()):
            print(f"{before:,} of {len(frames):,} rows are there already", flush=True)
        fill(writer, extractor, corpus, failed)
        bad, there = int(writer.failed.sum()), int(frames[writer.done].sum())
    print(
        f"{len(frames) - bad:,} of {len(frames):,} rows, {there:,} frames of "
        f"{', '.join(extractor.taps)}, {dtype}: {output}"
    )
    return bad


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    command_line.enable_compilation_cache()
    extractor = load(
        values.checkpoint, values.layers, values.taps, batch_seconds=values.batch_seconds
    )
    if extract_all(extractor, values.data, argv[1:], values.output, values.dtype):
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "a model, or mfcc, or mel", required=True)
    flags.DEFINE_string("layers", "", "numbers with commas, 0 the input of the first; or all")
    flags.DEFINE_list("taps", [], "others, by names with commas, such as features or conv_*")
    flags.DEFINE_string("data", "", "manifests or shards, with commas")
    flags.DEFINE_string("output", None, "folder for the features", required=True)
    flags.DEFINE_enum("dtype", "float16", DTYPES, "of the features on disk")
    command_line.define_number(
        "batch_seconds", WINDOW_SECONDS, "audio that is computed together", WINDOW_SECONDS, 1e6
    )
    command_line.run(main)
