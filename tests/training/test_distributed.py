"""Several processes that train together are one run: over loopback, four CPU devices each."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.runs import final, wait_for_step
from tests.training.test_checkpoint import free_port
from w2v_jax.errors import UserError
from w2v_jax.training import distributed
from w2v_jax.training.loop import PREEMPTED
from w2v_jax.training.writer import read_lines

ROOT = Path(__file__).parents[2]
STEPS = 14
CONFIG = f"""
from tests import small

def get_config(kind):
    config = getattr(small, kind)(dropout=0.1, layerdrop=0.2)
    if kind == "finetuning":
        config.data.update(row_multiple=2, num_buckets=1)
        config.num_steps = 2
        config.run.update(log_steps=1, eval_steps=2)
        return config
    config.data.update(row_multiple=8, crop_seconds=(1.0,))
    config.num_steps = {STEPS}
    config.run.update(log_steps=1, save_steps=5, eval_steps=7)
    return config
"""


class Run:
    """A training run in a folder, started on any number of processes and devices."""

    def __init__(self, folder: Path, manifests, kind="pretraining"):
        self.workdir = folder / "run"
        folder.mkdir()
        (folder / "config.py").write_text(CONFIG)
        self._entry = "w2v_jax." + {"pretraining": "pretrain", "finetuning": "finetune"}[kind]
        self._arguments = [
            f"--config={folder}/config.py:{kind}", f"--workdir={self.workdir}",
            f"--config.data.train={manifests['train']}", f"--config.data.valid={manifests['dev']}",
        ]  # fmt: skip

    def start(self, processes: int, devices: int, *mesh: str) -> list[subprocess.Popen]:
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
        address = f"127.0.0.1:{free_port()}"
        started = []
        for index in range(processes):
            together = [] if processes == 1 else [
                f"--coordinator_address={address}", f"--num_processes={processes}",
                f"--process_id={index}",
            ]  # fmt: skip
            started.append(subprocess.Popen(
                [sys.executable, "-m", self._entry, *self._arguments, *mesh, *together],
                cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True,
            ))  # fmt: skip
        return started

    def finish(self, started) -> tuple[list[int], str]:
        """(exit status of each, their output)."""
        try:
            outputs = [process.communicate(timeout=240)[0] for process in started]
        finally:
            for process in started:
                process.kill()  # SIGTERM would be caught
        return [process.returncode for process in started], "\n".join(outputs)

    def losses(self) -> list[float]:
        lines = read_lines(self.workdir / "metrics.jsonl")
        return [x["train/contrastive_bits"] for x in lines if "train/contrastive_bits" in x]


def test_a_run_moves_between_processes_and_devices(tmp_path, manifests):
    """2 processes x 4 devices, stopped by a signal to the second one, then one device: the same
    losses, parameters and evaluations as 8 devices of one process."""
    whole = Run(tmp_path / "whole", manifests)
    statuses, output = whole.finish(whole.start(1, 8, "--config.run.mesh.fsdp=4"))
    assert statuses == [0], output

    moved = Run(tmp_path / "moved", manifests)
    both = moved.start(2, 4, "--config.run.mesh.fsdp=2", "--config.run.mesh.tensor=2")
    wait_for_step(moved.workdir, 2, both[0])
    both[1].send_signal(signal.SIGTERM)
    statuses, output = moved.finish(both)
    assert statuses == [PREEMPTED, PREEMPTED], output
    stopped_at = len(moved.losses())
    assert output.count(f"step {stopped_at} is saved") == 2
    assert output.count("parameters, ") == 1, "the first process alone prints"

    statuses, output = moved.finish(moved.start(1, 1))
    assert statuses == [0], output
    assert f"continues from step {stopped_at}" in output
    assert len(moved.losses()) == STEPS
    np.testing.assert_allclose(moved.losses(), whole.losses(), rtol=1e-5)
    (_, expected, lines), (_, found, moved_lines) = final(whole.workdir), final(moved.workdir)
    for name in expected:
        if "['params']" in name and "['key']['bias']" not in name:
            np.testing.assert_allclose(
                found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name
            )
    valid = lambda lines: [x["valid/contrastive_bits"] for x in lines if "valid/accuracy" in x]  # noqa: E731
    assert len(valid(lines)) == 2
    np.testing.assert_allclose(valid(moved_lines), valid(lines), rtol=1e-4)


def test_fine_tuning(tmp_path, manifests):
    """Both processes have the texts of the whole validation set."""
    run = Run(tmp_path / "run", manifests, "finetuning")
    statuses, output = run.finish(run.start(2, 1))
    assert statuses == [0, 0], output
    lines = read_lines(run.workdir / "metrics.jsonl")
    assert [x["step"] for x in lines if "train/ctc_loss" in x] == [1, 2]
    assert lines[-1]["valid/wer"] > 50  # an untrained model


def test_a_signal_before_the_first_update(tmp_path, manifests):
    """Nothing is lost, and the same command is asked for."""
    run = Run(tmp_path / "run", manifests)
    (process,) = run.start(1, 1)
    while "validation:" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    statuses, output = run.finish([process])
    assert statuses == [PREEMPTED], output
    assert "Traceback" not in output


def test_flags_that_belong_together():
    with pytest.raises(UserError, match="belong together"):
        distributed.initialize("auto", "127.0.0.1:1", 2)


def test_alone_where_nothing_started_several(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    distributed.initialize()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    distributed.initialize("off")
    assert not jax.distributed.is_initialized()
    assert distributed.is_first()
    assert distributed.from_first(7) == 7
