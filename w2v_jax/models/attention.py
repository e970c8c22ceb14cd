"""Multi-head self-attention with no, relative or rotary positions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.layers import bert_dense, boxed, relative_shift, rotate, sinusoids


def attend(q, k, v, *, mask=None, bias=None, dropout=None, causal=False) -> jax.Array:
    """softmax(q k / sqrt(d) + bias) v, softmax in float32.

    q, k, v [B, T, H, d]; mask bool [B, T] of keys or None; bias [B, H, T, T] or None; `dropout`
    is a function of the probabilities or None; causal: no query looks at later keys. Returns
    [B, T, H, d]. A row without any key gives finite numbers.
    """
    keys = None if mask is None else mask[:, None, None, :]
    if dropout is None:
        return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=keys, is_causal=causal)
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    if bias is not None:
        scores += bias
    if causal:
        earlier = jnp.tril(jnp.ones(scores.shape[2:], bool))
        keys = earlier if keys is None else keys & earlier
    if keys is not None:
        scores = jnp.where(keys, scores, 0.7 * jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(scores, axis=-1)).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


class SelfAttention(nn.Module):
    """Self-attention of x [B, T, D]; padded keys (mask [B, T] False) are never looked at.

    relative: Transformer-XL's four terms. rotary: the rotation acts on the layer's input, before
    the query and key projections, as fairseq's and HuggingFace's conformers do.
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
        if cfg.positions == "rotary":
            turned = rotate(x.reshape(heads)).reshape(b, t, d)
        q, k, v = project("query", turned), project("key", turned), project("value", x)
        bias = None
        if cfg.positions == "relative":
            table = sinusoids(jnp.arange(t - 1, -t, -1), d)  # [2T-1, D]: distances T-1 ... -(T-1)
            r = bert_dense(d, ("embed", "heads"), dtype, name="position", bias=False)(table)
            r = r.reshape(2 * t - 1, *heads[2:])
            init = boxed(nn.initializers.xavier_uniform(), "heads", "kv")
            content = self.param("content_bias", init, heads[2:])
            position = self.param("position_bias", init, heads[2:])
            scores = jnp.einsum("bthd,phd->bhtp", q + position.astype(dtype), r)
            bias = relative_shift(scores) * heads[-1] ** -0.5
            q = q + content.astype(dtype)
        drop = None
        if self.train and cfg.attention_dropout:
            drop = nn.Dropout(cfg.attention_dropout, deterministic=False)
        y = attend(q, k, v, mask=mask, bias=bias, dropout=drop, causal=self.causal)
        y = y.reshape(b, t, d)
        return bert_dense(d, ("heads", "embed"), dtype, name="output")(y)
