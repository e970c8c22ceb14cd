"""The choice of a search, and searching with several processes."""

import importlib.util

import numpy as np
import pytest

from tests.decoding.test_beam import ALPHABET, frames
from tests.decoding.test_ngram import small_model
from w2v_jax.configs import evaluate
from w2v_jax.decoding.beam import BeamSearch
from w2v_jax.decoding.ngram import LN10, estimate, write_arpa
from w2v_jax.decoding.search import Searches, SearchOptions, open_search
from w2v_jax.errors import UserError

UTTERANCES = [frames(7, seed=seed) for seed in range(6)]


def texts(found):
    return [hypotheses[0].text for hypotheses in found]


def test_words_are_those_of_the_model_unless_any_may_be_found(arpa):
    log_probs = np.full((3, 4), -20.0)
    log_probs[[0, 1, 2], [2, 3, 0]] = 0.0  # "ab"
    log_probs[:, 2] += 1e-3
    search = open_search(ALPHABET, SearchOptions(lm=arpa, library="python"))
    assert search(log_probs)[0].text == "ab"
    repeated = np.full((3, 4), -20.0)
    repeated[[0, 1, 2], [3, 0, 3]] = 0.0  # "bb", which the model does not know
    assert search(repeated)[0].text != "bb"
    free = SearchOptions(lm=arpa, library="python", any_word=True)
    assert open_search(ALPHABET, free)(repeated)[0].text == "bb"


def test_which_library(arpa, tmp_path):
    installed = importlib.util.find_spec("flashlight") is not None
    found = open_search(ALPHABET, SearchOptions(lm=arpa))
    assert isinstance(found, BeamSearch) != installed
    assert isinstance(open_search(ALPHABET, SearchOptions(lm=arpa, any_word=True)), BeamSearch)
    with pytest.raises(UserError, match="flashlight finds words of a lexicon"):
        open_search(ALPHABET, SearchOptions(lm=arpa, any_word=True, library="flashlight"))
    binary, words = tmp_path / "lm.bin", tmp_path / "words"
    binary.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(50))
    words.write_text("a\nab\n")
    with pytest.raises(UserError, match="the library python reads ARPA files"):
        open_search(ALPHABET, SearchOptions(lm=str(binary), lexicon=str(words), library="python"))


def test_options_that_make_no_sense():
    for wrong, words in (
        (dict(library="kenlm"), "library is 'kenlm'; it must be one of auto, flashlight, python"),
        (dict(beam=0), "beam is 0; it must be a whole number from 1"),
        (dict(threshold=0.0), r"threshold is 0\.0; it must be a number above 0"),
        (dict(letters=-1), "letters is -1"),
        (dict(any_word=True), "set that too"),
        (dict(any_word=True, lm="lm", lexicon="words"), "forbids"),
    ):
        with pytest.raises(UserError, match=words):
            SearchOptions(**wrong)


def test_weights_of_the_published_tables():
    """Table 7 of wav2vec 2.0, base 10 there: 2.46 and -0.59 for 10 h, 4-gram."""
    config = evaluate.get_config("split=10h,size=base")
    assert config.lm_weight == pytest.approx(2.46 * np.log10(np.e))
    assert config.word_score == -0.59
    assert (config.transformer_weight, config.transformer_word_score) == (1.06, -2.32)
    assert (config.beam, config.best) == (1500, 500)
    assert evaluate.get_config("split=10m,size=large_lv60k,beam=tune").beam == 500
    assert SearchOptions(**evaluate.get_config().to_dict()) == SearchOptions()
    for wrong in ("split=5h", "size=base", "split=10h,size=tiny", "split=10h,beams=3"):
        with pytest.raises(UserError, match="write split=S,size=Z"):
            evaluate.get_config(wrong)


def test_the_alphabet_must_fit(tmp_path):
    path = str(tmp_path / "lm.arpa")
    write_arpa(estimate([["A", "B"]], 2), path)
    for any_word in (False, True):
        with pytest.raises(UserError, match="cannot be written by the model"):
            open_search(ALPHABET, SearchOptions(lm=path, any_word=any_word, library="python"))


@pytest.mark.parametrize("library", ["python", "flashlight"])
def test_a_model_that_knows_few_words_of_the_lexicon_is_refused(tmp_path, library):
    """In another case, say."""
    if library == "flashlight":
        pytest.importorskip("flashlight.lib.text")
    path, words = str(tmp_path / "lm.arpa"), tmp_path / "words"
    write_arpa(estimate([["A", "B"], ["a"]], 2), path)
    words.write_text("a\nb\nab\n")
    with pytest.raises(UserError, match="knows 1 of the 3 words"):
        open_search(ALPHABET, SearchOptions(lm=path, lexicon=str(words), library=library))


@pytest.mark.parametrize("library", ["python", "flashlight"])
@pytest.mark.parametrize("unknown", ["-2.0\t<UNK>\n", ""])
def test_unknown_words_are_said_when_the_model_is_opened(tmp_path, caplog, library, unknown):
    """And cost what KenLM says, in every library."""
    if library == "flashlight":
        pytest.importorskip("flashlight.lib.text")
    path, words = tmp_path / "lm.arpa", tmp_path / "words"
    path.write_text(small_model(unknown))
    words.write_text("a\nab\nbb\n")
    log_probs = np.full((6, 4), -2000.0)
    log_probs[range(6), [2, 3, 1, 3, 0, 3]] = 0.0  # "ab bb"
    search = open_search(ALPHABET, SearchOptions(lm=str(path), lexicon=str(words), library=library))
    (record,) = caplog.records
    assert "knows 2 of the 3 words of the lexicon; the others, such as 'bb'" in record.getMessage()
    assert ("costs log10 p = -100" in record.getMessage()) == (not unknown)
    (found, *_) = search(log_probs)
    assert found.text == "ab bb"
    expected = -0.3 - 0.7 - 0.25 - (2.0 if unknown else 100.0) - 0.9
    assert found.language / LN10 == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("unknown", ["-2.0\t<UNK>\n", ""])
def test_any_word_with_a_model_without_unknown_words(tmp_path, caplog, unknown):
    path = tmp_path / "lm.arpa"
    path.write_text(small_model(unknown))
    open_search(ALPHABET, SearchOptions(lm=str(path), any_word=True))
    messages = [record.getMessage() for record in caplog.records]
    assert any("any_word" in message and "-100" in message for message in messages) != bool(unknown)


@pytest.mark.parametrize("library", ["python", "flashlight"])
def test_as_many_letters_in_every_library(arpa, library):
    """One letter per frame, the blank besides, and what is not a number."""
    if library == "flashlight":
        pytest.importorskip("flashlight.lib.text")
    log_probs = np.full((7, 4), -20.0)
    log_probs[range(7), [2, 0, 3, 1, 0, 3, 0]] = 0.0  # "ab b"
    search = open_search(ALPHABET, SearchOptions(lm=arpa, library=library, letters=1))
    assert search(log_probs)[0].text == "ab b"
    log_probs[3, 2] = np.nan
    with pytest.raises(UserError, match="not a number"):
        search(log_probs)


def test_processes_find_the_same(arpa):
    options = SearchOptions(lm=arpa, library="python")
    alone, together = Searches(ALPHABET, options), Searches(ALPHABET, options, 2)
    try:
        assert list(together(UTTERANCES, 1.0, 0.5)) == list(alone(UTTERANCES, 1.0, 0.5))
        weighted = texts(together(UTTERANCES, 0.0, 3.0))
        assert weighted == texts(alone(UTTERANCES, 0.0, 3.0))
        assert weighted != texts(alone(UTTERANCES, 1.0, 0.5))
        again = SearchOptions(lm=arpa, library="python", lm_weight=0.0, word_score=3.0)
        search = open_search(ALPHABET, again)
        assert weighted == texts(map(search, UTTERANCES))
    finally:
        together.close()
