"""How many rows fit a GPU: the table of docs/scaling.md, compiled without one.

    python -m tests.measure.what_fits [CASE | CASE=CARD:ROWS ...]

A case is compiled for two numbers of rows of its longest length, and a line laid through their
memory says how many fit each card; CASE=CARD:ROWS compiles so many for the card itself.
"""

import math
import sys

import jax

from configs import finetune, wav2vec2
from w2v_jax.errors import UserError
from w2v_jax.measuring.compiled import compile_step
from w2v_jax.measuring.gpu_cards import CARDS, GIB
from w2v_jax.measuring.topology import open_topology
from w2v_jax.tasks import make_task
from w2v_jax.training.sharding import make_mesh

FULL = {"remat": "full", "remat_features": True}
# config, numbers of rows to compile, execution
CASES = {
    "base": (lambda: wav2vec2.get_config("base"), (16, 40), {}),
    "base, full": (lambda: wav2vec2.get_config("base"), (16, 40), FULL),
    "large_lv60k": (lambda: wav2vec2.get_config("large_lv60k"), (6, 16), {}),
    "large_lv60k, full": (lambda: wav2vec2.get_config("large_lv60k"), (6, 16), FULL),
    "xlsr_1b": (lambda: wav2vec2.get_config("xlsr_1b"), (4, 10), {}),
    "xlsr_1b, full": (lambda: wav2vec2.get_config("xlsr_1b"), (4, 10), FULL),
    # unrolled it takes many minutes to compile
    "xlsr_2b, full": (
        lambda: wav2vec2.get_config("xlsr_2b"),
        (2, 6),
        FULL | {"layers": "scan"},
    ),
    "ctc base": (lambda: finetune.get_config("split=960h,size=base"), (8, 24), {}),
    "ctc base, full": (lambda: finetune.get_config("split=960h,size=base"), (8, 24), FULL),
    "ctc large": (lambda: finetune.get_config("split=960h,size=large"), (6, 16), {}),
    "ctc large, full": (lambda: finetune.get_config("split=960h,size=large"), (6, 16), FULL),
}
CARDS_OF_TABLE = ("a10", "a100-40gb", "h100", "h200")


def needed(name: str, rows: int, topology_name: str) -> float:
    """GiB of a device, with the next batch; so many rows of the longest length, one micro-batch."""
    make, _, execution = CASES[name]
    config = make()
    config.execution.update(execution)
    topology = open_topology(topology_name)
    task, mesh = make_task(config), make_mesh(config.run.mesh, topology.devices)
    length = max(shape.length for shape in task.shapes())
    layerdrop = config.model.get("layerdrop", 0.0)
    arrays = task.arrays((1, rows), length)
    found = compile_step(task, mesh, arrays, topology, layerdrop=layerdrop)
    gib = (found.memory.total + found.memory.batch) / GIB
    audio = rows * length / task.measure.per_row / found.prediction.seconds
    print(
        f"{name:20} {topology_name:12} {rows:4} rows of {length / task.measure.per_row:g} s: "
        f"{gib:6.2f} of {topology.hbm / GIB:.2f} GiB, state {found.memory.state / GIB:.2f}; "
        f"{audio:,.0f} s/s; compiled in {found.compile_seconds:.0f} s", flush=True,
    )  # fmt: skip
    return gib


def main(names: list[str]) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    for given in names or CASES:
        name, _, checked = given.partition("=")
        if checked:
            kind, _, rows = checked.partition(":")
            needed(name, int(rows), f"{kind}:1")
            continue
        first, second = CASES[name][1]
        low, high = (needed(name, rows, "h200:1") for rows in (first, second))
        slope = (high - low) / (second - first)
        for kind in CARDS_OF_TABLE:
            rows = math.floor((CARDS[kind].usable / GIB - low) / slope) + first
            print(f"{name:20} {kind:12} {max(rows, 0):4} rows by the line, {slope:.3f} GiB each")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
