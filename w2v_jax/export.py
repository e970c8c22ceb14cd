"""Writes a model: of a run its newest checkpoint without optimizer, or a converted one.

python -m w2v_jax.export --workdir=runs/base --output=runs/base/export
python -m w2v_jax.export --workdir=runs/base --output=hub/base --format=huggingface
python -m w2v_jax.export --from=huggingface --workdir=wav2vec2-base --output=models/base
python -m w2v_jax.export --from=fairseq --workdir=wav2vec_small.pt --output=models/base
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from w2v_jax import __version__, command_line
from w2v_jax.errors import UserError
from w2v_jax.interop import fairseq, huggingface
from w2v_jax.interop.exported import rates
from w2v_jax.training.checkpoint import export_model, latest_variables, load_exported

FORMATS = ("orbax", "huggingface")
SOURCES = ("run", *FORMATS, "fairseq")
# of a run's config: what a model without its training is
DESCRIPTION = ("kind", "model", "quantizer", "alphabet", "final_dropout")


def newest(workdir: str) -> tuple[Any, dict[str, Any]]:
    """(variables, config) of the newest checkpoint of a run."""
    try:
        run = json.loads((Path(workdir) / "config.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"{workdir} is not the --workdir of a training run") from None
    variables, step = latest_variables(workdir)
    config = {key: run[key] for key in DESCRIPTION if key in run}
    return variables, config | {"step": step}


def form_of(folder: Path) -> str | None:
    """What a folder with a config.json holds: "orbax", "huggingface", or "run"; None without."""
    if not (folder / "config.json").exists():
        return None
    try:
        keys = json.loads((folder / "config.json").read_text())
    except ValueError:
        return "run"
    return "orbax" if "w2v_jax" in keys else "huggingface" if "model_type" in keys else "run"


def export(
    workdir: str, output: str, source: str = "run", form: str = "orbax", language: str = ""
) -> None:
    """Writes the model in `workdir` to the folder `output`.

    source: what `workdir` is: a run, a model that this function wrote (orbax), or a model directory
    of transformers (huggingface, and `language` of an MMS model) or a file of fairseq; form: orbax
    or huggingface.
    """
    folder = Path(output)
    if Path(workdir).resolve() == folder.resolve():
        raise UserError(f"--output={output} is the --workdir; choose another folder")
    if form_of(folder) not in (None, form):  # each has a config.json: this would ruin the other
        raise UserError(f"--output={output} holds something else; choose another folder")
    if language and source != "huggingface":
        raise UserError("--language needs --from=huggingface")
    if source == "huggingface":
        variables, config = huggingface.read(workdir, language)
    elif source == "fairseq":
        variables, config = fairseq.read(workdir)
    else:
        variables, config = newest(workdir) if source == "run" else load_exported(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}; choose another place") from None
    if form == "huggingface":
        huggingface.write(output, variables, config)
    else:
        export_model(output, variables, config | rates(config) | {"w2v_jax": __version__})
    step = f" of step {config['step']}" if "step" in config else ""
    print(f"{config['kind']} model{step} written to {output}")


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    values = flags.FLAGS
    export(values.workdir, values.output, values["from"].value, values.format, values.language)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the run or the model", required=True)
    flags.DEFINE_string("output", None, "folder to write the model to", required=True)
    flags.DEFINE_enum("from", "run", SOURCES, "what --workdir holds")
    flags.DEFINE_enum("format", "orbax", FORMATS, "how to write it")
    flags.DEFINE_string("language", "", "of an MMS model: which adapter and vocabulary, e.g. eng")
    command_line.run(main)
