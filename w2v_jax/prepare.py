"""Writes the manifest of one or more folders of audio, or tables of it.

    python -m w2v_jax.prepare --input=LibriSpeech/train-clean-100 --output=train.arrow
    python -m w2v_jax.prepare --input=cv-corpus/de/train.tsv --input=mls_german/train \
        --output=german.arrow
    python -m w2v_jax.prepare --download=train-clean-100 --download_to=data --output=train.arrow

The layout of a folder or table is recognised (LibriSpeech, Libri-Light, Common Voice, VoxPopuli,
MLS, fairseq, JSON lines, plain folders, our own manifests; --layout names it). Every file is
decoded once (--decode=false believes the headers instead). What cannot be used is left out,
counted, and listed in OUTPUT.skipped.tsv.

--report prints lengths, speakers, languages, what is wrong with the audio, and what the batches
would crop and pad; without an input it reports on the manifest that stands at --output.
"""

import math
import os
from collections.abc import Iterable, Sequence

import numpy as np
from absl import flags

from w2v_jax import command_line
from w2v_jax.audio import files
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import corpora
from w2v_jax.data.download import ARCHIVES, download
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.segments import measure, rows
from w2v_jax.data.statistics import report
from w2v_jax.data.utterances import EXTENSIONS, Found, Utterance, at_rate
from w2v_jax.errors import UserError

# of the report: the values of configs/common.py
CROP_SECONDS = ("2.0", "4.0", "8.0", "12.0", "15.6")
NUM_BUCKETS = 8
MAX_SECONDS = 30.0
_SHOWN = 5  # unreadable files that are printed; the list has all of them


def prepare(
    inputs: Sequence[str],
    output: str,
    *,
    layout: str = "",
    language: str = "",
    corpus: str = "",
    decode: bool = True,
    threads: int | None = None,
    min_seconds: float = 0.1,
    segment_seconds: float = 0.0,
    max_bad_share: float = 0.1,
    minutes: float = 0.0,
    seed: int = 0,
) -> Manifest:
    """Writes the manifest of all audio in `inputs`, folders or tables, to `output`; returns it.

    `layout` is that of all inputs, recognised if ''; `language` and `corpus` are noted for every
    utterance instead of what the layout says. Files that cannot be read or are shorter than
    `min_seconds` are left out; they and transcript lines without audio are listed in
    `output`.skipped.tsv (path, reason), which exists only when there are any. `segment_seconds`
    above 0 cuts what has no text and is longer into several rows (`segments.cut`); `minutes`
    above 0 keeps a `subset` of what is usable. Prints a summary.

    Raises UserError if an input does not exist or is not of the layout, if no file is usable, if
    the share of unreadable utterances is above `max_bad_share`, if there is less audio than
    `minutes`, and if `output` cannot be written.
    """
    if not math.isfinite(minutes):
        raise UserError(f"--minutes={minutes} is no length")
    found = Found()
    for source in inputs:
        found.add(corpora.find(source, layout))
    utterances = {(u.path, u.start, u.samples or 0): u for u in found.utterances}
    utterances = [utterance for _, utterance in sorted(utterances.items())]
    where = ", ".join(map(str, inputs))
    if not utterances:
        names = " ".join(sorted(EXTENSIONS))
        raise UserError(f"--input={where}: no audio files below it (looked for {names})")
    _check_writable(output)

    lengths = measure(sorted({utterance.path for utterance in utterances}), decode, threads)
    result = rows(utterances, lengths, min_seconds=min_seconds, segment_seconds=segment_seconds)
    lines = sorted(set(found.lines_without_audio))
    unheard = [(line, "transcript line without audio") for line in lines]
    listing = f"{output}.skipped.tsv"
    _write_skipped(listing, result.bad + result.short + unheard)

    for path, reason in result.bad[:_SHOWN]:
        print(f"skipped: {path}: {reason}")
    if len(result.bad) > _SHOWN:
        print(f"skipped: ... and {len(result.bad) - _SHOWN} more, see {listing}")
    share = result.bad_count / len(utterances)
    if share > max_bad_share:
        raise UserError(
            f"{result.bad_count} of {len(utterances)} utterances cannot be read, a share of "
            f"{share:.3f}, more than --max_bad_share={max_bad_share:g}; "
            f"repair or remove what {listing} lists, or raise --max_bad_share"
        )
    if not result.usable:
        raise UserError(
            f"--input={where}: none of {len(utterances)} utterances is usable, {result.bad_count} "
            f"unreadable and {len(result.short)} shorter than --min_seconds={min_seconds:g}; "
            f"see {listing}"
        )

    manifest = _manifest(result.usable, _root(inputs, lengths), language, corpus)
    if minutes:
        manifest = subset(manifest, minutes, seed)
    manifest.write(output)

    untold = set(found.audio_without_line)
    untold &= {manifest.path(i) for i in range(len(manifest))} if untold else set()
    counts = {
        "unreadable": result.bad_count,
        f"shorter than {min_seconds:g} s": len(result.short),
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


def _root(inputs: Sequence[str], paths: Iterable[str]) -> str:
    """The folder that all inputs have in common, or, with tables, their audio as well."""
    folders = {os.path.abspath(source) for source in inputs if os.path.isdir(source)}
    if len(folders) < len(inputs):
        folders |= {os.path.dirname(path) for path in paths if not files.is_remote(path)}
    return os.path.commonpath(folders or {os.path.abspath(os.curdir)})


def _manifest(utterances: list[Utterance], root: str, language: str, corpus: str) -> Manifest:
    below = os.path.join(root, "")

    def relative(path: str) -> str:
        if path.startswith(below):
            return path[len(below) :]
        return path if files.is_remote(path) else os.path.relpath(path, root)

    return Manifest(
        root=root,
        paths=[relative(u.path) for u in utterances],
        samples=[u.samples for u in utterances],
        texts=[u.text for u in utterances],
        speakers=[u.speaker for u in utterances],
        languages=[language or u.language for u in utterances],
        starts=[u.start for u in utterances],
        corpora=[corpus or u.corpus for u in utterances],
    )


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
    if files.is_remote(output):
        raise UserError(
            f"--output={output}: the list of what was skipped is written beside the manifest; "
            "name a local file, and copy it"
        )
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
    flags.DEFINE_multi_string(
        "input", None, "Folder with audio, or a table of it; may be given several times."
    )
    flags.DEFINE_string("output", None, "Manifest to write: .arrow, or .tsv as text.")
    flags.DEFINE_string("layout", "", "Layout of the inputs; recognised if not given.")
    flags.DEFINE_string("corpus", "", "Name of the corpus of all utterances, for mixing.")
    flags.DEFINE_string("language", "", "Language of all utterances, such as en.")
    flags.DEFINE_boolean("decode", True, "Decode every file; false believes the headers.")
    flags.DEFINE_integer("threads", None, "Files read at a time; all cores if not given.", 1)
    flags.DEFINE_float("min_seconds", 0.1, "Shorter files are left out.", 0.0)
    flags.DEFINE_float(
        "segment_seconds", 0.0, "Cuts longer utterances without a text; 0 cuts nothing.", 0.0
    )
    flags.DEFINE_float("minutes", 0.0, "Random subset with this much audio; 0 takes all.", 0.0)
    flags.DEFINE_integer("seed", 0, "Decides the subset.", 0)
    flags.DEFINE_float("max_bad_share", 0.1, "Share of unreadable files tolerated.", 0.0, 1.0)
    flags.DEFINE_multi_enum(
        "download", None, list(ARCHIVES), "Subset that is fetched and is then an input."
    )
    flags.DEFINE_string("download_to", ".", "Folder for what is downloaded.")
    flags.DEFINE_string("download_url", "", "Another place of the archives, such as a mirror.")
    flags.DEFINE_boolean("report", False, "Prints statistics of the manifest.")
    flags.DEFINE_integer("report_files", 10_000, "Utterances listened to; 0: all.", 0)
    flags.DEFINE_list("crop_seconds", list(CROP_SECONDS), "Crops of pre-training, for the report.")
    flags.DEFINE_integer("num_buckets", NUM_BUCKETS, "Of fine-tuning, for the report.", 1)
    flags.DEFINE_float("max_seconds", MAX_SECONDS, "Of fine-tuning, for the report.", 0.1)
    flags.mark_flag_as_required("output")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not a flag; give every folder as --input={argv[1]}")
    values = flags.FLAGS
    inputs = list(values.input or ())
    for name in values.download or ():
        inputs.append(download(name, values.download_to, values.download_url))
    if not inputs and not values.report:
        raise UserError("give --input=FOLDER, a folder with audio or a table, or --download=SUBSET")
    crops = _crops(values.crop_seconds) if values.report else []
    manifest = (
        Manifest.read(values.output)
        if not inputs
        else prepare(
            inputs,
            values.output,
            layout=values.layout,
            language=values.language,
            corpus=values.corpus,
            decode=values.decode,
            threads=values.threads,
            min_seconds=values.min_seconds,
            segment_seconds=values.segment_seconds,
            max_bad_share=values.max_bad_share,
            minutes=values.minutes,
            seed=values.seed,
        )
    )
    if values.report:
        lines = report(
            manifest,
            crops=crops,
            num_buckets=values.num_buckets,
            longest=at_rate(values.max_seconds),
            files=values.report_files,
            threads=values.threads,
        )
        for line in lines:
            print(line, flush=True)


def _crops(seconds: Sequence[str]) -> list[int]:
    try:
        crops = [at_rate(float(value)) for value in seconds]
    except (ValueError, OverflowError):
        crops = []
    if not crops or min(crops) < SAMPLE_RATE // 10:
        raise UserError(
            f"--crop_seconds={','.join(seconds)}: give lengths from 0.1 s on, such as 2,4,8,15.6"
        )
    return crops


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
