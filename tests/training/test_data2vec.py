"""data2vec: its targets and its teacher against slow twins, and what does not fit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.promises.contract import mesh_of
from w2v_jax.configs import data2vec as configs
from w2v_jax.errors import UserError
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.heads.data2vec import Data2VecModel
from w2v_jax.models.transformer import TransformerBlock
from w2v_jax.objectives.masking import span_mask, utterance_keys
from w2v_jax.objectives.regression import (
    averaged_layers,
    dimensions,
    products,
    regression,
    spread,
    variance,
)
from w2v_jax.tasks import make_task
from w2v_jax.training.checkpoint import Checkpoints
from w2v_jax.training.state import abstract_state, first_state
from w2v_jax.training.task import Context


def changed(tree, change):
    """Random changes of all leaves, so that a teacher is no copy of its student."""
    keys = iter(jax.random.split(jax.random.key(3), len(jax.tree.leaves(tree))))
    return jax.tree.map(lambda x: x + change * jax.random.normal(next(keys), x.shape), tree)


@pytest.fixture(scope="module")
def still():
    """(task without dropout, its variables, parameters of a teacher, a batch [B, ...])."""
    task = make_task(small.data2vec(**small.NO_DROPOUT))
    variables = jax.jit(lambda: nn.meta.unbox(task.init()))()
    layers = variables["params"]["encoder"]["context"]["layers"]
    teacher = {"encoder": {"context": {"layers": changed(layers, 0.05)}}}
    batch = {name: x[0] for name, x in small.noise_batch(3, 16_000).items()}
    return task, variables, teacher, batch


def normalized(x):
    """Every channel of every row over time, one after the other."""
    y = np.zeros(x.shape, np.float64)
    for b in range(x.shape[0]):
        for d in range(x.shape[2]):
            row = np.asarray(x[b, :, d], np.float64)
            y[b, :, d] = (row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).mean() + 1e-5)
    return y


def test_targets_are_those_of_a_loop(still):
    """Block by block with the teacher's parameters, from features without mask; what each
    feed-forward gave before the residual."""
    task, variables, teacher, batch = still
    cfg, params = task.encoder, variables["params"]["encoder"]
    hear = jax.jit(
        lambda p, x: Encoder(cfg).apply({"params": p}, x, taps=("projected", "hidden_0"))
    )
    out = hear(params, batch["audio"])
    x, blocks = out.taps["hidden_0"], teacher["encoder"]["context"]["layers"]["block"]
    step = jax.jit(lambda p, x: TransformerBlock(cfg, False).apply({"params": p}, x, None))
    found = []
    for i in range(cfg.num_layers):
        x, feed_forward = step(jax.tree.map(lambda leaf: leaf[i], blocks), x)  # noqa: B023
        found.append(normalized(feed_forward))
    for layers in (1, 2):
        task.config.teacher.layers = layers
        targets = jax.jit(lambda *x: task.targets(*x))(variables, teacher, out.taps["projected"])
        expected = np.mean(found[-layers:], 0)
        np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_a_loop(still):
    """Summed over channels, over the root of their number, of masked frames of rows that there
    are; targets do not depend on the mask."""
    task, variables, teacher, batch = still
    batch = batch | {"id": np.array([4, -1, 9], np.int32)}
    key = jax.random.key(5)
    context = Context(jnp.int32(0), key, key, {"params": teacher})
    total, out = jax.jit(task.loss)(variables, batch, context)
    frames = task.encoder.frontend.frames(16_000)
    masking = task.config.masking.to_dict()
    mask = span_mask(utterance_keys(key, batch["id"]), jnp.full(3, frames), frames, **masking)
    hear = jax.jit(lambda v, m: Data2VecModel(task.encoder).apply(v, batch["audio"], None, m))
    model, bare = hear(variables, mask), hear(variables, jnp.zeros_like(mask))
    np.testing.assert_array_equal(model.projected, bare.projected)
    targets = np.asarray(jax.jit(task.targets)(variables, teacher, bare.projected))
    asked = [(b, t) for b in (0, 2) for t in range(frames) if mask[b, t]]
    width = task.encoder.width
    expected = sum(
        sum((float(model.prediction[b, t, d]) - float(targets[b, t, d])) ** 2 for d in range(width))
        for b, t in asked
    ) / np.sqrt(width)  # fmt: skip
    assert float(out.weight) == len(asked)
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    rows = np.array([targets[b, t] for b, t in asked])
    value, weight = out.metrics["train/target_std"]
    np.testing.assert_allclose(value / weight, rows.std(0).mean(), rtol=1e-3)
    error, of = out.metrics["train/relative_error"]
    np.testing.assert_allclose(error / of, expected * np.sqrt(width) / (
        len(asked) * rows.var(0).sum()), rtol=1e-3)  # fmt: skip


def test_no_gradient_reaches_the_targets(still):
    task, variables, teacher, _ = still
    frames = task.encoder.frontend.frames(16_000)
    projected = jax.random.normal(jax.random.key(0), (2, frames, task.encoder.width))

    def total(variables, teacher, projected):
        return task.targets(variables, teacher, projected).sum()

    for x in jax.tree.leaves(jax.jit(jax.grad(total, (0, 1, 2)))(variables, teacher, projected)):
        assert not np.any(x)


def test_the_front_end_is_heard_once(still):
    """A compiled update has the convolutions of one front end: as many as without a teacher."""
    task, variables, teacher, batch = still
    key = jax.random.key(0)
    context = Context(jnp.int32(0), key, key, {"params": teacher})
    with_teacher = jax.jit(task.loss).lower(variables, batch, context).as_text()
    alone = jax.jit(lambda v, b: task.forward(v, b, context, train=True)).lower(variables, batch)
    count = lambda text: text.count("stablehlo.convolution")  # noqa: E731
    assert count(with_teacher) == count(alone.as_text()) == len(task.encoder.frontend.conv_layers)


def test_the_teacher_is_that_of_a_loop():
    """Of 100 updates with a rising decay, the last of them constant, and only of the blocks."""
    config = small.data2vec(**small.NO_DROPOUT)
    config.num_steps = 110
    config.teacher.update(start=0.5, end=0.9, steps=50)
    task = make_task(config)
    state, step = small.build(task, mesh_of(1, 1, 1))
    blocks = lambda tree: tree["encoder"]["context"]["layers"]  # noqa: E731
    twin = jax.tree.map(lambda x: x.astype(np.float64), jax.device_get(blocks(state.params)))
    batch = small.noise_batch(2, 8_000)
    for i in range(100):
        state, metrics = step(state, batch | {"id": batch["id"] + i})
        decay = 0.5 + 0.4 * min((i + 1) / 50, 1)
        value, weight = metrics["train/teacher_decay"]
        assert float(value / weight) == pytest.approx(decay)
        student = jax.device_get(blocks(state.params))
        twin = jax.tree.map(lambda t, p: decay * t + (1 - decay) * p, twin, student)  # noqa: B023
    assert state.followed["encoder"].keys() == {"context"}
    assert state.followed["encoder"]["context"].keys() == {"layers"}
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, jax.device_get(blocks(state.followed)), twin)
    far = jax.tree.map(lambda a, b: np.abs(a - b).max(), twin, student)
    assert max(jax.tree.leaves(far)) > 1e-3


def test_a_teacher_continues_on_another_mesh(tmp_path):
    """Saved by one device, restored by eight: the same bits, cut as the student's. (That an update
    is the same there: the contract.)"""
    task = make_task(small.data2vec(**small.NO_DROPOUT))
    state = first_state(task, mesh_of(1, 1, 1))
    state = state.replace(followed=changed(state.followed, 0.1))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state.saved(), {})
    checkpoints.close()
    abstract = abstract_state(task, mesh_of(2, 2, 2))
    checkpoints = Checkpoints(tmp_path)
    saved, _ = checkpoints.restore(abstract.saved())
    checkpoints.close()
    again = abstract.restored(saved)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(state))
    blocks = lambda tree: tree["encoder"]["context"]["layers"]  # noqa: E731
    where = lambda tree: jax.tree.map(lambda x: x.sharding, blocks(tree))  # noqa: E731
    assert where(again.followed) == where(again.params)
    assert any(len(x.device_set) == 8 and not x.is_fully_replicated for x in
               jax.tree.leaves(where(again.followed)))  # fmt: skip


def test_a_row_of_one_frame_repeated_has_no_targets():
    """Nothing varies: zeros and not numbers that rounding made."""
    x = jnp.full((1, 5, 3), 7.0)
    np.testing.assert_array_equal(averaged_layers([x]), np.zeros((1, 5, 3)))


def test_spreads_are_those_of_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 6, 5)).astype(np.float32)
    counted = rng.random((4, 6)) < 0.5
    found = regression(a, 2 * b + 3, counted)
    np.testing.assert_allclose(
        spread(found.target, found.count), (2 * b[counted]).std(0).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(
        variance(found.prediction, found.count), a[counted].var(0), rtol=1e-4
    )
    values = np.linalg.eigvalsh(np.cov((2 * b + 3)[counted].T, ddof=0))
    theirs = dimensions(products(2 * b + 3, counted), found.target, found.count)
    np.testing.assert_allclose(theirs, values.sum() ** 2 / (values**2).sum(), rtol=1e-3)
    nothing = regression(a, b, np.zeros((4, 6), bool))
    assert float(nothing.loss) == 0
    assert np.isfinite(spread(nothing.target, nothing.count))


def test_a_collapse_is_told(still):
    """Blocks that give the same in all frames: the targets are 0, and the alarm rings."""
    task, variables, teacher, batch = still
    deaf = jax.tree.map(jnp.zeros_like, teacher)
    key = jax.random.key(0)
    context = Context(jnp.int32(0), key, key, {"params": deaf})
    _, out = jax.jit(task.loss)(variables, batch, context)
    scalars = {name: float(total / weight) for name, (total, weight) in out.metrics.items()
               if weight}  # fmt: skip
    assert scalars["train/target_std"] < 0.01
    collapse = next(alarm for alarm in task.alarms if alarm.name == "collapse")
    assert collapse.condition(1000, scalars)
    fine = {"train/target_std": 0.5, "train/prediction_std": 0.4, "train/relative_error": 0.6}
    small.check_alarms(
        task, fine,
        {"collapse": ("train/prediction_std", 0.005), "chance": ("train/relative_error", 0.99)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ema_decay", 0.99, "--config.ema_decay=0, and --config.teacher.end"),
        ("teacher.layers", 3, "--config.teacher.layers=2 or less"),
        ("teacher.start", 0.95, "teacher.start=0.95 is above --config.teacher.end=0.9"),
    ],
)
def test_what_does_not_fit_is_told(key, value, words):
    config = small.data2vec()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=words):
        make_task(config)


def test_sizes():
    for size in ("tiny", "quickstart", "base", "large"):
        task = make_task(configs.get_config(size))
        assert task.follower.evaluates is False
        found = task.forward_flops(160_000)
        blocks = ("attention projections", "attention", "feed-forward", "positions")
        assert found["teacher"] == sum(found[part] for part in blocks)
        forward = sum(found.values())
        assert 2 * forward < task.training_flops(160_000) < 3 * forward
    assert float(make_task(configs.get_config("base")).follower.decay(29_999)) == pytest.approx(
        0.9999
    )
    with pytest.raises(UserError, match="unknown; choose tiny"):
        configs.get_config("huge")
