"""The Transformer block of wav2vec 2.0, HuBERT and XLS-R."""

import flax.linen as nn
import jax

from w2v_jax.models.adapter import Adapter
from w2v_jax.models.attention import SelfAttention
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.kernels.dropout import Dropout
from w2v_jax.models.layers import ACTIVATIONS, bert_dense, layer_norm


class FeedForward(nn.Module):
    """Dense -> activation -> dropout -> dense -> dropout over x [B, T, D]."""

    config: EncoderConfig
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, dtype = self.config, self.config.compute_dtype
        x = bert_dense(cfg.feed_forward, ("embed", "mlp"), dtype, name="inner")(x)
        x = ACTIVATIONS[cfg.activation](x)
        x = Dropout(cfg.activation_dropout, deterministic=not self.train)(x)
        x = bert_dense(cfg.width, ("mlp", "embed"), dtype, name="outer")(x)
        return Dropout(cfg.dropout, deterministic=not self.train)(x)


class TransformerBlock(nn.Module):
    """post: x = LN(x + sublayer(x)); pre: x = x + sublayer(LN(x)), an adapter last if there is one.

    Source: fairseq wav2vec2.py TransformerSentenceEncoderLayer.
    """

    config: EncoderConfig
    train: bool
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """x [B, T, D], mask bool [B, T] or None -> [B, T, D], and what the feed-forward gave,
        before the residual."""
        cfg, dtype = self.config, self.config.compute_dtype
        drop = Dropout(cfg.dropout, deterministic=not self.train)
        attention_norm = layer_norm(dtype, name="attention_norm", eps=cfg.norm_eps)
        final_norm = layer_norm(dtype, name="final_norm", eps=cfg.norm_eps)
        attention = SelfAttention(cfg, self.train, self.causal, name="attention")
        feed_forward = FeedForward(cfg, self.train, name="feed_forward")
        if cfg.norm_order == "pre":
            x = x + drop(attention(attention_norm(x), mask))
            y = feed_forward(final_norm(x))
            x = x + y
            return (x + Adapter(cfg, name="adapter")(x) if cfg.block.adapter_dim else x), y
        x = attention_norm(x + drop(attention(x, mask)))
        y = feed_forward(x)
        return final_norm(x + y), y
