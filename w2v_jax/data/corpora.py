"""Finds the utterances of a folder: LibriSpeech-style trees, plain folders, and mixtures."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from w2v_jax.errors import UserError

_READABLE = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph")
_READABLE += (".w64", ".wav", ".wave")
# libsndfile cannot decode these: they are found so that they are reported, not passed over.
_UNREADABLE = (".aac", ".amr", ".m4a", ".webm", ".wma")
EXTENSIONS = frozenset(_READABLE + _UNREADABLE)
_TRANSCRIPT = ".trans.txt"


@dataclass(frozen=True)
class Utterance:
    """An audio file and what is known about it; '' where nothing is."""

    path: str
    text: str = ""
    speaker: str = ""
    language: str = ""


@dataclass(frozen=True)
class Found:
    """What `find` found, sorted by path.

    lines_without_audio    `transcript file: id` of every transcript line that has no audio file
    audio_without_line     paths of utterances without a text that lie beside a transcript file
    """

    utterances: tuple[Utterance, ...]
    lines_without_audio: tuple[str, ...]
    audio_without_line: tuple[str, ...]


def find(folder: str | os.PathLike) -> Found:
    """Returns every audio file below `folder` with its text and speaker, where they are known.

    Beside a `*.trans.txt` (LibriSpeech: `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac`, lines of
    `ID TEXT`) the text is the line of the file's name and the speaker is the first part of it.
    Anywhere else the text is that of `name.txt` beside `name.flac`, if there is one. Bytes that
    are not UTF-8 become U+FFFD, which no alphabet accepts. Hidden files are left out, links to
    folders are followed. Raises UserError where `folder` is not a folder.
    """
    folder = os.path.abspath(folder)
    if not os.path.isdir(folder):
        problem = "is a file" if os.path.exists(folder) else "does not exist"
        raise UserError(f"{folder}: {problem}; give a folder with audio files")
    utterances, no_audio, no_line = [], [], []
    for place, names in _walk(folder):
        lines = {}
        for name in names:
            if name.endswith(_TRANSCRIPT):
                lines.update(_read_lines(os.path.join(place, name)))
        present = set(names)
        heard = set()
        for name in names:
            stem, extension = os.path.splitext(name)
            if extension.lower() not in EXTENSIONS:
                continue
            path = os.path.join(place, name)
            heard.add(stem)
            text, speaker = lines.get(stem, ("", ""))[0], stem.split("-")[0] if lines else ""
            if not text and f"{stem}.txt" in present:
                text = _clean(_read_text(os.path.join(place, f"{stem}.txt")))
            if lines and not text:
                no_line.append(path)
            utterances.append(Utterance(path, text, speaker))
        no_audio += [f"{file}: {key}" for key, (_, file) in lines.items() if key not in heard]
    utterances.sort(key=lambda utterance: utterance.path)
    return Found(tuple(utterances), tuple(sorted(no_audio)), tuple(sorted(no_line)))


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    visited = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield place, sorted(name for name in names if not name.startswith("."))


def _read_lines(path: str) -> dict[str, tuple[str, str]]:
    """Returns id -> (text, path) of a transcript file."""
    pairs = (line.split(maxsplit=1) for line in _read_text(path).splitlines() if line.strip())
    return {key: (_clean("".join(text)), path) for key, *text in pairs}


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.read()


def _clean(text: str) -> str:
    return " ".join(text.split())
