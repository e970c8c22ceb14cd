"""Padding does not exist: its content, its length and the neighbours change nothing."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.tasks.ctc import CTC
from w2v_jax.training.task import Context

LENGTHS = (16000, 9000, 12345)
VARIANTS = {
    "base": {},
    "large": dict(
        frontend__norm="layer", frontend__bias=True, norm_order="pre", frontend__normalize=True
    ),
    "a stack of convolutions": dict(
        positions=dict(kind="conv_stack", layers=3, kernel=5, groups=4), frontend__norm="layer"
    ),
    "convolutions on top": dict(output=dict(kind="strided", layers=2, width=24)),
    "attention on top": dict(output=dict(kind="attentive", layers=2, width=24)),
    "adapters": dict(norm_order="pre", block__adapter_dim=8),
    "batch norm before positions": dict(positions__norm="batch", feature_norm=False),
    "conformer batch norm": dict(block="conformer", positions="relative", norm_order="pre"),
    "conformer layer norm": dict(block=dict(kind="conformer", norm="layer"), positions="rotary"),
    "conformer of other parts": dict(
        block=dict(kind="conformer", norm="batch", order="parallel", kernel=6, feed_forwards=1,
                   residual=1.0, convolution="lightweight", bias=True), positions="sinusoidal",
    ),
    "conformer causal": dict(
        block=dict(kind="conformer", norm="layer", causal_convolution=True), norm_order="none",
        positions=dict(kind="shaw", left=6, right=2),
    ),
    "conformer group norm": dict(block=dict(kind="conformer", norm="group"), positions="none"),
    "log-mel": dict(frontend=dict(kind="logmel", channels=8, projection=24)),
    "log-mel of whisper, stacked": dict(
        frontend=dict(kind="logmel", preset="whisper", normalization="none", subsampling="stack")
    ),
    "units": dict(frontend=dict(kind="units", tokenizer="random", classes=30, width=32)),
}  # fmt: skip


def build(variant):
    config = small.finetuning(**small.NO_DROPOUT, **VARIANTS[variant])
    if config.model.frontend.kind == "waveform":
        config.model.frontend.grad_mult = 1.0
    model = CTCModel(CTC(config).encoder, 32)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 4000), jnp.int16))  # noqa: E731
    return config, model, nn.meta.unbox(jax.jit(init)())


def one_row(batch, row, samples, rest):
    """The row alone in a batch `samples` long whose padding is `rest`."""
    n = int(batch["length"][0, row])
    alone = {key: value[0, row : row + 1] for key, value in batch.items()}
    audio = np.full((1, samples), rest, np.int16)
    audio[0, :n] = batch["audio"][0, row, :n]
    return alone | {"audio": audio}


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs(variant):
    _, model, variables = build(variant)
    apply = jax.jit(model.apply)
    batch = small.labelled_batch(3, 16000, lengths=LENGTHS)
    logits, frames = apply(variables, batch["audio"][0], batch["length"][0])
    scale = float(jnp.abs(logits).max())
    for row, n in enumerate(LENGTHS):
        # without any padding: of one row, as each length is another program
        for samples, rest in ((n, 0), (20000, 32767))[row < 2 :]:
            alone = one_row(batch, row, samples, rest)
            found, count = apply(variables, alone["audio"], alone["length"])
            expected = model.config.context_frames(model.config.frontend.frames(n))
            assert int(count[0]) == int(frames[row]) == expected
            np.testing.assert_allclose(
                found[0, : int(count[0])], logits[row, : int(count[0])], atol=2e-6 * max(scale, 1)
            )


@pytest.mark.parametrize("variant", ["base", "large", "conformer layer norm", "log-mel"])
def test_loss_and_gradient(variant):
    """The sum over rows alone equals the batch, masks included (they are keyed by utterance)."""
    config, _, variables = build(variant)
    loss = CTC(config).loss
    batch = small.labelled_batch(3, 16000, lengths=LENGTHS)
    context = Context(jnp.int32(0), jax.random.key(3), jax.random.key(4))

    def total(params, part):
        value, out = loss(variables | {"params": params}, part, context)
        return value, out.weight

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))
    gradient = lambda *x: jax.device_get(compiled(*x))  # noqa: E731
    whole = {key: value[0] for key, value in batch.items()}
    (value, weight), grads = gradient(variables["params"], whole)
    assert float(weight) == 3
    parts = [gradient(variables["params"], one_row(batch, row, 20000, -7)) for row in range(3)]
    assert float(value) == pytest.approx(sum(float(p[0][0]) for p in parts), rel=1e-5)
    summed = jax.tree.map(lambda *g: sum(g), *[p[1] for p in parts])
    for path, a in jax.tree_util.tree_leaves_with_path(grads):
        b = summed
        for key in path:
            b = b[key.key]
        np.testing.assert_allclose(a, b, atol=2e-5 * max(np.abs(a).max(), 1e-2))


@pytest.mark.parametrize("variant", ["base", "conformer batch norm"])
def test_the_switch_restores_the_leak(variant):
    _, model, variables = build(variant)
    leaky = CTCModel(dataclasses.replace(model.config, padding_leaks=True), 32)
    batch = small.labelled_batch(3, 16000, lengths=LENGTHS)
    audio, length = batch["audio"][0], batch["length"][0]
    a, frames = jax.jit(model.apply)(variables, audio, length)
    b, _ = jax.jit(leaky.apply)(variables, audio, length)
    inside = slice(0, int(frames[1]))
    assert float(jnp.abs(a[1, inside] - b[1, inside]).max()) > 1e-3


def test_batch_norm_statistics_ignore_padding():
    config, _, variables = build("conformer batch norm")
    loss = CTC(config).loss
    batch = {k: v[0] for k, v in small.labelled_batch(3, 16000, lengths=LENGTHS).items()}
    context = Context(0, jax.random.key(3), jax.random.key(4))
    run = jax.jit(lambda part: loss(variables, part, context)[1].stats)
    longer = batch | {"audio": np.pad(batch["audio"], ((0, 0), (0, 6000)), constant_values=99)}
    for a, b in zip(jax.tree.leaves(run(batch)), jax.tree.leaves(run(longer)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
