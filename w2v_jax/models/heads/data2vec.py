"""data2vec as it is pre-trained (arXiv 2202.03555): the encoder, a linear layer that answers, and
the teacher's pass over what the encoder heard."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import ContextNetwork, Encoder
from w2v_jax.models.layers import torch_dense

OF_TEACHER = "encoder/context/layers"  # the parameters that a teacher has of its own: the blocks


@flax.struct.dataclass
class Data2VecOutput:
    """What `Data2VecModel` returns."""

    prediction: jax.Array  # float32 [B, T, D] of all frames
    projected: jax.Array  # [B, T, D] the features before dropout and mask, which a teacher hears


class Data2VecModel(nn.Module):
    """The student. fairseq examples/data2vec/models/data2vec_audio.py."""

    config: EncoderConfig
    train: bool = False

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None = None,
        time_mask: jax.Array | None = None,
    ) -> Data2VecOutput:
        """audio [B, S], length int32 [B] or None, time_mask bool [B, T] as in `Encoder`."""
        cfg = self.config
        cfg.refuse_output_layers("data2vec")
        out = Encoder(cfg, self.train, name="encoder")(
            audio, length, time_mask=time_mask, taps=("projected",)
        )
        axes = ("embed", "act_embed")
        answer = torch_dense(cfg.width, cfg.width, axes, cfg.compute_dtype, name="regression")
        return Data2VecOutput(answer(out.context).astype(jnp.float32), out.taps["projected"])


def heard_by_teacher(
    config: EncoderConfig,
    variables: Mapping[str, Any],
    teacher: Mapping[str, Any],
    projected: jax.Array,
    layers: int,
) -> Sequence[jax.Array]:
    """What the feed-forwards of the top `layers` blocks gave before the residual, [B, T, D] each.

    projected: of full rows. The blocks are those of the parameters `teacher`, OF_TEACHER in their
    place; positions and norm before them are the student's. Without dropout, mask and LayerDrop.
    """
    context = variables["params"]["encoder"]["context"]
    context = context | {"layers": teacher["encoder"]["context"]["layers"]}
    stats = variables.get("stats", {}).get("encoder", {}).get("context", {})
    top = range(config.num_layers - layers + 1, config.num_layers + 1)
    taps = tuple(f"feed_forward_{i}" for i in top)
    network = ContextNetwork(config, train=False)
    _, found = network.apply({"params": context, "stats": stats}, projected, None, taps)
    return [found[name] for name in taps]
