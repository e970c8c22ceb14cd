"""Texts as words that an alphabet can write: the one normalisation of all text.

An alphabet decides. A letter that it has is never rewritten. What it lacks becomes what it has:
another composition of the same letter, another case, another sign for the apostrophe. What is left
is punctuation, which separates words, or stays and is named by `Alphabet.encode`.
"""

import functools
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)

BOUNDARY = "|"
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
LONGEST = 64  # characters that are looked at together: no script has so many marks
# signs that are typed for an apostrophe; an alphabet without ' writes the first of them it has
APOSTROPHES = "'ʼ’‘‛ʹ′´`＇"
# letters that are typed as apostrophes where a keyboard lacks them, and are none elsewhere
GLOTTALS = "ʻꞌ"
PREFERRED = {"‘": "ʻ"}
_SPOKEN = frozenset("&%@#§‰")  # Unicode calls them punctuation, a reader says them
# languages with a dotted and a dotless i: ISO 639-1 and -3
DOTLESS = frozenset(("tr", "tur", "az", "aze", "azj", "crh", "gag"))


class Normaliser:
    """Called with a text it returns words with single spaces between them.

    letters: of the alphabet, a character each. Case follows them: all upper or all lower (letters
    without another case of one character, such as ß, do not count); with both, a letter in the case
    that the alphabet lacks is written in the other. language: an ISO 639 code, which decides
    whether I and ı, İ and i are pairs; empty: they are where the alphabet has two of one case.
    """

    def __init__(self, letters: Iterable[str], language: str = ""):
        self._made_of = tuple(letters), language
        self._letters = frozenset(letters) - {BOUNDARY}
        upper, lower = (self._has_cased(case) for case in (str.upper, str.lower))
        dotless = language.replace("_", "-").partition("-")[0].lower() in DOTLESS
        if not language and ({"ı", "i"} <= self._letters or {"İ", "I"} <= self._letters):
            dotless = True
            _say_dotless()
        self._upper, self._lower = (_dotted_upper, _dotted_lower) if dotless else (_upper, _lower)
        self._case = str
        if not (upper and lower):
            self._case = self._upper if upper else self._lower if lower else str
        self._apostrophes = self._chosen_apostrophes()
        self._other_case = self._cases()
        self._composed, self._parts = self._compositions()
        self._written = _Cache(self._write)
        self._characters = _Cache(lambda point: self._written[chr(point)])

    def __reduce__(self):  # other processes make their own
        return Normaliser, self._made_of

    def __call__(self, text: str) -> str:
        if "Σ" in text and self._case is self._lower and "Σ" not in self._letters:
            text = _final_sigmas(text)
        if any(map(self._extends, set(text))):
            return " ".join(self._clusters_written(text).split())
        return " ".join(text.translate(self._characters).split())

    # what the letters say

    def _has_cased(self, case: Callable[[str], str]) -> int:
        """How many letters are of a case and have another."""
        pairs = (c for c in self._letters if c != c.swapcase() and len(c.swapcase()) == 1)
        return sum(case(c) == c for c in pairs)

    def _chosen_apostrophes(self) -> dict[str, str]:
        """What is written for every apostrophe that is no letter."""
        found = {}
        for sign in APOSTROPHES:
            choices = (sign, PREFERRED.get(sign, ""), *APOSTROPHES, *GLOTTALS)
            found[sign] = next((c for c in choices if c in self._letters), "'")
        return found

    def _cases(self) -> dict[str, str]:
        """The letter for a character that the alphabet has in another case only."""
        found: dict[str, str] = {}

        def is_variant(letter: str) -> bool:  # ς of σ, ſ of s
            return letter not in (self._lower(self._upper(letter)), self._upper(letter))

        for letter in sorted(self._letters, key=lambda letter: (is_variant(letter), letter)):
            if unicodedata.category(letter)[0] == "L":
                for other in (self._lower(letter), self._upper(letter)):
                    if len(other) == 1 and other not in self._letters:
                        found.setdefault(other, letter)
        return found

    def _compositions(self) -> tuple[dict[str, list[tuple[str, str]]], frozenset[str]]:
        """({first character: [(decomposition, letter)], longest first}, all later characters)."""
        found: dict[str, list[tuple[str, str]]] = {}
        for letter in self._letters:
            parts = unicodedata.normalize("NFKD", letter)
            if parts == letter or any(unicodedata.category(c)[0] not in "LM" for c in parts):
                continue
            for each in {parts, _final_jamo(letter) or parts}:
                found.setdefault(each[0], []).append((each, letter))
        for choices in found.values():
            choices.sort(key=lambda x: (-len(x[0]), x[1]))
        later = (part for choices in found.values() for parts, _ in choices for part in parts[1:])
        return found, frozenset(later)

    # what a text becomes

    def _extends(self, character: str) -> bool:
        return character in self._parts or extends(character)

    def _clusters_written(self, text: str) -> str:
        text = "".join(c for c in text if c in self._letters or unicodedata.category(c) != "Cf")
        return "".join(map(self._written.__getitem__, self._clusters(text)))

    def _clusters(self, text: str) -> Iterator[str]:
        """Characters with those that change or join them."""
        start = 0
        for i in range(1, len(text)):
            apart = text[i - 1].isspace() or text[i - 1] == BOUNDARY
            if apart or not self._extends(text[i]) or i - start >= LONGEST:
                yield text[start:i]
                start = i
        if text:
            yield text[start:]

    def _write(self, cluster: str) -> str:
        if self._letters.issuperset(cluster):
            return cluster
        if cluster == BOUNDARY or cluster.isspace():
            return " "
        typed = "".join(c if c in self._letters else self._apostrophes.get(c, c) for c in cluster)
        for candidate in dict.fromkeys(self._candidates(typed)):
            written = "".join(c if c in self._letters else self._other_case.get(c, "\0")
                              for c in candidate)  # fmt: skip
            if "\0" not in written:
                return written
        return self._covered(typed) or self._left(cluster, typed)

    def _candidates(self, text: str) -> Iterator[str]:
        composed = {unicodedata.normalize(form, text): None for form in ("NFC", "NFKC")}
        for case in (str, self._case, self._lower, self._upper, self._folded):
            for cased in map(case, composed):
                yield cased
                yield from (unicodedata.normalize(form, cased) for form in FORMS)

    def _folded(self, text: str) -> str:
        return self._lower(text).casefold()

    def _covered(self, text: str) -> str:
        """The text as letters that share its marks, ê and a dot below for ệ; '' where none do."""
        if not self._composed:
            return ""
        for case in (str, self._case, self._lower, self._upper):
            rest = list(unicodedata.normalize("NFKD", case(unicodedata.normalize("NFKC", text))))
            written = ""
            while rest:
                letter, places = self._longest(rest)
                if not letter:
                    break
                written += letter
                rest = [c for i, c in enumerate(rest) if i not in places]
            else:
                return written
        return ""

    def _longest(self, text: list[str]) -> tuple[str, set[int]]:
        """(the letter with most of a decomposed text from its start, where); ("", {0}): none."""
        for parts, letter in self._composed.get(text[0], ()):
            if places := _places(parts, text):
                return letter, places
        letter = text[0] if text[0] in self._letters else self._other_case.get(text[0], "")
        return letter, {0}

    def _left(self, cluster: str, typed: str) -> str:
        """What cannot be written whole: its parts, and what a reader would not say as spaces."""
        for i in range(1, len(cluster)):  # marks that are letters stay as they are
            if cluster[i] in self._letters:
                before, after = self._written[cluster[:i]], cluster[i + 1 :]
                return before + cluster[i] + self._clusters_written(after)
        parts = self._case(unicodedata.normalize("NFKC", typed))
        if parts != cluster:
            # the signs of a ″ are no apostrophes
            return self._clusters_written(
                "".join(self._cleaned(c) if c in APOSTROPHES else c for c in parts)
            )
        return "".join(map(self._cleaned, parts))

    def _cleaned(self, character: str) -> str:
        if character in self._letters or character in _SPOKEN:
            return character
        category = unicodedata.category(character)
        return "" if category == "Cf" else " " if category[0] == "P" else character


class _Cache(dict):
    """A dict of what a function returns."""

    def __init__(self, function: Callable):
        self._function = function

    def __missing__(self, key):
        self[key] = found = self._function(key)
        return found


@functools.cache
def extends(character: str) -> bool:
    """Whether it may change or join the character before it: marks, jamo of one syllable."""
    first = unicodedata.normalize("NFKD", character)[0]
    return (
        unicodedata.category(first)[0] == "M"
        or "\u1161" <= first <= "\u1175"
        or "\u11a8" <= first <= "\u11c2"
    )


def _places(parts: str, text: list[str]) -> set[int]:
    """Where the parts of a letter are in a decomposed text: one after the other from its start, or
    with other marks between them that do not touch."""
    found = {0}
    at = 1
    for part in parts[1:]:
        own, skipped = unicodedata.combining(part), set()
        while at < len(text) and text[at] != part:
            skipped.add(unicodedata.combining(text[at]))
            at += 1
        if at == len(text) or (skipped and (not own or skipped & {0, own})):
            return set()
        found.add(at)
        at += 1
    return found


def _final_jamo(letter: str) -> str:
    """The jamo at the end of a syllable for a letter of Hangul; '' without."""
    name = unicodedata.name(letter, "")
    if not name.startswith("HANGUL LETTER "):
        return ""
    try:
        return unicodedata.lookup(name.replace("LETTER", "JONGSEONG"))
    except KeyError:
        return ""


def _final_sigmas(text: str) -> str:
    lowered = text.replace("İ", "I").lower()  # as long as the text
    return "".join(b if a == "Σ" else a for a, b in zip(text, lowered, strict=True))


def _lower(text: str) -> str:
    return text.lower()


def _upper(text: str) -> str:
    return text.upper()


def _dotted_lower(text: str) -> str:
    return text.replace("İ", "i").replace("I", "ı").lower()


def _dotted_upper(text: str) -> str:
    return text.replace("i", "İ").upper()


@functools.cache
def _say_dotless() -> None:
    log.info(
        "the alphabet has a dotted and a dotless i: I and ı, İ and i are taken for pairs, as in "
        "Turkish; a language, such as --config.language=en, decides otherwise"
    )
