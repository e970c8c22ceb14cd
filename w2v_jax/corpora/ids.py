"""Tables of ids and texts, `id<TAB>text`, beside or above the audio that the ids name."""

import os
from collections.abc import Iterable, Iterator

from w2v_jax.corpora.utterances import Found, Utterance, audio_names, clean, lines, walk
from w2v_jax.errors import UserError

ENDINGS = (".tsv", ".txt")
HEADS = {
    "id", "utt", "utt_id", "utterance", "utterance_id", "key", "name", "file", "file_name",
    "filename", "path", "audio", "audio_path", "wav", "wav_path", "clip",
}  # fmt: skip
_TRIED = 100  # ids of a file, one of which must name audio


class Audio:
    """The audio in a folder and below it, by the ids that tables give it."""

    def __init__(self, folder: str):
        self._by_id: dict[str, list[str]] = {}
        self.paths: list[str] = []
        for here, _, names in walk(folder):
            for name in audio_names(names):
                path = os.path.join(here, name)
                self.paths.append(path)
                below = os.path.relpath(path, folder)
                for key in {below, os.path.splitext(below)[0], name, os.path.splitext(name)[0]}:
                    self._by_id.setdefault(key, []).append(path)

    def find(self, key: str) -> list[str]:
        """The files that an id fits: a path from the folder, or a name, without ending or with."""
        return self._by_id.get(os.path.normpath(key), [])


def id_table(here: str, folders: list[str], names: list[str]) -> Found | None:
    """A table of ids: `NAME.tsv` or `NAME.txt` with lines of `id<TAB>text` beside or above the
    audio files that the ids name, by their path or their name, with an ending or without."""
    own = {os.path.splitext(name)[0] for name in audio_names(names)}  # x.txt is the text of x.wav
    tables = [
        os.path.join(here, name)
        for name in names
        if os.path.splitext(name)[1].lower() in ENDINGS and os.path.splitext(name)[0] not in own
    ]
    tables = [table for table in tables if is_id_table(table)]
    if not tables:
        return None
    audio = Audio(here)
    tables = [table for table in tables if any(map(audio.find, _first_ids(table)))]
    if not tables:
        return None
    found = Found()
    texts: dict[str, str] = {}
    for table in tables:
        part, of_part = _texts(table, audio)
        found.lines_without_audio += part.lines_without_audio
        texts |= of_part
    # folders with audio that a table names belong to it; others are corpora of their own
    claimed = {os.path.relpath(path, here).split(os.sep)[0] for path in texts}
    folders[:] = [folder for folder in folders if folder not in claimed]
    claimed |= set(names)
    for path in audio.paths:
        if os.path.relpath(path, here).split(os.sep)[0] in claimed:
            found.utterances.append(Utterance(path, texts.get(path, "")))
            if not texts.get(path):
                found.audio_without_line.append(path)
    return found


def ids_of_table(path: str) -> Found:
    """The audio that the lines `id<TAB>text` of a table name, in its folder and below."""
    found, texts = _texts(path, Audio(os.path.dirname(path)))
    found.utterances = [Utterance(audio, text) for audio, text in texts.items()]
    return found


def is_id_table(path: str) -> bool:
    """Whether the first lines of a file have two columns."""
    first = list(_some_lines(path))
    return bool(first) and all(line.count("\t") == 1 and line[0] != "\t" for line in first)


def _some_lines(path: str) -> Iterator[str]:
    for line, _ in zip(filter(str.strip, lines(path)), range(_TRIED), strict=False):
        yield line


def _first_ids(path: str) -> Iterable[str]:
    return (line.split("\t")[0].strip() for line in _some_lines(path))


def _texts(table: str, audio: Audio) -> tuple[Found, dict[str, str]]:
    """(the lines without audio, path -> text). Raises UserError for damaged lines and for a file
    with two texts."""
    found, texts = Found(), {}
    for number, line in enumerate(lines(table), start=1):
        if not line.strip():
            continue
        key, tab, text = line.partition("\t")
        key, text = key.strip(), clean(text)
        if not tab or not key:
            raise UserError(f"{table}: line {number} is {line[:80]!r}, not an id, a tab and a text")
        paths = audio.find(key)
        if number == 1 and not paths and key.lower() in HEADS:
            continue
        if len(paths) != 1:
            several = f" (several files: {', '.join(paths[:2])} ...)" if paths else ""
            found.lines_without_audio.append(f"{table}: {key}{several}")
            continue
        if texts.setdefault(paths[0], text) != text:
            raise UserError(f"{table}: line {number} gives {key!r} a second text; keep one of them")
    return found, texts
