"""What stands between the augmented branch of a siamese network and its targets."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from w2v_jax.models.config import EncoderConfig, TransformerConfig
from w2v_jax.models.encoder import block_stack
from w2v_jax.models.kernels.norm_activation import ACTIVATIONS
from w2v_jax.models.layers import torch_dense
from w2v_jax.models.positions import NoPositions
from w2v_jax.models.settings import Settings, member


@dataclasses.dataclass(frozen=True)
class MLPPredictor(Settings):
    """Linear layers with GELU between, the inner ones `factor` times as wide as the model."""

    kind: ClassVar[str] = "mlp"
    path: ClassVar[str] = "predictor"

    layers: int = 2
    factor: int = 2


@dataclasses.dataclass(frozen=True)
class TransformerPredictor(Settings):
    """Transformer blocks of the encoder's width, heads and feed-forward, pre-norm."""

    kind: ClassVar[str] = "transformer"
    path: ClassVar[str] = "predictor"

    layers: int = 1


@dataclasses.dataclass(frozen=True)
class NoPredictor(Settings):
    """The encoder's own output is compared."""

    kind: ClassVar[str] = "none"
    path: ClassVar[str] = "predictor"


PREDICTORS = {c.kind: c for c in (MLPPredictor, TransformerPredictor, NoPredictor)}


def predictor_of(values: Mapping[str, Any]) -> MLPPredictor | TransformerPredictor | NoPredictor:
    """Of config.predictor; a perceptron where it names no kind."""
    return member(PREDICTORS, {"kind": MLPPredictor.kind, **values}, "predictor")


class Predictor(nn.Module):
    """Of every frame [B, T, D], of the same shape."""

    config: EncoderConfig
    settings: MLPPredictor | TransformerPredictor | NoPredictor
    train: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """mask bool [B, T]: the frames that count, None for all."""
        cfg, settings = self.config, self.settings
        if settings.kind == "transformer":
            blocks = dataclasses.replace(
                cfg, block=TransformerConfig(), positions=NoPositions(), norm_order="pre",
                num_layers=settings.layers, layerdrop=0.0,
            )  # fmt: skip
            return block_stack(blocks, self.train, name="blocks")((x, {}), mask)[0][0]
        if settings.kind == "none":
            return x
        widths = [settings.factor * cfg.width] * (settings.layers - 1) + [cfg.width]
        axes = ("embed", "mlp"), ("mlp", "embed")
        for i, width in enumerate(widths):
            if i:
                x = ACTIVATIONS["gelu"](x)
            x = torch_dense(
                x.shape[-1], width, axes[i % 2], cfg.compute_dtype, name=f"linear_{i}"
            )(x)  # fmt: skip
        return x
