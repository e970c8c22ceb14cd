"""What the systems of the Conformer line came to: tables, a CSV file, a picture."""

import csv
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.conformer_line.systems import SYSTEMS, TABLES, TITLES
from w2v_jax.errors import UserError
from w2v_jax.evaluation import figures
from w2v_jax.evaluation.reports import columns
from w2v_jax.report import decoded, spread
from w2v_jax.training.writer import read_lines


def output(runs: Path, name: str, seed: int) -> Path:
    """What evaluate heard on the test set."""
    return runs / f"{name}-{seed}" / "test.decoded.tsv"


class Result(NamedTuple):
    """Of one system; lists have a number per seed."""

    parameters: int  # of the fine-tuned model
    accuracy: list[float]  # in pre-training, on held-out speech
    pretrain_speed: list[float]  # updates per second; empty, as above, where there was none
    finetune_speed: list[float]
    minutes: list[float]  # of both, without compilation
    cer: list[float]
    wer: list[float]


def result(runs: Path, name: str) -> Result | None:
    """None where no seed is finished."""
    folders = sorted(path.parent for path in runs.glob(f"{name}-[0-9]*/test.decoded.tsv"))
    if not folders:
        return None

    def of(metric: str, stage: str) -> list[list[float]]:
        """The metric over the updates of a stage, per seed."""
        trained = [read_lines(folder / stage / "metrics.jsonl") for folder in folders]
        return [[line[metric] for line in lines if metric in line] for lines in trained]

    def speeds(stage: str) -> list[float]:
        return [1 / statistics.median(x) for x in of("time/seconds_per_step", stage) if x]

    stages = ("pretrain", "finetune") if SYSTEMS[name].objective else ("finetune",)
    seconds = [[x[-1] for x in of("time/seconds", stage)] for stage in stages]
    scores = [decoded(folder / "test.decoded.tsv") for folder in folders]
    *_, total = (folders[0] / "finetune" / "parameters.txt").read_text().splitlines()
    return Result(
        parameters=int(total.split()[0].replace(",", "")),
        accuracy=[x[-1] for x in of("valid/accuracy", "pretrain") if x],
        pretrain_speed=speeds("pretrain"),
        finetune_speed=speeds("finetune"),
        minutes=[sum(x) / 60 for x in zip(*seconds, strict=True)],
        cer=[score.cer for score in scores],
        wer=[score.wer for score in scores],
    )


def table(results: Mapping[str, Result]) -> str:
    """Means over the seeds, of error rates the range, too; of speeds the best, which other work
    disturbed least."""
    heads = ("", "seeds", "M parameters", "pre-training, updates/s", "CTC, updates/s", "minutes",
             "accuracy, masked", "CER %", "WER %")  # fmt: skip
    rows = []
    for name, found in results.items():
        cells = [
            f"{of(values):.{digits}f}" if values else ""
            for values, of, digits in (
                (found.pretrain_speed, max, 1), (found.finetune_speed, max, 1),
                (found.minutes, min, 1), (found.accuracy, statistics.mean, 3),
            )
        ]  # fmt: skip
        rows.append((
            SYSTEMS[name].label, str(len(found.cer)), f"{found.parameters / 1e6:.2f}", *cells,
            spread(found.cer), spread(found.wer),
        ))  # fmt: skip
    used = [i for i in range(len(heads)) if not i or any(row[i] for row in rows)]
    return "\n".join(columns([[row[i] for i in used] for row in (heads, *rows)], left=1))


def report(runs: Path) -> None:
    """Prints the tables, writes them as results.csv, and draws them."""
    found = {name: result(runs, name) for name in SYSTEMS}
    found = {name: value for name, value in found.items() if value}
    tables = {
        title: {name: found[name] for name in names if name in found}
        for title, names in TABLES.items()
    }
    tables = {title: rows for title, rows in tables.items() if rows}
    if not tables:
        raise UserError(f"{runs} holds no finished system yet")
    for title, rows in tables.items():
        print(f"{TITLES[title]}\n\n{table(rows)}\n")
    with (runs / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("table", "system", *Result._fields))
        for title, rows in tables.items():
            for name, row in rows.items():
                cells = (" ".join(map(str, x)) if isinstance(x, list) else x for x in row)
                writer.writerow((title, name, *cells))
    picture = runs / "conformer_line.png"
    points = {
        TITLES[title]: {SYSTEMS[name].label: row.cer for name, row in rows.items()}
        for title, rows in tables.items()
    }
    picture.write_bytes(figures.spreads(points, "CER on held-out speech (%)"))
    print(f"numbers: {runs / 'results.csv'}\npicture: {picture}")
