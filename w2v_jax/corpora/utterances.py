"""What every layout of a corpus is turned into, and the reading they have in common."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError

_SOUND = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp2", ".mp3", ".mpga", ".oga", ".ogg", ".opus")
_SOUND += (".rf64", ".sph", ".w64", ".wav", ".wave")
# read with PyAV (`audio.containers`); without it they are found and reported, not passed over
_SOUND += (".3gp", ".aac", ".amr", ".m4a", ".m4b", ".mka", ".wma")
_FILMS = frozenset({".avi", ".mkv", ".mov", ".mp4", ".webm"})
EXTENSIONS = _FILMS.union(_SOUND)


@dataclass(slots=True)
class Utterance:
    """An audio file or a part of one, and what is known about it; '' where nothing is.

    start, samples    the part, in samples at 16 kHz; samples None: to the end of the file
    voice             float64 [n, 2], first and last second of every stretch with speech; None
                      where they are not known
    """

    path: str
    text: str = ""
    speaker: str = ""
    language: str = ""
    corpus: str = ""
    start: int = 0
    samples: int | None = None
    voice: np.ndarray | None = None

    def __post_init__(self):
        # the same few names in millions of rows
        self.speaker = sys.intern(self.speaker)
        self.language, self.corpus = sys.intern(self.language), sys.intern(self.corpus)

    @property
    def sort_key(self) -> tuple[str, int, int]:
        """By which utterances are sorted, and known to be the same."""
        return self.path, self.start, self.samples or 0


@dataclass
class Found:
    """The utterances of a folder or table.

    lines_without_audio    `transcript file: id` of every transcript line that has no audio file
    audio_without_line     paths of utterances without a text that lie beside a transcript file
    tables                 the table that stands for a folder which has several
    unreadable_folders     (path, reason) of those below that could not be looked into
    """

    utterances: list[Utterance] = field(default_factory=list)
    lines_without_audio: list[str] = field(default_factory=list)
    audio_without_line: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    unreadable_folders: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        self.utterances += other.utterances
        self.lines_without_audio += other.lines_without_audio
        self.audio_without_line += other.audio_without_line
        self.tables += other.tables
        self.unreadable_folders += other.unreadable_folders


def at_rate(seconds: float) -> int:
    """Samples at 16 kHz."""
    return round(seconds * SAMPLE_RATE)


def walk(
    folder: str, unreadable: list[tuple[str, str]] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, its folders, its files), sorted, without hidden ones; links are followed, once.

    unreadable: takes (path, reason) of the folders below that cannot be looked into. Raises
    UserError for `folder` itself.
    """

    def note(error: OSError) -> None:
        if unreadable is None or error.filename == folder:
            raise UserError(f"{error.filename}: {error.strerror.lower()}; make it readable")
        unreadable.append((error.filename, error.strerror.lower()))

    visited = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=note):
        real = os.path.realpath(here)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, folders, sorted(name for name in names if not name.startswith("."))


def audio_names(names: list[str]) -> list[str]:
    """The names of audio files; a film is none where its sound lies beside it, NAME.wav by
    NAME.mp4."""
    parts = [os.path.splitext(name) for name in names]
    sounds = {stem for stem, ending in parts if ending.lower() in _SOUND}
    return [
        stem + ending
        for stem, ending in parts
        if ending.lower() in _SOUND or (ending.lower() in _FILMS and stem not in sounds)
    ]


# Bytes that are not UTF-8 become U+FFFD, which no alphabet accepts. Only line feeds end a line:
# U+2028 and the like occur in sentences.
_ENCODING = {"encoding": "utf-8-sig", "errors": "replace", "newline": "\n"}


def read_text(path: str) -> str:
    with open(path, **_ENCODING) as file:
        return file.read()


def lines(path: str) -> Iterator[str]:
    """The lines of a file, without their ends."""
    with open(path, **_ENCODING) as file:
        for line in file:
            yield line.rstrip("\r\n")


def clean(text: str) -> str:
    """The text with single spaces."""
    return " ".join(text.split())
