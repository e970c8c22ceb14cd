"""Prints how well forced alignment finds known paths, and what it costs.

    python -m tests.measure.alignment_accuracy

No speech with the times of its words is at hand: the paths are drawn, and letter probabilities are
made from them with noise. What a trained model adds, that it writes letters early or late, is not
in these numbers.
"""

import itertools
import resource
import time

import jax
import numpy as np

from tests.decoding.test_alignment import log_softmax, noise, twin
from w2v_jax.decoding.alignment import align, best_paths
from w2v_jax.text.alphabet import BOUNDARY, Alphabet

ALPHABET = Alphabet.english()
SECONDS = 0.02


def random_text(rng: np.random.Generator, letters: int) -> str:
    """Words of 1 to 8 letters."""
    text = ""
    while len(text) < letters:
        text += "".join(rng.choice([*"ETAONIHSRDLU"], rng.integers(1, 9))) + " "
    return text.strip()


def random_path(rng: np.random.Generator, labels: np.ndarray, frames: int) -> np.ndarray:
    """int [T]: states of a path that has a letter for 1 to 2 frames, and blanks elsewhere."""
    long = rng.random(len(labels)) < 0.3
    blanks = np.zeros(len(labels) + 1, int)
    blanks[1:-1] = labels[1:] == labels[:-1]
    rest = frames - len(labels) - long.sum() - blanks.sum()
    blanks += np.bincount(rng.integers(0, len(blanks), rest), minlength=len(blanks))
    counts = np.empty(2 * len(labels) + 1, int)
    counts[::2], counts[1::2] = blanks, 1 + long
    return np.repeat(np.arange(len(counts)), counts)


def accuracy(rng: np.random.Generator, height: float, rows: int = 40) -> str:
    """Boundaries of words and letters against the path they were made from."""
    errors = {"words": [], "letters": []}
    right = total = 0
    for _ in range(rows):
        text = random_text(rng, 150)
        labels = ALPHABET.encode(text)
        states = random_path(rng, labels, 750)
        symbols = np.where(states % 2, np.append(labels, 0)[states // 2], 0)
        logits = rng.normal(size=(750, len(ALPHABET))) + height * np.eye(len(ALPHABET))[symbols]
        right += (logits.argmax(-1) == symbols).sum()
        total += len(states)
        found = align(log_softmax(logits), text, ALPHABET, 1.0)
        places = 2 * np.arange(len(labels)) + 1
        edges = np.stack([np.searchsorted(states, places, side) for side in ("left", "right")], 1)
        inner = labels != ALPHABET.ids[BOUNDARY]
        word = np.split(edges, np.flatnonzero(~inner))
        word = [part[1:] if i else part for i, part in enumerate(word)]
        true = {"letters": edges[inner], "words": np.array([(x[0, 0], x[-1, 1]) for x in word])}
        for kind, ours in (("words", found.words), ("letters", found.letters)):
            errors[kind] += np.abs(np.array([(x.start, x.end) for x in ours]) - true[kind]).tolist()
    parts = [f"peaks of {height}: {right / total:6.1%} of frames right by argmax;"]
    for kind, values in errors.items():
        edges = np.array(values).ravel()
        parts.append(
            f"{kind}: median error {np.median(edges):g}, mean {edges.mean():.3f} frames, "
            f"{(edges == 0).mean():.1%} exact, at most {edges.max():g};"
        )
    return " ".join(parts)


def as_the_twin(rng: np.random.Generator, cases: int) -> str:
    """Random cases whose states are those of the float64 twin."""
    same = 0
    for case in range(cases):
        frames, letters = int(rng.integers(1, 120)), int(rng.integers(0, 50))
        values, labels = noise(frames, 6, seed=case, scale=3.0), rng.integers(1, 6, letters)
        if case % 2:
            values = np.round(values)  # ties
        padded = np.full((1, 120, 6), np.nan, np.float32)
        padded[0, :frames] = values
        ids = np.zeros((1, 50), np.int32)
        ids[0, :letters] = labels
        counts = np.array([[frames, letters]], np.int32)
        found = best_paths(padded, counts[:, 0], ids, counts[:, 1])
        states, score = twin(values, labels)
        expected = np.full(frames, -1) if states is None else np.array(states)
        same += np.array_equal(found.states[0, :frames], expected)
        assert found.score[0] == np.float32(score)
    return f"{same} of {cases} random cases have the states of the float64 twin"


def batch_time(rows: int, frames: int = 750, letters: int = 220) -> str:
    rng = np.random.default_rng(0)
    log_probs = noise(rows, frames, 32)
    labels = rng.integers(1, 32, (rows, letters)).astype(np.int32)
    counts = np.full(rows, frames, np.int32), np.full(rows, letters, np.int32)
    call = lambda: jax.block_until_ready(best_paths(log_probs, counts[0], labels, counts[1]))  # noqa: E731
    call()
    start = time.perf_counter()
    for _ in range(5):
        call()
    return f"batch of {rows} x 15 s: {(time.perf_counter() - start) / 5 * 1e3:.1f} ms"


def recording_time(minutes: int) -> str:
    """With 12.5 letters per second; compiling included."""
    frames, rng = minutes * 3000, np.random.default_rng(0)
    text = random_text(rng, minutes * 750)
    log_probs = noise(frames, len(ALPHABET))
    start = time.perf_counter()
    align(log_probs, text, ALPHABET, SECONDS)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{minutes} min, {len(text)} letters: {seconds:.1f} s, "
        f"peak memory of the process so far {peak:.2f} GiB"
    )


def main() -> None:
    rng = np.random.default_rng(0)
    for height in (10, 6, 4, 3):
        print(accuracy(rng, height))
    print(as_the_twin(rng, 400))
    for call, size in itertools.chain(
        ((batch_time, rows) for rows in (1, 8, 32)), ((recording_time, m) for m in (1, 10, 60))
    ):
        print(call(size), flush=True)


if __name__ == "__main__":
    main()
