"""The arithmetic that a model asks for, whatever program computes it.

A multiplication with its addition counts as two operations. Norms, activations and softmax are left
out (below 2 %), and so is what remat computes again.
"""

from w2v_jax.models.config import EncoderConfig, QuantizerConfig


def encoder_flops(config: EncoderConfig, samples: int) -> dict[str, float]:
    """Operations of a forward pass over one row of `samples`, by part. Every pair of frames counts
    in the attention. The output layers of config.output_layers are left out."""
    cfg = config
    parts = {}
    channels, length = 1, samples
    for i, (out, kernel, stride) in enumerate(cfg.conv_layers):
        length = (length - kernel) // stride + 1
        key = "first convolution" if i == 0 else "convolutions"
        parts[key] = parts.get(key, 0.0) + 2.0 * kernel * channels * out * length
        channels = out
    t, d, layers = length, cfg.width, cfg.num_layers
    if cfg.channels != d:
        parts["feature projection"] = 2.0 * t * cfg.channels * d
    if cfg.positions == "conv":
        parts["positions"] = 2.0 * t * cfg.pos_conv_kernel * d * d / cfg.pos_conv_groups
    parts["attention projections"] = layers * 8.0 * t * d * d
    parts["attention"] = layers * 4.0 * t * t * d
    feed_forwards = 2 if cfg.block == "conformer" else 1
    parts["feed-forward"] = layers * feed_forwards * 4.0 * t * d * cfg.feed_forward
    if cfg.positions == "relative":
        parts["position projections"] = layers * 2.0 * (2 * t - 1) * d * d
        parts["relative positions"] = layers * 2.0 * (2 * t - 1) * d * t
    if cfg.block == "conformer":
        parts["convolution modules"] = layers * 2.0 * t * d * (3 * d + cfg.conformer_kernel)
    if cfg.adapter_dim:
        parts["adapters"] = layers * 4.0 * t * d * cfg.adapter_dim
    return parts


def contrastive_flops(
    config: EncoderConfig, quantizer: QuantizerConfig, samples: int, masked: float, negatives: int
) -> dict[str, float]:
    """Operations of the quantizer, the projections and the comparisons of one row.

    masked: share of the frames that is masked; the rest needs none of them.
    """
    m, q = masked * config.frames(samples), quantizer
    return {
        "quantizer": 2.0 * m * q.codes * (config.channels * q.groups + q.width)
        + 2.0 * m * q.width * q.projection,
        "context projection": 2.0 * m * config.width * q.projection,
        "comparisons": 2.0 * m * (negatives + 1) * q.projection,
    }


def training_flops(config: EncoderConfig, forward: dict[str, float]) -> float:
    """Operations of forward and backward pass together.

    Every part has two products in the backward pass, one for its input and one for its weights.
    Exceptions: audio and the table of positions need no gradient, a frozen feature encoder none.
    """
    total = 3 * sum(forward.values()) - forward.get("position projections", 0.0)
    if config.feature_grad_mult == 0:
        return total - 2 * (forward["first convolution"] + forward["convolutions"])
    return total - forward["first convolution"]
