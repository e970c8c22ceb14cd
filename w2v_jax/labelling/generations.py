"""The generations of launch/noisy_student.sh, as a table: what each was taught, and how good it is.

    RUNS/generation-N/test.decoded.tsv, test.lm.decoded.tsv     what evaluate wrote; 0: the teacher
    RUNS/labels-N/selected/selection.json                       what generation N was taught
"""

import csv
import json
from pathlib import Path
from typing import Any

from w2v_jax.errors import UserError, brief
from w2v_jax.evaluation.reports import columns
from w2v_jax.evaluation.scoring import Score, score
from w2v_jax.labelling.selection import SUMMARY

HEADS = (
    "generation", "cutoff", "kept %", "letters/s", "label CER %", "of those kept",
    "test CER %", "WER %", "CER %, LM", "WER %, LM",
)  # fmt: skip
OF_SUMMARY = ("cutoff", "kept_share", "letters_per_second", "cer_all", "cer_kept", "useless")


def table(runs: str) -> str:
    """A row per generation; `-` where something is not known. Raises UserError where there is no
    generation."""
    folder = Path(runs)
    numbers = sorted(
        int(path.name.rpartition("-")[2])
        for kind in ("generation", "labels") for path in folder.glob(f"{kind}-*")
        if path.name.rpartition("-")[2].isdecimal()
    )  # fmt: skip
    if not numbers:
        raise UserError(f"--runs={runs} holds no generations; launch/noisy_student.sh makes them")
    rows = [HEADS]
    for number in dict.fromkeys(numbers):
        summary = _summary(folder / f"labels-{number}" / "selected" / SUMMARY)
        tests = [
            _score(folder / f"generation-{number}" / f"{name}.decoded.tsv")
            for name in ("test", "test.lm")
        ]
        rates = [x and getattr(x, kind) for x in tests for kind in ("cer", "wer")]
        learnt = ["-"] * 5
        if summary:
            cutoff = summary["cutoff"]
            learnt = [
                "none" if cutoff is None else f"{cutoff:g}", f"{100 * summary['kept_share']:.1f}",
                f"{summary['letters_per_second']:.1f}", _rate(summary["cer_all"]),
                _rate(summary["cer_kept"]),
            ]  # fmt: skip
        rows.append((str(number), *learnt, *map(_rate, rates)))
        if summary and summary["useless"]:
            rows.append((f"{number} stopped", *["-"] * (len(HEADS) - 1)))
    return "\n".join(columns(rows, left=0))


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _summary(path: Path) -> dict[str, Any] | None:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return {key: summary[key] for key in OF_SUMMARY}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({brief(error)}); remove it and select again") from None


def _score(path: Path) -> Score | None:
    try:
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return score([row["reference"] for row in rows], [row["hypothesis"] for row in rows])
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({brief(error)}); evaluate again") from None
