"""Decoded utterances on disk: appended while they are found, by one process or by several.

A folder holds

    decoded.json        the format; the model, the search and the manifest that the texts are of
    manifest.arrow      the rows that are decoded; transcripts that they have were not looked at
    part-I-of-N.tsv     a line for every row of shard I that is done, in the order of decoding

A line is whole or it counts as not written, so that a run that was killed goes on where it was.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError, brief
from w2v_jax.places import check_empty, is_remote, write_whole, writing

FORMAT = "w2v_jax decoded 1"
INDEX, MANIFEST = "decoded.json", "manifest.arrow"
UNREADABLE = -1  # as its frames


class Utterance(NamedTuple):
    """What was found in a row of the manifest."""

    row: int
    id: str  # its path in the manifest, with #row where a file has several
    text: str
    score: float  # ln p of the search, with all that it weighs; of the best path without one
    letters: int  # of the text, spaces between words included
    frames: int  # -1: the audio could not be read
    blank_share: float  # of the frames, those whose likeliest symbol is the blank
    seconds: float

    def line(self) -> str:
        return "\t".join(repr(x) if isinstance(x, float) else str(x) for x in self) + "\n"


COLUMNS = Utterance._fields
_KEYS = {"alphabet", "checkpoint", "data", "digests", "search"}  # of decoded.json
_KINDS = tuple(Utterance.__annotations__.values())


class Decoded:
    """A folder of decoded utterances, read whole."""

    def __init__(self, folder: str | os.PathLike, flag: str = "--decoded"):
        """Raises UserError for a folder that holds none, or damaged ones. flag: which names it."""
        self.folder, self._flag = Path(folder), flag
        self.index = read_index(self.folder, flag)
        self.manifest = Manifest.read(self.folder / MANIFEST)
        if self.manifest.digest != self.index["data"]["digest"]:
            raise UserError(
                f"{flag}={folder}: {MANIFEST} is not the manifest that was decoded; remove the "
                "folder and decode again"
            )
        self.found = read_parts(self.folder, len(self.manifest))

    @property
    def utterances(self) -> list[Utterance]:
        """Those that could be read, in the order of the manifest."""
        return [self.found[row] for row in sorted(self.found) if self.found[row].frames >= 0]

    def check_complete(self) -> None:
        """Raises UserError where rows are still to be decoded."""
        missing = len(self.manifest) - len(self.found)
        if missing:
            raise UserError(
                f"{self._flag}={self.folder}: {missing:,} of {len(self.manifest):,} utterances are "
                "not decoded yet; run the command that decodes them again, every --shard of it"
            )


class Appender:
    """Adds the utterances of one shard to a folder, which may have some already."""

    def __init__(
        self, folder: str | os.PathLike, index: Mapping[str, Any], manifest: Manifest,
        shard: tuple[int, int],
    ):  # fmt: skip
        """shard: (which, of how many). Raises UserError for a folder with something else in it,
        one that was begun with another model, search or manifest, and one in use."""
        if is_remote(folder):
            raise UserError(
                f"--output={folder}: texts are appended to files on a local disk; name a folder "
                "there"
            )
        self.folder = Path(folder)
        with writing(f"--output={folder}"):
            if (self.folder / INDEX).exists():
                check_same(self.folder, index)
            else:
                # a run that was killed, or that begins now, has written no more than this
                check_empty(self.folder, "--output", but=(MANIFEST, INDEX))
                self.folder.mkdir(parents=True, exist_ok=True)
                manifest.write(self.folder / MANIFEST)
                write_whole(self.folder / INDEX, json.dumps(index, indent=1) + "\n")
            path = self.folder / f"part-{shard[0]}-of-{shard[1]}.tsv"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._file)
                raise UserError(
                    f"--output={folder}: {path.name} is being written by another process; wait "
                    "for its end, or name another --shard"
                ) from None
            whole = path.read_bytes().rpartition(b"\n")
            os.ftruncate(self._file, len(whole[0]) + len(whole[1]))
            os.lseek(self._file, 0, os.SEEK_END)
        self.found = read_parts(self.folder, len(manifest))

    def add(self, utterances: Iterable[Utterance]) -> None:
        """Writes them; they are on the disk when this returns."""
        utterances = list(utterances)
        with writing(self.folder):
            data = memoryview("".join(x.line() for x in utterances).encode())
            while data:
                data = data[os.write(self._file, data) :]
            os.fdatasync(self._file)
        self.found |= {x.row: x for x in utterances}

    def close(self) -> None:
        os.close(self._file)


def read_index(folder: Path, flag: str) -> dict[str, Any]:
    """What decoded.json says. Raises UserError where there is none."""
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{flag}={folder} holds no decoded utterances ({brief(error)}); write them with "
            "python -m w2v_jax.pseudo_labels decode"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not {*content} >= _KEYS:
        raise UserError(
            f"{flag}={folder}: {INDEX} is not of the format {FORMAT!r}; decode into a new folder"
        )
    return content


def read_parts(folder: Path, rows: int) -> dict[int, Utterance]:
    """{row: utterance} of all parts; of a row that is there twice the one that could be read."""
    found: dict[int, Utterance] = {}
    for path in sorted(folder.glob("part-*-of-*.tsv")):
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        for number, line in enumerate(lines[:-1], 1):  # what comes after the last end was cut
            try:
                fields = line.split("\t")
                one = Utterance(*(kind(x) for kind, x in zip(_KINDS, fields, strict=True)))
                line.encode()  # fails for bytes that are no UTF-8
                if not 0 <= one.row < rows or one.letters != len(one.text) or not one.seconds >= 0:
                    raise ValueError
            except ValueError:
                raise UserError(
                    f"{path}: line {number} is damaged, {line[:80]!r}; remove it, and the command "
                    "that decodes finds its utterance again"
                ) from None
            if one.frames >= 0 or one.row not in found:
                found[one.row] = one
    return found


def check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raises UserError where the folder was begun with another model, search or manifest."""
    there = read_index(folder, "--output")
    remedy = "name another folder, or remove that one"
    for flag, what, key in (("--checkpoint", "model", "checkpoint"), ("--data", "rows", "data")):
        old, new = there[key], wanted[key]
        if old["digest"] != new["digest"]:
            also = "" if old["name"] != new["name"] else ", which has changed since"
            if key == "data":
                also += ", or with another --exclude, --share or --seed"
            raise UserError(
                f"--output={folder} was begun with another {what}: {flag}={old['name']} there, "
                f"{new['name']} here{also}; {remedy}"
            )
    if key := other_search(there, wanted):
        old, new = there["search"].get(key), wanted["search"].get(key)
        raise UserError(
            f"--output={folder} was begun with --config.{key}={old}, here it is {new}; {remedy}"
            if old != new else
            f"--output={folder} was begun with another --config.{key}={new}: what it names has "
            f"changed since; {remedy}"
        )  # fmt: skip


def other_search(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """The first option of the search in which two indices differ, "" if none does."""
    for what in ("search", "digests"):
        for key in (*first[what], *second[what]):
            if first[what].get(key) != second[what].get(key):
                return key
    return ""
