"""The experiments of docs/lecture.md on the Conformer line, small enough for two CPU cores.

    launch/quickstart.sh runs     # its manifests are used, and nothing else of it
    python benchmarks/conformer_line.py --data=runs/data --runs=runs/line --speech=more.tsv
    python benchmarks/conformer_line.py --runs=runs/line --report

trains every system of `TABLES` once per seed, each training on a core of its own, scores it on
test.tsv, prints the tables and draws them. What is finished is not run again, what was interrupted
goes on. --speech: manifests of further speech for pre-training, with commas.

A system is a config of this file,

    python -m w2v_jax.pretrain --config=benchmarks/conformer_line.py:pretrain,SYSTEM ...

so that every one can be run, drawn (python -m w2v_jax.report) and changed alone.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from ml_collections import ConfigDict

from w2v_jax.configs import best_rq, common, conformer, quickstart
from w2v_jax.errors import UserError
from w2v_jax.evaluation import figures
from w2v_jax.evaluation.reports import columns
from w2v_jax.report import decoded, spread
from w2v_jax.training.writer import read_lines

UPDATES = {"pretrain": 400, "finetune": 300, "supervised": 600}
WAVEFORM_CONVOLUTIONS = (
    (32, 10, 5), (64, 3, 2), (64, 3, 2), (96, 3, 2), (128, 3, 2), (128, 2, 2), (128, 2, 2),
)  # fmt: skip


class System(NamedTuple):
    """A row. objective: how it is pre-trained, codes, linear or best_rq; empty: not at all, its
    labels are all transcripts with `supervised`, else the third of them. ablation: a name of
    configs/conformer.py. changes: of the config, by dotted keys. updates: of pre-training, times
    the usual."""

    label: str
    objective: str = ""
    frontend: str = "logmel"
    block: str = "conformer"
    ablation: str = ""
    supervised: bool = False
    changes: Mapping[str, object] = {}
    updates: float = 1.0


AUGMENTED = {"data.augment.pitch_prob": 0.5, "data.augment.band_prob": 0.25,
             "data.augment.drop_prob": 0.25}  # fmt: skip
DEEPER = {"quantizer.depth": 3, "quantizer.projection_depth": 2}
LIGHTWEIGHT = {"model.frontend.lightweight": 2}

SYSTEMS = {
    # table 3, every row with the changes of those above it
    "conformer": System("Conformer", supervised=True),
    "relu": System("ReLU instead of Swish", ablation="relu", supervised=True),
    "no_conv": System("no convolution", ablation="no_conv", supervised=True),
    "no_macaron": System("one feed-forward", ablation="no_macaron", supervised=True),
    "no_relpos": System("no relative positions", ablation="no_relpos", supervised=True),
    "deep_transformer": System(
        "the same, twice the blocks", ablation="no_relpos", supervised=True,
        changes={"model.num_layers": 12},
    ),
    # inputs and objectives
    "mel_scratch": System("log-mel, not pre-trained"),
    "mel_codes": System("log-mel, codes", "codes"),
    "mel_linear": System("log-mel, linear targets", "linear"),
    "mel_best_rq": System("log-mel, BEST-RQ", "best_rq"),
    "mel_codes_long": System("log-mel, codes, the waveform's minutes", "codes", updates=2.5),
    "wave_scratch": System("waveform, not pre-trained", frontend="waveform"),
    "wave_codes": System("waveform, codes, Conformer", "codes", "waveform"),
    # Wav2Vec-Aug
    "wave_transformer": System("waveform, codes, Transformer", "codes", "waveform", "transformer"),
    "wave_augmented": System("augmented audio", "codes", "waveform", changes=AUGMENTED),
    "wave_clean": System(
        "the same, targets of the clean audio", "codes", "waveform",
        changes=AUGMENTED | {"loss.targets": "clean"},
    ),
    "wave_deeper": System("deeper heads", "codes", "waveform", changes=DEEPER),
    "wave_lightweight": System("light-weight convolutions", "codes", "waveform",
                               changes=LIGHTWEIGHT),
    "wave_all": System("all but the clean targets", "codes", "waveform",
                       changes=AUGMENTED | DEEPER | LIGHTWEIGHT),
}  # fmt: skip
TITLES = {
    "ablations": "Conformer with CTC, each row with the changes above it",
    "inputs": "Waveform or log-mel",
    "objectives": "What is learnt without labels, on log-mel",
    "wav2vec_aug": "Wav2Vec-Aug, each change alone on the Conformer",
}
TABLES = {
    "ablations": ("conformer", "relu", "no_conv", "no_macaron", "no_relpos", "deep_transformer"),
    "inputs": ("wave_scratch", "wave_codes", "mel_scratch", "mel_codes", "mel_codes_long"),
    "objectives": ("mel_scratch", "mel_codes", "mel_linear", "mel_best_rq"),
    "wav2vec_aug": (
        "wave_scratch", "wave_transformer", "wave_codes", "wave_augmented", "wave_clean",
        "wave_deeper", "wave_lightweight", "wave_all",
    ),
}  # fmt: skip


# configs ---------------------------------------------------------------------------------------


def get_config(argument: str) -> ConfigDict:
    """argument: STAGE,SYSTEM with STAGE pretrain or finetune."""
    stage, _, name = argument.partition(",")
    if stage not in ("pretrain", "finetune") or name not in SYSTEMS:
        raise UserError(
            f"conformer_line.py:{argument} is unknown; write pretrain or finetune, a comma and one "
            f"of {', '.join(SYSTEMS)}"
        )
    system = SYSTEMS[name]
    config = pretraining(system) if stage == "pretrain" else finetuning(system)
    config.run.update(threads=1, cache_gigabytes=1.0, log_steps=20, eval_steps=100, save_steps=200)
    config.data.row_multiple = 1
    for key, value in system.changes.items():
        if stage == "pretrain" or key.startswith("model."):
            *path, last = key.split(".")
            target = config
            for part in path:
                target = target[part]
            target[last] = value
    return config


def kinds(system: System) -> dict[str, str]:
    found = {"frontend": system.frontend, "block": system.block}
    return found | ({"positions": "relative"} if system.block == "conformer" else {})


def shape(model: ConfigDict, system: System) -> None:
    """Four blocks of 128 channels, six where a system is supervised with all transcripts."""
    model.update(
        width=128, num_layers=6 if system.supervised else 4, num_heads=4, feed_forward=512,
        norm_order="none" if system.block == "conformer" else "pre",
    )  # fmt: skip
    if system.frontend == "logmel":
        model.frontend.update(channels=32, projection=128)
    else:
        model.frontend.update(conv_layers=WAVEFORM_CONVOLUTIONS, grad_mult=1.0, smoothing=0.8)
    if "kernel" in model.block:
        model.block.kernel = 15


def pretraining(system: System) -> ConfigDict:
    """24 s per update in crops of 4 s; objectives as in configs/quickstart.py."""
    if system.objective == "best_rq":
        config = best_rq.get_config("tiny")
        config.random_quantizer.codes = 256
        config.mel_masking.update(prob=0.02, span=20)
        config.model = common.model("quickstart", kinds(system))
    elif system.objective:
        quantizer = "linear" if system.objective == "linear" else "gumbel"
        config = common.pretraining("quickstart", kinds(system) | {"quantizer": quantizer})
        # spans of 100 ms from the waveform, a frame per 20 ms, of 160 ms from the spectrum, per 40
        config.masking.update(prob=0.4, span=5 if system.frontend == "waveform" else 4)
        config.loss.penalty_weight = 1.0 if system.frontend == "waveform" else 0.0
        if quantizer == "gumbel":
            config.quantizer.dropout, config.gumbel.decay = 0.0, 0.999
            config.loss.diversity_weight = 1.0
    else:
        raise UserError(f"{system.label} is not pre-trained")
    shape(config.model, system)
    config.model.update(
        dropout=0.1, activation_dropout=0.1, attention_dropout=0.0, dropout_input=0.0,
        layerdrop=0.0,
    )  # fmt: skip
    seconds = 4.0 if system.frontend == "waveform" else 3.8551  # 200 frames, 96
    config.data.update(batch_seconds=24.0, crop_seconds=(seconds,), concatenate_seconds=seconds)
    config.optim.update(
        schedule="linear", warmup_steps=50, clip_norm=5.0, weight_decay=0.01,
        peak_lr=5e-4 if system.frontend == "waveform" else 1e-3,
    )  # fmt: skip
    config.num_steps = round(UPDATES["pretrain"] * system.updates)
    return config


def finetuning(system: System) -> ConfigDict:
    """CTC as in configs/quickstart.py, of the same form."""
    form = "wav2vec2" if system.frontend == "waveform" else "conformer"
    config = quickstart.get_config(f"finetune,form={form}")
    if system.supervised:
        ablated = conformer.get_config(
            f"tiny,ablation={system.ablation}" if system.ablation else "tiny"
        )
        for key in ("block", "positions", "activation"):
            config.model[key] = ablated.model[key]
    else:
        usual = {k: config.model[k] for k in config.model if "drop" in k}
        config.model = common.model("quickstart", kinds(system))
        config.model.update(usual)
    shape(config.model, system)
    # alone, as the waveform's
    config.data.update(batch_seconds=32.0 if system.supervised else 24.0, concatenate_seconds=0.0)
    config.num_steps = UPDATES["supervised" if system.supervised else "finetune"]
    config.optim.peak_lr = 1e-3
    return config


# running ---------------------------------------------------------------------------------------


def chain(name: str, seed: int, args: argparse.Namespace) -> Iterator[tuple[list[str], Path]]:
    """(command, file that it leaves) of one system and seed, in order."""
    here, data = os.path.relpath(__file__), args.data
    folder = args.runs / f"{name}-{seed}"

    def training(stage: str, train: str, *more: str) -> tuple[list[str], Path]:
        return [
            stage, f"--config={here}:{stage},{name}", f"--workdir={folder / stage}",
            f"--config.data.train={train}", f"--config.data.valid={data / 'dev.tsv'}",
            f"--config.seed={seed}", *more,
        ], folder / stage / "done"  # fmt: skip

    system = SYSTEMS[name]
    everything = str(data / "train.tsv")
    if system.objective:
        yield training("pretrain", ",".join(filter(None, (everything, args.speech))))
    labels = everything if system.supervised else str(data / "labelled.tsv")
    init = [f"--config.run.init_from={folder / 'pretrain'}"] if system.objective else []
    yield training("finetune", labels, *init)
    output = folder / "test.decoded.tsv"
    yield (
        [
            "evaluate", f"--checkpoint={folder / 'finetune'}", f"--data={data / 'test.tsv'}",
            f"--output={output}", "--overwrite",
        ],
        output,
    )  # fmt: skip


def run(name: str, seed: int, args: argparse.Namespace, core: int) -> None:
    for command, left in chain(name, seed, args):
        if left.exists():
            continue
        left.parent.mkdir(parents=True, exist_ok=True)
        log = args.runs / f"{name}-{seed}" / f"{command[0]}.log"
        with log.open("a") as file:
            code = subprocess.run(
                [sys.executable, "-m", f"w2v_jax.{command[0]}", *command[1:]],
                stdout=file, stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            ).returncode  # fmt: skip
        if code:
            raise UserError(f"{' '.join(command)} ended with {code}; see {log}")
        left.touch()


def run_all(names: Sequence[str], seeds: Sequence[int], args: argparse.Namespace) -> None:
    """Every system with the first seed, then with the next: on as many cores as there are."""
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def one(job: tuple[int, str]) -> str:
        """What went wrong: the other systems run all the same."""
        seed, name = job
        core = cores.get()
        try:
            run(name, seed, args, core)
        except UserError as error:
            return str(error)
        finally:
            cores.put(core)
        print(f"{name}, seed {seed}: CER {decoded(output(args.runs, name, seed)).cer:.1f} %",
              flush=True)  # fmt: skip
        return ""

    jobs = [(seed, name) for seed in seeds for name in names]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        wrong = list(filter(None, pool.map(one, jobs)))
    if wrong:
        raise UserError("\n".join(wrong))


# the tables ------------------------------------------------------------------------------------


def output(runs: Path, name: str, seed: int) -> Path:
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--speech", default="", help="manifests of further speech, with commas")
    parser.add_argument("--runs", type=Path, default=Path("runs/line"))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    try:
        if not args.report:
            names = dict.fromkeys(name for title in args.tables for name in TABLES[title])
            run_all(list(names), args.seeds, args)
        report(args.runs)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
