"""Sentences for a language model: what is read, counted, cut and put into batches."""

import numpy as np
import pytest

from w2v_jax.data.batches import iterate
from w2v_jax.data.plan import BatchPlan, bucket_edges, pad_buckets, sequential
from w2v_jax.data.text import TextLoader, open_text, word_counts
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.text.vocabulary import Vocabulary

LETTERS = Vocabulary(Alphabet.english())
rng = np.random.default_rng(0)
SENTENCES = [
    " ".join("".join(rng.choice([*"ABCDE"], rng.integers(1, 6))) for _ in range(count))
    for count in rng.integers(1, 8, 60)
]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(SENTENCES) + "\n")
    return str(path)


def batches(text, max_tokens=20, rows=2, **fields):
    corpus = open_text(text, LETTERS, max_tokens)
    edges = bucket_edges(corpus.lengths, 2, 8)
    buckets = pad_buckets(corpus.lengths, edges, 24 * rows, rows)
    return corpus, BatchPlan(buckets, seed=3, num_steps=9), TextLoader(corpus, **fields)


def test_what_cannot_be_written_is_counted_and_named(tmp_path, caplog):
    path = tmp_path / "text"
    path.write_text("a b\n4 you\n...\nc é\nd\n" + "5\n" * 9)
    corpus = open_text(str(path), LETTERS, 100)
    assert (corpus.sentences, corpus.words, corpus.left_out) == (2, 3, 12)
    assert "12 of 14 lines" in caplog.text
    assert "'4'" in caplog.text
    assert "and 7 more" in caplog.text
    words = Vocabulary.most_frequent(LETTERS.alphabet, word_counts(str(path), LETTERS), 2)
    assert words.words == ("A", "B")
    assert open_text(str(path), words, 100).unknown == 1
    path.write_text("4\n")
    with pytest.raises(UserError, match=r"none of the 1 lines .*'4'"):
        open_text(str(path), LETTERS, 100)


def test_cut_sentences_predict_every_token_once(text):
    whole, cut = (open_text(text, LETTERS, size) for size in (1000, 7))
    assert (whole.cut, len(whole)) == (0, len(SENTENCES))
    assert cut.cut == sum(len(sentence) + 2 > 7 for sentence in SENTENCES)
    assert cut.lengths.max() == 7
    assert cut.lengths.min() >= 2
    predicted = [
        np.concatenate([corpus.tokens[i][1:] for i in range(len(corpus))])
        for corpus in (whole, cut)
    ]
    np.testing.assert_array_equal(*predicted)
    for i in range(1, len(cut)):
        previous, here = cut.tokens[i - 1], cut.tokens[i]
        assert here[0] == 0 or here[0] == previous[-1] != 1
    assert whole.digest != cut.digest
    assert whole.digest == open_text(text, LETTERS, 1000).digest


def test_every_item_once_and_padded_to_its_bucket(text):
    corpus, plan, loader = batches(text)
    seen = []
    for spec in sequential(plan.buckets):
        batch, _ = loader.load(spec)
        assert batch["tokens"].shape == (1, len(spec.slots), spec.samples)
        assert loader.amount(spec) == (batch["length"] - 1).clip(0).sum()
        for tokens, length, item in zip(
            *(batch[k][0] for k in ("tokens", "length", "id")), strict=True
        ):
            assert not tokens[length:].any()
            if item >= 0:
                np.testing.assert_array_equal(tokens[:length], corpus.tokens[item])
                seen.append(item)
            else:
                assert length == 0
    assert sorted(seen) == list(range(len(corpus)))


def test_a_batch_is_a_function_of_seed_and_step(text):
    """Whoever reads it, from whichever step on."""
    _, plan, loader = batches(text, rows=4, accumulation=2)
    all_of_it = [loader.load(plan[step])[0] for step in range(9)]
    for step, (batch, amount) in enumerate(iterate(plan, loader, start=4, workers=1, threads=1), 4):
        assert amount == loader.amount(plan[step])
        for name, array in batch.items():
            np.testing.assert_array_equal(array, all_of_it[step][name])
    for part in range(2):
        own = TextLoader(loader.corpus, 2, parts=(part,), of=2).load(plan[1])[0]
        rows = own["id"].shape[1]
        expected = all_of_it[1]["tokens"][:, part * rows : (part + 1) * rows]
        np.testing.assert_array_equal(own["tokens"], expected)
