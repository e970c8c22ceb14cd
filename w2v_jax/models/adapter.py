"""Bottlenecks that can be added to the blocks of a trained encoder."""

import flax.linen as nn
import jax

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.layers import LayerNorm, bert_dense


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
