"""The Conformer block and its ablations (arXiv 2005.08100, tables 3 to 7), against a few lines of
NumPy that say what each switch means."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from w2v_jax.configs.conformer import ABLATIONS, get_config
from w2v_jax.errors import UserError
from w2v_jax.keys.check import flat
from w2v_jax.models.attention import SelfAttention
from w2v_jax.models.conformer import ConformerBlock, ConvolutionModule
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.layers import sinusoids
from w2v_jax.models.transformer import FeedForward
from w2v_jax.tasks import make_task
from w2v_jax.training.task import Context

B, T = 2, 19


def conformer(positions="relative", activation="swish", **block):
    block = {"kind": "conformer"} | block
    return small.encoder(
        block=block, positions=positions, activation=activation, **small.NO_DROPOUT
    )


def drawn(config):
    """(block, its variables with norms that do something, input)."""
    keys = iter(jax.random.split(jax.random.key(1), 99))
    x = jax.random.normal(next(keys), (B, T, config.width))
    block = ConformerBlock(config, train=False)
    variables = nn.meta.unbox(block.init(next(keys), x, None))
    noisy = lambda v: v + 0.3 * jax.random.uniform(next(keys), v.shape)  # noqa: E731
    return block, jax.tree.map(noisy, variables), x


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p["bias"]


def expected(config, variables, x):
    """The block in the words of the paper, of the three modules that are tested elsewhere."""
    params, block = variables["params"], config.block
    part = lambda module, name, *args: np.asarray(  # noqa: E731
        jax.tree.leaves(
            module(config, False).apply({k: v[name] for k, v in variables.items() if name in v},
                                        *args))[0]
    )  # fmt: skip

    def feed_forward(i, x):
        return part(FeedForward, f"feed_forward_{i}", norm(x, params[f"feed_forward_{i}_norm"]))

    def attention(x):
        return part(SelfAttention, "attention", norm(x, params["attention_norm"]), None)

    def convolution(x):
        if block.convolution == "none":
            return np.zeros_like(x)
        return part(ConvolutionModule, "convolution", jnp.asarray(x), None)

    if block.feed_forwards == 2:
        x = x + block.residual * feed_forward(1, x)
    if block.order == "attention_first":
        x = x + attention(x)
        x = x + convolution(x)
    elif block.order == "convolution_first":
        x = x + convolution(x)
        x = x + attention(x)
    else:
        x = x + attention(x) + convolution(x)
    return norm(x + block.residual * feed_forward(2, x), params["final_norm"])


SWITCHES = {
    "the paper's": {},
    "table 3, relu": dict(activation="relu"),
    "table 3, no convolution": dict(convolution="none"),
    "table 3, no macaron": dict(feed_forwards=1, residual=1.0),
    "table 3, no relative positions": dict(positions="sinusoidal"),
    "table 4, lightweight": dict(convolution="lightweight"),
    "table 4, convolution first": dict(order="convolution_first"),
    "table 4, parallel": dict(order="parallel"),
    "table 5, full steps": dict(residual=1.0),
    "table 7, kernel 32": dict(kernel=32),
    "biases": dict(bias=True),
    "w2v-BERT": dict(causal_convolution=True, norm="layer", positions="none"),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_is_what_it_says(name):
    config = conformer(**SWITCHES[name])
    block, variables, x = drawn(config)
    found = jax.jit(block.apply)(variables, x, None)[0]
    np.testing.assert_allclose(found, expected(config, variables, np.asarray(x)), atol=1e-4)


@pytest.mark.parametrize(
    "switches",
    [
        dict(activation="relu"), dict(convolution="lightweight"), dict(causal_convolution=True),
        dict(kernel=32), dict(bias=True), dict(norm="layer"),
    ],
    ids=str,
)  # fmt: skip
def test_every_switch_of_the_convolution_module_changes_it(switches):
    """With parameters drawn alike; what the oracle above takes from the module itself."""
    x = jax.random.normal(jax.random.key(0), (B, T, 32))
    found = []
    for config in (conformer(), conformer(**switches)):
        module = ConvolutionModule(config, False)
        variables = nn.meta.unbox(module.init(jax.random.key(1), x, None))
        variables = jax.tree.map(lambda v: v + 0.1, variables)  # biases are 0
        found.append(module.apply(variables, x, None))
    assert float(jnp.abs(found[0] - found[1]).max()) > 1e-3


def test_parameters_of_the_ablated_blocks():
    names = lambda **switches: set(drawn(conformer(**switches))[1]["params"])  # noqa: E731
    whole = names()
    assert whole - names(convolution="none") == {"convolution"}
    leaves = lambda **switches: jax.tree.leaves_with_path(drawn(conformer(**switches))[1])  # noqa: E731
    assert len(leaves(bias=True)) == len(leaves()) + 3
    assert whole - names(feed_forwards=1) == {"feed_forward_1", "feed_forward_1_norm"}
    assert whole == names(order="parallel") == names(residual=1.0) == names(kernel=32)


def test_the_convolution_sees_the_past_alone():
    config = conformer(causal_convolution=True, norm="layer")
    x = jax.random.normal(jax.random.key(0), (B, T, config.width))
    module = ConvolutionModule(config, False)
    variables = module.init(jax.random.key(1), x, None)
    later = x.at[:, 11:].set(7.0)
    a, b = (np.asarray(module.apply(variables, y, None)) for y in (x, later))
    np.testing.assert_array_equal(a[:, :11], b[:, :11])
    assert np.abs(a[:, 11:] - b[:, 11:]).max(-1).min() > 0


AUDIO = small.noise_batch(1, 8000)["audio"][0]


def encoded(config, variables=None):
    model = Encoder(config)
    variables = variables or nn.meta.unbox(model.init(jax.random.key(0), AUDIO))
    return variables, jax.jit(lambda v: model.apply(v, AUDIO, taps=("hidden_0", "hidden_2")))(
        variables
    )


def test_no_norm_outside_of_the_blocks():
    config = small.encoder(block="conformer", positions="none", norm_order="none")
    variables, found = encoded(config)
    assert set(variables["params"]["context"]) == {"layers"}
    np.testing.assert_array_equal(found.context, found.taps["hidden_2"])
    whole = small.encoder(block="conformer", positions="none", norm_order="pre")
    assert set(encoded(whole)[0]["params"]["context"]) == {"layers", "norm"}


def test_sinusoids_are_added_to_the_first_input():
    variables, found = encoded(small.encoder(positions="sinusoidal", norm_order="pre"))
    _, without = encoded(small.encoder(positions="none", norm_order="pre"), variables)
    moved = np.asarray(found.taps["hidden_0"] - without.taps["hidden_0"])[0]
    table = np.asarray(sinusoids(jnp.arange(len(moved)), moved.shape[1]))
    np.testing.assert_allclose(moved, table, atol=1e-5)
    # as in arXiv 1706.03762 section 3.5
    angle = 3 / 10000.0 ** (np.array([0, 2]) / 32)
    np.testing.assert_allclose(table[3, :4:2], np.sin(angle), rtol=1e-5)
    np.testing.assert_allclose(table[3, 1:4:2], np.cos(angle), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "count", "without_positions"),
    [
        ("s", 8_713_152, 8_376_768),
        ("m", 27_331_584, 26_274_816),
        ("l", 115_120_128, 110_646_272),
    ],
)
def test_parameters_of_the_published_sizes(size, count, without_positions):
    """Of the encoders, by the shapes of the paper's section 2."""
    for argument, expected in ((size, count), (f"{size},ablation=only_no_relpos",
                                               without_positions)):  # fmt: skip
        task = make_task(get_config(argument))
        shapes = jax.eval_shape(task.init)["params"]["encoder"]
        masked = task.encoder.width  # the mask embedding is not the paper's
        assert sum(x.size for x in jax.tree.leaves(shapes)) - masked == expected


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_ablations_change_what_they_say(name):
    whole, changed = (dict(flat(get_config(argument))) for argument in ("s", f"s,ablation={name}"))
    found = {key: x for key, x in changed.items() if whole.get(key) != x}
    expected = {f"model.{key}": x for key, x in ABLATIONS[name].items()}
    if "model.positions" in expected:
        expected["model.positions.kind"] = expected.pop("model.positions")
    assert found == expected


def test_on_a_waveform():
    """Whose convolutions are not frozen: they start from random weights."""
    config = get_config("tiny,frontend=waveform")
    assert "spec_augment" not in config
    assert not make_task(config).encoder.frontend.frozen


def test_the_rows_of_table_3_are_cumulative():
    rows = [set(ABLATIONS[name].items()) for name in ("relu", "no_conv", "no_macaron", "no_relpos")]
    assert all(a < b for a, b in itertools.pairwise(rows))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("s,ablation=x", "is unknown"),
        ("xl", "is unknown"),
        ("s,block=transformer,ablation=", "is no argument"),
        ("s,ablation=no_relpos,positions=relative", "leave out positions=relative"),
        ("s,ablation=relu,ablation=no_conv", "has ablation twice"),
    ],
)
def test_other_arguments_are_named(argument, message):
    with pytest.raises(UserError, match=message):
        get_config(argument)


@pytest.mark.parametrize("name", ["", "no_relpos", "lightweight"])
def test_the_recipe_has_a_loss(name):
    """In a small size: finite, with a gradient for every parameter but those of
    the mask and of keys' biases, which softmax ignores."""
    config = small.shrunk(get_config(f"tiny,ablation={name}" if name else "tiny"), {
        "positions": "sinusoidal" if "relpos" in name else "relative", "block.kernel": 6,
    })  # fmt: skip
    config.model.frontend.update(channels=4, projection=32)
    task = make_task(config)
    variables = nn.meta.unbox(task.init())
    batch = small.labelled_batch(2, 16_000, lengths=(16_000, 9_000))
    batch = {key: x[0] for key, x in batch.items()}
    context = Context(jnp.int32(0), jax.random.key(3), jax.random.key(4))
    stats = variables.get("stats", {})

    @jax.jit
    @jax.grad
    def gradient(params):
        return task.loss({"params": params, "stats": stats}, batch, context)[0]

    for path, x in jax.tree.leaves_with_path(gradient(variables["params"])):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(x).all(), name
        if "mask_embedding" not in name and "key/bias" not in name:
            assert np.abs(x).max() > 0, name
