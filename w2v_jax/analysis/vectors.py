"""Vectors of words, of a text file as GloVe's: a word and its numbers in every line."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from w2v_jax.errors import UserError, brief


def digest(vectors: Mapping[str, np.ndarray]) -> str:
    """sha256 of words and their vectors, hexadecimal."""
    found = hashlib.sha256()
    for word in sorted(vectors):
        found.update(f"{word} ".encode() + vectors[word].tobytes())
    return found.hexdigest()


def read_vectors(path: str, words: Iterable[str]) -> dict[str, np.ndarray]:
    """{word: float32 [D]} of those of the words that the file has, as they are spelled or in small
    letters; a first line that counts words and numbers is passed over.

    Raises UserError for a file that is none, and one that has none of the words.
    """
    spelled: dict[str, list[str]] = {}
    for word in words:
        for form in dict.fromkeys((word, word.lower())):
            spelled.setdefault(form, []).append(word)
    found: dict[str, np.ndarray] = {}
    exact: set[str] = set()
    width = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and len(line.split()) == 2:
                    continue
                # words of some files have spaces in them: numbers are counted from the end
                width = width or len(line.split()) - 1
                word, *numbers = line.rstrip().rsplit(" ", width)
                if len(numbers) != width or width < 2:
                    raise ValueError(f"line {number} has {len(numbers)} numbers, others {width}")
                for own in spelled.get(word, ()):
                    if own in exact:
                        continue
                    found[own] = np.array(numbers, np.float32)
                    if own == word:
                        exact.add(own)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--vectors={path}: {brief(error)}; give a text file with a word and its vector in "
            "every line, as those of GloVe"
        ) from None
    if not found:
        raise UserError(f"--vectors={path} has none of the words; they may be of another language")
    return found
