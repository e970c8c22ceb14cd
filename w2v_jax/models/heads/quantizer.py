"""The Gumbel product quantizer (wav2vec 2.0 section 2, fairseq gumbel_vector_quantizer.py)."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.models.config import QuantizerConfig
from w2v_jax.models.kernels.norm_activation import ACTIVATIONS
from w2v_jax.models.layers import boxed, torch_dense


@flax.struct.dataclass
class Quantized:
    vectors: jax.Array  # [B, M, Q] the chosen codes of all groups, concatenated
    codes: jax.Array  # int32 [B, M, G]
    logits: jax.Array  # float32 [B, M, G, V], without noise and temperature


class Quantizer(nn.Module):
    """Chooses one code per group. With `noise` the choice is a straight-through Gumbel sample."""

    config: QuantizerConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, noise: jax.Array | None = None, temperature: jax.Array | float = 1.0
    ) -> Quantized:
        """x [B, M, C]; noise: standard Gumbel float32 [B, M, G, V], or None for the argmax."""
        cfg, width = self.config, x.shape[-1]
        inner = width * cfg.factor
        for i in range(cfg.depth - 1):
            fan_in, name = inner if i else width, f"hidden_{i}"
            x = torch_dense(fan_in, inner, ("conv_out", "act_embed"), self.dtype, name=name)(x)
            x = ACTIVATIONS["gelu"](x)
        if cfg.depth > 1:  # fairseq's wide init is that of a single layer
            shape = inner, cfg.groups * cfg.codes
            linear = torch_dense(*shape, ("conv_out", "vocab"), self.dtype, name="logits")
        else:
            linear = nn.Dense(
                cfg.groups * cfg.codes,
                dtype=self.dtype,
                kernel_init=boxed(nn.initializers.normal(1.0), "conv_out", "vocab"),
                bias_init=boxed(nn.initializers.zeros, "vocab"),
                name="logits",
            )
        logits = linear(x)
        logits = logits.astype(jnp.float32).reshape(*x.shape[:-1], cfg.groups, cfg.codes)
        codebook = self.param(
            "codebook",
            boxed(nn.initializers.uniform(1.0), "groups", "vocab", "embed"),
            (cfg.groups, cfg.codes, cfg.width // cfg.groups),
        )
        noisy = logits if noise is None else logits + noise
        codes = noisy.argmax(-1)
        choice = jax.nn.one_hot(codes, cfg.codes)
        if noise is not None:
            soft = jax.nn.softmax(noisy / temperature, axis=-1)
            choice = choice + soft - jax.lax.stop_gradient(soft)
        vectors = jnp.einsum(
            "bmgv,gvd->bmgd", choice.astype(self.dtype), codebook.astype(self.dtype)
        )
        return Quantized(vectors.reshape(*x.shape[:-1], cfg.width), codes, logits)
