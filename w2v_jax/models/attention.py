"""Multi-head self-attention with no, relative, clipped relative or rotary positions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.kernels.attention import Heads, attend
from w2v_jax.models.kernels.dropout import dropout_seed
from w2v_jax.models.layers import bert_dense, boxed, rotate, sinusoids


class SelfAttention(nn.Module):
    """Self-attention of x [B, T, D]; padded keys (mask [B, T] False) are never looked at.

    relative: Transformer-XL's four terms. shaw: a learned vector per distance, of keys alone and
    the same for all heads (arXiv 1803.02155 section 3.2). rotary: the rotation acts on the layer's
    input, before the query and key projections, as fairseq's and HuggingFace's conformers do.
    """

    config: EncoderConfig
    train: bool
    causal: bool = False  # frames see only themselves and those before

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        cfg = self.config
        b, t, d = x.shape
        heads = (b, t, cfg.num_heads, d // cfg.num_heads)
        dtype = cfg.compute_dtype
        project = lambda name, y: bert_dense(  # noqa: E731
            d, ("embed", "heads"), dtype, name=name
        )(y).reshape(heads)
        turned = x
        if cfg.positions.kind == "rotary":
            turned = rotate(x.reshape(heads)).reshape(b, t, d)
        q, k, v = project("query", turned), project("key", turned), project("value", x)
        positions = seeds = left = None
        if cfg.positions.kind == "shaw":
            left = cfg.positions.left
            init = boxed(nn.initializers.xavier_uniform(), None, "kv")
            shape = left + cfg.positions.right + 1, heads[-1]
            table = self.param("distances", init, shape).astype(dtype)
            positions = q, jnp.broadcast_to(table[:, None], (shape[0], *heads[2:]))
        if cfg.positions.kind == "relative":
            table = sinusoids(jnp.arange(t - 1, -t, -1), d)  # [2T-1, D]: distances T-1 ... -(T-1)
            r = bert_dense(d, ("embed", "heads"), dtype, name="position", bias=False)(table)
            init = boxed(nn.initializers.xavier_uniform(), "heads", "kv")
            content = self.param("content_bias", init, heads[2:])
            position = self.param("position_bias", init, heads[2:])
            positions = q + position.astype(dtype), r.reshape(2 * t - 1, *heads[2:])
            q = q + content.astype(dtype)
        rate = cfg.attention_dropout if self.train else 0.0
        if rate:
            keys = jax.random.split(self.make_rng("dropout"), cfg.num_heads)
            seeds = jax.vmap(dropout_seed)(keys)
        y = attend(
            Heads(q, k, v, positions, seeds), mask=mask, rate=rate, causal=self.causal,
            left=left, choice=cfg.execution.attention,
        )  # fmt: skip
        y = y.reshape(b, t, d)
        return bert_dense(d, ("heads", "embed"), dtype, name="output")(y)
