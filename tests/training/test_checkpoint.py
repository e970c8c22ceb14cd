"""Checkpoints: whole or not used, whatever happened to their files; kept by rule; any mesh."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from w2v_jax.errors import UserError
from w2v_jax.export import checkpoint_of
from w2v_jax.interop import checkpoints
from w2v_jax.training import checkpoint
from w2v_jax.training.checkpoint import (
    Checkpoints,
    checkpoint_steps,
    export_model,
    latest_variables,
    load_exported,
)
from w2v_jax.training.settings import write_settings
from w2v_jax.training.sharding import make_mesh

ROOT = Path(__file__).parents[2]
# Orbax leaves the other reads of a damaged checkpoint to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def mesh_of(devices: int):
    return make_mesh({"fsdp": devices}, jax.devices()[:devices])


def noise(step: int) -> np.ndarray:
    """Every bit is random: written as it is, compression finds nothing in it."""
    return np.random.default_rng(step).integers(-(2**31), 2**31, (64, 48), np.int32)


def state_of(step: int, mesh) -> dict:
    """A state that differs in every array from step to step; matrices are sharded."""
    rng = np.random.default_rng(step)
    state = {
        "step": np.int32(step),
        "params": {"weight": noise(step), "bias": np.zeros(16, np.float32)},
        "stats": {"mean": rng.normal(size=16).astype(np.float32)},
        "opt": [{"mu": rng.normal(size=(64, 48)).astype(ml_dtypes.bfloat16)}],
    }

    def put(x):
        spec = PartitionSpec("fsdp") if x.ndim == 2 else PartitionSpec()
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(x.shape, sharding, lambda i: np.asarray(x)[i])

    return jax.tree.map(put, state)


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def save(workdir, mesh, steps=(1, 2), **options) -> None:
    checkpoints = Checkpoints(workdir, **options)
    for step in steps:
        checkpoints.save(step, state_of(step, mesh), {"n": step, "clock": 0.1 * step})
    checkpoints.close()


def restore(workdir, mesh):
    """The step that was restored; its arrays are those of `state_of`, bit by bit."""
    checkpoints = Checkpoints(workdir)
    state, meta = checkpoints.restore(abstract(state_of(0, mesh)))
    checkpoints.close()
    expected = state_of(meta["n"], mesh)
    assert meta == {"n": meta["n"], "clock": 0.1 * meta["n"]}
    for (path, a), b in zip(
        jax.tree.leaves_with_path(state), jax.tree.leaves(expected), strict=True
    ):
        assert a.sharding == b.sharding
        for mine, other in zip(a.addressable_shards, b.addressable_shards, strict=True):
            assert np.asarray(mine.data).tobytes() == np.asarray(other.data).tobytes(), path
    return meta["n"]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flipped(content: bytes, place: int, bit: int = 3) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints of steps 1 and 2, saved on 8 devices."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, mesh_of(8))
    return folder


# ---- damage


def test_every_damage_to_every_file_is_found_or_harmless(tmp_path, saved):
    files = files_of(saved / "checkpoints" / "2")
    assert len(files) > 10
    rng = np.random.default_rng(0)
    used = []
    for file in files:
        content = file.read_bytes()
        place, bit = int(rng.integers(len(content))), int(rng.integers(8))
        damages = {
            "half": content[: len(content) // 2],
            "empty": b"",
            "deleted": None,
            "flipped in the middle": flipped(content, len(content) // 2),
            "flipped somewhere": flipped(content, place, bit),
        }
        for damaged in damages.values():
            run = tmp_path / "run"
            shutil.copytree(saved, run)
            copy = run / file.relative_to(saved)
            copy.unlink()
            if damaged is not None:
                copy.write_bytes(damaged)
            used.append(restore(run, mesh_of(8)))  # which also compares all bits
            assert checkpoint_steps(run) == list(range(1, used[-1] + 1))
            shutil.rmtree(run)
    assert {1, 2} == set(used)


def damage(folder: Path, step: int) -> Path:
    """Flips a bit of `noise`: Orbax reads it without complaint. Returns the file."""
    words = noise(step)[-1].tobytes()[8:40]
    (file,) = (path for path in files_of(folder) if words in path.read_bytes())
    content = file.read_bytes()
    file.write_bytes(flipped(content, content.index(words)))
    return file


def test_damaged_newest_is_named_set_aside_and_saved_again(tmp_path, saved, caplog):
    run = shutil.copytree(saved, tmp_path / "run")
    for _ in range(2):  # the same step, twice
        caplog.clear()
        damage(run / "checkpoints" / "2", 2)
        assert restore(run, mesh_of(8)) == 1
        assert "checkpoint of step 2 is damaged" in caplog.text
        assert "saved in params/weight)" in caplog.text
        assert (run / "checkpoints" / "damaged-2").is_dir()
        assert checkpoint_steps(run) == [1]
        save(run, mesh_of(8), steps=[2])
        assert restore(run, mesh_of(8)) == 2
    for step in (1, 2):
        damage(run / "checkpoints" / str(step), step)
    with pytest.raises(UserError, match=r"none of the checkpoints \[2, 1\]"):
        restore(run, mesh_of(8))
    assert checkpoint_steps(run) == [1, 2]  # it may be the config: nothing is moved


def test_what_orbax_cannot_read_is_passed_over(tmp_path, saved, caplog):
    run = shutil.copytree(saved, tmp_path / "run")
    for file in files_of(run / "checkpoints" / "2" / "state"):
        file.write_bytes(file.read_bytes()[:20])
    assert restore(run, mesh_of(8)) == 1
    assert "checkpoint of step 2 cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("old", "new"), [('"n": 2', '"n": 3'), ("digests", "digestz"), ("crc", "crd")]
)
def test_changed_meta_is_found(tmp_path, saved, old, new, caplog):
    run = shutil.copytree(saved, tmp_path / "run")
    file = run / "checkpoints" / "2" / "meta" / "metadata"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert restore(run, mesh_of(8)) == 1
    assert "checksum" in caplog.text


def test_checkpoints_of_earlier_versions_have_no_digests(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "seal", lambda meta, state: meta)
    save(tmp_path, mesh_of(8))
    assert "digests" not in (tmp_path / "checkpoints/2/meta/metadata").read_text()
    assert restore(tmp_path, mesh_of(8)) == 2
    assert latest_variables(tmp_path)[1] == 2


def test_variables_of_a_damaged_checkpoint_are_those_of_the_one_before(tmp_path, saved, caplog):
    run = shutil.copytree(saved, tmp_path / "run")
    variables, step = latest_variables(run)
    assert step == 2
    np.testing.assert_array_equal(variables["params"]["weight"], noise(2))
    damage(run / "checkpoints" / "2", 2)
    variables, step = latest_variables(run)
    assert step == 1
    assert "step 2 is damaged (other bits than were saved in params/weight)" in caplog.text
    assert checkpoint_steps(run) == [1, 2]  # the run may be under way: nothing is moved


def test_damaged_export_is_refused(tmp_path):
    variables = {"params": {"weight": noise(0)}, "stats": {}}
    export_model(tmp_path, variables, {"kind": "ctc"})
    loaded, config = load_exported(tmp_path)
    assert config == {"kind": "ctc"}
    np.testing.assert_array_equal(loaded["params"]["weight"], variables["params"]["weight"])
    damage(tmp_path / "params", 0)
    with pytest.raises(UserError, match="params/weight"):
        load_exported(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["digests"]  # nothing to compare with
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_exported(tmp_path)


def test_ctrl_c_is_no_damage(tmp_path, monkeypatch):
    """Orbax wraps what is raised while it reads, or quotes it."""

    def read(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ValueError("Failed to read arrays") from error

    def quotes(*_):
        raise RuntimeError("Python exception: KeyboardInterrupt()")

    def in_a_circle(*_):
        first, second = ValueError("first"), ValueError("second")
        first.__context__, second.__context__ = second, first
        raise first

    variables = {"params": {"w": jnp.ones(3)}, "stats": {}}
    manager = Checkpoints(tmp_path)
    for step in (1, 2):
        manager.save(step, variables, {})
    manager.check()
    export_model(tmp_path / "export", variables, {"kind": "ctc"})
    for reader in (read, quotes):
        monkeypatch.setattr(checkpoint, "_read_state", reader)
        monkeypatch.setattr(checkpoint, "_read_arrays", reader)
        for call in (
            lambda: manager.restore(variables),
            lambda: latest_variables(tmp_path),
            lambda: load_exported(tmp_path / "export"),
        ):
            with pytest.raises(KeyboardInterrupt):
                call()
    monkeypatch.setattr(checkpoint, "_read_arrays", in_a_circle)
    with pytest.raises(UserError, match="cannot be read: first"):
        load_exported(tmp_path / "export")
    manager.close()
    assert checkpoint_steps(tmp_path) == [1, 2]


# ---- which are kept


def kept(folder, steps, scores, known=None, **options) -> list[int]:
    """The checkpoints left after saving `steps`, each scored after its save as in the loop."""
    checkpoints = Checkpoints(folder, scores=known, **options)
    for step in steps:
        checkpoints.save(step, {"a": jnp.full(2, step)}, {})
        if step in scores:
            checkpoints.scored(step, scores[step])
    checkpoints.close()
    return checkpoint_steps(folder)


def test_newest_every_nth_and_best_are_kept(tmp_path):
    scores = {2: 0.5, 4: 0.1, 6: float("nan"), 8: 0.3, 10: 0.1}
    options = dict(keep_last=1, keep_every=3, keep_best=2)
    assert kept(tmp_path / "a", range(1, 8), scores, **options) == [2, 3, 4, 6, 7]
    # continued: the scores of before are passed in
    assert kept(tmp_path / "a", range(8, 12), scores, known=scores, **options) == [
        3, 4, 6, 9, 10, 11,
    ]  # fmt: skip
    # the newest stays though it is the worst
    assert kept(tmp_path / "b", [1, 2, 3], {1: 0.1, 2: 0.2, 3: 9.0}, keep_last=1, keep_best=1) == [
        1, 3,
    ]  # fmt: skip
    assert kept(tmp_path / "c", [1, 2, 3, 4], {}) == [3, 4]


def test_export_takes_the_average_and_the_step_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "check_model", lambda *_: None)  # these arrays are no model
    write_settings(str(tmp_path), {"kind": "ctc"}, {"kind": "ctc"})
    lines = [{"step": s, "valid/wer": wer} for s, wer in ((1, 9.0), (2, 3.0), (3, 5.0), (4, 1.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for step in (1, 2, 3):
        state = {"params": {"w": jnp.full(3, step)}, "stats": {}, "opt": jnp.ones(2)}
        if step == 3:
            state["average"] = {"w": jnp.full(3, 30)}
        elif step == 2:  # a teacher is no model
            state["teacher"] = {"w": jnp.full(3, 20)}
        manager = Checkpoints(tmp_path, keep_last=9)
        manager.save(step, state, {})
        manager.close()
    for asked, step, value in (("", 3, 30), ("best", 2, 2), ("1", 1, 1)):
        variables, config = checkpoint_of(str(tmp_path), asked)
        assert config["step"] == step
        np.testing.assert_array_equal(variables["params"]["w"], np.full(3, value))
        assert variables.keys() == {"params", "stats"}
    nothing = [{"step": s, "valid/wer": float("nan")} for s in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in nothing))
    with pytest.raises(UserError, match="has a finite valid/wer; set --step to one of"):
        checkpoint_of(str(tmp_path), "best")
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        checkpoint_of(str(tmp_path), "7")
    # what cannot be read is passed over here too
    for path in (tmp_path / "checkpoints" / "3" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert checkpoint_of(str(tmp_path))[1]["step"] == 2


# ---- other meshes, other numbers of processes


@pytest.mark.parametrize("devices", [8, 4, 1])
def test_restores_onto_other_meshes(saved, devices):
    assert restore(saved, mesh_of(devices)) == 2


PROCESS = """
import sys
import jax
rank, port, eight, two = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank, initialization_timeout=120)
from pathlib import Path
from jax.experimental import multihost_utils
from tests.training import test_checkpoint as t

mesh = t.mesh_of(8)
assert t.restore(eight, mesh) == 2
t.save(two, mesh, steps=(1, 2, 3))
for unreadable in (False, True):
    if rank == 0:
        # the last rows are those of process 1: process 0 can read all that is its own
        file = t.damage(Path(two, "checkpoints", "3"), 3)
        assert "ocdbt.process_1" in str(file), file
        if unreadable:
            file.unlink()
    multihost_utils.sync_global_devices("damaged")
    assert t.restore(two, mesh) == 2
    t.save(two, mesh, steps=(3,))
    assert t.restore(two, mesh) == 3
multihost_utils.sync_global_devices("done")
print("whole")
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_save_and_agree_on_the_step(tmp_path, saved):
    two = tmp_path / "two"
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(port), str(saved), str(two)],
            cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for output in outputs:
        assert "whole\n" in output, "\n".join(outputs)
    assert checkpoint_steps(two) == [2, 3]
    assert (two / "checkpoints" / "damaged-3").is_dir()
    for devices in (8, 4, 1):
        assert restore(two, mesh_of(devices)) == 3
