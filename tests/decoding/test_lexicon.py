"""Which words may be found: those that the model's letters can write."""

import pytest

from w2v_jax.decoding.lexicon import is_kenlm_binary, spellable, words_of
from w2v_jax.decoding.ngram import estimate, write_arpa
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet

ENGLISH = Alphabet.english()


def arpa(folder, text, name="lm.arpa.gz"):
    path = str(folder / name)
    write_arpa(estimate([line.split() for line in text], 2), path)
    return path


def test_words_of_a_model(tmp_path):
    assert sorted(words_of(arpa(tmp_path, ["THE CAT", "THE DOG"]))) == ["CAT", "DOG", "THE"]


def test_words_of_a_lexicon(tmp_path):
    path = tmp_path / "lexicon.lst"
    path.write_text("THE\tT H E |\nCAT\tC A T |\n\nDOG\n")
    assert words_of("", str(path)) == ["THE", "CAT", "DOG"]
    path.write_text("THE\tT H E |\nDR\tD O C T O R |\n")
    with pytest.raises(UserError, match=r"line 2: DR is spelt D O C T O R \|"):
        words_of("", str(path))
    path.write_text("\n")
    with pytest.raises(UserError, match="has no words"):
        words_of("", str(path))


def test_a_binary_of_kenlm_does_not_list_its_words(tmp_path):
    path = tmp_path / "lm.bin"
    path.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(50))
    assert is_kenlm_binary(str(path))
    with pytest.raises(UserError, match="the option lexicon"):
        words_of(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        is_kenlm_binary(str(tmp_path / "missing"))


def test_words_with_other_letters_are_left_out_by_name(caplog):
    words = {"THE", "CAT", "CAFÉ", "|"}
    assert spellable(words, ENGLISH, "lm.arpa") == {"THE", "CAT"}
    (record,) = caplog.records
    assert "lm.arpa: 2 of 4 words are never found" in record.getMessage()
    assert "'CAFÉ', '|'" in record.getMessage()


def test_words_of_a_lexicon_are_written_by_the_alphabet(tmp_path):
    """In its case and with its apostrophe; the spelling may be in either."""
    path = tmp_path / "lexicon.lst"
    path.write_text("П’ять\tп ʼ я т ь |\nп'ять\nім-я\nx\u00a0y\n")
    alphabet = Alphabet.from_letters("ʼімптьяxy")
    assert words_of("", str(path), alphabet) == ["пʼять", "пʼять", "ім-я", "x\u00a0y"]


def test_a_model_in_another_case_is_refused():
    with pytest.raises(UserError, match="2 of 3 words") as error:
        spellable({"the", "cat", "A"}, ENGLISH, "lm.arpa")
    assert "'cat'" in str(error.value)
    assert "another case" in str(error.value)
    assert "build_ngram" in str(error.value)


def test_a_model_in_another_script_is_refused():
    with pytest.raises(UserError, match="writes 'ABC") as error:
        spellable({"кот", "дом"}, ENGLISH, "lm.arpa")
    assert "another case" not in str(error.value)
