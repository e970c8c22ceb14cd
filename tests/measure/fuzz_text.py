"""Opens damaged language models, vocabularies, lexicons and texts as the programs do.

    python -m tests.measure.fuzz_text --files=200

changes so many of each: cut off, lines lost, doubled and exchanged, numbers that are none, other
blanks, bits, noise, JSON of other kinds. Whatever is in a file, it is either used or refused with
one paragraph; nothing crashes, ends in a stack trace, or takes longer than the time limit.
"""

import argparse
import collections
import functools
import json
import logging
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests import small
from tests.decoding.test_ngram import kenlm_scores
from w2v_jax.build_ngram import clean_sentences
from w2v_jax.data.text import open_text, word_counts
from w2v_jax.decoding import ngram
from w2v_jax.decoding.flashlight import is_installed
from w2v_jax.decoding.search import SearchOptions, open_search
from w2v_jax.errors import UserError
from w2v_jax.interop import huggingface
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.text.files import lines
from w2v_jax.text.vocabulary import Vocabulary

SECONDS_PER_FILE = 20  # SIGALRM ends the process; a whole file takes milliseconds
LONGEST = 1000  # characters of a message
ALPHABET = Alphabet.from_letters("abcdefghijklmnopqrstuvwxyzé'")
SENTENCES = ["the cat sat", "the dog sat on the cat", "a bird flew", "it's the dog's café"] * 3
NUMBERS = ["nan", "-inf", "1e999", "-1e-999", "0x1", "1_0", "-", "1,5", "٣", "9" * 400, "-0", "+3"]
WORDS = [
    "<unk>", "<UNK>", "<s>", "</s>", "\u00a0", "a\u3000b", "\u2028", "\0", "|", "e\u0301", "ẞ",
    "w" * 9000, "\U0001f600", "\u202e", "\ufeff", "\\end\\", "\\2-grams:", "ngram 1=7", "Σ" * 99,
    "ngram 1=99999999999", "ngram 2=99999999999", "ngram 9=1",
]  # fmt: skip
VALUES = [None, True, -1, 0, 1, 31, 2**70, 1.5, "3", [], {}, {"a": 0}, [[1]], "x" * 9000, "|", ""]


def damaged(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """(what was done, the bytes) of a text of lines."""
    out, rows = bytearray(data), data.split(b"\n")
    i, j = rng.integers(len(rows), size=2)
    what = str(rng.choice(["cut", "flip", "noise", "lost", "double", "swap", "number", "word",
                           "blank", "empty", "packed"]))  # fmt: skip
    if what == "cut":
        out = out[: rng.integers(len(out))]
    elif what == "flip":
        for place in rng.integers(0, len(out), rng.integers(1, 20)):
            out[place] ^= 1 << rng.integers(8)
    elif what == "noise":
        first = int(rng.integers(len(out)))
        out[first:first] = rng.bytes(int(rng.integers(1, 3000)))
    elif what in ("lost", "double", "swap"):
        rows = {
            "lost": rows[:i] + rows[i + 1 :], "double": [*rows[:i], *rows[i : i + 1], *rows[i:]],
            "swap": [rows[{i: j, j: i}.get(k, k)] for k in range(len(rows))],
        }[what]  # fmt: skip
        out = b"\n".join(rows)
    elif what in ("number", "word"):
        parts = rows[i].split(b"\t")
        at = 0 if what == "number" else -1
        parts[at] = str(rng.choice(NUMBERS if what == "number" else WORDS)).encode()
        rows[i] = b"\t".join(parts)
        out = b"\n".join(rows)
    elif what == "blank":
        blank = str(rng.choice([" ", "\u00a0", "\r\n", "\x0b", "", "\x85", "\t\t"]))
        out = data.replace(bytes([rng.choice([32, 9, 10])]), blank.encode())
    elif what == "empty":
        out = b"" if rng.random() < 0.5 else b"\n" * 50
    else:
        out = b"\x1f\x8b" + data  # a gzip file that is none
    return what, bytes(out)


def damaged_json(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """The same of a vocabulary."""
    content = json.loads(data)
    keys = list(content)
    what = str(rng.choice(["bytes", "value", "key", "lost", "kind", "deep", "more"]))
    if what == "bytes":
        return damaged(data, rng)
    if what == "value":
        for key in rng.choice(keys, rng.integers(1, 4)):
            content[str(key)] = VALUES[rng.integers(len(VALUES))]
    elif what == "key":
        content[str(rng.choice(WORDS))] = content.pop(str(rng.choice(keys)))
    elif what == "lost":
        del content[str(rng.choice(keys))]
    elif what == "kind":
        content = VALUES[rng.integers(len(VALUES))]
    elif what == "deep":
        return what, b"[" * 100_000
    else:
        content |= {f"letter {i}": i for i in range(int(rng.integers(1, 3000)))}
    return what, json.dumps(content).encode()


def arpa(folder: Path, library: str = "python") -> tuple[Path, Callable[[], None]]:
    file = folder / "lm.arpa"
    ngram.write_arpa(ngram.estimate(map(str.split, SENTENCES), 3), str(file))
    (folder / "words").write_text("the\ncat\ndog\nzz\n")

    def use() -> None:
        for lexicon in (f"{folder}/words", ""):
            options = SearchOptions(lm=str(file), lexicon=lexicon, library=library, beam=4)
            open_search(ALPHABET, options)(np.log(np.full((3, len(ALPHABET)), 1 / 31)))
        if library == "flashlight":
            check_scores(str(file))

    return file, use


def check_scores(path: str) -> None:
    """What KenLM and `read_arpa` both read has the same probabilities."""
    model = ngram.read_arpa(path)
    for sentence in (
        "the cat sat",
        "it's zz dog's the",
        "the dog sat on the cat",
        "a\u3000b \u00a0",
    ):
        words, context, found = sentence.split(" "), (ngram.BEGIN,), []
        for word in (*words, ngram.END):
            score, context = model.score(context, word)
            found.append(score / ngram.LN10)
        expected = np.maximum(kenlm_scores(path, words), -250)  # where ours has -99 for -inf
        same = np.isclose(found, expected, rtol=1e-3, atol=1e-3) | (expected == -250)
        assert same.all(), f"{sentence}: {found}, by KenLM {expected}"


def lexicon(folder: Path) -> tuple[Path, Callable[[], None]]:
    file = folder / "lexicon"
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    file.write_text("".join(f"{word}\t{' '.join(word)} |\n" for word in words))
    _, use_model = arpa(folder)

    def use() -> None:
        options = SearchOptions(lexicon=str(file), library="python", beam=4)
        open_search(ALPHABET, options)(np.log(np.full((3, len(ALPHABET)), 1 / 31)))
        (folder / "words").write_bytes(file.read_bytes())
        use_model()

    return file, use


def text(folder: Path) -> tuple[Path, Callable[[], None]]:
    file = folder / "text"
    file.write_text("\n".join(SENTENCES))

    def use() -> None:
        vocabulary = Vocabulary(ALPHABET)
        word_counts(str(file), vocabulary)
        open_text(str(file), vocabulary, 16)
        counts: collections.Counter = collections.Counter()
        sentences = clean_sentences(lines(str(file)), ALPHABET, set(), counts)
        model = ngram.estimate(map(str.split, sentences), 3)
        ngram.write_arpa(model, f"{file}.arpa")
        assert ngram.read_arpa(f"{file}.arpa").words == model.words

    return file, use


def vocabulary(folder: Path) -> tuple[Path, Callable[[], None]]:
    encoder = small.encoder()
    init = functools.partial(CTCModel(encoder, len(ALPHABET)).init, jax.random.key(0))
    shapes = jax.eval_shape(init, jnp.zeros((1, 16000), jnp.int16))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nn.meta.unbox(shapes))
    described = {"kind": "ctc", "model": encoder.to_dict(), "alphabet": ALPHABET.to_dict()}
    huggingface.write(folder, zeros, described)

    def use() -> None:
        _, config = huggingface.read(folder)
        own = Alphabet.from_dict(config["alphabet"])
        own.normalize("It’s a Café, İ")

    return folder / "vocab.json", use


KINDS = {
    "arpa": arpa, "arpa by KenLM": functools.partial(arpa, library="flashlight"),
    "vocab.json": vocabulary, "lexicon": lexicon, "text": text,
}  # fmt: skip


def fuzz(kind: str, count: int, seed: int = 0) -> tuple[int, collections.Counter, float]:
    """(files that were used, damage -> files with it that were refused, slowest in s). Raises
    AssertionError for a message that is no paragraph, and what is no UserError as it is."""
    rng = np.random.default_rng([seed, len(kind)])
    damage = damaged_json if kind.endswith("json") else damaged
    refused: collections.Counter = collections.Counter()
    used, slowest = 0, 0.0
    logging.disable(logging.WARNING)  # what is left out is said of every file
    with tempfile.TemporaryDirectory() as name:
        file, use = KINDS[kind](Path(name))
        data = file.read_bytes()
        for i in range(count):
            what, content = damage(data, rng)
            file.write_bytes(content)
            begin = time.monotonic()
            signal.alarm(SECONDS_PER_FILE)
            try:
                use()
                used += 1
            except UserError as error:
                refused[what] += 1
                message = str(error)
                assert 10 < len(message) < LONGEST, message[:3000]
                assert message.isprintable(), f"{what}: {message!r}"
            except Exception as error:
                error.add_note(f"{kind} {i}, {what}: {content[:2000]!r}")
                raise
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.monotonic() - begin)
    logging.disable(logging.NOTSET)
    return used, refused, slowest


def main(files: int, seed: int, kind: str) -> None:
    context = multiprocessing.get_context("spawn")
    failed = []
    kinds = [x for x in KINDS if is_installed() or "KenLM" not in x]
    for name in [kind] if kind else kinds:
        process = context.Process(target=report, args=(name, files, seed))
        process.start()
        process.join()
        if process.exitcode:
            failed.append(f"{name}: the process ended with {process.exitcode}")
    if failed:
        raise SystemExit("\n".join(failed))


def report(kind: str, files: int, seed: int) -> None:
    begin = time.monotonic()
    used, refused, slowest = fuzz(kind, files, seed)
    counts = ", ".join(f"{what} {count}" for what, count in sorted(refused.items()))
    print(f"{kind}: {files} damaged files, {used} used, {refused.total()} refused with a paragraph "
          f"({counts}); slowest {slowest:.2f} s, {time.monotonic() - begin:.0f} s in all",
          flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="", choices=["", *KINDS])
    main(**vars(parser.parse_args()))
