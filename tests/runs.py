"""Runs in processes of their own: waiting for a step, and all that a run has left at its end."""

import time

import jax
import numpy as np

from w2v_jax.training.checkpoint import checkpoint_steps
from w2v_jax.training.writer import read_lines


def finish(process):
    output, _ = process.communicate(timeout=280)
    return process.returncode, output


def wait_for_step(workdir, step, process):
    """Blocks until the metrics of `step` are on disk."""
    deadline = time.time() + 240
    while time.time() < deadline and process.poll() is None:
        if any(line["step"] >= step for line in read_lines(workdir / "metrics.jsonl")):
            return
        time.sleep(0.02)
    raise AssertionError(finish(process)[1])


def final(workdir):
    """Every array of the last checkpoint, and the metrics but for the times."""
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints"
    step = checkpoint_steps(workdir)[-1]
    with ocp.PyTreeCheckpointer() as checkpointer:
        state = checkpointer.restore(folder / str(step) / "state")
    leaves = {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(state)}
    lines = [
        {k: v for k, v in line.items() if not k.startswith("time/") or k == "time/hours_heard"}
        for line in read_lines(workdir / "metrics.jsonl")
    ]
    return step, leaves, lines
