"""Texts and word times of recordings longer than a search can take at once."""

import math

import jax
import numpy as np
import pytest

from tests import small
from w2v_jax.decoding import decoder
from w2v_jax.decoding.alignment import align
from w2v_jax.decoding.beam import Hypothesis
from w2v_jax.decoding.decoder import Decoder
from w2v_jax.decoding.pauses import pieces
from w2v_jax.decoding.rescoring import LanguageScorer
from w2v_jax.decoding.search import SearchOptions, open_search
from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.text.vocabulary import Vocabulary

ALPHABET = Alphabet.english()
SECONDS = 0.02
WORDS = ["THE", "TEA", "EAT", "HELLO", "ALL", "A", "NOT", "TON"]


def talk(count=40, seed=0):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS))
    return str(path)


def test_the_best_path_is_its_own_alignment():
    text = talk()
    log_probs = small.spoken(ALPHABET, text)
    found, words = Decoder(ALPHABET, SearchOptions()).words(log_probs, SECONDS)
    assert found == text == Decoder(ALPHABET, SearchOptions()).text(log_probs)
    expected = align(log_probs, text, ALPHABET, SECONDS).words
    assert [word.text for word in words] == [word.text for word in expected]
    for field in ("start", "end", "score"):
        values = [[getattr(word, field) for word in x] for x in (words, expected)]
        np.testing.assert_allclose(*values, rtol=1e-6)


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 4000])
def test_words_are_those_of_the_text_even_in_noise(frames):
    """With `<s>` inside words, boundaries at the ends and one after the other."""
    log_probs = np.random.default_rng(frames).normal(size=(frames, 32)).astype(np.float32)
    log_probs[:, ALPHABET.ids["|"]] += 1
    found = Decoder(ALPHABET, SearchOptions())
    text, words = found.words(log_probs, SECONDS)
    assert text == found.text(log_probs) == " ".join(word.text for word in words)
    edges = [time for word in words for time in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(0 <= word.start < word.end <= frames * SECONDS for word in words)


@pytest.mark.parametrize("library", ["python", "flashlight"])
def test_a_search_goes_piece_by_piece(library, lexicon, monkeypatch):
    if library == "flashlight":
        pytest.importorskip("flashlight")
    monkeypatch.setattr(decoder, "PIECE_FRAMES", 200)
    options = SearchOptions(lexicon=lexicon, beam=10, library=library)
    text = talk()
    log_probs = small.spoken(ALPHABET, text)
    found = Decoder(ALPHABET, options)
    assert len(log_probs) > 600
    assert found.text(log_probs) == text
    with_times, words = found.words(log_probs, SECONDS)
    assert with_times == text
    expected = align(log_probs, text, ALPHABET, SECONDS).words
    assert [word.text for word in words] == text.split()
    np.testing.assert_allclose(
        [(word.start, word.end) for word in words],
        [(word.start, word.end) for word in expected],
    )
    assert found.text(log_probs[:0]) == ""
    # no piece has more than it may: a lone search of each finds the same
    search = open_search(ALPHABET, options)
    parts = [search(log_probs[a:b])[0].text for a, b in pieces(log_probs, ALPHABET, 200)]
    assert " ".join(parts) == text


def test_the_lexicon_decides(lexicon):
    log_probs = small.spoken(ALPHABET, "TEA HELO TON")
    assert Decoder(ALPHABET, SearchOptions()).text(log_probs) == "TEA HELO TON"
    options = SearchOptions(lexicon=lexicon, beam=20, library="python")
    text, words = Decoder(ALPHABET, options).words(log_probs, SECONDS)
    assert set(text.split()) <= set(WORDS)
    assert [word.text for word in words] == text.split()


def test_a_transformer_scores_the_texts_again(lexicon):
    config = LanguageConfig(width=16, num_layers=2, num_heads=2, feed_forward=32)
    vocabulary = Vocabulary(ALPHABET)
    model = LanguageModel(config, len(vocabulary))
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 4), np.int32))
    language = variables, {
        "model": config.to_dict(), "alphabet": ALPHABET.to_dict(),
        "vocabulary": vocabulary.to_dict(),
    }  # fmt: skip
    options = dict(lexicon=lexicon, beam=20, library="python", transformer_lm="folder")
    options |= dict(transformer_word_score=0.5, ngram_weight=0.0)
    log_probs = small.spoken(ALPHABET, "TEA HELO TON")
    hypotheses = open_search(ALPHABET, SearchOptions(**options))(log_probs)
    scores = LanguageScorer(*language).scores([x.text for x in hypotheses])
    found = set()
    for weight in (0.0, 1000.0, -1000.0):
        own = Decoder(ALPHABET, SearchOptions(**options, transformer_weight=weight), language)
        totals = [
            x.acoustic + weight * score + 0.5 * len(x.text.split())
            for x, score in zip(hypotheses, scores, strict=True)
        ]
        found.add(own.text(log_probs))
        assert own.text(log_probs) == hypotheses[int(np.argmax(totals))].text
    assert len(found) > 1


@pytest.mark.parametrize("letter", ["ſ", "’", "\u0e33"])  # other alphabets write them otherwise
def test_letters_of_the_alphabet_are_aligned_as_they_are(letter, tmp_path):
    alphabet = Alphabet(("<pad>", "|", *"abc", letter))
    path = tmp_path / "words.txt"
    path.write_text(f"ab{letter}a\nc\n")
    log_probs = small.spoken(alphabet, f"ab{letter}a c", pause=3)
    options = SearchOptions(lexicon=str(path), beam=10, library="python")
    text, words = Decoder(alphabet, options).words(log_probs, SECONDS)
    assert text == f"ab{letter}a c"
    assert [word.text for word in words] == text.split()
    assert all(math.isfinite(word.score) for word in words)


def test_a_text_that_cannot_be_aligned_shares_its_time(lexicon, monkeypatch):
    log_probs = small.spoken(ALPHABET, "ALL")
    found = Decoder(ALPHABET, SearchOptions(lexicon=lexicon, library="python"))
    text = f"{'TEA' * len(log_probs)} {'E' * len(log_probs)}"
    monkeypatch.setattr(found, "_search", lambda _: [Hypothesis(text, 0.0, 0.0, 0.0)])
    _, words = found.words(log_probs, SECONDS)
    assert [word.text for word in words] == text.split()
    assert [word.score for word in words] == [-math.inf] * 2
    end = len(log_probs) * SECONDS
    times = [time for word in words for time in (word.start, word.end)]
    np.testing.assert_allclose(times, [0, 0.75 * end, 0.75 * end, end])


def test_a_search_that_ends_within_a_word(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("HELLO\n")
    options = SearchOptions(lexicon=str(path), beam=1, library="python")
    found = Decoder(ALPHABET, options)
    assert found.words(small.spoken(ALPHABET, "HEL"), SECONDS) == ("", [])
