"""Letters and ids: the output alphabet of a CTC model and the normalisation of transcripts."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from w2v_jax.errors import UserError

BOUNDARY = "|"

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʹ′´`", "'"))
_SPOKEN = frozenset("&%@#§‰")  # Unicode calls them punctuation, a reader says them


class TextError(UserError):
    """A transcript or an alphabet that cannot be used."""


@dataclass(frozen=True)
class Alphabet:
    """The symbols of a CTC output layer; the index of a symbol is its id.

    Id 0 is the CTC blank. `|` stands between words. Symbols of several characters such as `<pad>`
    are special: they are never written by `encode` and dropped by `decode`. All others are letters.
    """

    symbols: tuple[str, ...]

    def __post_init__(self):
        repeated = sorted({s for s in self.symbols if self.symbols.count(s) > 1})
        if repeated:
            raise TextError(f"alphabet: {quoted(repeated)} given more than once; remove repeats")
        if not self.symbols or len(self.symbols[0]) < 2:
            raise TextError("alphabet: the first symbol must be the blank, such as '<pad>'")
        if BOUNDARY not in self.symbols:
            raise TextError("alphabet: '|', which stands between words, is missing; add it")
        if any(not s or s.isspace() for s in self.symbols):
            raise TextError("alphabet: empty symbols and white space are not allowed; use '|'")

    @classmethod
    def english(cls) -> "Alphabet":
        """Returns the 32 outputs of the published English wav2vec 2.0 models, in their order.

        The blank, id 0, is `<s>` in fairseq and `<pad>` in Hugging Face: the same row of the
        output layer, which both train as the blank. This list has Hugging Face's names.
        """
        return cls(("<pad>", "<s>", "</s>", "<unk>", BOUNDARY, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"))

    @classmethod
    def from_letters(cls, letters: str) -> "Alphabet":
        """Returns blank, `|`, then the given letters (composed with NFKC), in their order; the
        English alphabet for none.

        All upper case makes `normalize` write upper case, all lower case lower case; with letters
        of both cases, or without case, it leaves the case of a text alone. Raises TextError for
        repeated letters and white space.
        """
        if not letters:
            return cls.english()
        return cls(("<pad>", BOUNDARY, *unicodedata.normalize("NFKC", letters)))

    @classmethod
    def from_dict(cls, values: dict) -> "Alphabet":
        """Returns the alphabet that `to_dict` described."""
        return cls(tuple(values["symbols"]))

    def to_dict(self) -> dict:
        """Returns the alphabet as a dict that JSON can hold."""
        return {"symbols": list(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of every letter and of `|`; no special symbols."""
        return {symbol: i for i, symbol in enumerate(self.symbols) if len(symbol) == 1}

    @cached_property
    def _case(self):
        letters = "".join(self.ids)
        if letters == letters.upper() != letters.lower():
            return str.upper
        if letters == letters.lower() != letters.upper():
            return str.lower
        return str

    def normalize(self, text: str) -> str:
        """Returns `text` as words of this alphabet's case with single spaces between them.

        Unicode NFKC; typographic apostrophes become `'`; hyphens and other punctuation that is
        not in the alphabet become spaces, invisible format characters vanish. Characters that are
        spoken (digits, foreign letters, `&`, `%`, `$`) stay, so that `encode` reports them.
        """
        text = self._case(unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)))
        return " ".join("".join(map(self._clean, text)).split())

    def _clean(self, character: str) -> str:
        if character == BOUNDARY:
            return " "
        if character in self.ids or character in _SPOKEN:
            return character
        category = unicodedata.category(character)
        if category == "Cf":
            return ""
        return " " if category[0] == "P" else character

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of the normalised text, `|` between words, as int32 [L], L > 0.

        Raises TextError that names the characters outside the alphabet, or for a text of which
        nothing is left.
        """
        text = self.normalize(text)
        if not text:
            raise TextError("transcript is empty after normalisation; remove the utterance")
        foreign = sorted(set(text) - set(self.ids) - {" "})
        if foreign:
            raise TextError(
                f"transcript {text!r} has {quoted(foreign)}, not in the alphabet; spell numbers "
                "and signs out as words, or use an alphabet with these letters"
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
    """The symbols in quotation marks, with commas."""
    return ", ".join(f"'{symbol}'" for symbol in symbols)
