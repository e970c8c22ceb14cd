"""What can be added on top of a trained encoder: fewer frames, perhaps of another width."""

import dataclasses

import flax.linen as nn
import jax

from w2v_jax.models.attention import SelfAttention
from w2v_jax.models.config import EncoderConfig, PlainOutput, TransformerConfig
from w2v_jax.models.kernels.dropout import Dropout, dropped
from w2v_jax.models.layers import LayerNorm, boxed, frame_mask, torch_dense, zero_padding
from w2v_jax.models.positions import NoPositions
from w2v_jax.models.transformer import FeedForward


def strided_conv(config: EncoderConfig, name: str) -> nn.Conv:
    """Twice the output's width, for a gated linear unit, at every config.output.stride'th frame."""
    return nn.Conv(
        2 * config.context_width, (3,), (config.output.stride,), padding=((1, 1),),
        dtype=config.compute_dtype, name=name,
        kernel_init=boxed(nn.initializers.lecun_normal(), "conv", "conv_in", "conv_out"),
        bias_init=boxed(nn.initializers.zeros, "conv_out"),
    )  # fmt: skip


class AttentiveLayer(nn.Module):
    """Two gated strided convolutions, one of them the residual of the attention over the other;
    then a feed-forward. Attention without positions, ReLU.

    Source: transformers Wav2Vec2BertAdapterLayer.
    """

    config: EncoderConfig
    train: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, strided: jax.Array | None
    ) -> jax.Array:
        """x [B, T, config.context_width], mask bool [B, T], that of the output [B, T'], or None
        both -> [B, T', config.context_width]."""
        cfg = self.config
        inner = dataclasses.replace(
            cfg, width=cfg.context_width, block=TransformerConfig(), positions=NoPositions(),
            output=PlainOutput(), norm_order="pre", activation="relu",
        )  # fmt: skip
        norm = lambda name: LayerNorm(cfg.execution, name=name)  # noqa: E731

        def shorter(name):
            y = zero_padding(norm(f"{name}_norm")(x), mask)
            return nn.glu(strided_conv(cfg, f"{name}_conv")(y))

        residual = shorter("residual")
        y = SelfAttention(inner, self.train, name="attention")(shorter("attention"), strided)
        x = residual + Dropout(cfg.dropout, deterministic=not self.train)(y)
        feed_forward = FeedForward(inner, self.train, name="feed_forward")
        return x + dropped(*feed_forward(norm("feed_forward_norm")(x)), cfg.dropout)


class OutputAdapter(nn.Module):
    """Strided convolutions with gated linear units, or the layers around such that w2v-BERT has:
    fewer frames for what is trained on top.

    Source: transformers Wav2Vec2Adapter, Wav2Vec2BertAdapter (`add_adapter`). They drop whole
    layers in training, which changes the number of frames; ours never do.
    """

    config: EncoderConfig
    train: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, length: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """x [B, T, D], length int32 [B] in frames or None -> ([B, T', config.context_width],
        length in frames of the output)."""
        cfg, dtype = self.config, self.config.compute_dtype
        width = cfg.context_width
        if width != cfg.width:
            dense = torch_dense(cfg.width, width, ("embed", "act_embed"), dtype, name="projection")
            x = LayerNorm(cfg.execution, name="norm")(dense(x))
        for i in range(cfg.output.layers):
            heard, frames = length, x.shape[1]
            if length is not None:
                length = (length - 1) // cfg.output.stride + 1
            mask = None if cfg.padding_leaks else frame_mask(heard, frames)
            if cfg.output.kind == "strided":
                x = nn.glu(strided_conv(cfg, f"conv_{i}")(zero_padding(x, mask)))
                continue
            strided = frame_mask(length, (frames - 1) // cfg.output.stride + 1)
            x = AttentiveLayer(cfg, self.train, name=f"layer_{i}")(x, mask, strided)
        return x, length
