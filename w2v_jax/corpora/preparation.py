"""From folders and tables of audio to a manifest on disk, with a list of what was left out."""

import itertools
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from w2v_jax import places
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.corpora import find as corpora
from w2v_jax.corpora.segments import measure, rows
from w2v_jax.corpora.utterances import EXTENSIONS, Found, Utterance
from w2v_jax.data import manifest_files
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError

_SKIPPED = b"path\treason\n"  # the first line of the list of what was left out
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
    overwrite: bool = False,
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
    `minutes`, and if `output` cannot be written or, without `overwrite`, is no manifest.
    """
    if not math.isfinite(minutes):
        raise UserError(f"--minutes={minutes} is no length")
    found = Found()
    for source in inputs:
        found.add(corpora.find(source, layout))
    for table in found.tables:
        print(f"{table}: stands for its folder; other tables of it can be given as --input")
    utterances = found.utterances
    utterances.sort(key=lambda utterance: utterance.sort_key)
    pairs = itertools.zip_longest(utterances, utterances[1:])
    utterances = [u for u, after in pairs if after is None or u.sort_key != after.sort_key]
    where = ", ".join(map(str, inputs))
    if not utterances:
        names = " ".join(sorted(EXTENSIONS))
        raise UserError(f"--input={where}: no audio files below it (looked for {names})")
    _check_writable(output, overwrite)
    places.check_no_input(output, "--output", inputs)

    lengths = measure(sorted({utterance.path for utterance in utterances}), decode, threads)
    result = rows(utterances, lengths, min_seconds=min_seconds, segment_seconds=segment_seconds)
    lines = sorted(set(found.lines_without_audio))
    unheard = [(line, "transcript line without audio") for line in lines]
    listing = f"{output}.skipped.tsv"
    closed = found.unreadable_folders
    _write_skipped(listing, closed + result.bad + result.short + unheard)

    for path, reason in closed[:_SHOWN] + result.bad[:_SHOWN]:
        print(f"skipped: {path}: {reason}")
    if len(result.bad) > _SHOWN:
        print(f"skipped: ... and {len(result.bad) - _SHOWN} more, see {listing}")
    share = result.bad_count / len(utterances)
    if share > max_bad_share:
        raise UserError(
            f"{result.bad_count} of {len(utterances)} utterances cannot be read, a share of "
            f"{share:.3f}, more than --max_bad_share={max_bad_share:g}; "
            f"repair or remove what {listing} lists, or raise --max_bad_share; "
            f"the first of them {result.bad[0][1]}"
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
        "folders that cannot be read": len(closed),
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
        folders |= {os.path.dirname(path) for path in paths if not places.is_remote(path)}
    return os.path.commonpath(folders or {os.path.abspath(os.curdir)})


def _manifest(utterances: list[Utterance], root: str, language: str, corpus: str) -> Manifest:
    below = os.path.join(root, "")

    def relative(path: str) -> str:
        if path.startswith(below):
            return path[len(below) :]
        return path if places.is_remote(path) else os.path.relpath(path, root)

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


def _check_writable(output: str, overwrite: bool) -> None:
    """Fails before the audio is decoded instead of an hour later."""
    if not output:
        raise UserError("--output is empty; name the manifest to write")
    if places.is_remote(output):
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
    places.check_replaceable(output, "--output", overwrite=overwrite, ours=manifest_files.MARK)
    places.check_replaceable(
        f"{output}.skipped.tsv", "the list of what is skipped", overwrite=overwrite, ours=_SKIPPED
    )


def _write_skipped(path: str, rows: list[tuple[str, str]]) -> None:
    if not rows:
        if os.path.exists(path):
            os.remove(path)
        return
    with (
        places.writing(path),
        open(path, "w", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.write(_SKIPPED.decode())
        for name, reason in rows:
            escaped = name.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
            file.write(f"{escaped}\t{reason}\n")
