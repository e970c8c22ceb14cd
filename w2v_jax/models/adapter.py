"""What can be added to a trained encoder: bottlenecks in its blocks, convolutions on top."""

import flax.linen as nn
import jax

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.layers import (
    LayerNorm,
    bert_dense,
    boxed,
    frame_mask,
    torch_dense,
    zero_padding,
)


class Adapter(nn.Module):
    """LN -> dense to block.adapter_dim -> relu -> dense over x [B, T, D]: what MMS trains per
    language (arXiv 2305.13516 section 5; transformers Wav2Vec2AttnAdapterLayer)."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        cfg, dtype = self.config, self.config.compute_dtype
        x = LayerNorm(cfg.execution, name="norm")(x)
        x = bert_dense(cfg.block.adapter_dim, ("embed", "mlp"), dtype, name="inner")(x)
        return bert_dense(cfg.width, ("mlp", "embed"), dtype, name="outer")(jax.nn.relu(x))


class OutputAdapter(nn.Module):
    """Strided convolutions with gated linear units: fewer frames for what is trained on top.

    Source: transformers Wav2Vec2Adapter (`add_adapter`). It drops whole layers in training, which
    changes the number of frames; ours never does.
    """

    config: EncoderConfig

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
            mask = None if cfg.padding_leaks else frame_mask(length, x.shape[1])
            x = nn.Conv(
                2 * width, (3,), (cfg.output.stride,), padding=((1, 1),),
                dtype=dtype, name=f"conv_{i}",
                kernel_init=boxed(nn.initializers.lecun_normal(), "conv", "conv_in", "conv_out"),
                bias_init=boxed(nn.initializers.zeros, "conv_out"),
            )(zero_padding(x, mask))  # fmt: skip
            x = nn.glu(x)
            if length is not None:
                length = (length - 1) // cfg.output.stride + 1
        return x, length
