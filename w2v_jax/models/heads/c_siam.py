"""The augmented branch of c-siam (arXiv 2205.14054): encoder and predictor, perhaps a layer of
letters. Its target branch is the encoder alone."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.frontends.logmel import Edit
from w2v_jax.models.heads.predictor import (
    MLPPredictor,
    NoPredictor,
    Predictor,
    TransformerPredictor,
)
from w2v_jax.models.layers import boxed, frame_mask


@flax.struct.dataclass
class CSiamOutput:
    """What `CSiamModel` returns."""

    prediction: jax.Array  # float32 [B, M, D] of the frames asked for, or of all
    length: jax.Array | None  # int32 [B] frames, None when every row is full
    logits: jax.Array | None = None  # float32 [B, T, L] of letters, where they are asked for


class CSiamModel(nn.Module):
    """Predictions of the targets of masked frames.

    letters: of the layer for CTC, id 0 is the blank; 0: there is none.
    """

    config: EncoderConfig
    predictor: MLPPredictor | TransformerPredictor | NoPredictor
    letters: int = 0
    train: bool = False

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None = None,
        time_mask: jax.Array | None = None,
        masked_frames: jax.Array | None = None,
        *,
        edit: Edit | None = None,
        kept: jax.Array | None = None,
        spell: bool = False,
    ) -> CSiamOutput:
        """audio [B, S], length int32 [B] or None, time_mask bool [B, T], edit and kept as in
        `Encoder`; masked_frames int32 [B, M]: the frames that are predicted; spell: whether the
        logits of letters are given."""
        self.config.refuse_output_layers("c-siam")
        out = Encoder(self.config, self.train, name="encoder")(
            audio, length, time_mask=time_mask, edit=edit, kept=kept
        )
        x, mask = out.context, frame_mask(out.length, out.context.shape[1])
        predict = Predictor(self.config, self.predictor, self.train, name="predictor")
        take = lambda x: (  # noqa: E731
            x if masked_frames is None
            else jnp.take_along_axis(x, masked_frames[:, :, None], axis=1)
        )  # fmt: skip
        # where frames do not hear each other the others need no prediction
        alone = self.predictor.kind != "transformer"
        x = predict(take(x), None) if alone else take(predict(x, mask))
        logits = None
        if self.letters and (spell or self.is_initializing()):
            logits = nn.Dense(
                self.letters, dtype=self.config.compute_dtype,
                kernel_init=boxed(nn.initializers.xavier_uniform(), "embed", "vocab"),
                bias_init=boxed(nn.initializers.zeros, "vocab"), name="letters_head",
            )(out.context).astype(jnp.float32)  # fmt: skip
        return CSiamOutput(x.astype(jnp.float32), out.length, logits)
