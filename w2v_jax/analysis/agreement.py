"""How good units are: how they are used, and how much they say of phones, letters or words.

As HuBERT measures its units (Hsu et al., 2021, section IV; fairseq measure_teacher_quality.py).
"""

from typing import NamedTuple

import numpy as np

from w2v_jax.analysis.labels import Labels, frame_labels
from w2v_jax.data.sharing import Ragged
from w2v_jax.data.units import Units

MIDDLE = 0.0125  # seconds, of what the first frame of MFCC and of HuBERT sees
AT_ONCE = 1024  # rows that are counted together: memory depends on no number of them


class Usage(NamedTuple):
    """Of units alone."""

    frames: int
    perplexity: float  # exp of the entropy of a unit: how many there are if all were as frequent
    mean_run: float  # frames until the unit changes
    used: float  # share of the classes that occur


class Agreement(NamedTuple):
    """Of units and labels of the same frames; entropies in nats."""

    frames: int
    labels: int  # kinds of labels that occur
    information: float  # I(label; unit)
    label_entropy: float
    unit_entropy: float
    normalized: float  # I / H(label): of phones PNMI
    label_purity: float  # mean over units, by their share: share of their most frequent label
    unit_purity: float  # mean over labels, by their share: share of their most frequent unit


def usage(units: Ragged, classes: int) -> Usage:
    """Raises ValueError without any unit."""
    counts, runs = np.zeros(classes, np.int64), 0
    for row in range(len(units)):
        values = units[row]
        if len(values):
            counts += np.bincount(values, minlength=classes)
            runs += 1 + np.count_nonzero(values[1:] != values[:-1])
    frames = int(counts.sum())
    if not frames:
        raise ValueError("no units")
    return Usage(frames, perplexity(counts), frames / runs, float((counts > 0).mean()))


def perplexity(counts: np.ndarray) -> float:
    return float(np.exp(_entropy(counts / counts.sum())))


def joint_counts(labels: np.ndarray, units: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """int64 [labels, units]: frames of every pair, of those whose label is not -1.

    labels, units: integers [T]. shape: how many of each there are.
    """
    said = labels >= 0
    pairs = labels[said].astype(np.int64) * shape[1] + units[said]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def counts_of(found: Units, said: Labels) -> np.ndarray:
    """`joint_counts` of all rows that have labels; a frame has that in its middle."""
    middle = found.source.get("middle", MIDDLE)
    shape = len(said.names), found.classes
    counts, rows = np.zeros(shape, np.int64), said.spoken
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE].tolist()
        values = [found.values[row] for row in part]
        spoken = [
            frame_labels(said.rows[row], middle + np.arange(len(own)) / found.rate)
            for row, own in zip(part, values, strict=True)
        ]
        counts += joint_counts(np.concatenate(spoken), np.concatenate(values), shape)
    return counts


def agreement(counts: np.ndarray) -> Agreement:
    """Of `joint_counts` [labels, units]. Raises ValueError without any frame."""
    frames = int(counts.sum())
    if not frames:
        raise ValueError("no frame has a label")
    joint = counts / frames
    label, unit = joint.sum(1), joint.sum(0)
    label_entropy, unit_entropy = _entropy(label), _entropy(unit)
    information = label_entropy + unit_entropy - _entropy(joint.ravel())
    return Agreement(
        frames, int((label > 0).sum()), information, label_entropy, unit_entropy,
        information / label_entropy if label_entropy else 0.0,
        float(counts.max(0).sum() / frames), float(counts.max(1).sum() / frames),
    )  # fmt: skip


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def usage_table(used: Usage, classes: int) -> str:
    return "\n".join((
        f"frames               {used.frames:>12,}",
        f"classes that occur   {used.used:>12.1%}  of {classes:,}",
        f"label perplexity     {used.perplexity:>12.1f}",
        f"mean run             {used.mean_run:>12.2f}  frames",
    ))  # fmt: skip


def table(of: Agreement, kind: str) -> str:
    """PNMI is of phones alone: what it is of others is named after them."""
    one = kind.removesuffix("s")
    name = "PNMI" if kind == "phones" else f"{one} NMI"
    return "\n".join((
        f"frames with a label  {of.frames:>12,}  of {of.labels:,} {kind}",
        f"{name:<20} {of.normalized:>12.4f}  I({one}; unit) {of.information:.4f} / H({one}) "
        f"{of.label_entropy:.4f} nats",
        f"{one + ' purity':<20} {of.label_purity:>12.4f}",
        f"cluster purity       {of.unit_purity:>12.4f}",
    ))  # fmt: skip
