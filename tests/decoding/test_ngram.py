"""N-gram language models: estimated as defined, summing to one, the same after a file."""

import gzip
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from w2v_jax.decoding import ngram
from w2v_jax.decoding.ngram import BEGIN, END, UNKNOWN, NGram, estimate, perplexity, read_arpa
from w2v_jax.errors import UserError

rng = np.random.default_rng(0)
# words by Zipf's law, each more likely behind the one before it in the alphabet
WORDS = np.array([f"w{i}" for i in range(40)])
CHANCE = 1 / np.arange(1, 41) / (1 / np.arange(1, 41)).sum()


def text(count: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    sentences = []
    for length in rng.integers(1, 12, count):
        ids = [rng.choice(40, p=CHANCE)]
        while len(ids) < length:
            follows = rng.random() < 0.6
            ids.append((ids[-1] + 1) % 40 if follows else rng.choice(40, p=CHANCE))
        sentences.append(WORDS[ids].tolist())
    return sentences


class Twin:
    """Interpolated modified Kneser-Ney straight from its definition, one query at a time."""

    def __init__(self, sentences, order):
        counts = Counter()
        for words in sentences:
            padded = (BEGIN, *words, END)
            for n in range(1, order + 1):
                counts.update(padded[i : i + n] for i in range(len(padded) - n + 1))
        self.counts = Counter()
        for gram, count in counts.items():
            whole = len(gram) == order or gram[0] == BEGIN
            before = {other[0] for other in counts if other[1:] == gram} if not whole else ()
            self.counts[gram] = count if whole else len(before)
        del self.counts[(BEGIN,)]
        self.words = {gram[0] for gram in self.counts if len(gram) == 1} | {UNKNOWN}
        self.discounts = {}
        for n in range(1, order + 1):
            of = Counter(c for gram, c in self.counts.items() if len(gram) == n)
            self.discounts[n] = [0, *ngram.FALLBACK]
            if of[1] and of[2] and of[3] and of[4]:
                y = of[1] / (of[1] + 2 * of[2])
                self.discounts[n] = [0, *(k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3))]

    def probability(self, context, word):
        n = len(context) + 1
        lower = self.probability(context[1:], word) if context else 1 / len(self.words)
        followers = {
            gram[-1]: count
            for gram, count in self.counts.items()
            if len(gram) == n and gram[:-1] == context
        }
        if not followers:
            return lower
        taken = {w: self.discounts[n][min(count, 3)] for w, count in followers.items()}
        total = sum(followers.values())
        own = followers.get(word, 0) - taken.get(word, 0)
        return (own + sum(taken.values()) * lower) / total


def test_as_defined():
    sentences = text(300, seed=1)
    model, twin = estimate(sentences, 3), Twin(sentences, 3)
    assert set(model.words) == twin.words - {END, UNKNOWN}
    contexts = [(), ("w0",), (BEGIN,), ("w3", "w4"), (BEGIN, "w1"), ("w39", "w17"), ("w30", "w0")]
    for context, word in itertools.product(contexts, [*WORDS[::6].tolist(), END, UNKNOWN]):
        found, _ = model.score(context, word)
        assert found == pytest.approx(math.log(twin.probability(context, word)), rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_sum_to_one(order):
    model = estimate(text(300, seed=1), order)
    outcomes = [*model.words, END, UNKNOWN]
    for context in ((), ("w0",), (BEGIN,), ("w3", "w4"), ("w1", "w2", "w3"), ("never", "w4")):
        total = sum(math.exp(model.score(context, word)[0]) for word in outcomes)
        assert total == pytest.approx(1, abs=1e-9)


def test_longer_contexts_help_on_other_text():
    train, held_out = text(3000, seed=1), text(200, seed=2)
    one, two = (perplexity(estimate(train, order), held_out) for order in (1, 2))
    assert two < 0.8 * one


def test_the_next_context_is_no_longer_than_what_the_model_knows():
    """States that score alike are one: a beam search merges them."""
    model = estimate([["a", "b", "c"], ["b", "c", "d"]], 3)
    assert model.score(("a", "b"), "c")[1] == ("b", "c")
    assert model.score(("zzz", "b"), "c")[1] == ("b", "c")
    assert model.score(("a", "c"), "b")[1] == ("b",)
    total = sum(model.score(c, w)[0] for c, w in (((BEGIN,), "a"), ((BEGIN, "a"), "b")))
    assert model.sentence(["a", "b"]) == pytest.approx(total + model.score(("a", "b"), END)[0])


def test_words_outside_the_vocabulary():
    model = estimate(text(300, seed=1), 1, vocabulary={"w0", "w1"})
    assert sorted(model.words) == ["w0", "w1"]
    assert model.score((), "w7") == model.score((), UNKNOWN)
    # they were counted
    assert model.score((), UNKNOWN)[0] > model.score((), "w1")[0]
    assert model.sentence(["w0", "w7", "w8"]) == model.sentence(["w0", UNKNOWN, UNKNOWN])


def test_little_text_has_usual_discounts():
    model = estimate([["a"], ["b"]], 2)
    total = sum(math.exp(model.score((BEGIN,), word)[0]) for word in ("a", "b", END, UNKNOWN))
    assert total == pytest.approx(1)
    with pytest.raises(UserError, match="no words"):
        estimate([], 2)
    with pytest.raises(UserError, match="at least 1, not 0"):
        estimate([["a"]], 0)


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_files(tmp_path, name):
    model = estimate(text(300, seed=1), 3)
    path = str(tmp_path / name)
    ngram.write_arpa(model, path)
    again = read_arpa(path)
    for grams, others in zip(model.grams, again.grams, strict=True):
        assert grams.keys() == others.keys()
        np.testing.assert_allclose(list(grams.values()), list(others.values()), atol=2e-6)
    assert read_arpa(path, highest=1).grams[0].keys() == model.grams[0].keys()
    assert read_arpa(path, highest=1).order == 1


ARPA = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1\t<s>\t-0.5\n-1\ta\n-1\t</s>\n-0.3\t<unk>\n\n\\end\\\n"


def test_files_of_others(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text("made by hand\n\n" + ARPA.replace("\t", "  "))
    model = read_arpa(str(path))
    assert model.words == ["a"]
    assert model.score((), "a")[0] == pytest.approx(-math.log(10))
    assert model.score((), "b")[0] == pytest.approx(-0.3 * math.log(10))
    path.write_text(ARPA.replace("-1\ta", "-inf\ta"))
    assert read_arpa(str(path)).score((), "a")[0] == ngram.NEVER


@pytest.mark.parametrize(
    ("unknown", "expected"), [("-2.0\t<UNK>\n", -5.15), ("-2.0\t<unk>\n", -5.15), ("", -103.15)]
)
def test_unknown_words_as_in_kenlm(tmp_path, unknown, expected):
    """<UNK> is <unk>; where both are missing, it is 10^-100."""
    path = tmp_path / "lm.arpa"
    path.write_text(small_model(unknown))
    model = read_arpa(str(path))
    assert model.sentence(["ab", "zz", "a"]) / math.log(10) == pytest.approx(expected, abs=1e-9)
    assert model.is_closed == (not unknown)
    assert sum(kenlm_scores(str(path), ["ab", "zz", "a"])) == pytest.approx(expected, abs=1e-4)


def test_words_hold_any_other_blank(tmp_path):
    """As KenLM splits them: at the space, the tab and the ends of lines alone."""
    odd = [f"x{blank}y" for blank in "\u00a0\u3000\u2028\x85\x0b\x0c\x1c\u200b"]
    odd += ["\u00a0", "a\u3000"]
    lines = "".join(f"-1.2\t{word}\t-0.1\n" for word in odd)
    path = tmp_path / "lm.arpa"
    content = small_model(f"-2.0\t<unk>\n{lines}", f"-0.15\t<s> {odd[1]}\r\n", len(odd) + 1)
    path.write_bytes(content.encode())
    model = read_arpa(str(path))
    assert set(odd) < set(model.words)
    text = [odd[1], odd[0], *odd[2:]]
    expected, context = [], (BEGIN,)
    for word in (*text, END):
        score, context = model.score(context, word)
        expected.append(score / math.log(10))
    np.testing.assert_allclose(kenlm_scores(str(path), text), expected, atol=1e-5)
    again = str(tmp_path / "again.arpa")
    ngram.write_arpa(model, again)
    assert read_arpa(again).words == model.words
    np.testing.assert_allclose(kenlm_scores(again, text), expected, atol=1e-5)


def small_model(more: str, bigram: str = "", count: int = 1) -> str:
    sizes = 5 + count * bool(more), 2 + bool(bigram)
    return (
        f"\\data\\\nngram 1={sizes[0]}\nngram 2={sizes[1]}\n\n\\1-grams:\n{more}"
        "-1.0\t<s>\t-0.3\n-0.9\t</s>\n-0.8\ta\t-0.2\n-0.7\tab\t-0.25\n-1.1\tcab\t-0.1\n\n"
        f"\\2-grams:\n{bigram}-0.5\t<s> a\n-0.4\ta ab\n\n\\end\\\n"
    )


def kenlm_scores(path: str, words: list[str]) -> list[float]:
    """log10 p of every word of a sentence and of its end, by KenLM."""
    decoder = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary")
    known = dictionary.create_word_dict({word: [[]] for word in (*words, UNKNOWN)})
    lm = decoder.KenLM(path, known)
    state, found = lm.start(False), []
    for word in words:
        state, score = lm.score(state, known.get_index(word))
        found.append(score)
    return [*found, lm.finish(state)[1]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ARPA.replace("1=4", "1=5"), "declares 5 1-grams and has 4"),
        (ARPA.replace("1=4", "1=4\nngram 2=1"), "declares 2-grams and has none"),
        (ARPA.replace("-0.3\t", "0.3\t"), "line 8 is no 1-gram: 0.3 <unk>: .*above 1"),
        (ARPA.replace("-0.5", "-inf"), "line 5 is no 1-gram.*number"),
        (ARPA.replace("-0.5", "nan"), "line 5 is no 1-gram.*number"),
        (ARPA.replace("-0.5", "-1_0"), "line 5 is no 1-gram.*number"),
        (ARPA.replace("</s>", "b"), "has no </s>"),
        (ARPA.replace("\\1-", "\\2-"), "line 4: .2-grams:; the 1-grams come next"),
        (
            ARPA.replace("\n\\end", "\\2-grams:\n-1\ta b\n\\end"),
            "line 10 is no 2-gram: -1 a b: it has a word that is not among the 1-grams",
        ),
        ("once upon a time\n", "no ARPA file, or cut short"),
        (ARPA[:-8], "no ARPA file, or cut short"),
        (ARPA.replace("-1\ta", "-1"), "line 6 is no 1-gram: -1"),
        (ARPA.replace("-1\ta", "a -1"), "line 6 is no 1-gram: a -1"),
        ("\\data\\\n\\end\\\n", "without words"),
    ],
)
def test_files_that_are_none(tmp_path, content, words):
    path = tmp_path / "lm.arpa"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_arpa(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        read_arpa(str(tmp_path / "missing.arpa"))


def test_damaged_files(tmp_path):
    cut = tmp_path / "cut.arpa.gz"
    cut.write_bytes(gzip.compress(ARPA[:-8].encode())[:-9])
    (tmp_path / "none.gz").write_bytes(b"text")
    for name in ("cut.arpa.gz", "none.gz"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_arpa(str(tmp_path / name))


def test_a_word_that_nothing_is_known_of():
    """As in KenLM."""
    model = NGram(({("a",): (-1.0, 0.0)},))
    assert model.is_closed
    assert model.score((), "b")[0] == -100 * math.log(10)


def test_kenlm_reads_the_file(tmp_path):
    """The library that decodes with it gives the same scores."""
    decoder = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary")
    model = estimate(text(300, seed=1), 3)
    path = str(tmp_path / "lm.arpa")
    ngram.write_arpa(model, path)
    lexicon = {word: [[*word, "|"]] for word in model.words} | {UNKNOWN: [[]]}
    words = dictionary.create_word_dict(lexicon)
    lm = decoder.KenLM(path, words)
    state, context, total = lm.start(False), (BEGIN,), 0.0
    for word in text(1, seed=5)[0] + ["w0", "w39"]:
        state, found = lm.score(state, words.get_index(word))
        expected, context = model.score(context, word)
        assert found * math.log(10) == pytest.approx(expected, abs=1e-4)
        total += expected
    assert total < 0
