"""Sentences for a language model: text files to rows of tokens, batch = f(seed, step)."""

import array
import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from w2v_jax.data.loader import own_rows
from w2v_jax.data.plan import BatchSpec
from w2v_jax.data.sharing import Ragged
from w2v_jax.errors import UserError, warn_left_out
from w2v_jax.text.alphabet import TextError
from w2v_jax.text.files import lines
from w2v_jax.text.vocabulary import UNKNOWN, Vocabulary, pieces

log = logging.getLogger(__name__)
MAX_NAMED = 5  # lines left out that are named one by one
BLOCK = 8  # lengths of batches are multiples of this many tokens


@dataclasses.dataclass(frozen=True)
class TextCorpus:
    """Items are sentences, ids from `<s>` to `</s>`, or pieces of long ones."""

    tokens: Ragged
    sentences: int
    words: int
    unknown: int  # of the words, those that the vocabulary lacks
    left_out: int  # lines with characters outside the alphabet
    cut: int  # sentences that are several pieces

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [items]: tokens of every item, the first included, which is not predicted."""
        return self.tokens.sizes

    @property
    def digest(self) -> str:
        """Of the tokens of all items."""
        return self.tokens.digest

    def __str__(self) -> str:
        tokens = len(self.tokens.values) - len(self)
        unknown = f", {self.unknown / self.words:.2%} of them unknown" if self.unknown else ""
        return (
            f"{self.sentences} sentences, {self.words} words{unknown}, {tokens} tokens to predict; "
            f"{self.cut} sentences were cut, {self.left_out} lines left out"
        )


def word_counts(paths: str, vocabulary: Vocabulary) -> Counter[str]:
    """How often every word occurs in the lines that the alphabet of `vocabulary` can write."""
    counts: Counter[str] = Counter()
    for line in lines(paths):
        try:
            counts.update(vocabulary.usable(line).split())
        except TextError:
            continue  # `open_text` counts and names it
    return counts


def open_text(paths: str, vocabulary: Vocabulary, max_tokens: int) -> TextCorpus:
    """The sentences of text files; those of more than `max_tokens` > 1 are cut.

    Lines that the alphabet cannot write, or of which it leaves nothing, are left out; the first are
    named in the log. Raises UserError where none is left.
    """
    values = array.array(vocabulary.dtype.char)
    bounds = array.array("q", [0])
    bad: list[str] = []
    total = left_out = words = unknown = cut = 0
    for line in lines(paths):
        total += 1
        try:
            text = vocabulary.usable(line)
            if not text:
                raise TextError(f"{line.strip()[:60]!r} has no letters")
        except TextError as error:
            left_out += 1
            if left_out <= MAX_NAMED:
                bad.append(str(error))
            continue
        ids = vocabulary.encode_usable(text)
        words += text.count(" ") + 1
        if vocabulary.words:
            unknown += ids.count(vocabulary.ids[UNKNOWN])
        cut += len(ids) > max_tokens
        for piece in pieces(ids, max_tokens):
            values.extend(piece)
            bounds.append(len(values))
    warn_left_out(log, f"{left_out} of {total} lines of {paths}", bad, left_out)
    if not words:
        reason = f"; first: {bad[0]}" if bad else ""
        raise UserError(f"none of the {total} lines of {paths} can be used{reason}")
    tokens = Ragged(np.array(values, vocabulary.dtype), np.array(bounds, np.int64))
    return TextCorpus(tokens, total - left_out, words, unknown, left_out, cut)


def text_arrays(shape: tuple[int, int], tokens: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (shape, type)} of the arrays of a batch of `shape` = (A, B) rows; see `TextLoader`."""
    return {
        "tokens": ((*shape, tokens), np.int32), "length": (shape, np.int32), "id": (shape, np.int32)
    }  # fmt: skip


@dataclasses.dataclass
class TextLoader:
    """Makes those rows of a BatchSpec that belong to this process.

    A batch is a dict of arrays: tokens int32 [A, B, L] (0 beyond the end), length int32 [A, B], id
    int32 [A, B] (item, -1 fills up). Every row is one item.
    """

    corpus: TextCorpus
    accumulation: int = 1
    parts: tuple[int, ...] = (0,)  # see data.loader.Loader
    of: int = 1

    def arrays(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], type]]:
        """{name: (shape, type)} of the arrays of a batch of all processes."""
        rows, tokens = shape
        return text_arrays((self.accumulation, rows // self.accumulation), tokens)

    def load(self, spec: BatchSpec) -> tuple[dict[str, np.ndarray], list]:
        """The batch; there is nothing that cannot be read."""
        rows = own_rows(spec, self.accumulation, self.parts, self.of)
        arrays = text_arrays(rows.shape, spec.samples)
        batch = {name: np.zeros(*array) for name, array in arrays.items()}
        batch["id"][:] = spec.items[rows]
        for at, item in np.ndenumerate(batch["id"]):
            if item >= 0:
                ids = self.corpus.tokens[item]
                batch["tokens"][at][: len(ids)] = ids
                batch["length"][at] = len(ids)
        return batch, []

    def amount(self, spec: BatchSpec) -> float:
        """Tokens that the batch of all processes predicts."""
        items = spec.items[spec.items >= 0]
        bounds = self.corpus.tokens.bounds
        return float((bounds[items + 1] - bounds[items] - 1).sum())

    def note(self, problems: Sequence) -> None:
        """Nothing to note: see `load`."""

    def for_workers(self, count: int) -> "TextLoader":
        """The same: worker processes map its tokens."""
        return self

    @property
    def meta(self) -> dict[str, str]:
        """What must be the same when a run continues."""
        return {"training text": self.corpus.digest}

    def metrics(self) -> dict[str, float]:
        """Nothing to log."""
        return {}
