"""The program that builds an n-gram model: what it counts, and what it keeps out."""

import functools
from pathlib import Path

import pytest

from tests.tools import said
from w2v_jax.data.manifest import Manifest
from w2v_jax.decoding.ngram import read_arpa

ROOT = Path(__file__).parents[2]


build = functools.partial(said, "build_ngram", environment={"PATH": "/nowhere"})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").write_text("The cat sat.\nthe DOG sat\n\n3 mice\nheld out words\n")
    Manifest(tmp_path, ["a.wav"], [16000], ["A bird flew"]).write(tmp_path / "train.tsv")
    Manifest(tmp_path, ["b.wav"], [16000], ["HELD OUT, words!"]).write(tmp_path / "test.tsv")
    return tmp_path


def test_counted_left_out_and_excluded(folder):
    output = build(
        f"--text={folder}/text", f"--transcripts={folder}/train.tsv",
        f"--exclude={folder}/test.tsv", f"--output={folder}/lm.arpa", "--order=2",
        f"--kept={folder}/kept.txt",
    )  # fmt: skip
    assert "3 sentences, 9 words; left out: 1 with other characters, 1 excluded" in output
    assert "100.0% of 3 words unknown" in output
    kept = (folder / "kept.txt").read_text().splitlines()
    assert kept == ["A BIRD FLEW", "THE CAT SAT", "THE DOG SAT"]
    model = read_arpa(f"{folder}/lm.arpa")
    assert model.order == 2
    assert sorted(model.words) == sorted({"A", "BIRD", "FLEW", "THE", "CAT", "SAT", "DOG"})


def test_the_most_frequent_words_alone(folder):
    build(f"--text={folder}/text", f"--output={folder}/lm.arpa", "--num_words=2")
    assert sorted(read_arpa(f"{folder}/lm.arpa").words) == ["SAT", "THE"]


def test_a_language_and_words_that_are_none(folder):
    (folder / "text").write_text("IŞIK İyi\n<s> ışık\n")
    output = build(
        f"--text={folder}/text", f"--output={folder}/lm.arpa", "--letters=<>kisışy", "--language=tr"
    )
    assert "1 sentences, 2 words; left out: 1 with" in output
    assert sorted(read_arpa(f"{folder}/lm.arpa").words) == ["iyi", "ışık"]


def test_other_letters(folder):
    build(
        f"--text={folder}/text",
        f"--output={folder}/lm.arpa",
        "--letters=abcdefghijklmnopqrstuvwxyz",
    )
    assert "cat" in read_arpa(f"{folder}/lm.arpa").words


def test_errors(folder):
    output = f"--output={folder}/lm.arpa"
    assert "set --text" in build(output, status=2)
    text = f"--text={folder}/text"
    assert "lmplz is not on the PATH" in build(output, text, "--tool=lmplz", status=2)
