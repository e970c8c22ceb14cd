"""Writes the newest checkpoint of a run as a model: parameters and config, no optimizer.

python -m w2v_jax.export --workdir=runs/base --output=runs/base/export
"""

import json
from pathlib import Path

from absl import flags

from w2v_jax import __version__, command_line
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.training.checkpoint import export_model, latest_variables


def export(workdir: str, output: str) -> None:
    """Exports WORKDIR's newest checkpoint to the folder `output`."""
    try:
        run = json.loads((Path(workdir) / "config.json").read_text())
    except OSError:
        raise UserError(f"{workdir} is not the --workdir of a training run") from None
    variables, step = latest_variables(workdir)
    config = {key: run[key] for key in ("kind", "model", "quantizer", "alphabet") if key in run}
    config |= {"step": step, "sample_rate": SAMPLE_RATE, "w2v_jax": __version__}
    export_model(output, variables, config)
    print(f"{config['kind']} model of step {step} written to {output}")


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    export(flags.FLAGS.workdir, flags.FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "folder of the training run", required=True)
    flags.DEFINE_string("output", None, "folder to write the model to", required=True)
    command_line.run(main)
