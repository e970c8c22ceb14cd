"""The tensors of HuggingFace transformers' models and ours: names, layouts, what only they have.

`_rows` is the one table of names. A row is (our module, their module, parameters); a parameter is
(our name, their name, axes). `axes` spells their axes and ours, 1 for an axis of size one that we
leave out: "oik->kio" is a convolution, "oi1->io" one of width one that is a dense layer here.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from w2v_jax.errors import UserError, some
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.positions import ConvPositions
from w2v_jax.models.settings import value_of

log = logging.getLogger(__name__)

PREFIXES = {
    "wav2vec2": "wav2vec2.", "wav2vec2-conformer": "wav2vec2_conformer.", "hubert": "hubert.",
    "wav2vec2-bert": "wav2vec2_bert.", "data2vec-audio": "data2vec_audio.",
}  # fmt: skip
# names of weight norm before torch 2.0's parametrizations; transformers renames them on load
# and of the mask vector: in early checkpoints of transformers, and in fairseq's
OLDER = {
    "mask_time_emb_vector": "masked_spec_embed", "mask_emb": "masked_spec_embed",
    "conv.weight_g": "conv.parametrizations.weight.original0",
    "conv.weight_v": "conv.parametrizations.weight.original1",
}  # fmt: skip

KERNEL, BIAS = ("kernel", "weight", "oi->io"), ("bias", "bias", "o->o")
DENSE = (KERNEL, BIAS)
CONV = (("kernel", "weight", "oik->kio"),)
POINTWISE = (("kernel", "weight", "oi1->io"),)
NORM = (("scale", "weight", "c->c"), BIAS)
BATCH_NORM = (*NORM, ("mean", "running_mean", "c->c"), ("var", "running_var", "c->c"))
STATS = ("mean", "var")  # these live in the collection `stats`, all others in `params`

MASK, PROJECTION = "masked_spec_embed", "feature_projection.projection"
PRETRAINING_HEAD = (
    ("quantizer", "quantizer", (("codebook", "codevectors", "1vd->vd"),)),
    ("quantizer/logits", "quantizer.weight_proj", DENSE),
    ("project_targets", "project_q", DENSE),
    ("project_context", "project_hid", DENSE),
)
# of fairseq's HuBERT; transformers has none
PREDICTION_HEAD = (
    ("project_context", "final_proj", DENSE),
    ("", "", (("label_embeddings", "label_embs_concat", "vd->vd"),)),
)
HEADS = {
    "wav2vec2": PRETRAINING_HEAD, "hubert": PREDICTION_HEAD,
    "ctc": (("head", "lm_head", DENSE),), "encoder": (),
}  # fmt: skip
# kind -> tensors of other heads that a checkpoint may carry on: no output of ours depends on them
PRETRAINING_ONLY = ("quantizer.", "project_q.", "project_hid.", "final_proj.", "label_embs_concat")
OTHER_HEADS = {
    "ctc": PRETRAINING_ONLY, "encoder": (*PRETRAINING_ONLY, "lm_head."), "wav2vec2": ("lm_head.",),
}  # fmt: skip
ENCODER = (
    ("encoder/feature_norm", "feature_projection.layer_norm", NORM),
    ("encoder/feature_projection", PROJECTION, DENSE),
    ("encoder", "", (("mask_embedding", MASK, "d->d"),)),
    ("encoder/context/norm", "encoder.layer_norm", NORM),
)
# their norm runs over all axes but the last, one magnitude per tap of the kernel
POSITIONS = (
    ("magnitude", "parametrizations.weight.original0", "11k->k"),
    ("direction", "parametrizations.weight.original1", "oik->kio"),
    BIAS,
)
ADAPTER = (
    ("adapter/norm", "adapter_layer.norm", NORM),
    ("adapter/inner", "adapter_layer.linear_1", DENSE),
    ("adapter/outer", "adapter_layer.linear_2", DENSE),
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
    ("convolution/pointwise_out", "conv_module.pointwise_conv2", POINTWISE),
    ("feed_forward_2_norm", "ffn2_layer_norm", NORM),
    ("feed_forward_2/inner", "ffn2.intermediate_dense", DENSE),
    ("feed_forward_2/outer", "ffn2.output_dense", DENSE),
    ("final_norm", "final_layer_norm", NORM),
)
DEPTHWISE_NORM = {
    "batch": (("convolution/depthwise_norm", "conv_module.batch_norm", BATCH_NORM),),
    "layer": (("convolution/depthwise_norm", "conv_module.depthwise_layer_norm", NORM),),
}
SHAW = (("attention", "self_attn", (("distances", "distance_embedding.weight", "pd->pd"),)),)
ATTENTIVE = (
    ("residual_norm", "residual_layer_norm", NORM),
    ("residual_conv", "residual_conv", (*CONV, BIAS)),
    ("attention_norm", "self_attn_layer_norm", NORM),
    ("attention_conv", "self_attn_conv", (*CONV, BIAS)),
    ("attention/query", "self_attn.linear_q", DENSE),
    ("attention/key", "self_attn.linear_k", DENSE),
    ("attention/value", "self_attn.linear_v", DENSE),
    ("attention/output", "self_attn.linear_out", DENSE),
    ("feed_forward_norm", "ffn_layer_norm", NORM),
    ("feed_forward/inner", "ffn.intermediate_dense", DENSE),
    ("feed_forward/outer", "ffn.output_dense", DENSE),
)
RELATIVE = (
    ("attention/position", "self_attn.linear_pos", (KERNEL,)),
    (
        "attention", "self_attn",
        (("content_bias", "pos_bias_u", "hd->hd"), ("position_bias", "pos_bias_v", "hd->hd")),
    ),
)  # fmt: skip


class Slot(NamedTuple):
    """Where a tensor of theirs lives in our variables."""

    path: tuple[str, ...]  # collection, modules, parameter
    layer: int | None  # index along axis 0 where the layers are stacked
    axes: str


def _rows(config: EncoderConfig, kind: str):
    """(our module, their module, layer, parameters) of every module of a model."""
    absent = set()
    if config.frontend.width == config.width:
        absent.add("encoder/feature_projection")
    if not config.feature_norm:
        absent.add("encoder/feature_norm")
    if config.norm_order == "none":
        absent.add("encoder/context/norm")
    for ours, theirs, parts in (*HEADS[kind], *ENCODER):
        if ours not in absent:
            yield ours, theirs, None, parts
    for i in range(len(value_of(config, "frontend.conv_layers") or ())):
        theirs = f"feature_extractor.conv_layers.{i}"
        conv = (*CONV, BIAS) if config.frontend.bias else CONV
        yield f"encoder/feature_encoder/conv_{i}", f"{theirs}.conv", None, conv
        if i == 0 or config.frontend.norm == "layer":
            yield f"encoder/feature_encoder/norm_{i}", f"{theirs}.layer_norm", None, NORM
    if config.positions.kind == "conv":
        ours, theirs = "encoder/context/positions", "encoder.pos_conv_embed"
        if config.positions.norm == "batch":
            yield f"{ours}/norm", f"{theirs}.batch_norm", None, BATCH_NORM
        parts = (*CONV, BIAS) if config.positions.norm == "batch" else POSITIONS
        yield ours, f"{theirs}.conv", None, parts
    if config.positions.kind == "conv_stack":
        for i in range(config.positions.layers):
            ours = f"encoder/context/positions/conv_{i}"
            yield ours, f"encoder.pos_conv_embed.layers.{i}.conv", None, (*CONV, BIAS)
    if config.output.layers:
        ours, theirs = "encoder/output_adapter", "adapter"
        if config.context_width != config.width:
            yield f"{ours}/projection", f"{theirs}.proj", None, DENSE
            yield f"{ours}/norm", f"{theirs}.proj_layer_norm", None, NORM
        for i in range(config.output.layers):
            if config.output.kind == "strided":
                yield f"{ours}/conv_{i}", f"{theirs}.layers.{i}.conv", None, (*CONV, BIAS)
                continue
            for inner, name, parts in ATTENTIVE:
                yield f"{ours}/layer_{i}/{inner}", f"{theirs}.layers.{i}.{name}", None, parts
    block = TRANSFORMER
    if config.conformer:
        block = CONFORMER + DEPTHWISE_NORM[config.block.norm]
    block += {"relative": RELATIVE, "shaw": SHAW}.get(config.positions.kind, ())
    if not config.conformer and config.block.adapter_dim:
        block += ADAPTER
    for i in range(config.num_layers):
        for ours, theirs, parts in block:
            yield f"encoder/context/layers/block/{ours}", f"encoder.layers.{i}.{theirs}", i, parts


def slots(config: EncoderConfig, kind: str) -> dict[str, Slot]:
    """The slot of every tensor, by its name without the model's prefix."""
    found = {}
    for ours, theirs, layer, parts in _rows(config, kind):
        for leaf, name, axes in parts:
            collection = "stats" if leaf in STATS else "params"
            path = (collection, *filter(None, ours.split("/")), leaf)
            found[f"{theirs}.{name}".lstrip(".")] = Slot(path, layer, axes)
    return found


def unused_positions(config: EncoderConfig) -> tuple[int, int]:
    """(kernel, groups) of the convolutional positions that transformers gives to conformers, too,
    and never calls."""
    return ConvPositions.kernel, math.gcd(ConvPositions.groups, config.width)


def bare_name(name: str) -> str:
    """`name` without the model's prefix, weight norm in today's spelling."""
    for prefix in PREFIXES.values():
        name = name.removeprefix(prefix)
    for old, new in OLDER.items():
        if f".{name}".endswith(f".{old}"):
            name = name.removesuffix(old) + new
    return name


def check_rank(name: str, x: np.ndarray, axes: str) -> None:
    """Raises UserError for an array of theirs that does not have the axes "oik->kio", say."""
    theirs = axes.split("->")[0]
    ones = [i for i, axis in enumerate(theirs) if axis == "1"]
    if x.ndim != len(theirs) or any(x.shape[i] != 1 for i in ones):
        of_one = f", {some(ones)} (from 0 on) of size 1" if ones else ""
        raise UserError(f"the tensor {name} is {x.shape}; expected are {len(theirs)} axes{of_one}")


def rearrange(x: np.ndarray, axes: str) -> np.ndarray:
    """Their array in our layout; see the head of this file for `axes`."""
    theirs, ours = axes.split("->")
    x = np.squeeze(x, tuple(i for i, axis in enumerate(theirs) if axis == "1"))
    theirs = theirs.replace("1", "")
    return x.transpose([theirs.index(axis) for axis in ours])


def _unused(name: str, config: EncoderConfig) -> bool:
    """Tensors that transformers saves and that hold no learned number of the model."""
    if name.endswith((".num_batches_tracked", "embed_positions.inv_freq", "rotary_emb.inv_freq")):
        return True
    return config.conformer and name.startswith("encoder.pos_conv_embed.")


def _drop_identity(tensors: dict[str, np.ndarray]) -> None:
    """Takes out a projection of the features that changes nothing; ours has none between equal
    widths, as fairseq, theirs always has."""
    weight, bias = (tensors.pop(f"{PROJECTION}.{part}", None) for part in ("weight", "bias"))
    if weight is not None and (np.any(bias) or not np.array_equal(weight, np.eye(len(weight)))):
        raise UserError(
            f"{PROJECTION} projects between equal widths; only the identity is supported there"
        )


def parameters(
    tensors: Mapping[str, np.ndarray],
    config: EncoderConfig,
    kind: str,
    *,
    ignore_unknown: bool = False,
) -> dict[str, Any]:
    """{"params": ..., "stats": ...}, float32: the variables of `models.heads`' `Wav2Vec2Model`,
    `Hubert` or `CTCModel`; of kind "encoder" only what these have below
    `encoder`.

    Tensors of another head are left out with a line in the log, with `ignore_unknown` all that have
    no place. Raises UserError naming tensors that are missing or have no place, or another rank.
    """
    bare = {name: bare_name(name) for name in tensors}
    # where a tensor is there under an older name too, today's counts
    order = sorted(tensors, key=lambda name: name.endswith(bare[name]))
    tensors = {bare[name]: tensors[name] for name in order}
    layers = config.num_layers + config.output.layers
    if layers > len(tensors):
        raise UserError(f"the config has {layers} layers; there are only {len(tensors)} tensors")
    table = slots(config, kind)
    if kind in ("ctc", "encoder") and MASK not in tensors:
        # models that were saved without time masking have none; it matters to training alone
        drawn = np.random.default_rng(0).random(config.width, np.float32)
        tensors[MASK] = drawn
        log.warning("the model has no %s: masked frames start from a random vector", MASK)
    if config.frontend.width == config.width:
        _drop_identity(tensors)
    missing = sorted(set(table) - set(tensors))
    surplus = sorted(name for name in set(tensors) - set(table) if not _unused(name, config))
    heads = [name for name in surplus if name.startswith(OTHER_HEADS.get(kind, ()))]
    unknown = [name for name in surplus if name not in heads]
    if missing or (unknown and not ignore_unknown):
        accept = "; accept these with --ignore_unknown of export" * (bool(unknown) and not missing)
        raise UserError(
            f"the tensors do not fit the model; missing: {some(missing) or 'none'}; "
            f"without a place: {some(unknown) or 'none'}{accept}"
        )
    if heads:
        log.warning("ignored, of a head that this model does not have: %s", some(heads))
    if unknown:
        log.warning("ignored, unknown: %s", some(unknown, 40))
    leaves: dict[tuple[str, ...], list[np.ndarray]] = {}
    for name, slot in table.items():  # layers come in order
        x = np.asarray(tensors[name], np.float32)
        check_rank(name, x, slot.axes)
        leaves.setdefault(slot.path, []).append(rearrange(x, slot.axes))
    variables: dict[str, Any] = {"params": {}, "stats": {}}
    for path, parts in leaves.items():
        if len({x.shape for x in parts}) > 1:
            shapes = sorted({x.shape for x in parts})
            raise UserError(f"{'/'.join(path[1:])} has layers of several shapes: {some(shapes)}")
        node = variables
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = np.stack(parts) if "layers" in path else parts[0]
    if kind != "wav2vec2":
        return variables
    # theirs stacks the groups along the codes; project_q takes all groups at once
    quantizer = variables["params"]["quantizer"]
    width = quantizer["codebook"].shape[-1]
    groups, rest = divmod(len(variables["params"]["project_targets"]["kernel"]), width or 1)
    if rest or not groups or len(quantizer["codebook"]) % groups:
        raise UserError(
            f"project_q takes {groups * width + rest} values, which are no whole number of vectors "
            f"of the {len(quantizer['codebook'])} x {width} in quantizer.codevectors"
        )
    quantizer["codebook"] = quantizer["codebook"].reshape(groups, -1, width)
    return variables


def tensors(
    variables: Mapping[str, Any], config: EncoderConfig, kind: str, model_type: str
) -> dict[str, np.ndarray]:
    """The tensors of transformers, by their whole names; the inverse of `parameters`."""
    heads = tuple(theirs for _, theirs, _ in HEADS[kind])
    found = {}
    for name, slot in slots(config, kind).items():
        x = variables
        for key in slot.path:
            x = x[key]
        x = np.asarray(x, np.float32)
        if slot.path[-1] == "codebook":
            x = x.reshape(-1, x.shape[-1])
        found[name] = restore(x if slot.layer is None else x[slot.layer], slot.axes)
    if config.frontend.width == config.width:
        found[f"{PROJECTION}.weight"] = np.eye(config.width, dtype=np.float32)
        found[f"{PROJECTION}.bias"] = np.zeros(config.width, np.float32)
    for name in list(found):
        if name.endswith(".running_mean"):
            count = name.replace("running_mean", "num_batches_tracked")
            found[count] = np.zeros((), np.int64)
    if model_type == "wav2vec2-conformer":  # never called, but transformers expects them
        taps, groups = unused_positions(config)
        positions = "encoder.pos_conv_embed.conv."
        found[f"{positions}parametrizations.weight.original0"] = np.ones((1, 1, taps), np.float32)
        direction = np.ones((config.width, config.width // groups, taps), np.float32)
        found[f"{positions}parametrizations.weight.original1"] = direction
        found[f"{positions}bias"] = np.zeros(config.width, np.float32)
    if config.positions.kind == "rotary" and model_type == "wav2vec2-conformer":
        half = config.width // config.num_heads // 2
        frequencies = 10000.0 ** (-np.arange(half) / half)
        found["encoder.embed_positions.inv_freq"] = frequencies.astype(np.float32)
    prefix = "" if kind == "encoder" else PREFIXES[model_type]
    return {name if name.startswith(heads) else prefix + name: x for name, x in found.items()}


def restore(x: np.ndarray, axes: str) -> np.ndarray:
    """Our array in their layout: the inverse of `rearrange`."""
    theirs, ours = axes.split("->")
    x = x.transpose([ours.index(axis) for axis in theirs if axis != "1"])
    return np.expand_dims(x, tuple(i for i, axis in enumerate(theirs) if axis == "1"))
