"""How long the update takes to compile for every batch shape of a config: one after the other, as
trainings once did, and side by side, as they do (measuring/fitting.py).

    python -m tests.measure.compile_shapes configs/wav2vec2.py:base h200:1 [--config.KEY=VALUE ...]

For a GPU that is not here, XLA tries no kernels: on the card that comes on top.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
from absl import flags

from w2v_jax import config_flag
from w2v_jax.measuring.compiled import LoweredStep
from w2v_jax.measuring.gpu_cards import OPTIONS
from w2v_jax.measuring.topology import open_topology
from w2v_jax.tasks import make_task
from w2v_jax.training.sharding import make_mesh


def main(config: str, topology: str, *changes: str) -> None:
    config_flag.config_flags.DEFINE_config_file("config", None, "")
    flags.FLAGS(["", f"--config={config}", *changes])
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_platforms", "cpu")
    config, place = config_flag.given_config(), open_topology(topology)
    options = OPTIONS if place.card else {}

    def compiled(shape) -> float:
        begin = time.monotonic()
        # a task of its own: nothing is traced already
        task, mesh = make_task(config), make_mesh(config.run.mesh, place.devices)
        LoweredStep(task, mesh, task.arrays((1, shape.rows), shape.length)).compile(**options)
        return time.monotonic() - begin

    shapes = make_task(config).shapes()
    begin = time.monotonic()
    alone = [compiled(shape) for shape in shapes]
    print(f"one after the other: {time.monotonic() - begin:.0f} s, each "
          + " ".join(f"{seconds:.0f}" for seconds in alone), flush=True)  # fmt: skip
    begin = time.monotonic()
    with ThreadPoolExecutor(min(len(shapes), os.cpu_count())) as pool:
        list(pool.map(compiled, shapes))
    print(f"side by side, {os.cpu_count()} cores: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
