"""Transcripts to ids and back."""

import json

import numpy as np
import pytest

from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet, TextError

ENGLISH = Alphabet.english()


def test_english_is_the_published_order():
    symbols = "<pad> <s> </s> <unk> | E T A O N I H S R D L U M W C F G Y P B V K ' X J Q Z"
    assert ENGLISH.symbols == tuple(symbols.split())
    assert len(ENGLISH) == 32


def test_encode_writes_words_and_boundaries():
    ids = ENGLISH.encode("it's A  cat\n")
    assert ids.dtype == np.int32
    assert [ENGLISH.symbols[i] for i in ids] == list("IT'S|A|CAT")
    np.testing.assert_array_equal(ids, [10, 6, 27, 12, 4, 7, 4, 19, 7, 6])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“Don’t,” she said – twice…", "DON'T SHE SAID TWICE"),
        ("well-known\tﬁsh", "WELL KNOWN FISH"),
        ("Ｆｕｌｌ width", "FULL WIDTH"),
        ("so\u00adft\ufeff zero\u200bwidth", "SOFT ZEROWIDTH"),
        ("a|b", "A B"),
        ("50 % é", "50 % É"),
        ("e\u0301", "É"),
        ("rock`n´roll", "ROCK'N'ROLL"),
    ],
)
def test_normalize(text, expected):
    assert ENGLISH.normalize(text) == expected
    assert ENGLISH.normalize(expected) == expected


def test_case_follows_the_letters():
    assert Alphabet.from_letters("abc'").normalize("A b’C-D") == "a b'c d"
    assert Alphabet.from_letters("ABC").normalize("a b’c") == "A B C"
    assert Alphabet.from_letters("aB").normalize("aBAbĆć") == "aBaBĆć"
    assert Alphabet.from_letters("അആ").normalize("aB അ") == "aB അ"
    assert Alphabet.from_letters("abc-").normalize("A-B, c") == "a-b c"


def test_other_languages_round_trip():
    czech = Alphabet.from_letters("aábcčdďeéěfghiíjklmnňoópqrřsštťuúůvwxyýzž")
    text = "Příliš žluťoučký kůň, úpěl!"
    assert czech.decode(czech.encode(text)) == "příliš žluťoučký kůň úpěl"
    decomposed = Alphabet.from_letters("e\u0301a")
    assert decomposed.symbols == ("<pad>", "|", "é", "a")


def test_foreign_characters_are_named():
    with pytest.raises(TextError, match="'&', '3', 'É'") as caught:
        ENGLISH.encode("Chapter 3 & Été 33")
    assert "spell" in str(caught.value)
    assert isinstance(caught.value, UserError)
    with pytest.raises(TextError, match="'T'"):
        Alphabet.from_letters("ABC").encode("cat")


@pytest.mark.parametrize("text", ["", "  \n", "?!…", "|"])
def test_nothing_left_is_an_error(text):
    with pytest.raises(TextError, match="empty"):
        ENGLISH.encode(text)


def test_decode_drops_specials_and_spare_boundaries():
    assert ENGLISH.decode([4, 0, 11, 5, 1, 15, 15, 8, 4, 4, 3, 18, 8, 4]) == "HELLO WO"
    assert ENGLISH.decode(np.zeros(0, np.int32)) == ""
    for i in (-1, 32):
        with pytest.raises(IndexError):
            ENGLISH.decode([5, i])


def test_json_round_trip():
    values = json.loads(json.dumps(ENGLISH.to_dict()))
    assert Alphabet.from_dict(values) == ENGLISH
    assert hash(Alphabet.from_dict(values)) == hash(ENGLISH)


@pytest.mark.parametrize(
    ("symbols", "words"),
    [
        (("<pad>", "|", "a", "b", "a"), "'a' given more than once"),
        (("a", "|", "b"), "first symbol must be the blank"),
        ((), "first symbol must be the blank"),
        (("<pad>", "a"), "is missing"),
        (("<pad>", "|", " "), "white space"),
    ],
)
def test_impossible_alphabets(symbols, words):
    with pytest.raises(TextError, match=words):
        Alphabet(symbols)
