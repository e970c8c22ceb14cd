"""Writes the manifest of one or more folders of audio.

    python -m w2v_jax.prepare --input=LibriSpeech/train-clean-100 --output=train.tsv

Every file is decoded once (--decode=false believes the headers instead). What cannot be used is
left out, counted, and listed in OUTPUT.skipped.tsv.
"""

import math
import os
import sys
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

import numpy as np
from absl import flags
from tqdm import tqdm

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, probe
from w2v_jax.data import corpora
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError

_SHOWN = 5  # unreadable files that are printed; the list has all of them


def prepare(
    inputs: Sequence[str],
    output: str,
    *,
    language: str = "",
    decode: bool = True,
    threads: int | None = None,
    min_seconds: float = 0.1,
    max_bad_share: float = 0.1,
    minutes: float = 0.0,
    seed: int = 0,
) -> Manifest:
    """Writes the manifest of all audio below the folders `inputs` to `output` and returns it.

    `language` is noted for every utterance. Files that cannot be read or are shorter than
    `min_seconds` are left out; they and transcript lines without audio are listed in
    `output`.skipped.tsv (path, reason), which exists only when there are any. `minutes` above 0
    keeps a `subset` of what is usable. Prints a summary.

    Raises UserError if an input is no folder, if no file is usable, if the share of unreadable
    files is above `max_bad_share`, if there is less audio than `minutes`, and if `output` cannot
    be written.
    """
    if not math.isfinite(minutes):
        raise UserError(f"--minutes={minutes} is no length")
    found = [corpora.find(folder) for folder in inputs]
    utterances = sorted({u.path: u for f in found for u in f.utterances}.items())
    utterances = [utterance for _, utterance in utterances]
    where = ", ".join(map(str, inputs))
    if not utterances:
        names = " ".join(sorted(corpora.EXTENSIONS))
        raise UserError(f"--input={where}: no audio files below it (looked for {names})")
    _check_writable(output)

    def check(utterance: corpora.Utterance) -> int | str:
        if any(character in utterance.path for character in "\t\n\r"):
            return "its name holds a tab or a line break; rename it"
        try:
            return probe(utterance.path, decode)
        except AudioError as error:
            return str(error).removeprefix(f"{utterance.path}: ")

    with ThreadPool(threads or os.cpu_count()) as pool:
        results = pool.imap(check, utterances, chunksize=8)
        quiet = not sys.stderr.isatty()
        results = list(tqdm(results, total=len(utterances), unit=" files", disable=quiet))

    shortest = round(min_seconds * SAMPLE_RATE)
    usable, bad, short = [], [], []
    for utterance, result in zip(utterances, results, strict=True):
        if isinstance(result, str):
            bad.append((utterance.path, result))
        elif result < shortest:
            seconds = result / SAMPLE_RATE
            short.append((utterance.path, f"{seconds:.3f} s is shorter than {min_seconds:g} s"))
        else:
            usable.append((utterance, result))
    lines = sorted({line for f in found for line in f.lines_without_audio})
    unheard = [(line, "transcript line without audio") for line in lines]
    listing = f"{output}.skipped.tsv"
    _write_skipped(listing, bad + short + unheard)

    for path, reason in bad[:_SHOWN]:
        print(f"skipped: {path}: {reason}")
    if len(bad) > _SHOWN:
        print(f"skipped: ... and {len(bad) - _SHOWN} more, see {listing}")
    if len(bad) > max_bad_share * len(utterances):
        raise UserError(
            f"{len(bad)} of {len(utterances)} audio files cannot be read, a share of "
            f"{len(bad) / len(utterances):.3f}, more than --max_bad_share={max_bad_share:g}; "
            f"repair or remove what {listing} lists, or raise --max_bad_share"
        )
    if not usable:
        raise UserError(
            f"--input={where}: none of {len(utterances)} audio files is usable, {len(bad)} "
            f"unreadable and {len(short)} shorter than --min_seconds={min_seconds:g}; see {listing}"
        )

    root = os.path.commonpath([os.path.abspath(folder) for folder in inputs])
    manifest = Manifest(
        root=root,
        paths=[os.path.relpath(utterance.path, root) for utterance, _ in usable],
        samples=[samples for _, samples in usable],
        texts=[utterance.text for utterance, _ in usable],
        speakers=[utterance.speaker for utterance, _ in usable],
        languages=[language or utterance.language for utterance, _ in usable],
    )
    if minutes:
        manifest = subset(manifest, minutes, seed)
    manifest.write(output)

    untold = {path for f in found for path in f.audio_without_line}
    untold &= {manifest.path(i) for i in range(len(manifest))}
    counts = {
        "unreadable": len(bad),
        f"shorter than {min_seconds:g} s": len(short),
        "transcript lines without audio": len(unheard),
    }
    skipped = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    print(
        f"{output}: {len(manifest)} utterances, {manifest.hours:.2f} hours, "
        f"{len(manifest.speakers.counts().keys() - {''})} known speakers, "
        f"{sum(map(bool, manifest.texts))} transcripts"
        + (f" ({len(untold)} missing from transcript files)" if untold else "")
        + (f"; skipped {skipped}, listed in {listing}" if skipped else "; nothing skipped")
    )
    return manifest


def subset(manifest: Manifest, minutes: float, seed: int) -> Manifest:
    """Utterances drawn from `seed`, in the order of the manifest, until they hold `minutes`.

    A larger subset of the same seed contains the smaller. Raises UserError if the manifest has
    less audio.
    """
    order = np.random.default_rng(seed).permutation(len(manifest))
    total = manifest.samples[order].cumsum()
    wanted = round(minutes * 60 * SAMPLE_RATE)
    if wanted > total[-1]:
        raise UserError(
            f"--minutes={minutes:g} is more than the {60 * manifest.hours:.1f} minutes there are"
        )
    return manifest.select(np.sort(order[: np.searchsorted(total, wanted) + 1]))


def _check_writable(output: str) -> None:
    """Fails before the audio is decoded instead of an hour later."""
    folder = os.path.dirname(os.path.abspath(output))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}; choose another place") from None
    if os.path.isdir(output):
        raise UserError(f"--output={output}: is a folder; name a file, as {output}/manifest.tsv")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output={output}: {folder} is not writable; choose another place")


def _write_skipped(path: str, rows: list[tuple[str, str]]) -> None:
    if not rows:
        if os.path.exists(path):
            os.remove(path)
        return
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("path\treason\n")
        for name, reason in rows:
            escaped = name.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
            file.write(f"{escaped}\t{reason}\n")


def define_flags() -> None:
    """Defines the command line; a function so that importing this module defines nothing."""
    flags.DEFINE_multi_string("input", None, "Folder with audio; may be given several times.")
    flags.DEFINE_string("output", None, "Manifest to write.")
    flags.DEFINE_string("language", "", "Language of all utterances, such as en.")
    flags.DEFINE_boolean("decode", True, "Decode every file; false believes the headers.")
    flags.DEFINE_integer("threads", None, "Files read at a time; all cores if not given.", 1)
    flags.DEFINE_float("min_seconds", 0.1, "Shorter files are left out.", 0.0)
    flags.DEFINE_float("minutes", 0.0, "Random subset with this much audio; 0 takes all.", 0.0)
    flags.DEFINE_integer("seed", 0, "Decides the subset.", 0)
    flags.DEFINE_float("max_bad_share", 0.1, "Share of unreadable files tolerated.", 0.0, 1.0)
    flags.mark_flags_as_required(["input", "output"])


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not a flag; give every folder as --input={argv[1]}")
    values = flags.FLAGS
    prepare(
        values.input,
        values.output,
        language=values.language,
        decode=values.decode,
        threads=values.threads,
        min_seconds=values.min_seconds,
        max_bad_share=values.max_bad_share,
        minutes=values.minutes,
        seed=values.seed,
    )


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
