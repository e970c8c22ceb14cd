"""A Transformer language model: every token predicts the next.

Sources: Vaswani et al. (arXiv 1706.03762) for embeddings and positions; pre-norm blocks as in
fairseq transformer_lm_gbw, but with one tied softmax over all tokens where that has adaptive inputs
and an adaptive softmax (Baevski and Auli, arXiv 1809.10853).
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.models.config import ConfigError, FromDict, choices, dropout_rates
from w2v_jax.models.encoder import over_layers
from w2v_jax.models.kernels.dropout import Dropout
from w2v_jax.models.layers import boxed, layer_norm, sinusoids
from w2v_jax.models.transformer import TransformerBlock


@dataclasses.dataclass(frozen=True)
class LanguageConfig(FromDict):
    """The network between embeddings and softmax. The defaults are wav2vec 2.0's word model."""

    width: int = 1280
    num_layers: int = 20
    num_heads: int = 16
    feed_forward: int = 6144
    max_tokens: int = 256  # longer sentences are cut: of later positions nothing is learnt
    norm_eps: float = 1e-5
    activation: str = "relu"  # | gelu | gelu_tanh | swish
    # regularisation
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    # execution; changes no number beyond rounding
    dtype: str = "float32"  # of the computation; parameters, softmax and logits stay float32
    remat: str = "none"  # | full | dots: what the backward pass computes again in the blocks
    scan: bool = True  # one compiled block for all layers; False unrolls them

    # what the blocks ask besides
    norm_order: ClassVar[str] = "pre"
    positions: ClassVar[str] = "none"  # the embeddings have them
    adapter_dim: ClassVar[int] = 0
    attention_method: ClassVar[str] = "whole"  # sentences are short

    def __post_init__(self):
        choices(self, "activation", ("gelu", "gelu_tanh", "relu", "swish"))
        choices(self, "dtype", ("float32", "bfloat16"))
        choices(self, "remat", ("none", "full", "dots"))
        dropout_rates(self)
        if self.max_tokens < 2:
            raise ConfigError(f"model.max_tokens is {self.max_tokens}; it must be at least 2")
        for key, divisor in (("num_heads", self.num_heads), ("width", 2)):
            if self.width % divisor:
                raise ConfigError(
                    f"model.width {self.width} is not divisible by {divisor}; change model.{key}"
                )

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)


class _Layer(nn.Module):
    """One step of the scan over the blocks."""

    config: LanguageConfig
    train: bool

    @nn.compact
    def __call__(self, x, mask):
        x = TransformerBlock(self.config, self.train, causal=True, name="block")(x, mask)
        return nn.with_logical_constraint(x, ("batch", "time", "act_embed")), None


class LanguageModel(nn.Module):
    """Logits of the next token at every token; `vocabulary` is the number of tokens.

    What comes later in a row, padding included, changes nothing: no mask is needed. Embeddings
    start from N(0, 0.02), as all projections do; with fairseq's width^-0.5 each token predicts
    itself at first, and small models start at nearly twice the loss.
    """

    config: LanguageConfig
    vocabulary: int
    train: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens int32 [B, L] -> float32 [B, L, V]."""
        cfg, dtype = self.config, self.config.compute_dtype
        table = self.param(
            "embedding",
            boxed(nn.initializers.normal(0.02), "vocab", "embed"),
            (self.vocabulary, cfg.width),
        ).astype(dtype)
        x = table[tokens] * jnp.sqrt(cfg.width).astype(dtype)  # [B, L, D]
        x = x + sinusoids(jnp.arange(tokens.shape[1]), cfg.width).astype(dtype)
        x = Dropout(cfg.dropout, deterministic=not self.train)(x)
        x = nn.with_logical_constraint(x, ("batch", "time", "act_embed"))
        x, _ = over_layers(_Layer, cfg)(cfg, self.train, name="layers")(x, None)
        x = layer_norm(dtype, name="norm", eps=cfg.norm_eps)(x)
        return jnp.einsum("bld,vd->blv", x, table, preferred_element_type=jnp.float32)
