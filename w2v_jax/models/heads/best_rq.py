"""BEST-RQ as it is pre-trained (arXiv 2202.01855): the encoder, a layer of codes, and what labels
are made of, which is drawn once and never trained."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig, RandomQuantizerConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.frontends.logmel import Edit
from w2v_jax.models.layers import torch_dense
from w2v_jax.models.random_quantizer import RandomQuantizer


@flax.struct.dataclass
class BestRQOutput:
    """G codebooks of V codes; S = the frames of the spectrum in one of the output, times bins."""

    logits: jax.Array  # float32 [B, T, G, V]
    spectrum: jax.Array  # float32 [B, its frames, bins], normalised and not edited
    projection: jax.Array  # float32 [G, S, D]
    codebook: jax.Array  # float32 [G, V, D], rows of length 1


class BestRQModel(nn.Module):
    """Pre-training model: a distribution over the codes of every codebook for every frame."""

    config: EncoderConfig
    quantizer: RandomQuantizerConfig
    train: bool = False

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None = None,
        edit: Edit | None = None,
    ) -> BestRQOutput:
        """audio [B, S], length int32 [B] or None, edit as in `Encoder`. Raises ConfigError where
        the front end has no spectrum, and for an encoder with output layers."""
        cfg, quantizer = self.config, self.quantizer
        quantizer.check_frontend(cfg.frontend)
        out = Encoder(cfg, self.train, name="encoder")(
            audio, length, edit=edit, taps=("spectrum",)
        )
        classes = quantizer.codebooks * quantizer.codes
        logits = torch_dense(
            cfg.width, classes, ("embed", "vocab"), cfg.compute_dtype, name="predict"
        )(out.context).astype(jnp.float32)
        projection, codebook = RandomQuantizer(
            quantizer.codebooks, quantizer.codes, quantizer.width,
            inputs=cfg.frontend.reduction * cfg.frontend.bins, name="random_quantizer",
        )()  # fmt: skip
        return BestRQOutput(
            logits.reshape(*logits.shape[:2], quantizer.codebooks, quantizer.codes),
            out.taps["spectrum"], projection, codebook,
        )  # fmt: skip
