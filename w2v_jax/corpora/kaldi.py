"""Data folders of Kaldi: wav.scp, and where there are some segments, text, utt2spk, utt2lang."""

import os
import re
from collections.abc import Iterator

from w2v_jax.corpora.utterances import Found, Utterance, at_rate, clean, lines
from w2v_jax.errors import UserError
from w2v_jax.places import is_remote, join

SCP = "wav.scp"


def kaldi(here: str, folders: list[str], names: list[str]) -> Found | None:
    """Kaldi: `wav.scp` (recording, path) and, all or some, `segments` (utterance, recording, first
    and last second), `text`, `utt2spk`, `utt2lang`, each keyed by the utterance.

    Paths start from the folder, or from where the program runs. Commands in wav.scp are refused.
    """
    if SCP not in names:
        return None
    folders.clear()  # splits of the same utterances
    return kaldi_table(os.path.join(here, SCP))


def kaldi_table(path: str) -> Found:
    """The data folder that the file wav.scp, `path`, lies in."""
    folder = os.path.dirname(path)
    recordings = {key: _audio(path, folder, key, value) for key, value in _pairs(path)}
    texts, speakers, languages = (
        dict(_pairs(file)) if os.path.exists(file) else {}
        for file in (os.path.join(folder, name) for name in ("text", "utt2spk", "utt2lang"))
    )
    segments = os.path.join(folder, "segments")
    found, heard = Found(), set()
    for key, recording, start, samples in (
        _segments(segments)
        if os.path.exists(segments)
        else ((key, key, 0, None) for key in recordings)
    ):
        if recording not in recordings:
            found.lines_without_audio.append(f"{segments}: {key}")
            continue
        heard.add(key)
        utterance = Utterance(
            recordings[recording], clean(texts.get(key, "")), speakers.get(key, ""),
            languages.get(key, ""), start=start, samples=samples,
        )  # fmt: skip
        found.utterances.append(utterance)
        if texts and not utterance.text:
            found.audio_without_line.append(utterance.path)
    file = os.path.join(folder, "text")
    found.lines_without_audio += [f"{file}: {key}" for key in texts if key not in heard]
    return found


def _pairs(path: str) -> Iterator[tuple[str, str]]:
    """(key, the rest) of every line. Raises UserError for a key that comes again."""
    seen = set()
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        key, *rest = line.split(maxsplit=1)
        if key in seen:
            raise UserError(f"{path}: line {number} has {key!r} again; each line needs its own key")
        seen.add(key)
        yield key, "".join(rest).strip()


def _segments(path: str) -> Iterator[tuple[str, str, int, int | None]]:
    """(utterance, recording, first sample, samples or None: to the end)."""
    for key, rest in _pairs(path):
        try:
            recording, start, end = rest.split()
            first, last = at_rate(float(start)), at_rate(float(end))
            samples = None if float(end) == -1 else last - first
            if first < 0 or (samples is not None and samples < 1):
                raise ValueError
        except (ValueError, OverflowError):
            raise UserError(
                f"{path}: {key} {rest[:60]!r} is no segment; a line is UTTERANCE RECORDING START "
                "END, in seconds"
            ) from None
        yield key, recording, first, samples


def _audio(path: str, folder: str, key: str, value: str) -> str:
    """The file of a recording. Raises UserError for what only Kaldi can read."""
    if value.endswith("|") or value.startswith("|"):
        raise UserError(
            f"{path}: {key} is a command, {value[:80]!r}, which is not run here; write what it "
            f"prints to a file, {key}.wav say, for every line, and name the files in {SCP}"
        )
    if re.search(r"\.ark:\d+(\[.*\])?$", value):
        raise UserError(
            f"{path}: {key} lies inside an archive, {value[-80:]!r}; write it to a file "
            f"(wav-copy of Kaldi) and name that in {SCP}"
        )
    if not value:
        raise UserError(f"{path}: {key} has no path; a line is RECORDING PATH")
    inside = join(folder, value)
    if is_remote(value) or os.path.exists(inside) or not os.path.exists(value):
        return inside
    return os.path.abspath(value)
