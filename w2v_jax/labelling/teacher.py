"""The model that gives texts: from audio to a text, its score and its blanks."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError
from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import BatchSpec, bucket_edges, pad_buckets, sequential
from w2v_jax.decoding.decoder import PIECE_FRAMES
from w2v_jax.decoding.greedy import greedy_text
from w2v_jax.decoding.pauses import pieces
from w2v_jax.decoding.recognition import WINDOW_SECONDS, Recognizer
from w2v_jax.decoding.rescoring import LanguageScorer, rescore
from w2v_jax.decoding.search import Searches, SearchOptions
from w2v_jax.errors import UserError, brief
from w2v_jax.interop import checkpoints
from w2v_jax.training.digest import digests

BUCKETS = 8  # lengths that batches have
CHUNK = 1 << 20


class Label(NamedTuple):
    """What was found in an utterance."""

    text: str
    score: float
    frames: int
    blank_share: float


class Teacher:
    """A CTC model with the search that decodes it: the best path, an n-gram model, a Transformer
    over its best texts. Long utterances are searched in pieces, cut at pauses."""

    def __init__(
        self, recognizer: Recognizer, variables: Any, options: SearchOptions, processes: int = 1
    ):
        """processes: that search. Raises UserError as `open_search` and `LanguageScorer` do."""
        self.recognizer, self._variables, self.options = recognizer, variables, options
        alphabet = recognizer.alphabet
        self._searches = Searches(alphabet, options, processes) if options.searches else None
        self._scorer, self._language = None, None
        if options.transformer_lm:
            self._language = checkpoints.load(options.transformer_lm, "language")
            self._scorer = LanguageScorer(*self._language, alphabet)

    def described(self, name: str) -> dict[str, Any]:
        """What tells this teacher from others; name: where its model is."""
        weights, model = digests(self._variables), self.recognizer.config.to_dict()
        alphabet = self.recognizer.alphabet.to_dict()
        files = {key: getattr(self.options, key) for key in ("lm", "lexicon")}
        found = {key: _file_digest(path, key) for key, path in files.items() if path}
        if self._language is not None:
            variables, config = self._language
            found["transformer_lm"] = _json_digest([digests(variables), config])
        return {
            "checkpoint": {"name": name, "digest": _json_digest([weights, model, alphabet])},
            "alphabet": alphabet, "search": dataclasses.asdict(self.options), "digests": found,
        }  # fmt: skip

    def batches(
        self, corpus: Corpus, rows: np.ndarray, done: np.ndarray, batch_seconds: float
    ) -> Iterator[dict[int, Label | None]]:
        """{row: label, None where it cannot be read} of the `rows` of a corpus, a batch at a time,
        but for batches of which all are `done`, bool [rows of the corpus]: what stands in a batch
        does not depend on that, so that texts are the same however often a run was killed."""
        lengths = corpus.lengths
        low = self.recognizer.config.frontend.receptive_field
        high = round(WINDOW_SECONDS * SAMPLE_RATE)
        short = rows[lengths[rows] < low]
        if not done[short].all():
            yield {int(row): Label("", 0.0, 0, 0.0) for row in short}
        whole = (lengths >= low) & (lengths <= high)
        specs = self._specs(lengths, rows[whole[rows]], lengths[whole], batch_seconds)
        specs = [spec for spec in specs if not done[spec.items[spec.items >= 0]].all()]
        loader = Loader(corpus, 0, crop=False, replace_bad=False, max_bad_share=1.0)
        for spec, batch in zip(specs, iterate(specs, loader) if specs else (), strict=True):
            found = self.recognizer.emissions(self._variables, [batch])
            items = [int(item) for item in spec.items if item >= 0]
            labels = iter(self.labels([found[item] for item in items if item in found]))
            yield {item: next(labels) if item in found else None for item in items}
        for row in map(int, rows[lengths[rows] > high]):
            if not done[row]:
                try:
                    found = self.recognizer.log_probs(self._variables, corpus.row(row))
                    yield {row: self.labels([found])[0]}
                except AudioError:
                    yield {row: None}

    @staticmethod
    def _specs(
        lengths: np.ndarray, rows: np.ndarray, of_all: np.ndarray, batch_seconds: float
    ) -> list[BatchSpec]:
        """Batches of `rows`; of_all: lengths whose buckets all shards have."""
        if not len(rows):
            return []
        edges = bucket_edges(of_all, BUCKETS)
        buckets = pad_buckets(lengths[rows], edges, round(batch_seconds * SAMPLE_RATE), 1)
        return sequential([dataclasses.replace(b, items=rows[b.items]) for b in buckets])

    def labels(self, emissions: Sequence[np.ndarray]) -> list[Label]:
        """The labels of utterances with ln p [T, V]."""
        alphabet = self.recognizer.alphabet
        ids = [log_probs.argmax(-1) for log_probs in emissions]
        blanks = [float((x == 0).mean()) if len(x) else 0.0 for x in ids]
        if self._searches is None:
            found = [(greedy_text(x, alphabet), float(x.max(-1).sum(dtype=np.float64)))
                     for x in emissions]  # fmt: skip
        else:
            parts, owners = [], []
            for i, log_probs in enumerate(emissions):
                for start, stop in pieces(log_probs, alphabet, PIECE_FRAMES):
                    if stop > start:
                        parts.append(log_probs[start:stop])
                        owners.append(i)
            texts, scores = [[] for _ in emissions], [0.0] * len(emissions)
            weights = self.options.lm_weight, self.options.word_score
            for i, hypotheses in zip(owners, self._searches(parts, *weights), strict=True):
                if self._scorer is not None:
                    scored = self._scorer.scores([x.text for x in hypotheses])
                    hypotheses = rescore(hypotheses, scored, self.options)
                texts[i] += filter(None, [hypotheses[0].text])
                scores[i] += float(hypotheses[0].score)
            found = [(" ".join(x), score) for x, score in zip(texts, scores, strict=True)]
        return [
            Label(text, score, len(x), blank)
            for (text, score), x, blank in zip(found, emissions, blanks, strict=True)
        ]

    def close(self) -> None:
        if self._searches is not None:
            self._searches.close()


def _json_digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _file_digest(path: str, key: str) -> str:
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while part := file.read(CHUNK):
                digest.update(part)
    except OSError as error:
        raise UserError(f"--config.{key}={path} cannot be read: {brief(error)}") from None
    return digest.hexdigest()


def with_tuned(options: SearchOptions, path: str) -> SearchOptions:
    """The options with the weights of a .tuned.json that evaluate wrote. Raises UserError."""
    names = (
        "lm_weight", "word_score", "transformer_weight", "transformer_word_score", "ngram_weight"
    )  # fmt: skip
    try:
        content: Mapping[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        weights = {name: float(content[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--tuned={path} holds no weights ({brief(error)}); python -m w2v_jax.evaluate with "
            "--tune writes them"
        ) from None
    return dataclasses.replace(options, **weights)
