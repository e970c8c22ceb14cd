"""The arithmetic that a model asks for, whatever program computes it.

A multiplication with its addition counts as two operations. Norms, activations and softmax are left
out (below 2 %), and so is what remat computes again.
"""

from w2v_jax.models.config import EncoderConfig, LinearTargets, QuantizerConfig
from w2v_jax.models.language import LanguageConfig
from w2v_jax.models.positions import CONVOLUTIONS

OF_BLOCKS = (  # parts that LayerDrop skips
    "attention projections", "attention", "feed-forward", "position projections",
    "relative positions", "convolution modules", "adapters",
)  # fmt: skip


def encoder_flops(config: EncoderConfig, samples: int) -> dict[str, float]:
    """Operations of a forward pass over one row of `samples`, by part. Every pair of frames counts
    in the attention. The output layers of config.output are left out."""
    cfg = config
    parts = cfg.frontend.flops(samples)
    t, d, layers = cfg.frontend.frames(samples), cfg.width, cfg.num_layers
    if cfg.frontend.width != d:
        parts["feature projection"] = 2.0 * t * cfg.frontend.width * d
    if cfg.positions.kind in CONVOLUTIONS:
        per_frame = 2.0 * cfg.positions.kernel * d * d / cfg.positions.groups
        parts["positions"] = cfg.positions.layers * t * per_frame
    parts["attention projections"] = layers * 8.0 * t * d * d
    parts["attention"] = layers * 4.0 * t * t * d
    feed_forwards = cfg.block.feed_forwards if cfg.conformer else 1
    parts["feed-forward"] = layers * feed_forwards * 4.0 * t * d * cfg.feed_forward
    if cfg.positions.kind == "relative":
        parts["position projections"] = layers * 2.0 * (2 * t - 1) * d * d
        parts["relative positions"] = layers * 2.0 * (2 * t - 1) * d * t
    if cfg.positions.kind == "shaw":
        distances = cfg.positions.left + cfg.positions.right + 1
        parts["relative positions"] = layers * 2.0 * distances * d * t
    if cfg.conformer and cfg.block.convolution != "none":
        parts["convolution modules"] = layers * 2.0 * t * d * (3 * d + cfg.block.kernel)
    if not cfg.conformer and cfg.block.adapter_dim:
        parts["adapters"] = layers * 4.0 * t * d * cfg.block.adapter_dim
    return parts


def contrastive_flops(
    config: EncoderConfig,
    quantizer: QuantizerConfig | LinearTargets,
    samples: int,
    masked: float,
    negatives: int,
    *,
    everywhere: bool = False,
) -> dict[str, float]:
    """Operations of the targets, the context's projection and the comparisons of one row.

    masked: share of the frames that is masked; the rest needs none of them, but for the targets
    where the negatives are from everywhere.
    """
    frames, q = config.frontend.frames(samples), quantizer
    m = masked * frames
    targets = frames if everywhere else m
    project = lambda width: width * ((q.projection_depth - 1) * width + q.projection)  # noqa: E731
    features = config.frontend.width
    if isinstance(q, LinearTargets):
        made = {"targets": 2.0 * targets * project(features)}
    else:
        hidden, inner = 0, features
        for _ in range(q.depth - 1):
            hidden, inner = hidden + inner * q.factor * features, q.factor * features
        codes = hidden + q.codes * (inner * q.groups + q.width)
        made = {"quantizer": 2.0 * targets * (codes + project(q.width))}
    return made | {
        "context projection": 2.0 * m * project(config.width),
        "comparisons": 2.0 * m * (negatives + 1) * q.projection,
    }


def training_flops(config: EncoderConfig, forward: dict[str, float], samples: int) -> float:
    """Operations of forward and backward pass together, of the parts in `forward`.

    Every part has two products in the backward pass, one for its input and one for its weights.
    Exceptions: the table of positions needs no gradient, and the front end knows its own.
    """
    front = sum(config.frontend.flops(samples).values())
    total = 3 * (sum(forward.values()) - front) - forward.get("position projections", 0.0)
    return total + front + config.frontend.backward_flops(samples)


def language_flops(config: LanguageConfig, outputs: int, tokens: int) -> dict[str, float]:
    """Operations of a forward pass of a language model over one row, by part. Every pair of tokens
    counts in the attention."""
    t, d, layers = tokens, config.width, config.num_layers
    return {
        "attention projections": layers * 8.0 * t * d * d,
        "attention": layers * 4.0 * t * t * d,
        "feed-forward": layers * 4.0 * t * d * config.feed_forward,
        "softmax": 2.0 * t * d * outputs,
    }
