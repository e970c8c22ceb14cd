"""How much of every corpus and language is heard: by weights, by hours, or by temperature."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.plan import Bucket
from w2v_jax.errors import UserError, some
from w2v_jax.keys.check import flag

DEFAULTS = {"mix": "none", "mix_weights": (), "mix_alpha": 0.5}  # keys of config.data


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The parts that are mixed, and how much of the audio heard comes from each."""

    names: tuple[str, ...]
    codes: np.ndarray  # int32 [items], the part of every item
    shares: np.ndarray  # float64 [parts], adds up to 1
    hours: np.ndarray  # float64 [parts]

    def __str__(self) -> str:
        order = np.argsort(-self.shares, kind="stable")
        shown = [
            f"{self.names[i]} {self.shares[i]:.1%} of the audio, {self.hours[i]:.2f} h"
            for i in order[:10]
        ]
        rest = order[10:]
        if len(rest):
            shown.append(f"{len(rest)} others {self.shares[rest].sum():.1%}")
        return "; ".join(shown)


def mixture(
    corpus: Corpus, kind: str, *, weights: Sequence[float] = (), alpha: float = 0.5
) -> Mixture:
    """The parts of a corpus and their shares of the audio that is heard.

    "hours"        every source as much as it has; unlike no mixing, in every thousand rows
    "weights"      every source by its number in `weights`
    "temperature"  n hours in proportion to n ** alpha, over the languages of a corpus and then over
                   the corpora (XLS-R, arXiv 2111.09296 section 3.1, alpha 0.5). A source whose
                   manifest names no corpus is one.
    Raises UserError for weights that do not fit the sources.
    """
    if kind == "temperature":
        codes, parts = _languages(corpus)
    else:
        sizes = [len(source.manifest) for source in corpus.sources]
        codes = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        parts = [(source.name, "") for source in corpus.sources]
    codes = codes[corpus.first_rows]
    hours = np.bincount(codes, corpus.lengths, len(parts)) / SAMPLE_RATE / 3600
    if kind == "temperature":
        _, corpora = np.unique([name for name, _ in parts], return_inverse=True)
        within = hours**alpha
        total = np.bincount(corpora, hours) ** alpha
        shares = (within / np.bincount(corpora, within)[corpora]) * total[corpora]
    elif kind == "weights":
        shares = np.array(weights, float)
        if shares.shape != hours.shape or (shares < 0).any() or not shares.sum() > 0:
            raise UserError(
                f"{flag('data.mix_weights', tuple(weights))} must be {len(parts)} numbers from 0 "
                f"on, one for each of {some(name for name, _ in parts)}"
            )
    else:
        shares = hours
    names = tuple("/".join(filter(None, part)) for part in parts)
    return Mixture(names, codes, shares / shares.sum(), hours)


def _languages(corpus: Corpus) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """(the part of every row, (corpus, language) of every part)."""
    parts: dict[tuple[str, str], int] = {}
    codes = []
    for source in corpus.sources:
        corpora, languages = source.manifest.corpora, source.manifest.languages
        pairs = corpora.codes.astype(np.int64) * len(languages.names) + languages.codes
        table = np.zeros(len(corpora.names) * len(languages.names), np.int32)
        for pair in np.flatnonzero(np.bincount(pairs)).tolist():
            which, language = divmod(pair, len(languages.names))
            key = corpora.names[which] or source.name, languages.names[language]
            table[pair] = parts.setdefault(key, len(parts))
        codes.append(table[pairs])
    return np.concatenate(codes), list(parts)


def mixed(buckets: Sequence[Bucket], mix: Mixture) -> list[Bucket]:
    """The buckets with their items sorted by part, weighted so that each part has its share of the
    audio. A part of which no item fits any bucket is left out, its share goes to the others."""
    parts = len(mix.names)
    counts = np.array([np.bincount(mix.codes[b.items], minlength=parts) for b in buckets])
    audio = counts * np.array([[float(bucket.samples)] for bucket in buckets])
    total = audio.sum(0)
    heard = np.divide(audio * mix.shares, total, out=np.zeros_like(audio), where=total > 0)
    result = []
    for bucket, number, share in zip(buckets, counts, heard, strict=True):
        used = np.flatnonzero(share)  # not those of weight 0
        if not len(used):
            continue
        codes = mix.codes[bucket.items]
        order = np.argsort(codes, kind="stable")
        items = bucket.items[order[np.isin(codes[order], used)]]
        bounds = np.append(0, np.cumsum(number[used]))
        shares = share[used] / share.sum()
        result.append(
            Bucket(
                bucket.samples, bucket.rows, items,
                tuple(bounds.tolist()), tuple(shares.tolist()), float(share.sum()),
            )
        )  # fmt: skip
    return result


def by_config(
    buckets: Sequence[Bucket],
    corpus: Corpus,
    kind: str,
    *,
    weights: Sequence[float] = (),
    alpha: float = 0.5,
) -> list[Bucket]:
    """The buckets mixed as config.data says, and a line about it; unchanged for "none"."""
    if kind == "none":
        return list(buckets)
    mix = mixture(corpus, kind, weights=weights, alpha=alpha)
    print(f"mix: {mix}", flush=True)
    return mixed(buckets, mix)
