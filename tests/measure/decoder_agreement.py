"""Prints how often decoders find the same texts for the same letter probabilities and model, and
why they differ where they do.

    python -m tests.measure.decoder_agreement --checkpoint=runs/base-10h/export \
        --data=test.tsv --lm=lm.arpa

Compared are our search, flashlight and, where it is installed (pip install --no-deps
ctc-beam-decoder), the C++ of ctc-beam-decoder, which does as pyctcdecode does. All may find the
words of the model and no others, weigh the same and have wide beams. Ours and the third sum over
the alignments of a text, flashlight takes the best one: every text that differs is scored both
ways, without any beam, so that an error of a search is told from another objective.
"""

import argparse
import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Sequence

import jax
import numpy as np

from w2v_jax.data.corpus import Corpus
from w2v_jax.data.sources import open_sources
from w2v_jax.decoding.beam import DEFAULTS, BeamOptions, BeamSearch, Hypothesis
from w2v_jax.decoding.flashlight import FlashlightSearch
from w2v_jax.decoding.lexicon import spellable, words_of
from w2v_jax.decoding.ngram import NGram, read_arpa
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.evaluation.scoring import score
from w2v_jax.interop.exported import encoder_of
from w2v_jax.text.alphabet import BOUNDARY, Alphabet
from w2v_jax.training.checkpoint import load_exported

NO_THRESHOLD = 1e9
OPEN = -1000.0  # ln p that the third decoder adds to an unknown word: there are then none
TIE = 1e-3  # scores that differ by less are equal: the libraries compute in float32


def acoustic(log_probs: np.ndarray, text: str, alphabet: Alphabet, add=np.logaddexp) -> float:
    """ln p(text | audio) of ln p [T, V]: over all alignments, or the best one (add=np.maximum).

    Any number of `|`, with blanks among them, may stand before, between and behind the words, at
    least one between two.
    """
    log_probs = np.asarray(log_probs, np.float64)
    blank, boundary = log_probs[:, 0], log_probs[:, alphabet.ids[BOUNDARY]]
    pause = add(blank, boundary)
    # of every state: ln p of entering it and of staying in it, frame by frame, and where from
    enter, stay, before = [pause], [pause], [[]]
    ends, last = [0], ""  # states that the next symbol may come after, and the letter of the first
    for symbol in text.replace(" ", BOUNDARY):
        own = log_probs[:, alphabet.ids[symbol]]
        # between equal letters there must be a blank
        before.append(ends[1:] if symbol == last else ends)
        enter.append(own)
        ends = [len(enter) - 1]
        if symbol == BOUNDARY:
            stay.append(pause)
            last = ""
        else:
            stay.append(own)
            enter.append(blank)
            stay.append(blank)
            before.append(ends)
            ends, last = [*ends, len(enter) - 1], symbol
    if text:  # after the last word a `|` and anything that is no letter
        enter.append(boundary)
        stay.append(pause)
        before.append(ends)
        ends = [*ends, len(enter) - 1]
    now = np.full(len(enter), -np.inf)
    now[0] = 0.0
    for t in range(len(log_probs)):
        then = [now[s] + stay[s][t] for s in range(len(enter))]
        for s, origins in enumerate(before):
            for origin in origins:
                then[s] = add(then[s], now[origin] + enter[s][t])
        now = np.array(then)
    return float(add.reduce(now[ends]))


@dataclasses.dataclass(frozen=True)
class Objectives:
    """The scores of texts without a beam."""

    alphabet: Alphabet
    lm: NGram
    options: BeamOptions

    def __call__(self, log_probs: np.ndarray, text: str) -> tuple[float, float]:
        """(over all alignments, over the best one)"""
        words = text.split()
        rest = self.options.lm_weight * self.lm.sentence(words)
        rest += self.options.word_score * len(words)
        return (
            acoustic(log_probs, text, self.alphabet) + rest,
            acoustic(log_probs, text, self.alphabet, np.maximum) + rest,
        )


class ThirdSearch:
    """ctc-beam-decoder. Its alpha is a weight of natural logarithms, its beta is added per word.

    At the end it takes what follows a last `|` for an unknown word, and so the empty text: the
    texts of its last beam are put into order again, by its own sums over their alignments.
    """

    def __init__(
        self, alphabet: Alphabet, lm: NGram, arpa: str, words: Collection[str], options: BeamOptions
    ):
        from ctc_beam_decoder import build_ctcdecoder

        letters = {i: symbol for symbol, i in alphabet.ids.items()}
        self._columns = [0, *letters]  # the special symbols are none of a text
        labels = ["", *(" " if x == BOUNDARY else x for x in letters.values())]
        self._lm, self._words, self._options = lm, frozenset(words), options
        self._decoder = build_ctcdecoder(
            labels, arpa, sorted(words),
            alpha=options.lm_weight, beta=options.word_score, unk_score_offset=OPEN,
        )  # fmt: skip

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]:
        found = []
        for text, _, _, logits, _ in self._decoder.decode_beams(
            log_probs[:, self._columns], self._options.beam, -NO_THRESHOLD, -NO_THRESHOLD
        ):
            words = text.split()
            if self._words.issuperset(words):
                language = self._lm.sentence(words)
                total = logits + self._options.lm_weight * language
                total += self._options.word_score * len(words)
                found.append(Hypothesis(text, total, logits, language))
        return sorted(found, key=lambda x: -x.score)


def reason(ours: tuple[float, float], theirs: tuple[float, float], column: int) -> str:
    """Why two texts differ, by the scores of both: `column` is what the other search maximizes."""
    if theirs[0] > ours[0] + TIE:
        return "ours missed it"
    if ours[column] > theirs[column] + TIE:
        return "the other missed it"
    if column == 0 or abs(ours[0] - theirs[0]) <= TIE >= abs(ours[1] - theirs[1]):
        return "equal scores"
    return "another objective"


def compare(
    name: str,
    column: int,
    emissions: Sequence[np.ndarray],
    ours: Sequence[Hypothesis],
    theirs: Sequence[Hypothesis],
    objectives: Objectives,
) -> None:
    """Prints the agreement of our texts with those of a search, and every difference."""
    reasons: Counter[str] = Counter()
    for i, (log_probs, mine, other) in enumerate(zip(emissions, ours, theirs, strict=True)):
        if mine.text == other.text:
            continue
        a, b = objectives(log_probs, mine.text), objectives(log_probs, other.text)
        reasons[why := reason(a, b, column)] += 1
        print(f"  utterance {i}: {why}")
        for label, text, values in (("ours", mine.text, a), (name, other.text, b)):
            print(f"    all {values[0]:10.3f}  best {values[1]:10.3f}  {label:10}  {text}")
    equal = len(ours) - reasons.total()
    print(f"ours and {name}: {equal} of {len(ours)} texts are equal; {dict(reasons)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("checkpoint", "data", "lm"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--utterances", type=int, default=50)
    parser.add_argument("--beam", type=int, default=500)
    parser.add_argument("--flashlight_beam", type=int, default=5000)
    parser.add_argument("--threshold", type=float, default=200.0)
    parser.add_argument("--lm_weight", type=float, default=DEFAULTS.lm_weight)
    parser.add_argument("--word_score", type=float, default=DEFAULTS.word_score)
    values = parser.parse_args()
    variables, config = load_exported(values.checkpoint)
    variables = jax.device_put(variables)
    alphabet = Alphabet.from_dict(config["alphabet"])
    recognizer = Recognizer(encoder_of(config, values.checkpoint), alphabet)
    corpus = Corpus(open_sources(values.data))
    texts = [text for source in corpus.sources for text in source.manifest.texts]
    items = np.unique(np.linspace(0, len(corpus) - 1, values.utterances).round().astype(int))
    emissions = [
        recognizer.log_probs(variables, corpus.audio(i, 0, corpus.length(i)))
        for i in items.tolist()
    ]
    options = BeamOptions(
        values.beam, values.threshold, lm_weight=values.lm_weight, word_score=values.word_score
    )
    lm = read_arpa(values.lm)
    words = spellable(words_of(values.lm), alphabet, values.lm)
    wide = dataclasses.replace(options, beam=values.flashlight_beam)
    searches = {
        "ours": BeamSearch(alphabet, lm, words, options),
        "flashlight": FlashlightSearch(alphabet, values.lm, words, wide),
    }
    try:
        searches["third"] = ThirdSearch(alphabet, lm, values.lm, words, options)
    except ImportError as error:
        print(f"no third decoder: {error}")
    frames = sum(map(len, emissions))
    print(f"{len(items)} utterances, {frames} frames, {len(words)} words; {options}, "
          f"flashlight's beam {wide.beam}")  # fmt: skip
    references = [alphabet.normalize(texts[i]) for i in items]
    objectives = Objectives(alphabet, lm, options)
    found = {}
    for name, search in searches.items():
        begin = time.perf_counter()
        found[name] = [search(log_probs)[0] for log_probs in emissions]
        seconds = time.perf_counter() - begin
        print(f"{name:10}  {seconds:7.1f} s  "
              f"{score(references, [x.text for x in found[name]])}", flush=True)  # fmt: skip
    for name, column in (("ours", 0), ("flashlight", 1)):
        gaps = [
            objectives(log_probs, x.text)[column] - x.score
            for log_probs, x in zip(emissions, found[name], strict=True)
        ]
        print(f"{name:10}  its scores without a beam are higher by {min(gaps):.4f} to "
              f"{max(gaps):.4f}")  # fmt: skip
    for name, column in (("flashlight", 1), ("third", 0)):
        if name in found:
            compare(name, column, emissions, found["ours"], found[name], objectives)


if __name__ == "__main__":
    main()
