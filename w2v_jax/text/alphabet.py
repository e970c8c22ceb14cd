"""Letters and ids: the output alphabet of a CTC model and the normalisation of transcripts."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from w2v_jax.errors import UserError
from w2v_jax.text.normalisation import BOUNDARY, Normaliser

SHOWN, NAMED = 60, 10  # characters of a text and letters that a message has


class TextError(UserError):
    """A transcript or an alphabet that cannot be used."""


@dataclass(frozen=True)
class Alphabet:
    """The symbols of a CTC output layer; the index of a symbol is its id.

    Id 0 is the CTC blank. `|` stands between words. Symbols of several characters such as `<pad>`
    are special: they are never written by `encode` and dropped by `decode`. All others are letters.
    """

    symbols: tuple[str, ...]
    language: str = ""  # ISO 639; decides the case of i (text.normalisation); empty: the letters do

    def __post_init__(self):
        repeated = sorted(s for s, times in Counter(self.symbols).items() if times > 1)
        if repeated:
            raise TextError(f"alphabet: {quoted(repeated)} given more than once; remove repeats")
        if not self.symbols or len(self.symbols[0]) < 2:
            raise TextError("alphabet: the first symbol must be the blank, such as '<pad>'")
        if BOUNDARY not in self.symbols:
            raise TextError("alphabet: '|', which stands between words, is missing; add it")
        if any(not s or s.isspace() for s in self.symbols):
            raise TextError("alphabet: empty symbols and white space are not allowed; use '|'")
        if not re.fullmatch(r"[A-Za-z]{2,3}([-_]\w+)*|", self.language):
            raise TextError(
                f"language '{excerpt(self.language)}' is no code such as tr or tur; leave it empty "
                "for what the letters say"
            )

    @classmethod
    def english(cls) -> "Alphabet":
        """Returns the 32 outputs of the published English wav2vec 2.0 models, in their order.

        The blank, id 0, is `<s>` in fairseq and `<pad>` in Hugging Face: the same row of the
        output layer, which both train as the blank. This list has Hugging Face's names.
        """
        return cls(("<pad>", "<s>", "</s>", "<unk>", BOUNDARY, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"))

    @classmethod
    def from_letters(cls, letters: str, language: str = "") -> "Alphabet":
        """Returns blank, `|`, then the given letters in their order; the English alphabet for none.

        A letter and the mark behind it are one letter where Unicode has it (NFC), and jamo are
        syllables where all of them are. All upper case makes `normalize` write upper case, all
        lower case lower case. Raises TextError for repeated letters and white space.
        """
        english = cls.english().symbols
        return cls(("<pad>", BOUNDARY, *_composed(letters)) if letters else english, language)

    @classmethod
    def from_dict(cls, values: dict) -> "Alphabet":
        """Returns the alphabet that `to_dict` described."""
        return cls(tuple(values["symbols"]), values.get("language", ""))

    def to_dict(self) -> dict:
        """Returns the alphabet as a dict that JSON can hold."""
        language = {"language": self.language} if self.language else {}
        return {"symbols": list(self.symbols)} | language

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of every letter and of `|`; no special symbols."""
        return {symbol: i for i, symbol in enumerate(self.symbols) if len(symbol) == 1}

    @cached_property
    def _normaliser(self) -> Normaliser:
        return Normaliser(self.ids, self.language)

    def normalize(self, text: str) -> str:
        """Returns `text` as words in this alphabet's letters with single spaces between them.

        Letters that the alphabet has stay as they are; see `text.normalisation` for the others.
        Hyphens and other punctuation that is not in the alphabet become spaces, invisible format
        characters vanish. Characters that are spoken (digits, foreign letters, `&`, `%`, `$`) stay,
        so that `encode` reports them.
        """
        return self._normaliser(text)

    def foreign(self, text: str) -> list[str]:
        """The characters of a normalised text that are not in the alphabet."""
        return sorted(set(text) - self._known)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset((*self.ids, " "))

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of the normalised text, `|` between words, as int32 [L], L > 0.

        Raises TextError that names the characters outside the alphabet, or for a text of which
        nothing is left.
        """
        text = self.normalize(text)
        if not text:
            raise TextError("transcript is empty after normalisation; remove the utterance")
        if foreign := self.foreign(text):
            raise TextError(
                f"transcript '{excerpt(text)}' has {quoted(foreign)}, not in the alphabet; spell "
                "numbers and signs out as words, or use an alphabet with these letters"
            )
        return np.array([self.ids[c] for c in text.replace(" ", BOUNDARY)], np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids [L] from which CTC repeats are already collapsed.

        `|` becomes a space (single, none at the ends); special symbols, the blank among them, are
        dropped. Raises IndexError for an id outside the alphabet.
        """
        ids = np.asarray(ids, np.int64)
        if ids.size and ids.min() < 0:
            raise IndexError(f"id {ids.min()} is not in the alphabet of {len(self)} symbols")
        symbols = (self.symbols[i] for i in ids)
        letters = "".join(s for s in symbols if len(s) == 1)
        return " ".join(letters.replace(BOUNDARY, " ").split())


def quoted(symbols: Iterable[str]) -> str:
    """The symbols in quotation marks, with commas, the first of many."""
    symbols = list(symbols)
    named = ", ".join(f"'{excerpt(symbol)}'" for symbol in symbols[:NAMED])
    return named + (f" and {len(symbols) - NAMED} more" if len(symbols) > NAMED else "")


def excerpt(text: str, most: int = SHOWN) -> str:
    """The beginning of a text for a message, without what cannot be printed."""
    shown = text[:most] + ("..." if len(text) > most else "")
    shown = shown.replace("\t", " ")
    return "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in shown)


def _composed(letters: str) -> list[str]:
    """The letters, and those of which Unicode has a composition as this alone."""
    syllables = re.sub(
        "[\u1100-\u11ff]+", lambda jamo: unicodedata.normalize("NFC", jamo[0]), letters
    )
    if not re.search("[\u1100-\u11ff]", syllables):
        letters = syllables
    found: list[str] = []
    for letter in letters:
        joined = ""
        if found and unicodedata.category(letter)[0] == "M":
            joined = unicodedata.normalize("NFC", found[-1] + letter)
        if len(joined) == 1:
            found[-1] = joined
        else:
            found.append(letter)
    return found
