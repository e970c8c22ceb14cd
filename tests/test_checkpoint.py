"""Checkpoints: which are kept, what is found in them, and that a damaged one is never believed."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from w2v_jax.errors import UserError
from w2v_jax.export import checkpoint_of
from w2v_jax.training.checkpoint import Checkpoints, checkpoint_steps, export_model, load_exported
from w2v_jax.training.digest import differing, digests, seal, unseal
from w2v_jax.training.loop import abstract
from w2v_jax.training.sharding import make_mesh

KINDS = (np.float32, np.int32, np.int8, np.bool_, np.uint16, jnp.bfloat16)


def arrays():
    rng = np.random.default_rng(0)
    made = {np.dtype(kind).name: (rng.normal(size=(8, 6)) * 50).astype(kind) for kind in KINDS}
    return made | {"bool": rng.normal(size=(8, 6)) > 0}


def test_digests_do_not_depend_on_the_mesh():
    tree = arrays()
    expected = digests(tree)
    assert len(set(expected.values())) == len(KINDS)
    for shape in ((8, 1, 1), (2, 2, 2)):
        mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), shape, strict=True)))
        sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor"))
        assert digests(jax.tree.map(lambda x: jax.device_put(x, sharding), tree)) == expected  # noqa: B023


@pytest.mark.parametrize("kind", [np.dtype(kind).name for kind in KINDS])
def test_any_bit_and_any_order_changes_the_digest(kind):
    tree = arrays()
    known = digests(tree)
    for bit in range(8 * tree[kind].itemsize if kind != "bool" else 1):
        changed = tree[kind].copy()
        raw = changed.reshape(-1).view(np.uint8)
        raw[11 * changed.itemsize + bit // 8] ^= 1 << bit % 8
        assert differing(tree | {kind: changed}, known) == [kind]
    assert differing(tree | {kind: tree[kind][::-1].copy()}, known) == [kind]
    signs = tree["float32"].copy()
    signs[0, 0], signs[3, 2] = -signs[0, 0], -signs[3, 2]
    assert differing(tree | {"float32": signs}, known) == ["float32"]


def save(folder, steps, state=None, **policy) -> Checkpoints:
    checkpoints = Checkpoints(folder, **policy)
    for step in steps:
        checkpoints.save(step, (state or {"w": jnp.arange(40.0)}) | {"step": jnp.int32(step)},
                         {"n": step})  # fmt: skip
    return checkpoints


def test_what_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=4, keep_best=1, scores={2: 0.5})
    for step in range(1, 11):
        checkpoints.save(step, {"w": jnp.ones(3)}, {})
        checkpoints.scored(step, abs(step - 3) + (0.1 if step != 2 else 5))
    checkpoints.close()
    # the best, every fourth, the newest two
    assert checkpoint_steps(tmp_path) == [3, 4, 8, 9, 10]
    with pytest.raises(UserError, match="keep_last=0"):
        Checkpoints(tmp_path, keep_last=0)


def test_what_changes_after_the_call_is_not_saved():
    """The writing goes on while the loop adds to its sums: slow storage wrote later ones."""
    meta = {"window": {"loss": [3.0, 1]}}
    sealed = seal(meta, {"w": jnp.arange(40.0)})
    meta["window"]["loss"][0] += 1
    assert unseal(sealed)[0] == {"window": {"loss": [3.0, 1]}}


def damages(path: Path):
    """(what was done, new content) in every way that is tried."""
    content = path.read_bytes()
    yield "cut in half", content[: len(content) // 2]
    yield "emptied", b""
    yield "removed", None
    for place in {len(content) // 2, len(content) // 3, len(content) - 1}:
        flipped = bytearray(content)
        flipped[place] ^= 4
        yield f"bit flipped at {place}", bytes(flipped)


def test_no_damaged_file_is_believed(tmp_path):
    """Every file of the newest checkpoint, damaged in every way: either the older checkpoint is
    taken, or the state is right to the bit."""
    rng = np.random.default_rng(0)
    state = {"w": jnp.asarray(rng.normal(size=(300, 7)), jnp.float32), "b": jnp.ones(5)}
    save(tmp_path / "whole", (1, 2), state).close()
    newest = tmp_path / "whole" / "checkpoints" / "2"
    files = [path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()]
    target = abstract(state | {"step": jnp.int32(0)})
    passed_over = harmless = 0
    for file in files:
        for what, content in damages(newest / file):
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            shutil.copytree(tmp_path / "whole", tmp_path / "run")
            path = tmp_path / "run" / "checkpoints" / "2" / file
            path.unlink() if content is None else path.write_bytes(content)
            checkpoints = Checkpoints(tmp_path / "run")
            restored, meta = checkpoints.restore(target)
            checkpoints.close()
            step = int(restored["step"])
            assert meta == {"n": step}, (file, what)
            np.testing.assert_array_equal(restored["w"], state["w"], f"{file} {what}")
            np.testing.assert_array_equal(restored["b"], state["b"], f"{file} {what}")
            passed_over += step == 1
            harmless += step == 2
            aside = tmp_path / "run" / "checkpoints" / "damaged-2"
            assert aside.exists() == (step == 1), (file, what)
    assert passed_over > len(files)
    assert harmless


def test_damaged_exports_are_refused(tmp_path):
    export_model(tmp_path, {"params": {"w": np.ones(3, np.float32)}, "stats": {}}, {"kind": "ctc"})
    load_exported(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["digests"]["params/w"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"is damaged .*params/w"):
        load_exported(tmp_path)


def test_export_takes_the_average_and_the_step_that_is_asked_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"kind": "ctc"}))
    lines = [{"step": s, "valid/wer": wer} for s, wer in ((1, 9.0), (2, 3.0), (3, 5.0), (4, 1.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for step in (1, 2, 3):
        state = {"params": {"w": jnp.full(3, step)}, "stats": {}, "opt": jnp.ones(2)}
        if step == 3:
            state["ema"] = {"w": jnp.full(3, 30)}
        save(tmp_path, [step], state, keep_last=9).close()
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


def test_checkpoints_of_earlier_versions_are_read(tmp_path):
    """They have no digests."""
    import orbax.checkpoint as ocp

    state = {"w": jnp.arange(4.0)}
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(3, args=ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave({"n": 3})))  # fmt: skip
    checkpoints = Checkpoints(tmp_path)
    restored, meta = checkpoints.restore(abstract(state))
    checkpoints.close()
    assert meta == {"n": 3}
    np.testing.assert_array_equal(restored["w"], state["w"])
