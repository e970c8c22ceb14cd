"""Tokens of a language model: letters, or the most frequent words of a text."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import BOUNDARY, Alphabet, TextError, excerpt, quoted

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
MAX_LETTERS = 200  # of an alphabet in a message


def pieces(ids: Sequence[int], longest: int) -> Iterator[Sequence[int]]:
    """The ids of a sentence in pieces of at most `longest` > 1.

    A piece begins with the last token of the one before: every token but the first is predicted
    once, in the sentence or in its pieces.
    """
    for start in range(0, len(ids) - 1, longest - 1):
        yield ids[start : start + longest]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of sentences that an alphabet can write; the index of a token is its id.

    With `words` these are the tokens, and `<unk>` stands for all other words; without, the letters
    of the alphabet and the `|` between words, of which every word is made.
    """

    alphabet: Alphabet
    words: tuple[str, ...] = ()

    @classmethod
    def most_frequent(
        cls, alphabet: Alphabet, counts: Mapping[str, int], size: int
    ) -> "Vocabulary":
        """Returns the vocabulary of the `size` most frequent words of `counts`, in that order,
        equals by the alphabet."""
        if size < 1 or not counts:
            raise UserError(
                f"a vocabulary of {size} of {len(counts)} words is none; set --config.num_words "
                "to at least 1 and --config.data.train to a text with words"
            )
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(alphabet, tuple(ranked[:size]))

    @staticmethod
    def most(num_words: int) -> int:
        """The most tokens that a vocabulary of `num_words` words has."""
        return num_words + len((BEGIN, END, UNKNOWN))

    @classmethod
    def from_dict(cls, values: dict, alphabet: Alphabet) -> "Vocabulary":
        """Returns the vocabulary that `to_dict` described, over its alphabet."""
        found = cls(alphabet, tuple(values["words"]))
        if values["unit"] != found.unit:
            raise UserError(f"a vocabulary of {values['unit']!r}; it must be letters, or words")
        return found

    def to_dict(self) -> dict:
        """Returns what is not in the alphabet as a dict that JSON can hold."""
        return {"unit": self.unit, "words": list(self.words)}

    @property
    def unit(self) -> str:
        return "words" if self.words else "letters"

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """All tokens, in the order of their ids: `<s>`, `</s>`, and `<unk>` before words."""
        return (BEGIN, END, *((UNKNOWN, *self.words) if self.words else self.alphabet.ids))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of every token."""
        return {token: i for i, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds every id."""
        return np.min_scalar_type(len(self) - 1)

    def usable(self, text: str) -> str:
        """Returns the normalised text. Raises TextError that names characters outside the
        alphabet."""
        text = self.alphabet.normalize(text)
        if foreign := self.alphabet.foreign(text):
            raise TextError(
                f"'{excerpt(text)}' has {quoted(foreign)}, not in the alphabet; spell numbers and "
                "signs out as words, or use an alphabet with these letters"
            )
        return text

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of a sentence from `<s>` to `</s>`, int32 [L], L >= 2.

        The text is normalised. Raises TextError as `usable`.
        """
        return np.array(self.encode_usable(self.usable(text)), np.int32)

    def encode_usable(self, text: str) -> list[int]:
        """The same of a text that `usable` returned."""
        ids = self.ids
        units: Sequence[str]
        if self.words:
            units, unknown = text.split(), ids[UNKNOWN]
            return [ids[BEGIN], *(ids.get(word, unknown) for word in units), ids[END]]
        units = text.replace(" ", BOUNDARY)
        return [ids[BEGIN], *(ids[letter] for letter in units), ids[END]]

    def check_writes(self, alphabet: Alphabet) -> None:
        """Raises UserError where texts of a recognizer with `alphabet` cannot be scored as they
        are: it has other letters, or the same in the other case."""
        missing = sorted(set(alphabet.ids) - set(self.alphabet.ids))
        if not missing:
            return
        swapped = {letter.swapcase() for letter in missing} <= set(self.alphabet.ids)
        why = "it has them in the other case" if swapped else "it does not know them"
        letters = "".join(x for x in alphabet.ids if x != BOUNDARY)
        remedy = shlex.quote(f"--config.letters={letters}")
        if len(letters) > MAX_LETTERS:
            remedy = f"the {len(letters)} letters of the recognizer (alphabet in its config.json)"
        raise UserError(
            f"the recognizer writes {quoted(missing)}, and the language model cannot: {why}; train "
            f"one with {remedy}"
        )
