"""Takes the mean and standard deviation of every mel bin over a corpus, for global normalisation.

python -m w2v_jax.mel_statistics --manifest=train.arrow --output=stats.json --preset=google
python -m w2v_jax.pretrain --config=configs/wav2vec2.py:base,frontend=logmel \
    --config.model.frontend.normalization=global --config.model.frontend.statistics=stats.json ...

Utterances are read one after the other; every frame counts alike. Preset and mels must be those of
the model (--config.model.frontend.preset, mels). What cannot be read, or is shorter than a frame,
is counted and left out.
"""

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool

import numpy as np
from absl import flags

from w2v_jax import command_line
from w2v_jax.audio import mel_statistics
from w2v_jax.audio.logmel import PRESETS, MelPreset, log_mel
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError
from w2v_jax.data.sources import Source, open_sources
from w2v_jax.errors import UserError
from w2v_jax.places import check_no_input, check_replaceable, check_writable, several

log = logging.getLogger(__name__)
AHEAD = 4  # utterances per thread that are read before their turn


def rows_of(sources: list[Source], utterances: int, seed: int = 0) -> list[tuple[Source, int]]:
    """All rows of the sources, or `utterances` of them drawn at random, in their order."""
    rows = [(source, row) for source in sources for row in range(len(source.manifest))]
    if not utterances or utterances >= len(rows):
        return rows
    drawn = np.random.default_rng(seed).permutation(len(rows))[:utterances]
    return [rows[i] for i in np.sort(drawn)]


def spectra_of(
    rows: list[tuple[Source, int]], preset: MelPreset, threads: int, counts: Counter
) -> Iterator[np.ndarray]:
    """The spectra [T, mels] of the rows, in their order; counts what is used and left out."""

    def spectrum(place: tuple[Source, int]) -> np.ndarray | AudioError | None:
        source, row = place
        samples = int(source.manifest.samples[row])
        if samples < preset.shortest:
            return None
        try:
            return log_mel(source.audio(row, 0, samples), preset)
        except AudioError as error:
            return error

    batch = AHEAD * threads  # in memory at a time, however long the corpus
    with ThreadPool(threads) as pool:
        for start in range(0, len(rows), batch):
            for found in pool.map(spectrum, rows[start : start + batch], chunksize=1):
                if found is None:
                    counts["short"] += 1
                elif isinstance(found, AudioError):
                    counts["unreadable"] += 1
                    log.warning("left out: %s", found)
                else:
                    counts["used"] += 1
                    yield found


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    values = flags.FLAGS
    check_replaceable(
        values.output, "--output", overwrite=values.overwrite, ours=mel_statistics.FORMAT.encode()
    )
    check_no_input(values.output, "--output", several(values.manifest))
    check_writable(values.output, "--output")
    preset = dataclasses.replace(PRESETS[values.preset], mels=values.mels)
    rows = rows_of(open_sources(values.manifest), values.utterances)
    counts = Counter()
    try:
        found = mel_statistics.collect(spectra_of(rows, preset, values.threads, counts), preset)
    except UserError as error:
        raise UserError(f"--manifest={values.manifest}: {error}") from None
    mel_statistics.write(found, values.output)
    hours = found.frames / 100 / 3600
    print(
        f"{counts['used']:,} utterances, {found.frames:,} frames ({hours:.2f} h); left out: "
        f"{counts['short']:,} shorter than {preset.shortest / SAMPLE_RATE:g} s, "
        f"{counts['unreadable']:,} unreadable\n"
        f"mean {min(found.mean):.2f} to {max(found.mean):.2f}, standard deviation "
        f"{min(found.std):.2f} to {max(found.std):.2f}: {values.output}"
    )


if __name__ == "__main__":
    flags.DEFINE_string("manifest", None, "manifests or shards, with commas", required=True)
    flags.DEFINE_string("output", None, "the file to write, .json", required=True)
    flags.DEFINE_enum("preset", "google", sorted(PRESETS), "whose log-mel spectrum")
    flags.DEFINE_integer("mels", 80, "bins of it", 1, 256)
    flags.DEFINE_integer("utterances", 0, "that many, drawn at random; 0: all", 0)
    flags.DEFINE_integer("threads", os.cpu_count() or 1, "that read and compute", 1, 1024)
    command_line.define_overwrite()
    command_line.run(main)
