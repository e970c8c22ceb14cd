"""The update: schedules, freezing, accumulation, meshes, skipped steps, one trace per shape."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import small
from w2v_jax.errors import UserError
from w2v_jax.models.heads.wav2vec2 import Wav2Vec2Model
from w2v_jax.objectives.masking import masked_frames, span_mask, utterance_keys
from w2v_jax.tasks.ctc import CTC
from w2v_jax.tasks.wav2vec2 import Wav2Vec2
from w2v_jax.training.checkpoint import Checkpoints, export_model
from w2v_jax.training.initial import take_over
from w2v_jax.training.metrics import Window
from w2v_jax.training.optim import (
    inverse_sqrt_schedule,
    linear_schedule,
    make_optimizer,
    tri_stage_schedule,
)
from w2v_jax.training.settings import check_unchanged, write_settings
from w2v_jax.training.sharding import make_mesh
from w2v_jax.training.state import abstract_state
from w2v_jax.training.task import Context
from w2v_jax.training.writer import Writer, read_lines


def pretraining(mesh, *, dropout=False, config=None):
    task = Wav2Vec2(config or small.pretraining(**({} if dropout else small.NO_DROPOUT)))
    task.schedule = linear_schedule(1e-2, 2, 100)
    return small.build(task, mesh)


def finetuning(mesh, freeze_steps=0):
    config = small.finetuning()
    config.freeze_steps = freeze_steps
    task = CTC(config)
    task.schedule = linear_schedule(1e-2, 0, 100)
    return small.build(task, mesh)


def one_device():
    return make_mesh({"data": 1}, jax.devices()[:1])


def test_linear_schedule():
    schedule = linear_schedule(1.0, 10, 110)
    found = [float(schedule(s)) for s in (0, 4, 10, 60, 110, 200)]
    np.testing.assert_allclose(found, [0.1, 0.5, 1, 0.5, 0, 0], rtol=1e-6)


def test_inverse_sqrt_schedule():
    """arXiv 1706.03762 section 5.3: k * d^-0.5 * min(n^-0.5, n * warmup^-1.5) for update n."""
    width, warmup, k = 144, 10_000, 5.0
    schedule = inverse_sqrt_schedule(k / (width * warmup) ** 0.5, warmup)
    for n in (1, 500, 10_000, 40_000, 1_000_000):
        expected = k * width**-0.5 * min(n**-0.5, n * warmup**-1.5)
        assert float(schedule(jnp.int32(n - 1))) == pytest.approx(expected, rel=1e-5)
    assert float(schedule(9_999)) == pytest.approx(0.05 / width**0.5)


def test_tri_stage_schedule():
    schedule = tri_stage_schedule(1.0, 100)
    found = [float(schedule(s)) for s in (0, 5, 10, 49, 75, 100)]
    np.testing.assert_allclose(found, [0.01, 0.505, 1, 1, 0.05**0.5, 0.05], rtol=1e-5)


def test_adam_is_the_published_one():
    """Decoupled weight decay on every parameter: p <- p - lr (adam + decay p)."""
    config = small.pretraining().optim
    config.update(weight_decay=0.1)
    optimizer = make_optimizer(config)
    params, grads = {"w": jnp.array([2.0, -1.0])}, {"w": jnp.array([0.5, 4.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    expected = optax.adamw(1.0, config.b1, config.b2, config.eps, weight_decay=0.1)
    twin, _ = expected.update(grads, expected.init(params), params)
    np.testing.assert_allclose(updates["w"], -twin["w"], rtol=1e-6)


def test_adafactor_against_a_loop():
    """arXiv 1804.04235 by hand: algorithm 4 with the learning rate from outside, decay as in
    section 7.1, and the mean of updates. One array is factored, one is too narrow, one a vector."""
    config = small.pretraining().optim
    config.update(kind="adafactor", weight_decay=0.01, eps=1e-30, b1=0.9, b2=0.98)
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    shapes = {"stack": (3, 128, 160), "narrow": (160, 40), "bias": (5,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    given = jax.tree.map(lambda x: x.astype(np.float32), params)
    state = optimizer.init(given)
    update = jax.jit(optimizer.update)
    rows, columns, whole = np.zeros((3, 128)), np.zeros((3, 160)), {}
    means = {name: np.zeros(shape) for name, shape in shapes.items()}
    for t in range(1, 5):
        grads = {name: rng.normal(size=shape) * t for name, shape in shapes.items()}
        found, state = update(jax.tree.map(lambda x: x.astype(np.float32), grads), state, given)
        decay = 0.98 * (1 - 0.98 ** (t - 1)) / (1 - 0.98**t)
        for name, g in grads.items():
            if name == "stack":
                rows = decay * rows + (1 - decay) * (g**2).mean(2)
                columns = decay * columns + (1 - decay) * (g**2).mean(1)
                v = rows[:, :, None] * columns[:, None, :] / rows.mean(1)[:, None, None]
            else:
                v = whole[name] = decay * whole.get(name, 0) + (1 - decay) * g**2
            u = g / np.sqrt(v)
            u /= max(1, np.sqrt((u**2).mean()))
            means[name] = 0.9 * means[name] + 0.1 * u
            expected = means[name] + 0.01 * params[name]
            np.testing.assert_allclose(found[name], expected, rtol=2e-4, atol=2e-5, err_msg=name)
    sizes = [x.size for x in jax.tree.leaves(state) if x.ndim]
    mean_of_updates = sum(x.size for x in params.values())
    # rows, columns and two squares, and a zero for what an array does not have
    assert sum(sizes) == mean_of_updates + 3 * (128 + 160) + 160 * 40 + 5 + 5


def test_adafactor_on_a_mesh_from_a_checkpoint_and_frozen(tmp_path):
    """A state cut into parts, of which the factored means stay whole, is saved and comes back."""
    config = small.finetuning(width=128, feed_forward=256)
    config.optim.update(kind="adafactor", eps=1e-30)
    config.freeze_steps = 1
    results = []
    for shape in ({"data": 1}, {"data": 2, "fsdp": 4}):
        count = int(np.prod(list(shape.values())))
        mesh = make_mesh(shape, jax.devices()[:count])
        state, step = small.build(CTC(config), mesh)
        before = jax.device_get(state.params)
        for i in range(2):
            state, metrics = step(state, small.labelled_batch(8, 16000, seed=i))
            moved = jax.tree.map(lambda a, b: np.any(a != b), before, jax.device_get(state.params))
            assert any(jax.tree.leaves(moved["encoder"])) == (i == 1)
        results.append(jax.device_get((state, metrics)))
    rows = [x for x in jax.tree.leaves(state.opt) if x.shape == (2, 128)]
    assert rows
    loss = [metrics["train/ctc_loss"] for _, metrics in results]
    np.testing.assert_allclose(loss[0], loss[1], rtol=1e-4)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state.saved(), {})
    checkpoints.close()
    mesh = make_mesh({"data": 1, "fsdp": 2}, jax.devices()[:2])
    found, _ = Checkpoints(tmp_path).restore(abstract_state(CTC(config), mesh).saved())
    for (path, a), b in zip(
        jax.tree.leaves_with_path(found["opt"]), jax.tree.leaves(state.opt), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def test_non_finite_gradients_are_skipped():
    state, step = pretraining(one_device())
    spoiled = jax.tree.map(lambda x: x, state.params)
    spoiled["project_context"]["bias"] = spoiled["project_context"]["bias"].at[0].set(np.nan)
    state = state.replace(params=spoiled)
    before = jax.device_get(state)
    state, metrics = step(state, small.noise_batch(2, 16000))
    assert float(metrics["train/skipped"][0]) == 1
    assert int(state.step) == 1
    window = Window()
    window.add(jax.device_get(metrics))
    assert all(np.isfinite(value) for value in window.means().values())
    for a, b in zip(jax.tree.leaves(state.opt), jax.tree.leaves(before.opt), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_encoder_moves_later():
    state, step = finetuning(one_device(), freeze_steps=2)
    moved = []
    for i in range(3):
        before = jax.device_get(state.params)
        state, _ = step(state, small.labelled_batch(2, 16000, seed=i))
        changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, state.params)
        moved.append({key: any(jax.tree.leaves(tree)) for key, tree in changed.items()})
    assert [m["encoder"] for m in moved] == [False, False, True]
    assert all(m["head"] for m in moved)
    encoder = jax.device_get(state.params["encoder"])
    first, _ = finetuning(one_device())
    for a, b in zip(
        jax.tree.leaves(encoder["feature_encoder"]),
        jax.tree.leaves(first.params["encoder"]["feature_encoder"]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b, "feature_grad_mult=0 freezes the feature encoder")


def test_changed_settings_are_named(tmp_path):
    def check(letters="ab", **model):
        described = {"alphabet": letters, "execution": {"dtype": model.get("width")}}
        check_unchanged(tmp_path, {"model": model}, described)
        write_settings(tmp_path, {"model": model}, described)

    check(width=8, conv=(1, 2))
    check(width=4)  # nothing was trained yet
    check(width=8, conv=[1, 2])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": jnp.ones(2)}, {})
    checkpoints.close()
    check(width=8, conv=(1, 2))
    (tmp_path / "config.json").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no config\.json .*; put it back, or use another"):
        check(width=8, conv=(1, 2))
    (tmp_path / "gone").rename(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"model\.width: 8 -> 16"):
        check(width=16, conv=(1, 2))
    with pytest.raises(UserError, match=r"alphabet: 'ab' -> 'abc'"):
        check(width=8, conv=(1, 2), letters="abc")


def test_writer_forgets_what_was_after_the_checkpoint(tmp_path):
    writer = Writer(tmp_path, 0)
    for step in (2, 4, 6):
        writer.write(step, {"a": step / 3})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "a"')
    writer = Writer(tmp_path, 4)
    writer.write(5, {"valid/b": 1.0})
    writer.close()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [2, 4, 5]
    assert list((tmp_path / "tensorboard").iterdir())


def test_window_survives_json():
    window = Window()
    window.add({"a": (np.float32(1.1), np.float32(3)), "b": (np.float32(0), np.float32(0))})
    again = Window(json.loads(json.dumps(window.content)))
    assert again.content == window.content
    assert again.means() == {"a": float(np.float32(1.1)) / 3}


def test_pretraining_goes_on_from_an_exported_model(tmp_path):
    config = small.pretraining()
    config.run.init_from = str(tmp_path)
    state, _ = pretraining(one_device())
    other = jax.tree.map(lambda x: x + 1, jax.device_get(state.params))
    export_model(tmp_path, {"params": other, "stats": {}}, Wav2Vec2(config).described())
    found = Wav2Vec2(config).begin(state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found.params), other)
    config.model.num_layers = 3
    with pytest.raises(UserError, match="num_layers: 2 there, 3 here"):
        Wav2Vec2(config).begin(state)
    config.model.num_layers, config.quantizer.codes = 2, 9
    with pytest.raises(UserError, match=r"codes: 8 there, 9 here.*config\.quantizer\.codes=8,"):
        Wav2Vec2(config).begin(state)


def test_a_model_of_other_shape_starts_in_part(caplog):
    """Both missing sides are named; what fits is taken over only where that is asked for."""
    current = {"a": {"w": jnp.zeros(3)}, "b": jnp.zeros(2), "c": jnp.zeros(4)}
    given = {"a": {"w": np.ones(3, np.float32)}, "b": np.ones(5), "d": np.ones(1)}
    with pytest.raises(UserError) as raised:
        take_over(current, given, "FOLDER")
    words = str(raised.value)
    assert "the model has, FOLDER lacks 1 arrays:\n  c" in words
    assert "FOLDER has, the model lacks 1 arrays:\n  d" in words
    assert "b (5,) there, (2,) here" in words
    assert "--config.run.partial_init=True" in words
    taken = take_over(current, given, "FOLDER", partial=True)
    np.testing.assert_array_equal(taken["a"]["w"], np.ones(3))
    assert not taken["b"].any()
    assert not taken["c"].any()
    assert "FOLDER lacks 1 arrays" in caplog.text
    with pytest.raises(UserError, match="no array of FOLDER fits"):
        take_over({"x": jnp.zeros(1)}, given, "FOLDER", partial=True)


def test_top_blocks_can_start_anew(tmp_path):
    first, _ = finetuning(one_device())
    config = small.finetuning()
    config.reinit_layers, config.run.init_from = 1, str(tmp_path)
    encoder = jax.device_get(first.params["encoder"])
    other = {"encoder": jax.tree.map(lambda x: x + 1, encoder), "head": first.params["head"]}
    export_model(tmp_path, {"params": other, "stats": {}}, CTC(config).described())
    state = CTC(config).begin(first)
    block = state.params["encoder"]["context"]["layers"]
    for name, value in jax.tree_util.tree_leaves_with_path(block):
        old = encoder["context"]["layers"]
        for key in name:
            old = old[key.key]
        np.testing.assert_array_equal(value[0], old[0] + 1)
        np.testing.assert_array_equal(value[1:], old[1:])
    np.testing.assert_array_equal(
        state.params["encoder"]["mask_embedding"], encoder["mask_embedding"] + 1
    )


@pytest.mark.parametrize("place", ["masked", "everywhere"])
def test_rows_that_fill_up_are_no_candidates(place):
    """Neither as negatives from the whole batch nor in the codes that the diversity loss counts."""
    config = small.pretraining(**small.NO_DROPOUT)
    config.loss.update(negatives_from=place, cross_negatives=5, penalty_weight=0.0)
    task = Wav2Vec2(config)
    batch = {key: x[0] for key, x in small.noise_batch(3, 16000).items()}
    batch["id"][2] = -1
    variables = nn.meta.unbox(jax.jit(task.init)())
    loss = jax.jit(task.loss)
    context = Context(0, jax.random.key(1), jax.random.key(2))
    first, out = loss(variables, batch, context)
    silent = batch | {"audio": batch["audio"] * np.array([[1], [1], [0]], np.int16)}
    assert float(out.weight) > 10
    assert float(loss(variables, silent, context)[0]) == pytest.approx(float(first), rel=1e-6)
    moved = batch | {"audio": batch["audio"] * np.array([[1], [-1], [1]], np.int16)}
    assert float(loss(variables, moved, context)[0]) != pytest.approx(float(first), rel=1e-6)


@pytest.mark.parametrize("place", ["masked", "everywhere"])
@pytest.mark.parametrize("cross", [0, 7])
def test_what_the_contrastive_task_asks(place, cross):
    """The positive is the frame itself, no negative is, and those of the own row are in it."""
    config = small.pretraining(**small.NO_DROPOUT)
    config.loss.update(negatives_from=place, cross_negatives=cross)
    kind = Wav2Vec2(config)
    model = Wav2Vec2Model(kind.encoder, kind.quantizer)
    batch = {key: x[0] for key, x in small.noise_batch(3, 16000).items()}
    variables = nn.meta.unbox(jax.jit(kind.init)())
    forward = jax.jit(functools.partial(kind.forward, train=False))
    context = Context(0, jax.random.key(1), jax.random.key(2))
    out, task = jax.device_get(forward(variables, batch, context))
    rows, size, count = task.negatives.shape
    frames = task.usable.shape[1]
    assert count == config.loss.negatives + cross
    assert frames == (49 if place == "everywhere" else size)
    offset = frames * np.arange(rows)[:, None, None] * bool(cross)
    own = task.own[:, :, None] + offset
    valid = task.valid[:, :, None]
    assert not ((task.negatives == own) & valid).any()
    inside = task.negatives[:, :, : config.loss.negatives] - offset
    usable = np.take_along_axis(task.usable[:, None, :], inside.clip(0, frames - 1), 2)
    assert (((inside >= 0) & (inside < frames) & usable) | ~valid).all()
    if cross:
        others = task.negatives[:, :, config.loss.negatives :]
        assert (others // frames != np.arange(rows)[:, None, None])[task.valid].any()
        # numbers of their own: the same ones would order both draws alike
        draws = [x.reshape(rows, -1)[:, : size * cross] for x in (others, inside)]
        assert abs(np.corrcoef(draws[0][0], draws[1][0])[0, 1]) < 0.5
    # the positive of a masked frame is the target made of that frame
    mask_keys = utterance_keys(jax.random.fold_in(context.key, 0), batch["id"])
    time_mask = span_mask(mask_keys, jnp.full(rows, 49), 49, **config.masking)
    index, valid = masked_frames(time_mask, size)
    np.testing.assert_array_equal(valid, task.valid)
    every = np.broadcast_to(np.arange(49), (rows, 49))
    apply = jax.jit(lambda mask, index: model.apply(variables, batch["audio"], None, mask, index))
    whole = apply(np.zeros((rows, 49), bool), every).targets
    found = np.take_along_axis(out.targets, task.own[:, :, None], 1)[task.valid]
    expected = np.take_along_axis(whole, index[:, :, None], 1)[task.valid]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
