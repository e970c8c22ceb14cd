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
        bias = cfg.block.bias
        x = bert_dense(2 * cfg.width, ("embed", "mlp"), dtype, name="pointwise_in", bias=bias)(x)
        x = zero_padding(nn.glu(x), mask)  # a bias has filled it
        x = DepthwiseConv(
            cfg.block.kernel, cfg.execution.depthwise_conv, dtype,
            causal=cfg.block.causal_convolution, bias=bias,
            heads=cfg.num_heads if cfg.block.convolution == "lightweight" else 0,
            name="depthwise",
        )(x)  # fmt: skip
        if cfg.block.norm == "batch":
            x = BatchNorm(dtype, name="depthwise_norm")(x, mask, self.train)
        elif cfg.block.norm == "group":
            x = GroupNorm(NORM_GROUPS, dtype, name="depthwise_norm")(x, mask)
        else:
            x = LayerNorm(cfg.execution, name="depthwise_norm")(x)
        x = ACTIVATIONS[cfg.activation](x)
        x = bert_dense(cfg.width, ("mlp", "embed"), dtype, name="pointwise_out", bias=bias)(x)
        return Dropout(cfg.block.dropout, deterministic=not self.train)(x)


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, norm; or what else
    config.block says.

    A single feed-forward is the second one. In parallel, attention and convolution read the same
    input and both are added to it: each ends with a projection, so their sum is what a projection
    of the two side by side could be. Source: fairseq conformer_layer.py; the norms inside a block
    keep eps 1e-5 whatever norm_eps.
    """

    config: EncoderConfig
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """x [B, T, D], mask bool [B, T] or None -> [B, T, D], and what the second feed-forward
        gave, before it is halved and added."""
        cfg, block = self.config, self.config.block
        norm = lambda name: LayerNorm(cfg.execution, name=name)  # noqa: E731
        if block.feed_forwards == 2:
            half = FeedForward(cfg, self.train, name="feed_forward_1")
            y = dropped(*half(norm("feed_forward_1_norm")(x)), cfg.dropout)
            x = x + block.residual * y

        def attended(x):
            y = SelfAttention(cfg, self.train, name="attention")(norm("attention_norm")(x), mask)
            return Dropout(cfg.dropout, deterministic=not self.train)(y)

        def convolved(x):
            if block.convolution == "none":
                return 0
            return ConvolutionModule(cfg, self.train, name="convolution")(x, mask)

        if block.order == "parallel":
            x = x + attended(x) + convolved(x)
        elif block.order == "convolution_first":
            x = x + convolved(x)
            x = x + attended(x)
        else:
            x = x + attended(x)
            x = x + convolved(x)
        half = FeedForward(cfg, self.train, name="feed_forward_2")
        y = dropped(*half(norm("feed_forward_2_norm")(x)), cfg.dropout)
        return norm("final_norm")(x + block.residual * y), y
