"""The one encoder: front end -> projection -> mask -> context network.

Scan, rematerialisation and LayerDrop live here and nowhere else.
"""

from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.errors import some
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.conformer import ConformerBlock
from w2v_jax.models.frontends.logmel import Edit
from w2v_jax.models.kernels import form
from w2v_jax.models.kernels.attention import ATTENDED
from w2v_jax.models.kernels.dropout import Dropout
from w2v_jax.models.layers import (
    ConvStack,
    LayerNorm,
    PositionalConv,
    boxed,
    frame_mask,
    sinusoids,
    torch_dense,
    zero_padding,
)
from w2v_jax.models.output_adapter import OutputAdapter
from w2v_jax.models.positions import CONVOLUTIONS
from w2v_jax.models.settings import ConfigError
from w2v_jax.models.transformer import TransformerBlock

_keep = jax.checkpoint_policies
REMAT_POLICIES = {
    "full": _keep.nothing_saveable,
    # products with weights, and what attention gave where it makes no [B, H, T, T]
    "dots": _keep.save_from_both_policies(
        _keep.dots_with_no_batch_dims_saveable, _keep.save_only_these_names(ATTENDED)
    ),
}


def over_layers(layer: type[nn.Module], config) -> type[nn.Module]:
    """`layer`, called with (x, broadcast) -> (x, output), config.num_layers times in a row, each
    with parameters of its own: x goes through, outputs are stacked. Compiled once or once per layer
    as execution.layers says, and computed again in the backward pass as execution.remat says."""
    execution = config.execution
    scan = form("layers", execution.layers) == "scan"
    if execution.remat != "none":
        # unrolled, the compiler would find what is computed again to be what it has already
        policy = REMAT_POLICIES[execution.remat]
        layer = nn.remat(layer, prevent_cse=not scan, policy=policy)
    return nn.scan(
        layer,
        variable_axes={"params": 0, "stats": 0},
        split_rngs={"params": True, "dropout": True, "layerdrop": True},
        in_axes=nn.broadcast,
        length=config.num_layers,
        unroll=1 if scan else config.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


@flax.struct.dataclass
class EncoderOutput:
    """What `Encoder` returns."""

    context: jax.Array  # [B, T', D'] output of the context network, or of the adapter on top
    features: jax.Array  # [B, T, C] layer-normed, unmasked features, what targets are made of
    length: jax.Array | None  # int32 [B] frames of the context, None when every row is full
    penalty: jax.Array  # float32 scalar: mean square of the features before their layer norm
    taps: dict[str, jax.Array]  # what was asked for, by name: see `tap_names`


def tap_names(config: EncoderConfig) -> list[str]:
    """What can be had of the inside of an encoder, each [B, T, width]:

    raw_features, features: of the front end, before and after their norm, [B, T, its width];
    projected: these at the width of the model, before dropout and mask;
    hidden_0, hidden_N: the first block's input, the output of block N;
    feed_forward_N: what the (second) feed-forward of block N gave, before the residual; 0 where
    LayerDrop skipped the block;
    spectrum or conv_N: what a front end makes frames of, normalised and not edited, where it has a
    spectrum, or what its convolution N gave: [B, its own frames, its width].
    """
    layers = range(1, config.num_layers + 1)
    hidden = [f"hidden_{i}" for i in (0, *layers)]
    feed_forward = [f"feed_forward_{i}" for i in layers]
    return ["raw_features", "features", "projected", *hidden, *feed_forward, *config.frontend.taps]


def tap_widths(config: EncoderConfig) -> dict[str, int]:
    """{name: width} of `tap_names`."""
    frontend = config.frontend
    widths = dict.fromkeys(("raw_features", "features"), frontend.width) | frontend.taps
    return {name: widths.get(name, config.width) for name in tap_names(config)}


class _Layer(nn.Module):
    """One step of the scan over the blocks, with LayerDrop.

    `held` carries what is tapped of single blocks, and the number of the block: only that is in
    memory. Kinds in `stacked` are given for every block instead.
    """

    config: EncoderConfig
    train: bool
    stacked: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, carry, mask):
        cfg, (x, held) = self.config, carry
        make = ConformerBlock if cfg.conformer else TransformerBlock
        block = make(cfg, self.train, name="block")
        inner = "feed_forward" in self.stacked or any(k.startswith("feed") for k in held)
        called = lambda block, x: block(x, mask) if inner else (block(x, mask)[0], ())  # noqa: E731
        skipped = lambda _, x: (x, jnp.zeros_like(x) if inner else ())  # noqa: E731
        if self.train and cfg.layerdrop and not self.is_initializing():
            # drawn from the step's key alone: every device drops the same layers, and none of them
            # computes what is dropped
            keep = jax.random.bernoulli(self.make_rng("layerdrop"), 1 - cfg.layerdrop)
            y, feed_forward = nn.cond(keep, called, skipped, block, x)
        else:
            y, feed_forward = called(block, x)
        y = nn.with_logical_constraint(y, ("batch", "time", "act_embed"))
        found = {"hidden": y, "feed_forward": feed_forward}
        if held:
            number = held["number"] + 1
            held = {
                name: number if name == "number"
                else jnp.where(number == _block(name), found[name.rpartition("_")[0]], old)
                for name, old in held.items()
            }  # fmt: skip
        return (y, held), {name: found[name] for name in self.stacked}


def _block(name: str) -> int:
    """The number of the block in the name of a tap."""
    return int(name.rpartition("_")[2])


def feature_encoder(config: EncoderConfig, **kwargs) -> nn.Module:
    """The module of the front end."""
    return config.frontend.module(config.execution, config.padding_leaks, **kwargs)


def convolution_of_positions(config: EncoderConfig, **kwargs) -> nn.Module:
    """The module of config.positions, which is one of `CONVOLUTIONS`; called with (x, mask,
    train)."""
    at, form, dtype = config.positions, config.execution.positional_conv, config.compute_dtype
    if at.kind == "conv":
        return PositionalConv(
            config.width, at.kernel, at.groups, form, dtype, at.activation, at.norm, **kwargs
        )
    return ConvStack(
        config.width, at.layers, at.kernel, at.groups, form, dtype, at.activation, **kwargs
    )


def block_stack(
    config: EncoderConfig, train: bool, stacked: tuple[str, ...] = (), **kwargs
) -> nn.Module:
    """All blocks in a row, called with ((x, held), mask); see `_Layer` and `over_layers`."""
    return over_layers(_Layer, config)(config, train, stacked, **kwargs)


class ContextNetwork(nn.Module):
    """Positions, norm and blocks over masked features. fairseq wav2vec2.py TransformerEncoder."""

    config: EncoderConfig
    train: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, taps: Sequence[str]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """x [B, T, D], mask bool [B, T] or None -> ([B, T, D], what is tapped of the blocks)."""
        cfg = self.config
        x = zero_padding(x, mask)
        moved = None
        if cfg.positions.kind in CONVOLUTIONS:
            leaks = cfg.padding_leaks
            convolution = convolution_of_positions(cfg, name="positions")
            moved = convolution(x, None if leaks else mask, self.train)
        elif cfg.positions.kind == "sinusoidal":
            x = x + sinusoids(jnp.arange(x.shape[1]), cfg.width).astype(x.dtype)
        norm = LayerNorm(cfg.execution, cfg.norm_eps, name="norm")
        if cfg.norm_order == "post":
            x = norm(x, moved)
        elif moved is not None:
            x = x + moved
        x = Dropout(cfg.dropout, deterministic=not self.train)(x)
        found = {"hidden_0": x} if "hidden_0" in taps else {}
        wanted = [name for name in taps if name != "hidden_0"]
        # to hold a tap costs a selection per block: many are stacked
        kinds = [name.rpartition("_")[0] for name in wanted]
        stacked = tuple(kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 4)
        held = {n: jnp.zeros_like(x) for n, kind in zip(wanted, kinds, strict=True)
                if kind not in stacked}  # fmt: skip
        held |= {"number": jnp.int32(0)} if held else {}
        (x, held), stacks = block_stack(cfg, self.train, stacked, name="layers")((x, held), mask)
        for name, kind in zip(wanted, kinds, strict=True):
            found[name] = stacks[kind][_block(name) - 1] if kind in stacked else held[name]
        return (norm(x) if cfg.norm_order == "pre" else x), found


def mean_square(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Mean of x^2 over x [B, T, C], float32; frames where mask [B, T] is False do not count."""
    count = x.shape[0] * x.shape[1] if mask is None else mask.sum().clip(1)
    return jnp.square(zero_padding(x, mask).astype(jnp.float32)).sum() / (count * x.shape[-1])


class Encoder(nn.Module):
    """Audio to context. Order of operations as in fairseq wav2vec2.py `Wav2Vec2Model.forward`."""

    config: EncoderConfig
    train: bool = False

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None = None,
        *,
        time_mask: jax.Array | None = None,
        channel_mask: jax.Array | None = None,
        frames: int | None = None,
        edit: Edit | None = None,
        kept: jax.Array | None = None,
        taps: Sequence[str] = (),
        clean: jax.Array | None = None,
    ) -> EncoderOutput:
        """audio int16 or float [B, S]; length int32 [B] in samples or None (no padding);
        time_mask bool [B, T]: frames replaced by the mask embedding; channel_mask bool [B, D]:
        channels set to 0 in all frames; frames: keep this many, T of all that follows (where labels
        end early); edit: what becomes of the front end's spectrum, (float32 [B, its frames, bins],
        its frames int32 [B]) -> spectrum; kept int32 [B]: of T, so many frames of a row are left
        after it, the rest is padding; taps: what is wanted of the inside, see `tap_names`; clean
        [B, S]: the same speech without augmentation, whose features are given.
        Raises ConfigError for a tap that there is not, and for an edit where there is no spectrum.
        """
        cfg, dtype = self.config, self.config.compute_dtype
        if isinstance(taps, str):
            raise ConfigError(f"taps is {taps!r}; it must be names in a tuple, ({taps!r},)")
        if unknown := sorted(set(taps) - set(tap_names(cfg))):
            raise ConfigError(
                f"the encoder has no {some(unknown)}; it has {some(tap_names(cfg))}"
            )
        if edit is not None and not cfg.frontend.bins:
            raise ConfigError(
                f"model.frontend.kind={cfg.frontend.kind} has no spectrum to edit; use a config "
                "with frontend=logmel in its argument"
            )
        edits = {} if edit is None else {"edit": edit, "kept": kept}
        inner = () if cfg.frontend.bins else tuple(n for n in taps if n in cfg.frontend.taps)
        tapped = {"taps": inner} if inner else {}
        encode = feature_encoder(cfg, name="feature_encoder", **tapped)
        extract = encode if inner else lambda *x, **edits: (encode(*x, **edits), {})
        features, outside = extract(audio, length, **edits)  # [B, T, C]
        features = features[:, :frames]
        given_length = length
        if kept is not None:
            length = kept
        elif length is not None:
            length = cfg.frontend.valid_frames(length, audio.shape[1], features.shape[1])
        mask = frame_mask(length, features.shape[1])
        penalty = mean_square(features, None if cfg.padding_leaks else mask)
        raw_features = features
        norm = lambda x: x  # noqa: E731
        if cfg.feature_norm:
            norm = LayerNorm(cfg.execution, cfg.norm_eps, name="feature_norm")
        x = features = norm(features)
        if cfg.frontend.width != cfg.width:
            x = torch_dense(
                cfg.frontend.width, cfg.width, ("conv_out", "embed"), dtype,
                name="feature_projection",
            )(x)  # fmt: skip
        projected = x
        x = Dropout(cfg.dropout_input, deterministic=not self.train)(x)
        mask_embedding = self.param(
            "mask_embedding", boxed(nn.initializers.uniform(1.0), "embed"), (cfg.width,)
        )
        if time_mask is not None:
            x = jnp.where(time_mask[:, :, None], mask_embedding.astype(dtype), x)
        if channel_mask is not None:
            x = jnp.where(channel_mask[:, None, :], 0, x)
        x = nn.with_logical_constraint(x, ("batch", "time", "act_embed"))
        outside |= {"raw_features": raw_features, "features": features, "projected": projected}
        if "spectrum" in taps:  # computed once: the compiler sees that it is the front end's
            outside["spectrum"], _ = cfg.frontend.spectrum(audio, given_length)
        inside = [name for name in taps if name not in outside]
        x, found = ContextNetwork(cfg, self.train, name="context")(x, mask, inside)
        if cfg.output.layers:
            x, length = OutputAdapter(cfg, self.train, name="output_adapter")(x, length)
        found |= {name: outside[name] for name in taps if name in outside}
        if clean is not None:
            features = norm(extract(clean, given_length)[0][:, :frames])
        return EncoderOutput(x, features, length, penalty, found)
