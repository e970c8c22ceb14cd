"""A run killed anywhere continues to the same bits as one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from w2v_jax.training.checkpoint import checkpoint_steps
from w2v_jax.training.writer import read_lines

ROOT = Path(__file__).parents[2]
STEPS, SAVE, KILL_AFTER = 14, 5, 8

SCRIPT = """
import os, sys
os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
from tests import small
from w2v_jax.run import run
config = small.finetuning()
config.data.train, config.data.valid = {train!r}, {valid!r}
config.num_steps = {steps}
config.run.update(log_steps=3, save_steps={save}, eval_steps=7)
config.run.accumulation = config.data.row_multiple = 2
config.run.mesh.data = 1
run(config, {workdir!r})
"""


def start(workdir, manifests):
    code = SCRIPT.format(
        train=manifests["train"], valid=manifests["dev"], steps=STEPS, save=SAVE,
        workdir=str(workdir),
    )  # fmt: skip
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


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


def assert_same(a, b):
    assert a[0] == b[0] == STEPS
    assert a[1].keys() == b[1].keys()
    assert any(".opt" in key or "['opt']" in key for key in a[1])
    for key, value in a[1].items():
        assert value.tobytes() == b[1][key].tobytes(), key
    assert json.dumps(a[2]) == json.dumps(b[2])


def test_killed_run_ends_in_the_same_bits(tmp_path, manifests):
    """Fine-tuning, with accumulation; test_chaos kills pre-training."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, output = finish(start(whole, manifests))
    assert code == 0, output

    process = start(cut, manifests)
    wait_for_step(cut, KILL_AFTER, process)  # past the checkpoint of step 5, before that of 10
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL

    code, output = finish(start(cut, manifests))
    assert code == 0, output
    assert "continues from step" in output
    assert_same(final(whole), final(cut))
