"""What a manifest holds, what is wrong with it, and what the batches would make of it: as text."""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

import numpy as np
from tqdm import tqdm

from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, read
from w2v_jax.data.columns import Labels, encode_labels
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import bucket_edges
from w2v_jax.errors import UserError

CLIPPED = 1e-4  # share of samples at the limits of 16 bits from which an utterance counts
SILENT = 10 ** (-60 / 20)  # root mean square, of full scale
_MUCH = 0.05  # of the audio, too short for the crops
_SHOWN = 10  # languages, corpora, examples that are listed
_BAR = 40  # letters of the longest bar
_STEP = SAMPLE_RATE // 10  # crop lengths are multiples of it


@dataclass(frozen=True)
class CropPlan:
    """What one pass over the data hears with crops of a few lengths. Shares of all samples.

    An utterance is cropped to the longest crop that it can fill, at a random place. `beyond` is
    what lies outside the crops of one pass; another pass draws other places. `short` are
    utterances that fill no crop: no pass hears them. There is no padding.
    """

    crops: tuple[int, ...]
    heard: float
    beyond: float
    short: float


def crop_plan(lengths: np.ndarray, crops: Sequence[int]) -> CropPlan:
    """lengths, crops: samples."""
    crops = np.sort(crops)
    choice = np.searchsorted(crops, lengths, side="right") - 1
    total = int(lengths.sum())
    short = int(lengths[choice < 0].sum())
    heard = int(crops[choice[choice >= 0]].sum())
    shares = heard / total, (total - short - heard) / total, short / total
    return CropPlan(tuple(crops.tolist()), *shares)


def best_crops(lengths: np.ndarray, count: int, longest: int, step: int = _STEP) -> list[int]:
    """At most `count` crops (multiples of `step`, at most `longest`) of which a pass hears most.

    lengths, longest, step: samples. Every crop that is added to shorter ones gains its difference
    to the next shorter for every utterance that can fill it, so the best k end with each length
    from the best k - 1.
    """
    edges = np.arange(step, longest + 1, step)
    filled = len(lengths) - np.searchsorted(np.sort(lengths), edges)  # utterances that fill each
    later = np.arange(len(edges))[:, None] < np.arange(len(edges))
    heard, previous = (edges * filled).astype(float), []
    for _ in range(min(count, len(edges)) - 1):
        gain = np.where(later, heard[:, None] + (edges - edges[:, None]) * filled, -np.inf)
        if gain.max() <= heard.max():
            break
        previous.append(gain.argmax(0))
        heard = gain.max(0)
    found = [int(heard.argmax())]
    for choice in reversed(previous):
        found.append(int(choice[found[-1]]))
    return [int(edges[i]) for i in reversed(found)]


@dataclass(frozen=True)
class PadPlan:
    """Padding of batches with a few lengths: its share of all samples in the batches, and the
    share of the audio in utterances that are longer than all."""

    edges: tuple[int, ...]
    padding: float
    long: float


def pad_plan(lengths: np.ndarray, edges: Sequence[int]) -> PadPlan:
    """lengths, edges: samples. The last batch of each length is taken to be full."""
    edges = np.sort(edges)
    fits = lengths[lengths <= edges[-1]]
    padded = int(edges[np.searchsorted(edges, fits)].sum())
    long = 1 - int(fits.sum()) / int(lengths.sum())
    return PadPlan(tuple(edges.tolist()), 1 - int(fits.sum()) / padded if padded else 0.0, long)


def histogram(lengths: np.ndarray, bins: int = 12) -> list[str]:
    """Lines `from - to s | bar | share`, of equal width up to the 99.5th percentile."""
    seconds = lengths / SAMPLE_RATE
    top = np.quantile(seconds, 0.995)
    width = max(np.ceil(top / bins * 2) / 2, 0.5)
    counts = np.bincount(np.minimum(seconds // width, bins).astype(int), minlength=bins + 1)
    while counts[-1] == 0:
        counts = counts[:-1]
    lines = []
    for i, count in enumerate(counts):
        upper = f"- {width * (i + 1):5.1f} s" if i < bins else " and more"
        bar = "#" * round(_BAR * count / counts.max())
        lines.append(f"{width * i:7.1f} {upper:9} |{bar:{_BAR}}| {count / len(seconds):6.2%}")
    return lines


def report(
    manifest: Manifest,
    *,
    crops: Sequence[int],
    num_buckets: int,
    longest: int,
    files: int = 10_000,
    threads: int | None = None,
) -> Iterator[str]:
    """Lines of text about a manifest.

    crops: samples; num_buckets, longest (samples): of fine-tuning. At most `files` utterances,
    drawn at random, are listened to for clipping, silence and duplicates; 0: all.
    """
    lengths = manifest.samples
    if not len(lengths):
        raise UserError("the manifest has no rows, nothing to report on")
    seconds = lengths / SAMPLE_RATE
    yield f"{len(manifest)} utterances, {manifest.hours:.2f} hours"
    yield (
        f"lengths {seconds.min():.2f} to {seconds.max():.2f} s, mean {seconds.mean():.2f}, "
        f"median {np.median(seconds):.2f}"
    )
    yield from histogram(lengths)
    words = sum(len(text.split()) for text in manifest.texts)
    texts = sum(map(bool, manifest.texts))
    yield f"transcripts: {texts} ({texts / len(manifest):.1%}), {words} words"
    for name in ("speakers", "languages", "corpora"):
        yield _ranking(name, getattr(manifest, name), lengths)
    yield from _plans(lengths, crops, num_buckets, longest)
    yield from _overlaps(manifest)
    yield from _heard(manifest, files, threads)


def _ranking(name: str, labels: Labels, lengths: np.ndarray) -> str:
    hours = {key: value / SAMPLE_RATE / 3600 for key, value in labels.counts(lengths).items()}
    unknown = hours.pop("", 0.0)
    ranked = sorted(hours.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{key} {value:.2f}" for key, value in ranked[:_SHOWN])
    more = f" and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
    known = f"{name}: {len(ranked)}" + (f" (hours: {shown}{more})" if ranked else "")
    return known + (f", unknown for {unknown:.2f} h" if unknown else "")


def _plans(
    lengths: np.ndarray, crops: Sequence[int], num_buckets: int, longest: int
) -> Iterator[str]:
    best = best_crops(lengths, len(crops), max(crops))
    for name, lengths_of_crops in (("crops", crops), ("the best as many crops", best)):
        plan = crop_plan(lengths, lengths_of_crops)
        yield (
            f"pre-training, {name} {_in_seconds(plan.crops)} s: padding 0 %, a pass hears "
            f"{plan.heard:.1%}; {plan.beyond:.1%} lies beyond its crops, {plan.short:.1%} is "
            "shorter than all"
        )
    if crop_plan(lengths, crops).short > _MUCH:
        yield "  config.data.concatenate_seconds joins short utterances of a speaker"
    fits = lengths[lengths <= longest]
    if not len(fits):
        yield f"fine-tuning: nothing is as short as {longest / SAMPLE_RATE:g} s"
        return
    plan = pad_plan(fits, bucket_edges(fits, num_buckets))
    long = 1 - int(fits.sum()) / int(lengths.sum())
    yield (
        f"fine-tuning, buckets {_in_seconds(plan.edges)} s: padding {plan.padding:.1%}; "
        f"{long:.1%} is longer than {longest / SAMPLE_RATE:g} s and left out"
    )


def _in_seconds(samples: Sequence[int]) -> str:
    return " ".join(f"{value / SAMPLE_RATE:g}" for value in samples)


def _overlaps(manifest: Manifest) -> Iterator[str]:
    """Warns of audio that stands in several rows under the same name."""
    codes = encode_labels(manifest.paths).indices.to_numpy().astype(np.int64)
    ends = manifest.starts + manifest.samples
    # one long axis of samples, file after file: does a row start before all earlier ones ended?
    file_starts = codes * int(ends.max())
    order = np.lexsort((manifest.starts, codes))
    heard = np.maximum.accumulate((file_starts + ends)[order])
    again = np.flatnonzero((file_starts + manifest.starts)[order][1:] < heard[:-1]) + 1
    if len(again):
        first = manifest.path(int(order[again[0]]))
        yield f"warning: {len(again)} rows overlap another of the same file; first: {first}"


def _heard(manifest: Manifest, files: int, threads: int | None) -> Iterator[str]:
    rows = np.arange(len(manifest))
    if files and files < len(rows):
        rows = np.sort(np.random.default_rng(0).permutation(len(rows))[:files])

    def listen(row: int) -> tuple[str, bytes]:
        row = int(row)
        start, count = int(manifest.starts[row]), int(manifest.samples[row])
        try:
            audio = read(manifest.path(row), start, count)
        except AudioError:
            return "unreadable", b""
        clipped = np.mean((audio == 32767) | (audio == -32768))
        loudness = np.sqrt(np.mean(np.square(audio, dtype=np.float64))) / 32768
        kind = "clipped" if clipped > CLIPPED else "silent" if loudness < SILENT else ""
        return kind, hashlib.blake2b(audio.tobytes(), digest_size=16).digest()

    with ThreadPool(threads or os.cpu_count()) as pool:
        results = pool.imap(listen, rows, chunksize=8)
        quiet = not sys.stderr.isatty()
        results = list(tqdm(results, total=len(rows), unit=" files", disable=quiet))

    yield f"listened to {len(rows)} of {len(manifest)} utterances"
    meaning = {
        "unreadable": "cannot be read",
        "clipped": f"have more than {CLIPPED:.2%} of their samples at full scale",
        "silent": "are below -60 dB of full scale",
    }
    for kind, words in meaning.items():
        found = [int(row) for row, (k, _) in zip(rows, results, strict=True) if k == kind]
        if found:
            yield f"warning: {len(found)} {words}; first: {manifest.path(found[0])}"
    times = Counter(digest for kind, digest in results if kind != "unreadable")
    if repeated := {digest: count for digest, count in times.items() if count > 1}:
        surplus = sum(repeated.values()) - len(repeated)
        example = next(iter(repeated))
        pair = [int(row) for row, (_, d) in zip(rows, results, strict=True) if d == example]
        yield (
            f"warning: {surplus} hold the same audio as another; first: "
            f"{manifest.path(pair[0])} and {manifest.path(pair[1])}"
        )
