"""The Transformer block of wav2vec 2.0, HuBERT and XLS-R."""

import flax.linen as nn
import jax

from w2v_jax.models.adapter import Adapter
from w2v_jax.models.attention import SelfAttention
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.kernels.dropout import Dropout, dropped
from w2v_jax.models.kernels.rows import rows
from w2v_jax.models.layers import LayerNorm, bert_dense


class FeedForward(nn.Module):
    """Dense -> activation -> dropout -> dense over x [B, T, D], and what the dropout of that draws
    from, which comes with the residual sum."""

    config: EncoderConfig
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        cfg, dtype = self.config, self.config.compute_dtype
        x = bert_dense(cfg.feed_forward, ("embed", "mlp"), dtype, name="inner")(x)
        x = rows(x, activation=cfg.activation, channels="mlp", choice=cfg.execution.rows)
        x = Dropout(cfg.activation_dropout, deterministic=not self.train)(x)
        x = bert_dense(cfg.width, ("mlp", "embed"), dtype, name="outer")(x)
        return x, Dropout(cfg.dropout, deterministic=not self.train).words()


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
        cfg = self.config
        words = Dropout(cfg.dropout, deterministic=not self.train).words()
        attention_norm = LayerNorm(cfg.execution, cfg.norm_eps, name="attention_norm")
        final_norm = LayerNorm(cfg.execution, cfg.norm_eps, name="final_norm")
        attention = SelfAttention(cfg, self.train, self.causal, name="attention")
        feed_forward = FeedForward(cfg, self.train, name="feed_forward")
        if cfg.norm_order == "pre":
            y = attention(attention_norm(x), mask)
            x, y = final_norm(x, y, words, rate=cfg.dropout, both=True)
            y = dropped(*feed_forward(y), cfg.dropout)
            x = x + y
            return (x + Adapter(cfg, name="adapter")(x) if cfg.block.adapter_dim else x), y
        x = attention_norm(x, attention(x, mask), words, rate=cfg.dropout)
        y, words = feed_forward(x)
        found = final_norm(x, y, words, rate=cfg.dropout)
        return found, dropped(y, words, cfg.dropout)
