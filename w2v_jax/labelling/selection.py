"""Which decoded utterances teach, and how often: a pure function of files.

    table.tsv         every utterance: id, text, score, letters, s, kept, weight
    pseudo.tsv        those that teach, with their texts as transcripts, as often as they are heard;
                      it is written last, and not at all where the labels are useless
    selection.json    how they were chosen, and what the labels are like
"""

import dataclasses
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError, some
from w2v_jax.evaluation.scoring import score
from w2v_jax.labelling import balance
from w2v_jax.labelling.confidence import fitted, normalised
from w2v_jax.labelling.folder import Decoded, Utterance, other_search
from w2v_jax.places import place, write_whole, writing
from w2v_jax.text.alphabet import BOUNDARY, Alphabet

FORMAT = "w2v_jax pseudo-labels 1"
TABLE, MANIFEST, SUMMARY = "table.tsv", "pseudo.tsv", "selection.json"
COLUMNS = ("id", "text", "score", "letters", "s", "kept", "weight")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Beyond these the labels teach nothing, and it is better to stop."""

    least_length: float = 0.5  # median letters per second, as a multiple of the transcripts'
    most_length: float = 2.0
    most_blank: float = 0.98  # of all frames
    most_empty: float = 0.5  # of all utterances


class Selection(NamedTuple):
    """What was written."""

    summary: dict[str, Any]
    useless: tuple[str, ...]  # why the labels are; empty: they are not


def select(
    decoded: str,
    reference: str,
    labelled: str,
    output: str,
    *,
    cutoff: float | None = None,
    strength: float = 0.0,
    student: Alphabet | None = None,
    limits: Limits = Limits(),
) -> Selection:
    """Writes the table, the manifest and the summary to the folder `output`.

    decoded, reference: folders of utterances that one model decoded with one search, the second of
    a held-out set, which says what scores are usual. labelled: manifests whose transcripts say how
    many letters a second has and which. cutoff: utterances whose s is not above it are left out,
    None: only those without a text. strength: of the balance, see `balance.weights`. student: the
    alphabet of the model that is taught, where it is known. Raises UserError.
    """
    found, usual = Decoded(decoded), Decoded(reference, "--reference")
    for one in (found, usual):
        one.check_complete()
    _check_alike(found, usual)
    alphabet = Alphabet.from_dict(found.index["alphabet"])
    texts, pace = transcripts_of(labelled, alphabet)
    if student is not None:
        check_writes(alphabet, student, decoded)
    _check_output(Path(output))
    utterances, held_out = found.utterances, usual.utterances
    line = fitted(*_scores(held_out))
    s = normalised(*_scores(utterances), line)
    kept = np.array([bool(x.text) for x in utterances], bool)
    if cutoff is not None:
        kept &= s > cutoff
    symbols = "".join(x for x in alphabet.ids if x != BOUNDARY) + " "
    counts = balance.counts_of([x.text for x in utterances], symbols)
    wanted = balance.counts_of(texts, symbols).sum(0)
    weight = np.zeros(len(utterances))
    weight[kept] = np.round(balance.weights(counts[kept], wanted, strength), 6)
    copies = balance.copies(weight)
    summary = _statistics(found, kept, copies, pace)
    summary |= {
        "kl_before": balance.divergence(wanted, counts.sum(0)),
        "kl_kept": balance.divergence(wanted, counts[kept].sum(0)),
        "kl_after": balance.divergence(wanted, copies @ counts),
    }
    useless = _useless(summary, limits)
    head = {
        "format": FORMAT, "decoded": decoded, "reference": reference, "labelled": labelled,
        "teacher": found.index["checkpoint"], "cutoff": cutoff, "balance": strength,
        "line": line._asdict(), "useless": useless,
    }  # fmt: skip
    folder = place(output)
    with writing(f"--output={output}"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # whoever trains must not see half of a change
        write_whole(folder / SUMMARY, json.dumps(head | summary, indent=1) + "\n")
        write_whole(folder / TABLE, _table(utterances, s, kept, weight))
    if not useless:
        if not counts.any():
            raise UserError(
                f"--decoded={decoded} has no text: all of its {len(found.found)} utterances are "
                "empty or unreadable; there is nothing to select"
            )
        if not kept.any():
            raise UserError(
                f"--cutoff={cutoff:g}: no utterance has a higher s, the highest is {s.max():.2f}; "
                f"lower it ({output}/{TABLE} has all)"
            )
        rows = np.repeat([x.row for x in utterances], copies)
        texts = np.repeat(np.array([x.text for x in utterances], object), copies)
        with_texts(found.manifest.select(rows), texts.tolist()).write(f"{output}/{MANIFEST}")
    return Selection(head | summary, tuple(useless))


def transcripts_of(labelled: str, alphabet: Alphabet) -> tuple[list[str], float]:
    """(transcripts as the alphabet writes them, the median of their letters per second). Raises
    UserError where there are none."""
    texts, paces, total = [], [], 0
    for source in open_sources(labelled):
        manifest = source.manifest
        total += len(manifest)
        for text, samples in zip(manifest.texts, manifest.samples.tolist(), strict=True):
            text = alphabet.normalize(text)
            if text and samples and not alphabet.foreign(text):
                texts.append(text)
                paces.append(len(text) * SAMPLE_RATE / samples)
    if not texts:
        raise UserError(
            f"--labelled={labelled}: none of its {total} utterances has a transcript that the "
            "teacher's alphabet can write; name a manifest with transcripts"
        )
    return texts, float(np.median(paces))


def check_writes(teacher: Alphabet, student: Alphabet, where: str) -> None:
    """Raises UserError where a student has other letters than its teacher, whose texts would not be
    what its own transcripts are."""
    theirs, ours = (
        {student.normalize(x) or x for x in alphabet.ids if x != BOUNDARY}
        for alphabet in (teacher, student)
    )
    if theirs != ours:
        parts = {"the student lacks": theirs - ours, "the teacher lacks": ours - theirs}
        said = "; ".join(f"{what} {some(sorted(x))}" for what, x in parts.items() if x)
        raise UserError(
            f"--config: its alphabet is another than that of the teacher of {where}: {said}; set "
            "--config.letters to the teacher's, or take another teacher"
        )


def with_texts(manifest: Manifest, texts: Sequence[str]) -> Manifest:
    """The same rows with other texts."""
    return Manifest(
        manifest.root, manifest.paths, manifest.samples, texts, manifest.speakers,
        manifest.languages, starts=manifest.starts, corpora=manifest.corpora,
    )  # fmt: skip


def _check_alike(found: Decoded, usual: Decoded) -> None:
    """Raises UserError where scores of the two cannot be compared."""
    names = [one.index["checkpoint"] for one in (found, usual)]
    if names[0]["digest"] != names[1]["digest"]:
        raise UserError(
            f"--decoded={found.folder} is of {names[0]['name']}, --reference={usual.folder} of "
            f"{names[1]['name']}, or of an older version of it; decode both with the same model"
        )
    if key := other_search(found.index, usual.index):
        values = [one.index["search"].get(key) for one in (found, usual)]
        raise UserError(
            f"--decoded={found.folder} was searched with --config.{key}={values[0]}, "
            f"--reference={usual.folder} with {values[1]}; decode both with the same flags"
        )


def _check_output(folder: Path) -> None:
    """Raises UserError where something else than a selection is in the folder."""
    there = sorted(x.name for x in folder.iterdir()) if folder.is_dir() else []
    if folder.is_file() or (there and not is_selection(folder)):
        raise UserError(
            f"--output={folder} is a file or holds something else ({some(there, 3)}); name a new "
            "folder"
        )


def is_selection(folder: Path) -> bool:
    """Whether a selection was written there, or begun."""
    try:
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _scores(utterances: Sequence[Utterance]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([x.score for x in utterances]), np.array([x.letters for x in utterances])


def _statistics(
    found: Decoded, kept: np.ndarray, copies: np.ndarray, pace: float
) -> dict[str, Any]:
    """What the labels are like; rates in percent, None where nothing is known."""
    utterances = found.utterances
    seconds = np.array([x.seconds for x in utterances])
    letters = np.array([x.letters for x in utterances])
    frames = np.array([x.frames for x in utterances])
    blanks = np.array([x.blank_share for x in utterances]) * frames
    own = float(np.median(letters / np.maximum(seconds, 1e-9))) if len(letters) else 0.0
    alphabet = Alphabet.from_dict(found.index["alphabet"])
    hidden = [alphabet.normalize(found.manifest.texts[x.row]) for x in utterances]
    usable = np.array([bool(x) and not alphabet.foreign(x) for x in hidden], bool)
    rates = {}
    for name, those in (("all", usable), ("kept", usable & kept)):
        rows = np.flatnonzero(those)
        rates[f"cer_{name}"] = rates[f"wer_{name}"] = None
        if len(rows):
            of = score([hidden[i] for i in rows], [utterances[i].text for i in rows])
            rates |= {f"cer_{name}": of.cer, f"wer_{name}": of.wer}
    count = max(len(utterances), 1)
    return {
        "utterances": len(utterances), "unreadable": len(found.found) - len(utterances),
        "kept": int(kept.sum()), "rows": int(copies.sum()), "kept_share": float(kept.sum()) / count,
        "hours": float(seconds.sum()) / 3600, "kept_hours": float(seconds[kept].sum()) / 3600,
        "empty_share": float((letters == 0).sum()) / count,
        "blank_share": float(blanks.sum() / max(frames.sum(), 1)),
        "letters_per_second": own, "letters_per_second_labelled": pace,
        "length_ratio": own / pace, "hidden": int(usable.sum()),
    } | rates  # fmt: skip


def _useless(summary: dict[str, Any], limits: Limits) -> list[str]:
    """Why labels teach nothing, in words."""
    found = []
    ratio, blank, empty = (summary[x] for x in ("length_ratio", "blank_share", "empty_share"))
    if not limits.least_length <= ratio <= limits.most_length:
        found.append(
            f"the median text has {summary['letters_per_second']:.1f} letters per second, "
            f"{ratio:.2f} times as many as transcripts have ({limits.least_length:g} to "
            f"{limits.most_length:g} is usual)"
        )
    if blank > limits.most_blank:
        found.append(f"{blank:.1%} of the frames are blanks (at most {limits.most_blank:.1%})")
    if empty > limits.most_empty:
        found.append(f"{empty:.1%} of the texts are empty (at most {limits.most_empty:.1%})")
    return found


def _table(
    utterances: Sequence[Utterance], s: np.ndarray, kept: np.ndarray, weight: np.ndarray
) -> str:
    file = io.StringIO()
    file.write("\t".join(COLUMNS) + "\n")
    for x, own, there, often in zip(utterances, s, kept, weight, strict=True):
        numbers = f"{x.score:.4f}", x.letters, f"{own:.4f}", int(there), f"{often:.6f}"
        fields = x.id, x.text, *numbers
        file.write("\t".join(map(str, fields)) + "\n")
    return file.getvalue()


def printed(selection: Selection, output: str | os.PathLike) -> str:
    """The summary for a terminal."""
    x = selection.summary

    def rate(name: str) -> str:
        return "-" if x[name] is None else f"{x[name]:.1f} %"

    unreadable = f", {x['unreadable']} unreadable" if x["unreadable"] else ""
    lines = [
        f"{x['utterances']:,} utterances, {x['hours']:.2f} h{unreadable}; kept {x['kept']:,} "
        f"({x['kept_share']:.1%}), {x['kept_hours']:.2f} h, in {x['rows']:,} rows",
        f"S = {x['line']['mu']:.3f} l {x['line']['beta']:+.3f}, sigma {x['line']['sigma']:.3f}; "
        f"cutoff {'none' if x['cutoff'] is None else format(x['cutoff'], 'g')}",
        f"empty texts {x['empty_share']:.1%}, blanks {x['blank_share']:.1%} of the frames, "
        f"{x['letters_per_second']:.1f} letters per second (transcripts "
        f"{x['letters_per_second_labelled']:.1f})",
        f"KL to the transcripts' letters, nats: all {x['kl_before']:.4f}, kept "
        f"{x['kl_kept']:.4f}, as heard {x['kl_after']:.4f}",
    ]
    if x["hidden"]:
        lines.append(
            f"hidden transcripts of {x['hidden']:,}: CER {rate('cer_all')}, of those kept "
            f"{rate('cer_kept')}; WER {rate('wer_all')}, {rate('wer_kept')}"
        )
    return "\n".join([*lines, f"{output}/{TABLE}"])
