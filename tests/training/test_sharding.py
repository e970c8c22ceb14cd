"""Five updates end in the same loss and parameters however they are cut up and computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.promises.contract import mesh_of
from w2v_jax.errors import UserError
from w2v_jax.tasks.wav2vec2 import Wav2Vec2
from w2v_jax.training.sharding import local_parts, make_mesh, parameter_summary, parameter_table
from w2v_jax.training.state import abstract_state, jitted_step, on_mesh
from w2v_jax.training.task import Follower

RANDOM = dict(dropout=0.1, layerdrop=0.5)  # drawn alike on every device


def updates(config, *shape):
    """(contrastive bits of every update, last state) after five updates of 8 s of noise."""
    state, step = small.build(Wav2Vec2(config), mesh_of(*(shape or (1, 1, 1))))
    losses = []
    for i in range(5):
        state, metrics = step(state, small.noise_batch(8, 16000, seed=i))
        total, weight = jax.device_get(metrics["train/contrastive_bits"])
        losses.append(total / weight)
    return losses, state


def assert_same(found, expected):
    losses, state = found
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(expected[1].params),
        strict=True,
    ):  # fmt: skip
        name = jax.tree_util.keystr(path)
        if name.endswith("['key']['bias']"):  # the softmax cancels it: it moves by rounding errors
            assert np.abs(a).max() < 1e-4
            continue
        # five updates move a parameter by 4e-3, wherever its gradient is: Adam makes rounding
        # errors of small gradients larger
        atol = max(1e-5 * np.abs(b).max(), 1e-6)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def reference():
    return updates(small.pretraining(**RANDOM))


def test_parameters_move(reference):
    first, _ = small.build(Wav2Vec2(small.pretraining(**RANDOM)), mesh_of(1, 1, 1))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), reference[1].params, first.params)
    assert np.median(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_meshes(reference, shape):
    found = updates(small.pretraining(**RANDOM), *shape)
    assert_same(found, reference)
    state = found[1]
    find = lambda tree: tree["encoder"]["context"]["layers"]["block"]["feed_forward"]["inner"]  # noqa: E731
    kernel = find(state.params)["kernel"]
    assert find(state.opt[0][0].mu)["kernel"].sharding == kernel.sharding
    assert kernel.addressable_shards[0].data.size * shape[1] * shape[2] == kernel.size


@pytest.mark.parametrize(
    "model",
    [
        dict(layers="unroll"),
        dict(remat="full"),
        dict(remat="dots"),
        dict(layers="unroll", remat="full"),
    ],
)
def test_scan_and_remat(reference, model):
    assert_same(updates(small.pretraining(**RANDOM, **model)), reference)


def test_scan_and_remat_are_really_other_programs():
    def program(**model):
        config = small.pretraining(attention="whole", **model)  # no loop over heads
        task, mesh = Wav2Vec2(config), mesh_of(1, 1, 1)
        batch = small.noise_batch(2, 16000)
        return str(on_mesh(jitted_step(task, mesh).trace, mesh)(
            abstract_state(task, mesh), batch).jaxpr)  # fmt: skip

    plain = program()
    assert "remat" not in plain
    assert all("remat" in program(remat=name) for name in ("full", "dots"))
    assert program(remat="full") != program(remat="dots")
    assert "unroll=1" in plain
    assert "unroll=1" not in program(layers="unroll")
    # else the compiler merges what an unrolled layer computes again with what it has already
    assert "prevent_cse=True" in program(layers="unroll", remat="full")
    assert "prevent_cse=True" not in program(remat="full")


def test_average_of_the_weights():
    """The average follows the parameters, is sharded like them and survives a skipped update."""
    config = small.pretraining()
    config.ema_decay = 0.5
    state, step = small.build(Wav2Vec2(config), mesh_of(1, 2, 1))
    expected = jax.device_get(state.params)
    for i in range(3):
        state, _ = step(state, small.noise_batch(2, 16000, seed=i))
        decay = min(0.5, (1 + i) / (10 + i))
        move = lambda e, p: decay * e + (1 - decay) * p  # noqa: B023, E731
        expected = jax.tree.map(move, expected, jax.device_get(state.params))
    for average, new, twin in zip(
        *map(jax.tree.leaves, (state.followed, state.params, expected)), strict=True
    ):
        assert average.sharding == new.sharding
        np.testing.assert_allclose(average, twin, rtol=1e-5, atol=1e-7)
    jax.tree.map(np.testing.assert_array_equal, state.variables["params"], state.followed)
    before = jax.device_get(state.followed)
    head = state.params["project_context"]
    head = head | {"bias": head["bias"].at[0].set(np.nan)}
    spoiled = state.replace(params=state.params | {"project_context": head})
    after, _ = step(spoiled, small.noise_batch(2, 16000))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.followed), before)
    restarted = after.starting_from(jax.tree.map(jnp.ones_like, after.params), {})
    assert all((x == 1).all() for x in jax.tree.leaves(restarted.followed))


def test_parameter_table_says_what_stays_whole():
    config = small.pretraining(width=36, num_heads=3)
    task = Wav2Vec2(config)
    mesh = mesh_of(1, 1, 8)
    table = parameter_table(jax.eval_shape(task.init)["params"], mesh)
    lines = {line.split()[0]: line for line in table.splitlines()}
    query = lines["encoder/context/layers/block/attention/query/kernel"]
    assert "2 x 36 x 36" in query
    assert "2,592  replicated" in query
    assert "tensor 8 does not divide heads 36" in query
    inner = lines["encoder/context/layers/block/feed_forward/inner/kernel"]
    assert inner.endswith("tensor 8")
    total = sum(x.size for x in jax.tree.leaves(abstract_state(task, mesh).params))
    assert f"{total:,} parameters" in table.splitlines()[-1]
    summary = parameter_summary(jax.eval_shape(task.init)["params"], mesh).splitlines()
    assert len(summary) < len(lines) / 3
    *parts, totals, heads = summary
    assert sum(int(line.split()[1].replace(",", "")) for line in parts) == total
    assert "encoder/feature_encoder" in [line.split()[0] for line in parts]
    assert totals == table.splitlines()[-1]
    assert heads == f"whole in {table.count('divide heads')} arrays: " + (
        "tensor 8 does not divide heads 36"
    )


def test_parts_of_a_batch():
    assert local_parts(mesh_of(2, 2, 2)) == (0, 1, 2, 3)
    assert local_parts(mesh_of(1, 1, 8)) == (0,)


def test_mesh_errors_speak():
    with pytest.raises(UserError, match="8 devices"):
        make_mesh({"data": 3})
    with pytest.raises(UserError, match="only one"):
        make_mesh({"data": -1, "fsdp": -1})


class Teacher(Wav2Vec2):
    """A student that learns nothing new: its loss also weighs how far it is from its teacher."""

    def __init__(self, config):
        super().__init__(config)
        warming = lambda step: jnp.minimum(0.5 + 0.1 * step, 0.7)  # noqa: E731
        self.follower = Follower(warming, of="encoder/context", evaluates=False)

    def loss(self, variables, batch, context):
        total, out = super().loss(variables, batch, context)
        student = variables["params"]["encoder"]["context"]
        teacher = context.teacher["params"]["encoder"]["context"]
        far = sum(
            jnp.square(a - b).sum()
            for a, b in zip(jax.tree.leaves(student), jax.tree.leaves(teacher), strict=True)
        )
        metrics = out.metrics | {"train/far": (far, jnp.float32(1))}
        return total + 0.1 * far * out.weight, out.replace(metrics=metrics)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 1)])
def test_a_teacher_follows_by_a_schedule(shape):
    """A part of the parameters, by decays of 0.5, 0.6, 0.7, 0.7: equal to a slow twin; it is what
    the loss sees, has no gradient, is saved under a name of its own and is not evaluated."""
    state, step = small.build(Teacher(small.pretraining(**small.NO_DROPOUT)), mesh_of(*shape))
    part = lambda tree: tree["encoder"]["context"]  # noqa: E731
    assert state.followed.keys() == {"encoder"}
    assert state.followed["encoder"].keys() == {"context"}
    twin = jax.device_get(part(state.params))
    for i, decay in enumerate((0.5, 0.6, 0.7, 0.7)):
        before = jax.device_get(part(state.params))
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(twin), strict=True)
        distance = sum(np.square(a - b).sum() for a, b in pairs)
        state, metrics = step(state, small.noise_batch(4, 16000, seed=i))
        np.testing.assert_allclose(metrics["train/far"][0], distance, rtol=1e-4, atol=1e-10)
        after = jax.device_get(part(state.params))
        twin = jax.tree.map(lambda t, p: decay * t + (1 - decay) * p, twin, after)  # noqa: B023
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, part(state.followed), twin)
    assert state.variables["params"] is state.params
    assert state.variables["teacher"] is state.followed
    saved = state.saved()
    assert saved["teacher"] is state.followed
    again = state.replace(followed={}).restored(saved)
    jax.tree.map(np.testing.assert_array_equal, again, state)
