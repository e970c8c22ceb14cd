"""Five updates end in the same loss and parameters however they are cut up and computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from w2v_jax.errors import UserError
from w2v_jax.tasks.finetuning import finetuning_task
from w2v_jax.tasks.pretraining import pretraining_task
from w2v_jax.training.sharding import AXES, local_parts, make_mesh, parameter_table
from w2v_jax.training.state import abstract_state, build, jitted_step, on_mesh

RANDOM = dict(dropout=0.1, layerdrop=0.5)  # drawn alike on every device


def mesh_of(shape):
    sizes = dict(zip(AXES, shape, strict=True))
    return make_mesh(sizes, jax.devices()[: int(np.prod(shape))])


def updates(config, *, shape=(1, 1, 1), accumulation=1, count=5):
    """(contrastive bits of every update, last state) after `count` updates of 8 s of noise."""
    state, step = build(pretraining_task(config), mesh_of(shape))
    losses = []
    for i in range(count):
        batch = small.noise_batch(8, 16000, seed=i)
        batch = {k: v.reshape(accumulation, -1, *v.shape[2:]) for k, v in batch.items()}
        state, metrics = step(state, batch)
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
    first, _ = build(pretraining_task(small.pretraining(**RANDOM)), mesh_of((1, 1, 1)))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), reference[1].params, first.params)
    assert np.median(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_meshes(reference, shape):
    found = updates(small.pretraining(**RANDOM), shape=shape)
    assert_same(found, reference)
    state = found[1]
    find = lambda tree: tree["encoder"]["context"]["layers"]["block"]["feed_forward"]["inner"]  # noqa: E731
    kernel = find(state.params)["kernel"]
    assert find(state.opt[0][0].mu)["kernel"].sharding == kernel.sharding
    assert kernel.addressable_shards[0].data.size * shape[1] * shape[2] == kernel.size


@pytest.mark.parametrize("model", [dict(scan=False), dict(remat="full"), dict(remat="dots")])
def test_scan_and_remat(reference, model):
    assert_same(updates(small.pretraining(**RANDOM, **model)), reference)


def test_scan_and_remat_are_really_other_programs():
    def program(**model):
        config = small.pretraining(attention_method="whole", **model)  # no loop over heads
        task, mesh = pretraining_task(config), mesh_of((1, 1, 1))
        batch = small.noise_batch(2, 16000)
        return str(on_mesh(jitted_step(task, mesh).trace, mesh)(
            abstract_state(task, mesh), batch).jaxpr)  # fmt: skip

    plain = program()
    assert "remat" not in plain
    assert all("remat" in program(remat=name) for name in ("full", "dots"))
    assert program(remat="full") != program(remat="dots")
    assert "unroll=1" in plain
    assert "unroll=1" not in program(scan=False)


def test_accumulation():
    """Micro-batches with unequal numbers of targets give the update of the whole batch."""
    config = small.pretraining(**small.NO_DROPOUT)
    config.loss.update(diversity_weight=0.0, penalty_weight=0.0)  # means over a micro-batch
    assert_same(updates(config, accumulation=4, shape=(2, 1, 1)), updates(config))


def test_fine_tuning_on_a_mesh():
    config = small.finetuning(**RANDOM)
    task = finetuning_task(config, 32)
    results = []
    for shape in ((1, 1, 1), (2, 2, 2)):
        state, step = build(task, mesh_of(shape))
        losses = []
        for i in range(5):
            batch = small.labelled_batch(4, 16000, lengths=[16000, 12000, 9000, 16000], seed=i)
            state, metrics = step(state, batch)
            losses.append(float(metrics["train/ctc_loss"][0]))
        results.append((losses, state))
    assert_same(results[1], results[0])


def test_average_of_the_weights():
    """The average follows the parameters, is sharded like them and survives a skipped update."""
    config = small.pretraining()
    config.ema_decay = 0.5
    state, step = build(pretraining_task(config), mesh_of((1, 2, 1)))
    expected = jax.device_get(state.params)
    for i in range(3):
        state, _ = step(state, small.noise_batch(2, 16000, seed=i))
        decay = min(0.5, (1 + i) / (10 + i))
        move = lambda e, p: decay * e + (1 - decay) * p  # noqa: B023, E731
        expected = jax.tree.map(move, expected, jax.device_get(state.params))
    for average, new, twin in zip(
        *map(jax.tree.leaves, (state.ema, state.params, expected)), strict=True
    ):
        assert average.sharding == new.sharding
        np.testing.assert_allclose(average, twin, rtol=1e-5, atol=1e-7)
    assert state.variables["params"] is state.ema
    before = jax.device_get(state.ema)
    head = state.params["project_context"]
    head = head | {"bias": head["bias"].at[0].set(np.nan)}
    spoiled = state.replace(params=state.params | {"project_context": head})
    after, _ = step(spoiled, small.noise_batch(2, 16000))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.ema), before)
    restarted = after.starting_from({"w": jnp.ones(3)}, {})
    np.testing.assert_array_equal(restarted.ema["w"], np.ones(3))


def test_parameter_table_says_what_stays_whole():
    config = small.pretraining(width=36, num_heads=3)
    task = pretraining_task(config)
    mesh = mesh_of((1, 1, 8))
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


def test_parts_of_a_batch():
    assert local_parts(mesh_of((2, 2, 2))) == (0, 1, 2, 3)
    assert local_parts(mesh_of((1, 1, 8))) == (0,)


def test_mesh_errors_speak():
    with pytest.raises(UserError, match="8 devices"):
        make_mesh({"data": 3})
    with pytest.raises(UserError, match="only one"):
        make_mesh({"data": -1, "fsdp": -1})
