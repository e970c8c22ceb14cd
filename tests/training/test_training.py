"""The update: schedules, freezing, accumulation, meshes, skipped steps, one trace per shape."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from tests import small
from w2v_jax import finetune, pretrain
from w2v_jax.errors import UserError
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.heads.wav2vec2 import Wav2Vec2
from w2v_jax.objectives.masking import masked_frames, span_mask, utterance_keys
from w2v_jax.tasks.finetuning import finetuning_task
from w2v_jax.tasks.pretraining import make_loss, masked_prediction, pretraining_task
from w2v_jax.training.checkpoint import Checkpoints, export_model
from w2v_jax.training.initial import take_over
from w2v_jax.training.metrics import Window
from w2v_jax.training.optim import linear_schedule, make_optimizer, tri_stage_schedule
from w2v_jax.training.settings import check_unchanged, write_settings
from w2v_jax.training.sharding import make_mesh
from w2v_jax.training.state import build
from w2v_jax.training.writer import Writer, read_lines

AUDIO = jnp.zeros((1, 16000), jnp.int16)


def pretraining(mesh, *, dropout=False, config=None):
    config = config or small.pretraining(**({} if dropout else small.NO_DROPOUT))
    schedule = linear_schedule(1e-2, 2, 100)
    return build(dataclasses.replace(pretraining_task(config), schedule=schedule), mesh)


def finetuning(mesh, freeze_steps=0):
    config = small.finetuning()
    config.freeze_steps = freeze_steps
    schedule = linear_schedule(1e-2, 0, 100)
    return build(dataclasses.replace(finetuning_task(config, 32), schedule=schedule), mesh)


def one_device():
    return make_mesh({"data": 1}, jax.devices()[:1])


def test_linear_schedule():
    schedule = linear_schedule(1.0, 10, 110)
    found = [float(schedule(s)) for s in (0, 4, 10, 60, 110, 200)]
    np.testing.assert_allclose(found, [0.1, 0.5, 1, 0.5, 0, 0], rtol=1e-6)


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


def test_one_trace_per_batch_shape():
    state, step = pretraining(one_device(), dropout=True)
    for i, samples in enumerate([16000, 8000, 16000, 16000, 8000, 16000]):
        state, _ = step(state, small.noise_batch(2, samples, seed=i))
    assert step.__wrapped__._cache_size() == 2


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
    def check(**model):
        check_unchanged(tmp_path, {"model": model}, {"model": {"newer": 0, "unrelated": 1}})
        write_settings(tmp_path, {"model": model})

    check(width=8, conv=(1, 2))
    check(width=4)  # nothing was trained yet
    check(width=8, conv=[1, 2])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": jnp.ones(2)}, {})
    checkpoints.close()
    check(width=8, conv=(1, 2))
    with pytest.raises(UserError, match=r"model\.width: 8 -> 16"):
        check(width=16, conv=(1, 2))
    check(width=8, conv=(1, 2), newer=0)  # a key that the run did not know yet
    with pytest.raises(UserError, match=r"model\.newer: 0 -> 1"):
        check(width=8, conv=(1, 2), newer=1)


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
    encoder = EncoderConfig.from_dict(config.model)
    quantizer = QuantizerConfig.from_dict(config.quantizer)
    state, _ = pretraining(one_device())
    other = jax.tree.map(lambda x: x + 1, jax.device_get(state.params))
    described = {key: config[key].to_dict() for key in ("model", "quantizer")}
    export_model(tmp_path, {"params": other, "stats": {}}, {"kind": "pretrained", **described})
    found = pretrain.with_exported(state, str(tmp_path), encoder, quantizer)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found.params), other)
    deeper = dataclasses.replace(encoder, num_layers=3)
    with pytest.raises(UserError, match="num_layers: 2 there, 3 here"):
        pretrain.with_exported(state, str(tmp_path), deeper, quantizer)
    more = dataclasses.replace(quantizer, codes=9)
    with pytest.raises(UserError, match="quantizer in"):
        pretrain.with_exported(state, str(tmp_path), encoder, more)


def test_a_model_of_other_shape_starts_in_part(tmp_path, caplog):
    """Both missing sides are named; what fits is taken over only where that is asked for."""
    current = {"a": {"w": jnp.zeros(3)}, "b": jnp.zeros(2), "c": jnp.zeros(4)}
    given = {"a": {"w": np.ones(3, np.float32)}, "b": np.ones(5), "d": np.ones(1)}
    with pytest.raises(UserError) as raised:
        take_over(current, given, "FOLDER")
    words = str(raised.value)
    assert "the model has, FOLDER lacks 1 arrays:\n  c" in words
    assert "FOLDER has, the model lacks 1 arrays:\n  d" in words
    assert "b (5,) there, (2,) here" in words
    assert "--config.partial_init=True" in words
    taken = take_over(current, given, "FOLDER", partial=True)
    np.testing.assert_array_equal(taken["a"]["w"], np.ones(3))
    assert not taken["b"].any()
    assert not taken["c"].any()
    assert "FOLDER lacks 1 arrays" in caplog.text
    with pytest.raises(UserError, match="no array of FOLDER fits"):
        take_over({"x": jnp.zeros(1)}, given, "FOLDER", partial=True)


def test_top_blocks_can_start_anew(tmp_path):
    first, _ = finetuning(one_device())
    config = EncoderConfig.from_dict(small.finetuning().model)
    encoder = jax.device_get(first.params["encoder"])
    other = {"encoder": jax.tree.map(lambda x: x + 1, encoder)}
    described = {"kind": "pretrained", "model": config.to_dict()}
    export_model(tmp_path, {"params": other, "stats": {}}, described)
    state = finetune.with_encoder(first, str(tmp_path), config, keep_layers=1)
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
    model = Wav2Vec2(
        EncoderConfig.from_dict(config.model), QuantizerConfig.from_dict(config.quantizer)
    )
    batch = {key: x[0] for key, x in small.noise_batch(3, 16000).items()}
    batch["id"][2] = -1
    mask, index = jnp.zeros((1, 49), bool), jnp.zeros((1, 2), jnp.int32)
    init = lambda: model.init(jax.random.key(0), AUDIO, None, mask, index)  # noqa: E731
    params = nn.meta.unbox(jax.jit(init)())["params"]
    loss = jax.jit(make_loss(config))
    keys = (jax.random.key(1), jax.random.key(2))
    first, out = loss(params, {}, batch, 0, keys)
    silent = batch | {"audio": batch["audio"] * np.array([[1], [1], [0]], np.int16)}
    assert float(out.weight) > 10
    assert float(loss(params, {}, silent, 0, keys)[0]) == pytest.approx(float(first), rel=1e-6)
    moved = batch | {"audio": batch["audio"] * np.array([[1], [-1], [1]], np.int16)}
    assert float(loss(params, {}, moved, 0, keys)[0]) != pytest.approx(float(first), rel=1e-6)
    config.loss.negatives_from = "nowhere"
    with pytest.raises(UserError, match="negatives_from is 'nowhere'"):
        make_loss(config)


@pytest.mark.parametrize("place", ["masked", "everywhere"])
@pytest.mark.parametrize("cross", [0, 7])
def test_what_the_contrastive_task_asks(place, cross):
    """The positive is the frame itself, no negative is, and those of the own row are in it."""
    config = small.pretraining(**small.NO_DROPOUT)
    config.loss.update(negatives_from=place, cross_negatives=cross)
    encoder = EncoderConfig.from_dict(config.model)
    model = Wav2Vec2(encoder, QuantizerConfig.from_dict(config.quantizer))
    batch = {key: x[0] for key, x in small.noise_batch(3, 16000).items()}
    mask, index = jnp.zeros((1, 49), bool), jnp.zeros((1, 2), jnp.int32)
    init = lambda: model.init(jax.random.key(0), AUDIO, None, mask, index)  # noqa: E731
    variables = nn.meta.unbox(jax.jit(init)())
    forward = jax.jit(masked_prediction(config, train=False))
    keys = (jax.random.key(1), jax.random.key(2))
    out, task = jax.device_get(forward(variables, batch, 0, keys))
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
    mask_keys = utterance_keys(jax.random.fold_in(keys[0], 0), batch["id"])
    time_mask = span_mask(mask_keys, jnp.full(rows, 49), 49, **config.masking)
    index, valid = masked_frames(time_mask, size)
    np.testing.assert_array_equal(valid, task.valid)
    every = np.broadcast_to(np.arange(49), (rows, 49))
    apply = jax.jit(lambda mask, index: model.apply(variables, batch["audio"], None, mask, index))
    whole = apply(np.zeros((rows, 49), bool), every).targets
    found = np.take_along_axis(out.targets, task.own[:, :, None], 1)[task.valid]
    expected = np.take_along_axis(whole, index[:, :, None], 1)[task.valid]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_runs_of_earlier_versions_go_on():
    """They had one dropout for the whole of a conformer block, and none of it elsewhere."""
    for size in ("base", "large_lv60k", "xlsr_300m"):
        model = dict(common.model(size))
        earlier = EncoderConfig.from_dict(model).earlier_keys()
        assert earlier["conformer_dropout"] == model["conformer_dropout"]
    conformer = EncoderConfig(block="conformer", dropout=0.05)
    assert conformer.earlier_keys()["conformer_dropout"] == 0.05
