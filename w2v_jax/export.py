"""Writes a model: of a run its newest checkpoint without optimizer, or a converted one.

python -m w2v_jax.export --workdir=runs/base --output=runs/base/export
python -m w2v_jax.export --workdir=runs/base --output=runs/base/best --step=best
python -m w2v_jax.export --workdir=runs/base --output=hub/base --format=huggingface
python -m w2v_jax.export --from=huggingface --workdir=wav2vec2-base --output=models/base
python -m w2v_jax.export --from=fairseq --workdir=wav2vec_small.pt --output=models/base
"""

import json
from typing import Any

from absl import flags

from w2v_jax import __version__, command_line
from w2v_jax.errors import UserError
from w2v_jax.interop import fairseq, huggingface
from w2v_jax.models.catalogue import rates
from w2v_jax.places import Place, is_remote, place
from w2v_jax.tasks import TASKS, kind_of
from w2v_jax.training.checkpoint import (
    checkpoint_steps,
    export_model,
    latest_variables,
    load_exported,
    variables_of_step,
)
from w2v_jax.training.retention import best_steps
from w2v_jax.training.settings import read_settings
from w2v_jax.training.writer import read_lines

FORMATS = ("orbax", "huggingface")
SOURCES = ("run", *FORMATS, "fairseq")


def checkpoint_of(workdir: str, step: str = "") -> tuple[Any, dict[str, Any]]:
    """(variables, config) of the newest checkpoint of a run, of a step, or of the "best" one."""
    run = read_settings(workdir)
    if not step:
        variables, number = latest_variables(workdir)
    else:
        best_by = TASKS[kind_of(run["settings"])].best_by
        number = best_step(workdir, best_by) if step == "best" else int(step)
        variables = variables_of_step(workdir, number)
    return variables, run["described"] | {"step": number}


def best_step(workdir: str, scalar: str) -> int:
    """The step of the checkpoint with the lowest value of a scalar in the metrics of the run."""
    lines = read_lines(place(workdir) / "metrics.jsonl")
    kept = checkpoint_steps(workdir)
    scores = {x["step"]: x[scalar] for x in lines if scalar in x and x["step"] in kept}
    best = best_steps(scores, 1)
    if not best:
        raise UserError(
            f"no checkpoint of {workdir} has a finite {scalar}; set --step to one of {kept}"
        )
    return best[0]


def form_of(folder: Place) -> str | None:
    """What a folder with a config.json holds: "orbax", "huggingface", or "run"; None without."""
    if not (folder / "config.json").exists():
        return None
    try:
        keys = json.loads((folder / "config.json").read_text())
    except ValueError:
        return "run"
    return "orbax" if "w2v_jax" in keys else "huggingface" if "model_type" in keys else "run"


def export(
    workdir: str,
    output: str,
    source: str = "run",
    form: str = "orbax",
    language: str = "",
    step: str = "",
) -> None:
    """Writes the model in `workdir` to the folder `output`.

    source: what `workdir` is: a run, a model that this function wrote (orbax), or a model directory
    of transformers (huggingface, and `language` of an MMS model) or a file of fairseq; form: orbax
    or huggingface; step: of a run, a number or "best", empty for the newest.
    """
    folder = place(output)
    if place(workdir).resolve() == folder.resolve():
        raise UserError(f"--output={output} is the --workdir; choose another folder")
    if form_of(folder) not in (None, form):  # each has a config.json: this would ruin the other
        raise UserError(f"--output={output} holds something else; choose another folder")
    if language and source != "huggingface":
        raise UserError("--language needs --from=huggingface")
    if form == "huggingface" and is_remote(output):
        raise UserError(f"--output={output}: --format=huggingface writes to local folders only")
    if step and (source != "run" or not (step == "best" or step.isdecimal())):
        raise UserError(f"--step={step}: write the number of a step or best, of a run")
    if source == "huggingface":
        variables, config = huggingface.read(workdir, language)
    elif source == "fairseq":
        variables, config = fairseq.read(workdir)
    elif source == "run":
        variables, config = checkpoint_of(workdir, step)
    else:
        variables, config = load_exported(workdir)
    if form == "huggingface" and config["kind"] not in huggingface.WRITES:
        raise UserError(
            f"a {config['kind']} model has no --format=huggingface here; use orbax"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}; choose another place") from None
    if form == "huggingface":
        huggingface.write(output, variables, config)
    else:
        export_model(output, variables, config | rates(config) | {"w2v_jax": __version__})
    of_step = f" of step {config['step']}" if "step" in config else ""
    print(f"{config['kind']} model{of_step} written to {output}")


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    values = flags.FLAGS
    export(
        values.workdir, values.output, values["from"].value, values.format, values.language,
        values.step,
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run or the model", required=True)
    flags.DEFINE_string("output", None, "folder to write the model to", required=True)
    flags.DEFINE_enum("from", "run", SOURCES, "what --workdir holds")
    flags.DEFINE_enum("format", "orbax", FORMATS, "how to write it")
    flags.DEFINE_string("language", "", "of an MMS model: which adapter and vocabulary, e.g. eng")
    flags.DEFINE_string("step", "", "of a run: which checkpoint, a number or best; newest if empty")
    command_line.run(main)
