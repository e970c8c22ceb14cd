"""Writes a model: of a run its newest checkpoint without optimizer, or a converted one.

python -m w2v_jax.export --workdir=runs/base --output=runs/base/export
python -m w2v_jax.export --workdir=runs/base --output=runs/base/best --step=best
python -m w2v_jax.export --workdir=runs/base --output=hub/base --format=huggingface
python -m w2v_jax.export --workdir=wav2vec2-base-960h --output=models/base
python -m w2v_jax.export --workdir=wav2vec_small.pt --output=models/base

--workdir is a run, an export, a directory of transformers or a .pt file of fairseq; --from says
which where that is not seen from what is in it.
"""

import contextlib
from typing import Any

from absl import flags

from w2v_jax import __version__, command_line
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints, huggingface
from w2v_jax.interop.checkpoints import FORMS as SOURCES
from w2v_jax.models.catalogue import rates
from w2v_jax.places import Place, check_replaceable, is_remote, place
from w2v_jax.tasks import TASKS, kind_of
from w2v_jax.training.checkpoint import checkpoint_steps, export_model
from w2v_jax.training.retention import best_steps
from w2v_jax.training.settings import read_settings
from w2v_jax.training.writer import read_lines

FORMATS = ("orbax", "huggingface")
AUTO = "auto"


def checkpoint_of(workdir: str, step: str = "") -> tuple[Any, dict[str, Any]]:
    """(variables, config) of the newest checkpoint of a run, of a step, or of the "best" one."""
    if step == "best":
        best_by = TASKS[kind_of(read_settings(workdir)["settings"])].best_by
        return checkpoints.of_run(workdir, best_step(workdir, best_by))
    return checkpoints.of_run(workdir, int(step) if step else None)


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


def check_free(folder: Place, form: str, overwrite: bool) -> None:
    """Raises UserError where writing a model of a form would replace files that this command did
    not write, those of another form included: each has a config.json."""
    config, flag = folder / "config.json", f"--output={folder}"
    if config.exists():
        found = "unknown"
        with contextlib.suppress(UserError):
            found = checkpoints.form_of(str(folder))
        if found != form:
            raise UserError(f"{flag} holds something else; choose another folder")
    if form == "huggingface":
        # a model that was downloaded looks like one that is written here, but for this
        check_replaceable(config, flag, overwrite=overwrite, ours=huggingface.WRITTEN_BY)
    params = folder / "params"
    # with the metadata of Orbax it is an export that was not finished
    if form == "orbax" and params.exists() and not (params / "_METADATA").exists():
        raise UserError(f"{flag} holds a params that is no model; choose another folder")
    if form == "huggingface" and not config.exists():
        for name in huggingface.FILES:
            check_replaceable(folder / name, flag, overwrite=overwrite)


def export(
    workdir: str,
    output: str,
    source: str = AUTO,
    form: str = "orbax",
    language: str = "",
    step: str = "",
    ignore_unknown: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes the model in `workdir` to the folder `output`.

    source: what `workdir` is: a run, a model that this function wrote (orbax), or a model directory
    of transformers (huggingface, and `language` of an MMS model) or a file of fairseq; form: orbax
    or huggingface; step: of a run, a number or "best", empty for the newest. ignore_unknown:
    accepts what a model of transformers or fairseq has and ours does not. overwrite: replaces a
    model in `output` that was not written here.
    """
    folder = place(output)
    if place(workdir).resolve() == folder.resolve():
        raise UserError(f"--output={output} is the --workdir; choose another folder")
    check_free(folder, form, overwrite)
    if form == "huggingface" and is_remote(output):
        raise UserError(f"--output={output}: --format=huggingface writes to local folders only")
    if source == AUTO:
        source = checkpoints.form_of(workdir)
    if language and source != "huggingface":
        raise UserError(f"--language is of a model of transformers; {workdir} is none")
    if step and (source != "run" or not (step == "best" or step.isdecimal())):
        raise UserError(f"--step={step}: write the number of a step or best, of a run")
    if source == "run":
        variables, config = checkpoint_of(workdir, step)
    else:
        variables, config = checkpoints.load(
            workdir, form=source, language=language, ignore_unknown=ignore_unknown
        )
    if form == "huggingface" and config["kind"] not in huggingface.WRITES:
        raise UserError(f"a {config['kind']} model has no --format=huggingface here; use orbax")
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
        values.step, values.ignore_unknown, values.overwrite,
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, f"the model: {checkpoints.TAKEN}", required=True)
    flags.DEFINE_string("output", None, "folder to write the model to", required=True)
    flags.DEFINE_enum("from", AUTO, (AUTO, *SOURCES), "what --workdir holds; auto: seen from it")
    flags.DEFINE_enum("format", "orbax", FORMATS, "how to write it")
    flags.DEFINE_string("language", "", "of an MMS model: which adapter and vocabulary, e.g. eng")
    flags.DEFINE_string("step", "", "of a run: which checkpoint, a number or best; newest if empty")
    flags.DEFINE_bool(
        "ignore_unknown", False,
        "accept tensors and letters of another's model that ours has no place for",
    )  # fmt: skip
    command_line.define_overwrite()
    command_line.run(main)
