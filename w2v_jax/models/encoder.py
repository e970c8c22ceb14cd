"""The one encoder: feature encoder -> projection -> mask -> context network.

Scan, rematerialisation and LayerDrop live here and nowhere else.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.models.adapter import OutputAdapter
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.conformer import ConformerBlock
from w2v_jax.models.frontends.waveform import FeatureEncoder, scale_waveform
from w2v_jax.models.kernels.dropout import Dropout
from w2v_jax.models.layers import (
    PositionalConv,
    boxed,
    frame_mask,
    layer_norm,
    torch_dense,
    zero_padding,
)
from w2v_jax.models.transformer import TransformerBlock

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def convolutions_saveable(primitive, *_, **__) -> bool:
    """The remat policy of the feature encoder: keeps what convolutions gave, which is costly to
    compute again. Norms and activations, several arrays per convolution, are not."""
    return primitive is jax.lax.conv_general_dilated_p


def over_layers(layer: type[nn.Module], config) -> type[nn.Module]:
    """`layer`, called with (x, broadcast) -> (x, output), config.num_layers times in a row, each
    with parameters of its own: x goes through, outputs are stacked. Compiled once with config.scan,
    and computed again in the backward pass as config.remat says."""
    if config.remat != "none":
        layer = nn.remat(layer, prevent_cse=False, policy=REMAT_POLICIES[config.remat])
    return nn.scan(
        layer,
        variable_axes={"params": 0, "stats": 0},
        split_rngs={"params": True, "dropout": True, "layerdrop": True},
        in_axes=nn.broadcast,
        length=config.num_layers,
        unroll=1 if config.scan else config.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


@flax.struct.dataclass
class EncoderOutput:
    """What `Encoder` returns; `hidden_states` is None unless asked for."""

    context: jax.Array  # [B, T', D'] output of the context network, or of the adapter on top
    features: jax.Array  # [B, T, C] layer-normed, unmasked features, the quantizer's input
    length: jax.Array | None  # int32 [B] frames of the context, None when every row is full
    penalty: jax.Array  # float32 scalar: mean square of the features before their layer norm
    hidden_states: jax.Array | None = None  # [L+1, B, T, D]: the first block's input, each output


class _Layer(nn.Module):
    """One step of the scan over the blocks, with LayerDrop."""

    config: EncoderConfig
    train: bool
    collect: bool

    @nn.compact
    def __call__(self, x, mask):
        cfg = self.config
        make = ConformerBlock if cfg.block == "conformer" else TransformerBlock
        block = make(cfg, self.train, name="block")
        if self.train and cfg.layerdrop and not self.is_initializing():
            # drawn from the step's key alone: every device drops the same layers, and none of them
            # computes what is dropped
            keep = jax.random.bernoulli(self.make_rng("layerdrop"), 1 - cfg.layerdrop)
            y = nn.cond(keep, lambda block, x: block(x, mask), lambda _, x: x, block, x)
        else:
            y = block(x, mask)
        y = nn.with_logical_constraint(y, ("batch", "time", "act_embed"))
        return y, (y if self.collect else None)


def feature_encoder(config: EncoderConfig, **kwargs) -> nn.Module:
    """The feature encoder, computed again in the backward pass as config.remat_features says."""
    make = FeatureEncoder
    if config.remat_features:
        make = nn.remat(FeatureEncoder, policy=convolutions_saveable)
    return make(config, **kwargs)


def positional_conv(config: EncoderConfig, **kwargs) -> PositionalConv:
    """The convolutional positions of config.positions == "conv"."""
    cfg = config
    return PositionalConv(
        cfg.width, cfg.pos_conv_kernel, cfg.pos_conv_groups, cfg.pos_conv_method,
        cfg.compute_dtype, cfg.conv_activation, cfg.pos_conv_norm, **kwargs,
    )  # fmt: skip


def block_stack(config: EncoderConfig, train: bool, collect: bool = False, **kwargs) -> nn.Module:
    """All blocks in a row, called with (x, mask); see `over_layers`."""
    return over_layers(_Layer, config)(config, train, collect, **kwargs)


class ContextNetwork(nn.Module):
    """Positions, norm and blocks over masked features. fairseq wav2vec2.py TransformerEncoder."""

    config: EncoderConfig
    train: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, collect: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """x [B, T, D], mask bool [B, T] or None -> ([B, T, D], hidden states [L+1, B, T, D])."""
        cfg, dtype = self.config, self.config.compute_dtype
        x = zero_padding(x, mask)
        if cfg.positions == "conv":
            x = x + positional_conv(cfg, name="positions")(
                x, None if cfg.padding_leaks else mask, self.train
            )
        norm = layer_norm(dtype, name="norm", eps=cfg.norm_eps)
        if cfg.norm_order == "post":
            x = norm(x)
        x = Dropout(cfg.dropout, deterministic=not self.train)(x)
        layers = block_stack(cfg, self.train, collect, name="layers")
        first = x
        x, outputs = layers(x, mask)
        if cfg.norm_order == "pre":
            x = norm(x)
        return x, (jnp.concatenate([first[None], outputs]) if collect else None)


def valid_frames(config: EncoderConfig, length, audio, features) -> jax.Array:
    """Frames that count, int32 [B], of rows with `length` samples: see config.frame_rule."""
    frames = config.frames(length)
    if config.frame_rule == "samples":
        frames = -(-length // (audio.shape[1] // features.shape[1]))
    return frames.clip(0, features.shape[1])


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
        collect: bool = False,
    ) -> EncoderOutput:
        """audio int16 or float [B, S]; length int32 [B] in samples or None (no padding);
        time_mask bool [B, T]: frames replaced by the mask embedding; channel_mask bool [B, D]:
        channels set to 0 in all frames; frames: keep this many, T of all that follows (where labels
        end early); collect: return every hidden state.
        """
        cfg, dtype = self.config, self.config.compute_dtype
        x = scale_waveform(audio, length, cfg.normalize_waveform, cfg.normalize_eps)
        features = feature_encoder(cfg, name="feature_encoder")(x, length)[:, :frames]  # [B, T, C]
        length = None if length is None else valid_frames(cfg, length, audio, features)
        mask = frame_mask(length, features.shape[1])
        penalty = mean_square(features, None if cfg.padding_leaks else mask)
        if cfg.feature_norm:
            features = layer_norm(dtype, name="feature_norm", eps=cfg.norm_eps)(features)
        x = features
        if cfg.channels != cfg.width:
            x = torch_dense(
                cfg.channels, cfg.width, ("conv_out", "embed"), dtype, name="feature_projection"
            )(x)  # [B, T, D]
        x = Dropout(cfg.dropout_input, deterministic=not self.train)(x)
        mask_embedding = self.param(
            "mask_embedding", boxed(nn.initializers.uniform(1.0), "embed"), (cfg.width,)
        )
        if time_mask is not None:
            x = jnp.where(time_mask[:, :, None], mask_embedding.astype(dtype), x)
        if channel_mask is not None:
            x = jnp.where(channel_mask[:, None, :], 0, x)
        x = nn.with_logical_constraint(x, ("batch", "time", "act_embed"))
        x, hidden = ContextNetwork(cfg, self.train, name="context")(x, mask, collect)
        if cfg.output_layers:
            x, length = OutputAdapter(cfg, name="output_adapter")(x, length)
        return EncoderOutput(x, features, length, penalty, hidden)
