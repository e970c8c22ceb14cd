"""The Conformer block (arXiv 2005.08100) as wav2vec 2.0's descendants use it."""

import flax.linen as nn
import jax

from w2v_jax.models.attention import SelfAttention
from w2v_jax.models.config import NORM_GROUPS, EncoderConfig
from w2v_jax.models.kernels.dropout import Dropout, dropped
from w2v_jax.models.layers import (
    ACTIVATIONS,
    BatchNorm,
    DepthwiseConv,
    GroupNorm,
    LayerNorm,
    bert_dense,
    zero_padding,
)
from w2v_jax.models.transformer import FeedForward


class ConvolutionModule(nn.Module):
    """LN -> pointwise -> GLU -> depthwise -> norm -> activation -> pointwise -> dropout.

    Padded frames are zeroed before the depthwise convolution and left out of the norm's
    statistics, unless config.padding_leaks asks for the reference's behaviour.
    """

    config: EncoderConfig
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """x [B, T, D], mask bool [B, T] or None -> [B, T, D]."""
        cfg, dtype = self.config, self.config.compute_dtype
        mask = None if cfg.padding_leaks else mask
        x = LayerNorm(cfg.execution, name="norm")(x)
        x = bert_dense(2 * cfg.width, ("embed", "mlp"), dtype, name="pointwise_in", bias=False)(x)
        x = zero_padding(nn.glu(x), mask)
        form = cfg.execution.depthwise_conv
        x = DepthwiseConv(cfg.block.kernel, form, dtype, name="depthwise")(x)
        if cfg.block.norm == "batch":
            x = BatchNorm(dtype, name="depthwise_norm")(x, mask, self.train)
        elif cfg.block.norm == "group":
            x = GroupNorm(NORM_GROUPS, dtype, name="depthwise_norm")(x, mask)
        else:
            x = LayerNorm(cfg.execution, name="depthwise_norm")(x)
        x = ACTIVATIONS[cfg.activation](x)
        x = bert_dense(cfg.width, ("mlp", "embed"), dtype, name="pointwise_out", bias=False)(x)
        return Dropout(cfg.block.dropout, deterministic=not self.train)(x)


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, norm.

    Source: fairseq conformer_layer.py; the norms inside a block keep eps 1e-5 whatever norm_eps.
    """

    config: EncoderConfig
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """x [B, T, D], mask bool [B, T] or None -> [B, T, D], and what the second feed-forward
        gave, before it is halved and added."""
        cfg = self.config
        norm = lambda name: LayerNorm(cfg.execution, name=name)  # noqa: E731
        half = FeedForward(cfg, self.train, name="feed_forward_1")
        x = x + 0.5 * dropped(*half(norm("feed_forward_1_norm")(x)), cfg.dropout)
        y = SelfAttention(cfg, self.train, name="attention")(norm("attention_norm")(x), mask)
        x = x + Dropout(cfg.dropout, deterministic=not self.train)(y)
        x = x + ConvolutionModule(cfg, self.train, name="convolution")(x, mask)
        half = FeedForward(cfg, self.train, name="feed_forward_2")
        y = dropped(*half(norm("feed_forward_2_norm")(x)), cfg.dropout)
        return norm("final_norm")(x + 0.5 * y), y
