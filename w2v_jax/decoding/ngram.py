"""N-gram language models of words: estimated from text, read from and written to ARPA files.

Estimation is interpolated modified Kneser-Ney smoothing without pruning, what KenLM's `lmplz` does
(Chen and Goodman, TR-10-98, section 3; Heafield et al., ACL 2013, for its form with back-offs).
Probabilities are natural logarithms here and base 10 in ARPA files.
"""

import array
import dataclasses
import math
import re
from collections.abc import Collection, Iterable

import numpy as np

from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import excerpt
from w2v_jax.text.files import every_line, fields, written

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
UNKNOWN_TOO = "<UNK>"  # of some models; KenLM takes it for the same
_SPECIAL = (UNKNOWN, BEGIN, END)
_UNKNOWN, _BEGIN, _END = range(3)
LN10 = math.log(10)
NEVER = -99 * LN10  # what ARPA files say of <s>, which is never predicted; -inf is read so
ABSENT = -100 * LN10  # ln p of <unk> in a model without, as in KenLM
FALLBACK = (0.5, 1.0, 1.5)  # discounts where the counts of counts give none, as in lmplz


_Grams = dict[tuple[str, ...], tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class NGram:
    """A back-off model. grams[n - 1]: {words of an n-gram: (ln p(last | others), ln back-off)}.

    `<unk>` is added where it is missing, with the probability that KenLM gives it then.
    """

    grams: tuple[_Grams, ...]

    def __post_init__(self):
        self.grams[0].setdefault((UNKNOWN,), (ABSENT, 0.0))

    @property
    def order(self) -> int:
        return len(self.grams)

    @property
    def words(self) -> list[str]:
        """The vocabulary, without `<s>`, `</s>` and `<unk>`."""
        return [word for (word,) in self.grams[0] if word not in (BEGIN, END, UNKNOWN)]

    @property
    def is_closed(self) -> bool:
        """Whether it was made without `<unk>`: other words then have next to no probability."""
        return self.grams[0][(UNKNOWN,)] == (ABSENT, 0.0)

    def score(self, context: tuple[str, ...], word: str) -> tuple[float, tuple[str, ...]]:
        """(ln p(word | context), the context of the next word).

        Words outside the vocabulary have the probability of `<unk>`.
        """
        if (word,) not in self.grams[0]:
            word = UNKNOWN
        history = context = context[max(len(context) - self.order + 1, 0) :]
        penalty = 0.0
        while (found := self.grams[len(history)].get((*history, word))) is None:
            penalty += self.grams[len(history) - 1].get(history, (0.0, 0.0))[1]
            history = history[1:]
        return penalty + found[0], self._shortened((*context, word))

    def _shortened(self, history: tuple[str, ...]) -> tuple[str, ...]:
        """The longest end of a history that is an n-gram of the model."""
        history = history[max(len(history) - self.order + 1, 0) :]
        while history and history not in self.grams[len(history) - 1]:
            history = history[1:]
        return history

    def sentence(self, words: Iterable[str]) -> float:
        """ln p of a whole sentence, its end included."""
        total, context = 0.0, (BEGIN,)
        for word in (*words, END):
            score, context = self.score(context, word)
            total += score
        return total


def perplexity(model: NGram, sentences: Iterable[Iterable[str]]) -> float:
    """Per word, ends of sentences included, words outside the vocabulary as `<unk>`."""
    total = count = 0
    for words in map(tuple, sentences):
        total += model.sentence(words)
        count += len(words) + 1
    return math.exp(-total / max(count, 1))


# estimation ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Table:
    """All n-grams of one order, a row each."""

    word: np.ndarray  # the last word
    prefix: np.ndarray  # row of all but the last, in the table of the order below
    suffix: np.ndarray  # row of all but the first
    begins: np.ndarray  # whether it starts with <s>
    count: np.ndarray


def estimate(
    sentences: Iterable[Iterable[str]], order: int, vocabulary: Collection[str] | None = None
) -> NGram:
    """A model of `order` from sentences of words; words outside `vocabulary` count as `<unk>`.

    Raises UserError where there are no words.
    """
    if order < 1:
        raise UserError(f"the order of an n-gram model must be at least 1, not {order}")
    words, text, ages = _encoded(sentences, vocabulary)
    if len(words) == len(_SPECIAL):
        raise UserError("the text for the language model has no words")
    tables = _tables(text, ages, order, len(words))
    rows = [(word,) for word in words]
    grams = []
    for n, table in enumerate(tables):
        counts = _adjusted(tables, n)
        discounts = np.array((0.0, *_discounts(counts)))[np.minimum(counts, 3)]
        contexts = len(tables[n - 1].word) if n else 1
        total = np.bincount(table.prefix, counts, contexts)
        with np.errstate(invalid="ignore"):  # what is no context of anything has no back-off
            backoff = np.bincount(table.prefix, discounts, contexts) / total
        if n == 0:
            # <unk> is an outcome, seen or not; <s> is none
            outcomes = np.count_nonzero(counts) + (counts[_UNKNOWN] == 0)
            below = np.full(len(counts), 1 / outcomes)
        else:
            below = probability[table.suffix]  # noqa: F821
            rows = [(*rows[i], words[w]) for i, w in zip(table.prefix, table.word, strict=True)]
            grams[-1] = _entries(*grams[-1], np.nan_to_num(np.log(backoff)))
        probability = (counts - discounts) / total[table.prefix] + backoff[table.prefix] * below
        grams.append((rows, np.log(probability)))
    grams[-1] = _entries(*grams[-1], np.zeros(len(rows)))
    grams[0][(BEGIN,)] = (NEVER, grams[0][(BEGIN,)][1])
    return NGram(tuple(grams))


def _encoded(
    sentences: Iterable[Iterable[str]], vocabulary: Collection[str] | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(words by id, ids of the text with <s> and </s>, place of each in its sentence)."""
    ids = {word: i for i, word in enumerate(_SPECIAL)}
    known = None if vocabulary is None else frozenset(vocabulary)
    text, ages = array.array("q"), array.array("q")
    for sentence in sentences:
        own = [_BEGIN]
        for word in sentence:
            if known is not None and word not in known:
                word = UNKNOWN
            own.append(ids.setdefault(word, len(ids)))
        text.extend((*own, _END))
        ages.extend(range(len(own) + 1))
    return list(ids), np.array(text), np.array(ages)


def _tables(text: np.ndarray, ages: np.ndarray, order: int, words: int) -> list[_Table]:
    zeros = np.zeros(words, np.int64)
    unigrams = np.bincount(text, minlength=words)
    tables = [_Table(np.arange(words), zeros, zeros, np.arange(words) == _BEGIN, unigrams)]
    gram = text  # the n-gram that ends at each place
    for n in range(1, order):
        places = np.flatnonzero(ages >= n)
        # a row below and a word: one number
        codes, first, rows, counts = np.unique(
            gram[places - 1] * words + text[places],
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip
        prefix = codes // words
        tables.append(
            _Table(codes % words, prefix, gram[places[first]], tables[-1].begins[prefix], counts)
        )
        gram = np.full(len(text), -1)
        gram[places] = rows
    return tables


def _adjusted(tables: list[_Table], n: int) -> np.ndarray:
    """Counts as they are in the highest order and behind <s>, elsewhere the number of different
    words that come before."""
    counts = tables[n].count
    if n + 1 < len(tables):
        before = np.bincount(tables[n + 1].suffix, minlength=len(counts))
        counts = np.where(tables[n].begins, counts, before)
    if n == 0:
        counts = np.where(tables[0].begins, 0, counts)
    return counts


def _discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """What is taken from counts of 1, 2, and 3 or more."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    if n.all():
        y = n[0] / (n[0] + 2 * n[1])
        found = tuple(k - (k + 1) * y * n[k] / n[k - 1] for k in (1, 2, 3))
        if all(0 <= value <= k for k, value in enumerate(found, 1)):
            return found
    return FALLBACK


def _entries(rows, probabilities, backoffs) -> _Grams:
    return dict(zip(rows, zip(probabilities.tolist(), backoffs.tolist(), strict=True), strict=True))


# files -----------------------------------------------------------------------------------------


def write_arpa(model: NGram, path: str) -> None:
    """Writes an ARPA file, compressed where the name ends with .gz."""
    with written(path) as file:
        file.write("\\data\\\n")
        for n, grams in enumerate(model.grams, 1):
            file.write(f"ngram {n}={len(grams)}\n")
        for n, grams in enumerate(model.grams, 1):
            file.write(f"\n\\{n}-grams:\n")
            for words, (probability, backoff) in grams.items():
                line = f"{probability / LN10:.7g}\t{' '.join(words)}"
                file.write(line + (f"\t{backoff / LN10:.7g}\n" if n < model.order else "\n"))
        file.write("\n\\end\\\n")


def read_arpa(path: str, highest: int | None = None) -> NGram:
    """The model of an ARPA file, plain or gzip; its n-grams up to the order `highest`.

    What KenLM reads as <unk> is that here, <UNK> too. Raises UserError naming the line that is none
    of an ARPA file.
    """
    grams: list[_Grams] = []
    declared: dict[int, int] = {}
    known: set[str] = set()  # words
    count = 0  # of the n-grams of this order
    for number, line in enumerate(every_line(path), 1):
        if not line:
            continue
        if not grams and (size := _SIZE.fullmatch(line)):
            declared[int(size[1])] = int(size[2])
        if line == "\\end\\" or (line[0] == "\\" and line.endswith("-grams:")):
            if grams and count != declared.get(len(grams), count):
                raise UserError(
                    f"{path} declares {declared[len(grams)]} {len(grams)}-grams and has {count}; "
                    "it is damaged, or was changed by hand"
                )
            if line == "\\end\\" or len(grams) == highest:
                break
            if line != f"\\{len(grams) + 1}-grams:":
                raise UserError(
                    f"{path}, line {number}: {excerpt(line)}; the {len(grams) + 1}-grams come next"
                )
            if len(grams) == 1:
                known = {word for (word,) in grams[0]}
            grams.append({})
            count = 0
        elif grams:
            count += 1
            try:
                words, values = _gram(line, len(grams))
                if len(grams) > 1 and not known.issuperset(words):
                    raise ValueError("has a word that is not among the 1-grams")
            except ValueError as error:
                reason = f": it {error}" if str(error).startswith("has ") else ""
                raise UserError(
                    f"{path}, line {number} is no {len(grams)}-gram: {excerpt(line)}{reason}"
                ) from None
            grams[-1][words] = values
    else:
        raise UserError(f"{path} is no ARPA file, or cut short: it has no \\end\\")
    if not grams or not grams[0]:
        raise UserError(f"{path} is an ARPA file without words")
    if highest is None and max(declared, default=0) > len(grams):
        raise UserError(f"{path} declares {max(declared)}-grams and has none; it is damaged")
    for word in (BEGIN, END):
        if (word,) not in grams[0]:
            raise UserError(
                f"{path} has no {word}, which every sentence needs (KenLM refuses it, too); build "
                "the model of sentences: build_ngram, lmplz and ngram-count add it"
            )
    return NGram(tuple(grams))


_SIZE = re.compile(r"ngram[ \t]+([0-9]{1,2})[ \t]*=[ \t]*([0-9]{1,18})")


def _gram(line: str, order: int) -> tuple[tuple[str, ...], tuple[float, float]]:
    """(words, (ln p, ln back-off)) of a line. Raises ValueError."""
    probability, *rest = line.split("\t")  # as most files are written
    words = rest[0].split(" ") if rest else []
    backoff = rest[1] if len(rest) == 2 else "0"
    if len(words) != order or len(rest) > 2 or "" in words or "\r" in line:
        parts = fields(line)
        if not order < len(parts) < order + 3:
            raise ValueError
        probability, *words = parts[: order + 1]
        backoff = parts[order + 1] if len(parts) > order + 1 else "0"
    first, second = float(probability), float(backoff)
    if first == -math.inf:
        first = NEVER / LN10
    if not (math.isfinite(first) and math.isfinite(second)) or "_" in probability + backoff:
        raise ValueError("has a number that is none")
    if first > 0:
        raise ValueError("has a probability above 1: its logarithm must not be above 0")
    if UNKNOWN_TOO in words:
        words = [UNKNOWN if word == UNKNOWN_TOO else word for word in words]
    return tuple(words), (first * LN10, second * LN10)
