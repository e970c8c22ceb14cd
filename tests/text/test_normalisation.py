"""What an alphabet has is never rewritten, what it lacks becomes what it has, all over Unicode."""

import functools
import itertools
import json
import logging
import pickle
import random
import unicodedata
from collections import Counter

import numpy as np
import pytest

from tests import small
from w2v_jax.build_ngram import clean_sentences
from w2v_jax.data.text import open_text
from w2v_jax.decoding.alignment import align
from w2v_jax.errors import UserError
from w2v_jax.tasks import TASKS
from w2v_jax.text import normalisation
from w2v_jax.text.alphabet import Alphabet, TextError
from w2v_jax.text.vocabulary import Vocabulary

JAMO = "".join(map(chr, (*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A8, 0x11C3))))
VOWELS = "aăâeêioôơuưy"
LETTERS = {
    "english": "",
    "german": "abcdefghijklmnopqrstuvwxyzäöüß'",
    "german_upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜß",
    "turkish": "abcçdefgğhıijklmnoöprsştuüvyz",
    "turkish_upper": "ABCÇDEFGĞHIİJKLMNOÖPRSŞTUÜVYZ",
    "ukrainian": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюяʼ",
    "uzbek": "abdefghijklmnopqrstuvxyzʻʼ",
    "greek": "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ",
    "thai": "กขคงจดตทนบปมยรลวสหอาำิีุูเแโใไ่้",
    "bengali": "অআইউএওকখগঘচছজঝটডঢণতথদধনপফবভমযরলশষসহািীুূেোৌ্ংঁ\u09dc\u09dd\u09df",
    "jamo": JAMO,
    "hangul_letters": "".join(map(chr, range(0x3131, 0x3164))),
    "syllables": "".join(map(chr, range(0xAC00, 0xAC00 + 28 * 40))),
    "vietnamese": f"{VOWELS}bcdđghklmnpqrstvx",
    "tone_marks": f"\u0300\u0301\u0303\u0309\u0323{VOWELS}bcdđghklmnpqrstvx",
    "vietnamese_whole": "".join(
        dict.fromkeys(
            unicodedata.normalize("NFC", vowel + mark)
            for mark in ("", "\u0300", "\u0301", "\u0303", "\u0309", "\u0323") for vowel in VOWELS
        )
    ) + "bcdđghklmnpqrstvx",
    "persian": "ابپتثجچحخدذرزژسشصضطظعغفقکگلمنوهیآئءؤ\u200c",
    "signs": "’abc&-.",
}  # fmt: skip


@functools.cache
def alphabet(name):
    return Alphabet.from_letters(LETTERS[name])


@functools.cache
def unicode_letters():
    """Those of the categories L and M; of scripts with thousands alike every 50th."""
    found = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i))[0] in "LM"]
    alike = (
        "CJK", "HANGUL SYLLABLE", "TANGUT", "EGYPTIAN", "CUNEIFORM", "YI SYLLABLE", "ANATOLIAN",
        "NUSHU", "BAMUM", "KHITAN", "VAI", "MENDE", "ETHIOPIC", "UNIFIED", "SIGNWRITING",
    )  # fmt: skip
    few = [c for c in found if not unicodedata.name(c, "UNIFIED").startswith(alike)]
    return few + sorted(set(found).difference(few))[::50]


def hub(alphabet, text):
    """The ids of Wav2Vec2CTCTokenizer: a character each, | for spaces. Equal to transformers' 5.24
    for 134,164 letters (python -m tests.measure.unicode_text)."""
    return [alphabet.ids["|" if c == " " else c] for c in text]


def test_no_letter_of_an_alphabet_is_rewritten():
    """Whichever letters it has, alone and among others."""
    letters = unicode_letters()
    everything = Alphabet(("<pad>", "|", *letters))
    text = " ".join("".join(letters[i : i + 7]) for i in range(0, len(letters), 7))
    assert everything.normalize(text) == text
    assert everything.encode(text).tolist() == hub(everything, text)
    few = random.Random(0).sample(letters, 6000)
    for start in range(0, len(few), 100):  # alphabets that lack what surrounds their letters
        own = Alphabet(("<pad>", "|", *few[start : start + 100]))
        text = " ".join(few[start : start + 100])
        assert own.normalize(text) == text


@pytest.mark.parametrize("name", LETTERS)
def test_an_alphabet_decides(name):
    """Its own letters stay, and what was normalised stays, for every letter in every place."""
    own = alphabet(name)
    letters = [c for c in own.ids if c != "|"]
    rng = random.Random(name)
    for letter, other in itertools.pairwise(letters):
        assert own.normalize(letter) == letter
        assert own.normalize(f"{letter}{other}{letter}") == f"{letter}{other}{letter}"
    for letter in rng.sample(unicode_letters(), 6000):
        text = f"{rng.choice(letters)}{letter}{rng.choice(letters)}"
        found = own.normalize(text)
        assert own.normalize(found) == found, text
        assert found.split(" ") == found.split(), text
        if not own.foreign(found):
            assert own.encode(text).tolist() == hub(own, found), text


def test_english_is_as_it_was():
    """Characters that became letters of the published alphabet by NFKC and upper case do so."""
    english = Alphabet.english()
    for letter in unicode_letters():
        plain = unicodedata.normalize("NFKC", letter).upper()
        if set(plain) <= english.ids.keys():
            assert english.normalize(f"a{letter}b") == f"A{plain}B"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ukrainian", "П’ять пʼять п'ять п`ять", "пʼять пʼять пʼять пʼять"),
        ("uzbek", "O‘zbek oʻzbek maʼno ma'no", "oʻzbek oʻzbek maʼno maʼno"),
        ("thai", "น้ำ น\u0e49\u0e4d\u0e32 ทำ", "น้ำ น้ำ ทำ"),
        ("bengali", "\u09a1\u09bc \u09dc য\u09bc", "\u09dc \u09dc \u09df"),
        ("jamo", "한ㄱ", "\u1112\u1161\u11ab\u1100"),
        ("hangul_letters", "한각ㅋ \u1112\u1161", "ㅎㅏㄴㄱㅏㄱㅋ ㅎㅏ"),
        ("syllables", "가\u1100\u1161\u11a8ㄱㅏ", "가각가"),
        ("turkish", "IŞIK İyi I\u0307Yİ ılık", "ışık iyi iyi ılık"),
        ("turkish_upper", "ışık iyi", "IŞIK İYİ"),
        ("german", "Straße, ẞ ‘a’", "straße ß 'a'"),
        ("german_upper", "Straße", "STRAßE"),
        ("greek", "ΟΔΌΣ, Σ. ΐ", "οδός σ ΐ"),
        ("vietnamese_whole", "VIE\u0323\u0302T ệ", "việt ệ"),
        ("tone_marks", "Việt", "viê\u0323t"),
        ("persian", "می\u200cخواهم\u200f كتاب", "می\u200cخواهم كتاب"),
        ("signs", "a'b–c & a-B.", "a’b c & a-b."),
        ("english", "ŉ Strauß é ″a″ ﬁ", "'N STRAUSS É A FI"),
    ],
)
def test_what_it_lacks_becomes_what_it_has(name, text, expected):
    assert alphabet(name).normalize(text) == expected


def test_letters_as_they_are_written():
    def letters(text):
        return "".join(Alphabet.from_letters(text).symbols[2:])

    assert letters("\u0e33\u09dc’ʼ\ufb01ａ") == "\u0e33\u09dc’ʼ\ufb01ａ"
    assert letters("e\u0301n\u0303x\u0301") == "éñx\u0301"
    assert letters(JAMO) == JAMO
    assert letters(unicodedata.normalize("NFD", "가각나")) == "가각나"
    assert letters("ㄱㅏ") == "ㄱㅏ"


def test_a_language_decides_the_case_of_i(caplog):
    normalisation._say_dotless.cache_clear()
    with caplog.at_level(logging.INFO, "w2v_jax"):
        for _ in range(2):
            assert Alphabet.from_letters("ıiş").normalize("Iİş") == "ıiş"
    assert [r.getMessage().count("dotless") for r in caplog.records] == [1]
    assert Alphabet.from_letters("ıiş", "en").normalize("Iş") == "iş"
    for code in ("tr", "az-Latn", "tur"):
        assert Alphabet.from_letters("iş", code).normalize("İŞ") == "iş"
        assert Alphabet.from_letters("iş", code).foreign("ı") == ["ı"]
    saved = json.loads(json.dumps(Alphabet.from_letters("iş", "tr").to_dict()))
    assert Alphabet.from_dict(saved).normalize("I") == "ı"
    assert pickle.loads(pickle.dumps(Alphabet.from_letters("iş", "tr"))).normalize("I") == "ı"
    with pytest.raises(TextError, match="language 'Türkçe' is no code"):
        Alphabet.from_letters("ab", "Türkçe")


TEXTS = {
    "ukrainian": "П'ять хлопців об’їхали", "thai": "ทำน้ำ ก\u0e4d\u0e32",
    "bengali": "বাড়ি য\u09bc \u09dc", "turkish": "IŞIK İyi", "jamo": "한국 나라",
    "tone_marks": "Tiếng Việt", "english": "Don’t “go”, well-known", "greek": "ΟΔΟΣ ΣΊΣΥΦΟΣ",
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_all_ways_of_a_text_end_in_the_same_words(name, tmp_path):
    """References, labels, text for language models, alignment, the hub."""
    own, text = alphabet(name), TEXTS[name]
    words = own.normalize(text)
    labels = own.encode(text)
    assert own.decode(labels) == words
    assert labels.tolist() == hub(own, words)
    vocabulary = Vocabulary(own)
    assert vocabulary.usable(text) == words
    assert list(clean_sentences(iter([text]), own, set(), Counter())) == [words]
    (tmp_path / "text").write_text(text + "\n", encoding="utf-8")
    tokens = open_text(f"{tmp_path}/text", vocabulary, 100).tokens[0]
    assert "".join(vocabulary.tokens[i] for i in tokens[1:-1]).replace("|", " ") == words
    log_probs = np.full((2 * len(labels), len(own)), -5.0, np.float32)
    assert [word.text for word in align(log_probs, text, own, 0.02).words] == words.split()


def test_the_tokenizer_of_the_hub(tmp_path):
    transformers = pytest.importorskip("transformers")
    letters = unicode_letters()
    own = Alphabet(("<pad>", "|", "<unk>", *letters))
    file = tmp_path / "vocab.json"
    file.write_text(json.dumps({symbol: i for i, symbol in enumerate(own.symbols)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(file), pad_token="<pad>", unk_token="<unk>", bos_token=None, eos_token=None
    )
    for start in range(0, len(letters), 40):
        text = " ".join("".join(letters[i : i + 4]) for i in range(start, start + 40, 4)).strip()
        assert own.encode(text).tolist() == tokenizer(text).input_ids == hub(own, text)


def test_messages_stay_short():
    letters = "".join(map(chr, range(0x4E00, 0x6000)))
    with pytest.raises(TextError) as error:
        Alphabet.english().encode(letters)
    assert len(str(error.value)) < 400
    assert "and 4598 more" in str(error.value)
    with pytest.raises(UserError) as error:
        Vocabulary(Alphabet.english()).check_writes(Alphabet.from_letters(letters))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("kind", ["ctc", "language"])
def test_the_language_of_a_config_goes_into_the_checkpoint(kind):
    config = small.recipe(kind)
    config.letters, config.language = "abcişy", "tr"
    described = TASKS[kind](config).described()
    own = Alphabet.from_dict(json.loads(json.dumps(described["alphabet"])))
    assert own.normalize("İYİ I") == "iyi ı"


def test_any_number_of_marks():
    alphabet = Alphabet.from_letters("x\u0301")
    assert alphabet.normalize("x" + "\u0301\u0302" * 2000).startswith("x\u0301")
