"""The arithmetic of an update and of a forward pass over a full batch, all devices together.

`config` is a config of kind "pretrained" or "ctc" (configs/common.py). What counts as an operation
is said in measuring/flops.py.
"""

from w2v_jax.measuring.flops import contrastive_flops, encoder_flops, training_flops
from w2v_jax.models.config import EncoderConfig, QuantizerConfig

OF_BLOCKS = (
    "attention projections", "attention", "feed-forward", "position projections",
    "relative positions", "convolution modules", "adapters",
)  # fmt: skip


def update_flops(config, samples: int, rows: int, *, layerdrop: bool = False) -> float:
    """Operations of an update on `rows` rows of `samples`.

    layerdrop: a block that LayerDrop skips counts nothing, on average over the updates. Without it
    every block counts, which is the most that an update can ask for.
    """
    encoder = EncoderConfig.from_dict(config.model)
    forward = encoder_flops(encoder, samples)
    if layerdrop:
        share = 1 - encoder.layerdrop
        forward |= {part: forward[part] * share for part in OF_BLOCKS if part in forward}
    if config.kind == "pretrained":
        masking = config.masking
        # spans of `span` frames start at prob / span of them (wav2vec 2.0, section 4.2: 49 %)
        masked = 1 - (1 - masking.prob / masking.span) ** masking.span
        forward |= contrastive_flops(
            encoder, QuantizerConfig.from_dict(config.quantizer), samples, masked,
            config.loss.negatives + config.loss.cross_negatives,
        )  # fmt: skip
    return training_flops(encoder, forward) * rows


def inference_flops(config, samples: int, rows: int) -> float:
    """Operations of a forward pass of the encoder over `rows` rows of `samples`."""
    return sum(encoder_flops(EncoderConfig.from_dict(config.model), samples).values()) * rows
