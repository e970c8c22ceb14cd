"""Tokens of language models: letters, or the most frequent words."""

import json

import numpy as np
import pytest

from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet, TextError
from w2v_jax.text.vocabulary import BEGIN, END, UNKNOWN, Vocabulary

ALPHABET = Alphabet.english()
LETTERS = Vocabulary(ALPHABET)
WORDS = Vocabulary.most_frequent(ALPHABET, {"B": 3, "A": 5, "D": 1, "C": 3, "E": 1}, 4)


def tokens(vocabulary, text):
    return [vocabulary.tokens[i] for i in vocabulary.encode(text)]


def test_sentences_of_letters_and_words():
    assert tokens(LETTERS, "we can't") == [BEGIN, *"WE|CAN'T", END]
    assert len(LETTERS) == 2 + 28
    assert tokens(WORDS, "a, C; f a d") == [BEGIN, "A", "C", UNKNOWN, "A", "D", END]
    assert LETTERS.encode("").tolist() == [0, 1]
    assert LETTERS.encode("A").dtype == np.int32


def test_the_most_frequent_words_equals_by_the_alphabet():
    assert WORDS.words == ("A", "B", "C", "D")
    with pytest.raises(UserError, match="num_words"):
        Vocabulary.most_frequent(ALPHABET, {"A": 1}, 0)


@pytest.mark.parametrize("vocabulary", [LETTERS, WORDS], ids=lambda v: v.unit)
def test_a_vocabulary_survives_json(vocabulary):
    values = json.loads(json.dumps(vocabulary.to_dict()))
    again = Vocabulary.from_dict(values, ALPHABET)
    assert again.tokens == vocabulary.tokens
    with pytest.raises(UserError, match="syllables"):
        Vocabulary.from_dict(values | {"unit": "syllables"}, ALPHABET)


def test_case_follows_the_alphabet_and_foreign_characters_are_named():
    assert tokens(Vocabulary(Alphabet.from_letters("ab")), "A-B") == [BEGIN, *"a|b", END]
    for vocabulary in (LETTERS, WORDS):
        with pytest.raises(TextError, match="'4', 'É'"):
            vocabulary.encode("é 4 A")


@pytest.mark.parametrize(
    ("letters", "words"),
    [
        ("ABC", None),
        ("abc", "other case.*letters=abc"),
        ("ABČ", "'Č'.*does not know"),
    ],
)
def test_which_recognizers_it_can_score(letters, words):
    alphabet = Alphabet.from_letters(letters)
    if words is None:
        LETTERS.check_writes(alphabet)
    else:
        with pytest.raises(UserError, match=words):
            LETTERS.check_writes(alphabet)
