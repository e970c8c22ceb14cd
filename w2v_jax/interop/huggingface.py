"""Checkpoints of HuggingFace transformers: Wav2Vec2 and Wav2Vec2Conformer with pre-training head.

`_rows` is the one table of names. A row is (our module, their module, parameters); a parameter is
(our name, their name, axes). `axes` spells their axes and ours, 1 for an axis of size one that we
leave out: "oik->kio" is a convolution, "oi1->io" one of width one that is a dense layer here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from w2v_jax.errors import UserError
from w2v_jax.models.config import EncoderConfig, QuantizerConfig

PREFIXES = {"wav2vec2": "wav2vec2.", "wav2vec2-conformer": "wav2vec2_conformer."}

ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu", "silu": "swish", "swish": "swish",
}  # fmt: skip

# what our models compute, where transformers has a switch; a key that is absent has this value
ONLY = {
    "add_adapter": False,
    "adapter_attn_dim": None,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "rotary_embedding_base": 10000,
}

# names of weight norm before torch 2.0's parametrizations; transformers renames them on load
OLDER = {
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}

KERNEL, BIAS = ("kernel", "weight", "oi->io"), ("bias", "bias", "o->o")
DENSE = (KERNEL, BIAS)
CONV = (("kernel", "weight", "oik->kio"),)
POINTWISE = (("kernel", "weight", "oi1->io"),)
NORM = (("scale", "weight", "c->c"), BIAS)
BATCH_NORM = (*NORM, ("mean", "running_mean", "c->c"), ("var", "running_var", "c->c"))
STATS = ("mean", "var")  # these live in the collection `stats`, all others in `params`

HEAD = (
    ("quantizer", "quantizer", (("codebook", "codevectors", "1vd->vd"),)),
    ("quantizer/logits", "quantizer.weight_proj", DENSE),
    ("project_targets", "project_q", DENSE),
    ("project_context", "project_hid", DENSE),
)
ENCODER = (
    ("encoder/feature_norm", "feature_projection.layer_norm", NORM),
    ("encoder/feature_projection", "feature_projection.projection", DENSE),
    ("encoder", "", (("mask_embedding", "masked_spec_embed", "d->d"),)),
    ("encoder/context/norm", "encoder.layer_norm", NORM),
)
# their norm runs over all axes but the last, one magnitude per tap of the kernel
POSITIONS = (
    ("magnitude", "parametrizations.weight.original0", "11k->k"),
    ("direction", "parametrizations.weight.original1", "oik->kio"),
    BIAS,
)
TRANSFORMER = (
    ("attention/query", "attention.q_proj", DENSE),
    ("attention/key", "attention.k_proj", DENSE),
    ("attention/value", "attention.v_proj", DENSE),
    ("attention/output", "attention.out_proj", DENSE),
    ("attention_norm", "layer_norm", NORM),
    ("feed_forward/inner", "feed_forward.intermediate_dense", DENSE),
    ("feed_forward/outer", "feed_forward.output_dense", DENSE),
    ("final_norm", "final_layer_norm", NORM),
)
CONFORMER = (
    ("feed_forward_1_norm", "ffn1_layer_norm", NORM),
    ("feed_forward_1/inner", "ffn1.intermediate_dense", DENSE),
    ("feed_forward_1/outer", "ffn1.output_dense", DENSE),
    ("attention_norm", "self_attn_layer_norm", NORM),
    ("attention/query", "self_attn.linear_q", DENSE),
    ("attention/key", "self_attn.linear_k", DENSE),
    ("attention/value", "self_attn.linear_v", DENSE),
    ("attention/output", "self_attn.linear_out", DENSE),
    ("convolution/norm", "conv_module.layer_norm", NORM),
    ("convolution/pointwise_in", "conv_module.pointwise_conv1", POINTWISE),
    ("convolution/depthwise", "conv_module.depthwise_conv", CONV),
    ("convolution/depthwise_norm", "conv_module.batch_norm", BATCH_NORM),
    ("convolution/pointwise_out", "conv_module.pointwise_conv2", POINTWISE),
    ("feed_forward_2_norm", "ffn2_layer_norm", NORM),
    ("feed_forward_2/inner", "ffn2.intermediate_dense", DENSE),
    ("feed_forward_2/outer", "ffn2.output_dense", DENSE),
    ("final_norm", "final_layer_norm", NORM),
)
RELATIVE = (
    ("attention/position", "self_attn.linear_pos", (KERNEL,)),
    (
        "attention", "self_attn",
        (("content_bias", "pos_bias_u", "hd->hd"), ("position_bias", "pos_bias_v", "hd->hd")),
    ),
)  # fmt: skip


class Place(NamedTuple):
    """Where a tensor of theirs lives in our variables."""

    path: tuple[str, ...]  # collection, modules, parameter
    layer: int | None  # index along axis 0 where the layers are stacked
    axes: str


def _get(config: Mapping[str, Any], key: str) -> Any:
    if key not in config:
        raise UserError(f"config.json has no key {key}; is it of a Wav2Vec2 model?")
    return config[key]


def _refuse(config: Mapping[str, Any], key: str, remedy: str) -> UserError:
    return UserError(f"config.json: {key} is {config.get(key)!r}; {remedy}")


def _choose(config: Mapping[str, Any], key: str, choices: Mapping[Any, str]) -> str:
    value = _get(config, key)
    if value not in choices:
        raise _refuse(config, key, f"it must be one of {', '.join(map(str, choices))}")
    return choices[value]


def encoder_config(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder of a transformers config.json.

    `normalize_waveform` stays False: transformers keeps it in preprocessor_config.json. Raises
    UserError for what our models cannot express.
    """
    _choose(config, "model_type", PREFIXES)
    conformer = config["model_type"] == "wav2vec2-conformer"
    for key, value in ONLY.items():
        if config.get(key, value) != value:
            raise _refuse(config, key, f"only {value!r} is supported")
    if conformer and config.get("conformer_conv_dropout", 0.1) != _get(config, "hidden_dropout"):
        raise _refuse(config, "conformer_conv_dropout", "it must be equal to hidden_dropout")
    layers = [_get(config, f"conv_{key}") for key in ("dim", "kernel", "stride")]
    if len({len(layer) for layer in layers}) > 1:
        raise _refuse(config, "conv_dim", "conv_kernel and conv_stride must have the same length")
    stable = conformer or _get(config, "do_stable_layer_norm")
    positions = "conv"
    if conformer:  # the positional convolution is in the checkpoint, but never called
        kinds = {"relative": "relative", "rotary": "rotary", None: "none"}
        positions = _choose(config, "position_embeddings_type", kinds)
    return EncoderConfig(
        conv_layers=tuple(zip(*layers, strict=True)),
        conv_bias=_get(config, "conv_bias"),
        conv_norm=_choose(config, "feat_extract_norm", {"group": "group", "layer": "layer"}),
        conv_activation=_choose(config, "feat_extract_activation", ACTIVATIONS),
        feature_grad_mult=1.0,
        block="conformer" if conformer else "transformer",
        width=_get(config, "hidden_size"),
        num_layers=_get(config, "num_hidden_layers"),
        num_heads=_get(config, "num_attention_heads"),
        feed_forward=_get(config, "intermediate_size"),
        norm_order="pre" if stable else "post",
        norm_eps=_get(config, "layer_norm_eps"),
        activation=_choose(config, "hidden_act", ACTIVATIONS),
        positions=positions,
        pos_conv_kernel=_get(config, "num_conv_pos_embeddings"),
        pos_conv_groups=_get(config, "num_conv_pos_embedding_groups"),
        conformer_kernel=config.get("conv_depthwise_kernel_size", 31),
        dropout=_get(config, "hidden_dropout"),
        attention_dropout=_get(config, "attention_dropout"),
        activation_dropout=_get(config, "activation_dropout"),
        dropout_input=_get(config, "feat_proj_dropout"),
        dropout_features=_get(config, "feat_quantizer_dropout"),
        layerdrop=_get(config, "layerdrop"),
        padding_leaks=True,
    )


def quantizer_config(config: Mapping[str, Any]) -> QuantizerConfig:
    """The quantizer and the projections of a transformers config.json."""
    return QuantizerConfig(
        groups=_get(config, "num_codevector_groups"),
        codes=_get(config, "num_codevectors_per_group"),
        width=_get(config, "codevector_dim"),
        projection=_get(config, "proj_codevector_dim"),
    )


def _rows(config: EncoderConfig):
    """(our module, their module, layer, parameters) of every module of a model."""
    for ours, theirs, parts in (*HEAD, *ENCODER):
        if ours != "encoder/feature_projection" or config.channels != config.width:
            yield ours, theirs, None, parts
    for i in range(len(config.conv_layers)):
        theirs = f"feature_extractor.conv_layers.{i}"
        conv = (*CONV, BIAS) if config.conv_bias else CONV
        yield f"encoder/feature_encoder/conv_{i}", f"{theirs}.conv", None, conv
        if i == 0 or config.conv_norm == "layer":
            yield f"encoder/feature_encoder/norm_{i}", f"{theirs}.layer_norm", None, NORM
    if config.positions == "conv":
        yield "encoder/context/positions", "encoder.pos_conv_embed.conv", None, POSITIONS
    block = CONFORMER if config.block == "conformer" else TRANSFORMER
    if config.positions == "relative":
        block += RELATIVE
    for i in range(config.num_layers):
        for ours, theirs, parts in block:
            yield f"encoder/context/layers/block/{ours}", f"encoder.layers.{i}.{theirs}", i, parts


def places(config: EncoderConfig) -> dict[str, Place]:
    """The place of every tensor, by its name without the model's prefix."""
    found = {}
    for ours, theirs, layer, parts in _rows(config):
        for leaf, name, axes in parts:
            collection = "stats" if leaf in STATS else "params"
            path = (collection, *ours.split("/"), leaf)
            found[f"{theirs}.{name}".lstrip(".")] = Place(path, layer, axes)
    return found


def bare_name(name: str) -> str:
    """`name` without the model's prefix, weight norm in today's spelling."""
    for prefix in PREFIXES.values():
        name = name.removeprefix(prefix)
    for old, new in OLDER.items():
        name = name.replace(old, new)
    return name


def rearrange(x: np.ndarray, axes: str) -> np.ndarray:
    """Their array in our layout; see the head of this file for `axes`."""
    theirs, ours = axes.split("->")
    x = np.squeeze(x, tuple(i for i, axis in enumerate(theirs) if axis == "1"))
    theirs = theirs.replace("1", "")
    return x.transpose([theirs.index(axis) for axis in ours])


def _unused(name: str, config: EncoderConfig) -> bool:
    """Tensors that transformers saves and that hold no learned number of the model."""
    if name.endswith((".num_batches_tracked", "embed_positions.inv_freq")):
        return True
    return config.block == "conformer" and name.startswith("encoder.pos_conv_embed.")


def parameters(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> dict[str, Any]:
    """The variables of `models.wav2vec2.Wav2Vec2`, {"params": ..., "stats": ...}, float32.

    Raises UserError listing tensors that are missing or have no place.
    """
    tensors = {bare_name(name): x for name, x in tensors.items()}
    table = places(config)
    missing = sorted(set(table) - set(tensors))
    surplus = sorted(name for name in set(tensors) - set(table) if not _unused(name, config))
    if missing or surplus:
        raise UserError(
            f"the tensors do not fit the model; missing: {', '.join(missing) or 'none'}; "
            f"without a place: {', '.join(surplus) or 'none'}"
        )
    leaves: dict[tuple[str, ...], list[np.ndarray]] = {}
    for name, place in table.items():  # layers come in order
        x = rearrange(np.asarray(tensors[name], np.float32), place.axes)
        leaves.setdefault(place.path, []).append(x)
    variables: dict[str, Any] = {"params": {}, "stats": {}}
    for path, parts in leaves.items():
        node = variables
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = np.stack(parts) if "layers" in path else parts[0]
    # theirs stacks the groups along the codes; project_q takes all groups at once
    quantizer = variables["params"]["quantizer"]
    width = quantizer["codebook"].shape[-1]
    groups = len(variables["params"]["project_targets"]["kernel"]) // width
    quantizer["codebook"] = quantizer["codebook"].reshape(groups, -1, width)
    return variables
