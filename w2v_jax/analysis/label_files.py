"""Files of alignments: Praat's TextGrid (both text forms), NIST's CTM, and the JSON of
`python -m w2v_jax.align`."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError, brief, some

ENDINGS = (".textgrid", ".json", ".ctm")  # of a folder with several kinds the first is read
# names that tiers have in corpora and tools (MFA, WebMAUS, w2v_jax.align), in the order in which
# they are looked for
KINDS = {
    "phones": ("phones", "phone", "phonemes", "phoneme", "mau"),
    "letters": ("letters", "graphemes", "characters"),
    "words": ("words", "word", "ort-mau", "ort"),
}
_VOWELS = "AA|AE|AH|AO|AW|AY|EH|ER|EY|IH|IY|OW|OY|UH|UW"
# an ARPAbet phone with its stress, and with the place in its word that Kaldi adds to any phone
_STRESSED, _PLACED = re.compile(rf"({_VOWELS})[012]"), re.compile(r"(.+)_[BIES]")
# silence, pauses and noise of Kaldi, MFA, TIMIT and WebMAUS
_SILENCE = {
    "sil", "sp", "spn", "nsn", "noi", "pau", "epi", "h#", "#h", "<p:>", "<eps>", "<sil>", "<unk>",
}  # fmt: skip


class Said(NamedTuple):
    """The labels of a recording as a file has them: texts, starts, ends, and how far it goes."""

    texts: list[str]
    starts: np.ndarray
    ends: np.ndarray
    extent: float  # seconds, silence included

    @classmethod
    def of(cls, intervals: Sequence[tuple[float, float, str]], extent: float, kind: str):
        """Raises ValueError for times that are none."""
        kept = [
            (start, end, text)
            for start, end, label in sorted(intervals, key=lambda x: x[0])
            if (text := _clean(label, kind))
        ]
        times = np.array([x[:2] for x in kept], np.float64).reshape(-1, 2)
        if not np.isfinite(times).all() or (times[:, 1] < times[:, 0]).any():
            raise ValueError("an interval ends before it begins")
        return cls([text for *_, text in kept], times[:, 0], times[:, 1], extent)

    def part(self, start: float, seconds: float) -> "Said":
        """What is said in `seconds` from `start` on."""
        inside = (self.ends > start) & (self.starts < start + seconds)
        texts = [text for text, here in zip(self.texts, inside, strict=True) if here]
        starts = np.clip(self.starts[inside] - start, 0, seconds)
        ends = np.clip(self.ends[inside] - start, 0, seconds)
        return Said(texts, starts, ends, float(np.clip(self.extent - start, 0, seconds)))


def _clean(label: str, kind: str) -> str:
    """The label as it counts; "" for what does not."""
    text = label.strip()
    if kind != "phones":
        return "" if text[:1] + text[-1:] in ("<>", "[]") else text
    text = placed[1] if (placed := _PLACED.fullmatch(text)) else text
    if text.lower() in _SILENCE:
        return ""
    return text[:-1] if _STRESSED.fullmatch(text) else text


class LabelFiles:
    """The files of a folder, or one, by the name of the audio; each is read when it is asked for.

    kind: what the labels are, known once one was read.
    """

    def __init__(self, path: str, tier: str):
        self.path, self.kind, self._tier = path, "", tier
        self._last: tuple[Path, Said] | None = None  # of a long recording all rows ask in turn
        where = Path(path)
        if not where.exists():
            raise UserError(f"--labels={path} does not exist; name a folder or file of alignments")
        found = [where] if where.is_file() else sorted(x for x in where.rglob("*") if x.is_file())
        root = where.parent if where.is_file() else where
        kinds = {x.suffix.lower() for x in found} & set(ENDINGS)
        if not kinds:
            raise UserError(
                f"--labels={path} has no .TextGrid, .json or .ctm; align writes them (python -m "
                "w2v_jax.align), and so does the Montreal Forced Aligner"
            )
        self._ending = min(kinds, key=ENDINGS.index)
        found = [x for x in found if x.suffix.lower() == self._ending]
        self._files: dict[str, Path | Said] = {
            x.relative_to(root).with_suffix("").as_posix(): x for x in found
        }
        if self._ending == ".ctm":
            self._files = self._read_ctm(found)
        self._by_stem = defaultdict(list)
        for name in self._files:
            self._by_stem[PurePosixPath(name).name].append(name)

    def exactly(self, name: str) -> Said | None:
        """Of the recording that has just this name below the folder of labels."""
        name = self._spelled(name)
        return self._read(name) if name in self._files else None

    def find(self, name: str) -> Said | None:
        """Of the recording whose path ends as `name` does. Raises UserError where two do."""
        parts = PurePosixPath(self._spelled(name)).parts
        candidates = {
            other: _common_end(parts, PurePosixPath(other).parts)
            for other in self._by_stem.get(parts[-1], ())
        }
        if not candidates:
            return None
        most = max(candidates.values())
        best = [other for other, common in candidates.items() if common == most]
        if len(best) > 1:
            raise UserError(
                f"--labels={self.path}: {some(best, 2)} may both be of {name}; name the folders of "
                "labels as those of the audio"
            )
        return self._read(best[0])

    def nothing(self, manifest: Manifest, longer: list[str]) -> UserError:
        name = next(iter(self._files), "")
        if longer:
            return UserError(
                f"--labels={self.path}: all labels end after their audio ({some(longer, 2)}); they "
                "are of other recordings"
            )
        return UserError(
            f"--labels={self.path}: none of its {len(self._files):,} recordings ({name}, ...) is "
            f"one of the manifest ({some(manifest.paths[:1])}, ...); name the files as the audio"
        )

    def _spelled(self, name: str) -> str:
        return "_".join(name.split()) if self._ending == ".ctm" else name

    def _read(self, name: str) -> Said:
        found = self._files[name]
        if isinstance(found, Said):
            return found
        if self._last is None or self._last[0] != found:
            self._last = found, self._parsed(found)
        return self._last[1]

    def _parsed(self, found: Path) -> Said:
        try:
            if self._ending == ".json":
                return self._of_json(json.loads(found.read_text(encoding="utf-8")))
            return self._of_tiers(text_grid(_decoded(found.read_bytes())))
        except UserError as error:
            raise UserError(f"--labels={self.path}: {found}: {error}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"--labels={self.path}: {found} is damaged or no alignment ({brief(error)}); write "
                "it again, or take it away"
            ) from None

    def _of_tiers(self, tiers: dict[str, tuple[float, list]]) -> Said:
        name = _tier_of(list(tiers), self._tier)
        extent, intervals = tiers[name]
        return Said.of(intervals, extent, self._same(_kind_of(name)))

    def _of_json(self, content: dict) -> Said:
        kind = self._same(self._tier or "letters")
        if kind not in ("letters", "words"):
            raise UserError(f"it has letters and words, no --tier={kind}")
        found = [(float(x["start"]), float(x["end"]), x["text"]) for x in content[kind]]
        return Said.of(found, float(content["duration"]), kind)

    def _same(self, kind: str) -> str:
        if self.kind not in ("", kind):
            raise UserError(
                f"it has {kind}, files before it have {self.kind}; set --tier to one that all have"
            )
        self.kind = kind
        return kind

    def _read_ctm(self, files: Sequence[Path]) -> dict[str, Said]:
        if not self._tier:
            raise UserError(
                f"--labels={self.path}: a CTM does not say what its tokens are; set --tier=phones, "
                "--tier=letters or --tier=words"
            )
        self.kind = _kind_of(self._tier)
        tokens = defaultdict(list)
        for file in files:
            try:
                lines = _decoded(file.read_bytes()).splitlines()
                for name, *token in ctm_tokens(lines):
                    tokens[name].append(token)
            except (OSError, ValueError) as error:
                raise UserError(f"--labels={self.path}: {file}: {brief(error)}") from None
        return {
            name: Said.of(found, max(end for _, end, _ in found), self.kind)
            for name, found in tokens.items()
        }


def _common_end(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of the last parts are the same."""
    same = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        same += 1
    return same


def _kind_of(tier: str) -> str:
    """phones, letters or words where the name of a tier says so; otherwise that name."""
    name = tier.lower().rpartition(" - ")[2]  # MFA: "SPEAKER - phones"
    return next((kind for kind, names in KINDS.items() if name in names), tier)


def _tier_of(names: list[str], wanted: str) -> str:
    """Which tier is read. Raises UserError where it is not there, or not known."""
    if wanted:
        found = [x for x in names if x == wanted] or [x for x in names if _kind_of(x) == wanted]
    else:
        found = [x for kind in ("phones", "letters") for x in names if _kind_of(x) == kind]
        found = [x for x in found if _kind_of(x) == _kind_of(found[0])]
    if len(found) == 1:
        return found[0]
    there = f"it has {some(map(repr, names))}"
    if found:
        raise UserError(f"{len(found)} tiers may be meant, {there}; name one with --tier=NAME")
    if wanted:
        raise UserError(f"it has no tier of intervals --tier={wanted}; {there}")
    raise UserError(f"no tier is called phones or letters, {there}; name one with --tier=NAME")


def _decoded(data: bytes) -> str:
    """Text as Praat and others write it: UTF-8, or UTF-16 with its mark. Raises ValueError."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def ctm_tokens(lines: Sequence[str]) -> Iterator[tuple[str, float, float, str]]:
    """(file, start, end, token) of every line of a CTM, `file channel start duration token ...`;
    ;; begins a comment. Raises ValueError for another line."""
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            name, _, start, duration, token = line.split()[:5]
            begin, end = float(start), float(start) + float(duration)
            if not 0 <= begin <= end < np.inf:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"line {number}, {line[:60]!r}, is not `file channel start duration token`"
            ) from None
        yield name, begin, end, token


_TOKEN = re.compile(r'"((?:[^"]|"")*)"|<(\w+)>|!.*|([^\s"!]+)')


def text_grid(text: str) -> dict[str, tuple[float, list[tuple[float, float, str]]]]:
    """{tier: (its end, [(start, end, text)])}, of tiers of intervals, of a TextGrid.

    Praat reads free-standing numbers, quoted texts and flags, and takes all else for comments
    (manual, "TextGrid file formats"): so the long form and the short one are the same.
    Raises ValueError for what is no TextGrid.
    """
    values = iter(_values(text))

    def take(kind):
        value = next(values, None)
        if not isinstance(value, kind):
            raise ValueError(f"{'nothing' if value is None else value!r} stands in a wrong place")
        return value

    if take(str) != "ooTextFile" or take(str) != "TextGrid":
        raise ValueError("no TextGrid")
    take(float), take(float)
    if take(bool) is False:
        return {}
    tiers = {}
    for _ in range(int(take(float))):
        kind, name, _, end = take(str), take(str), take(float), take(float)
        count = int(take(float))
        if kind == "IntervalTier":
            tiers[name] = end, [(take(float), take(float), take(str)) for _ in range(count)]
            continue
        for _ in range(count):  # points
            take(float), take(str)
    return tiers


def _values(text: str) -> Iterator[float | str | bool]:
    for quoted, flag, word in (found.groups() for found in _TOKEN.finditer(text)):
        if flag is not None:
            yield flag == "exists"
        elif word is not None:
            if re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", word):
                yield float(word)
        elif quoted is not None:
            yield quoted.replace('""', '"')
