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

from w2v_jax.models.config import TransformerConfig
from w2v_jax.models.encoder import over_layers
from w2v_jax.models.kernels.dropout import Dropout
from w2v_jax.models.layers import LayerNorm, boxed, sinusoids
from w2v_jax.models.positions import NoPositions
from w2v_jax.models.settings import ConfigError, ModelSettings, free, nearest_multiples
from w2v_jax.models.transformer import TransformerBlock


@dataclasses.dataclass(frozen=True)
class LanguageConfig(ModelSettings):
    """The network between embeddings and softmax. The defaults are wav2vec 2.0's word model."""

    width: int = 1280
    num_layers: int = 20
    num_heads: int = 16
    feed_forward: int = 6144
    max_tokens: int = 256
    norm_eps: float = 1e-5
    activation: str = "relu"
    # regularisation
    dropout: float = free(0.1)
    attention_dropout: float = free(0.1)
    activation_dropout: float = free(0.0)

    # what the blocks ask besides
    norm_order: ClassVar[str] = "pre"
    block: ClassVar[TransformerConfig] = TransformerConfig()
    positions: ClassVar[NoPositions] = NoPositions()  # the embeddings have them

    def __post_init__(self):
        super().__post_init__()
        if self.execution.attention == "auto":  # sentences are short: no loop over heads
            whole = dataclasses.replace(self.execution, attention="whole")
            object.__setattr__(self, "execution", whole)
        for of, divisor in ((", model.num_heads", self.num_heads), ("", 2)):
            if self.width % divisor:
                raise ConfigError(
                    f"model.width {self.width} is not divisible by {divisor}{of}; "
                    f"{nearest_multiples('model.width', self.width, divisor)}"
                )


class _Layer(nn.Module):
    """One step of the scan over the blocks."""

    config: LanguageConfig
    train: bool

    @nn.compact
    def __call__(self, x, mask):
        x, _ = TransformerBlock(self.config, self.train, causal=True, name="block")(x, mask)
        return nn.with_logical_constraint(x, ("batch", "time", "act_embed")), None


def block_stack(config: LanguageConfig, train: bool, **kwargs) -> nn.Module:
    """All blocks in a row, called with (x, None)."""
    return over_layers(_Layer, config)(config, train, **kwargs)


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
        x, _ = block_stack(cfg, self.train, name="layers")(x, None)
        x = LayerNorm(cfg.execution, cfg.norm_eps, name="norm")(x)
        return jnp.einsum("bld,vd->blv", x, table, preferred_element_type=jnp.float32)
