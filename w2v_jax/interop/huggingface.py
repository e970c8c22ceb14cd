"""Checkpoints of HuggingFace transformers: Wav2Vec2, Wav2Vec2Conformer and Hubert, as base models,
with the pre-training head (not Hubert) and with the CTC head.

`_rows` is the one table of names. A row is (our module, their module, parameters); a parameter is
(our name, their name, axes). `axes` spells their axes and ours, 1 for an axis of size one that we
leave out: "oik->kio" is a convolution, "oi1->io" one of width one that is a dense layer here.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.interop import safetensors
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.ctc import CTCModel
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.wav2vec2 import Wav2Vec2
from w2v_jax.text.alphabet import Alphabet

log = logging.getLogger(__name__)

PREFIXES = {
    "wav2vec2": "wav2vec2.", "wav2vec2-conformer": "wav2vec2_conformer.", "hubert": "hubert.",
}  # fmt: skip
# what an architecture of config.json ends with -> our kind of model
KINDS = {"ForPreTraining": "pretrained", "ForCTC": "ctc", "Model": "encoder"}

ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu", "swish": "swish", "silu": "swish",
}  # fmt: skip

# what our models compute, where transformers has a switch; a key that is absent has this value
ONLY = {
    "add_adapter": False,
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

MASK, PROJECTION = "masked_spec_embed", "feature_projection.projection"
PRETRAINING_HEAD = (
    ("quantizer", "quantizer", (("codebook", "codevectors", "1vd->vd"),)),
    ("quantizer/logits", "quantizer.weight_proj", DENSE),
    ("project_targets", "project_q", DENSE),
    ("project_context", "project_hid", DENSE),
)
HEADS = {"pretrained": PRETRAINING_HEAD, "ctc": (("head", "lm_head", DENSE),), "encoder": ()}
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


def model_kind(config: Mapping[str, Any]) -> str:
    """ "pretrained", "ctc" or, without a head, "encoder"."""
    architecture = "".join(_get(config, "architectures") or ())
    kinds = [kind for end, kind in KINDS.items() if architecture.endswith(end)]
    if not kinds or (config.get("model_type") == "hubert" and kinds[0] == "pretrained"):
        raise _refuse(config, "architectures", f"one must end with {', '.join(KINDS)}")
    return kinds[0]


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
        feature_norm=config.get("feat_proj_layer_norm", True),
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
        pos_conv_norm="batch" if config.get("conv_pos_batch_norm") else "weight",
        adapter_dim=config.get("adapter_attn_dim") or 0,
        conformer_kernel=config.get("conv_depthwise_kernel_size", 31),
        dropout=_get(config, "hidden_dropout"),
        attention_dropout=_get(config, "attention_dropout"),
        activation_dropout=_get(config, "activation_dropout"),
        dropout_input=_get(config, "feat_proj_dropout"),
        dropout_features=config.get("feat_quantizer_dropout", 0.0),
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


def _rows(config: EncoderConfig, kind: str):
    """(our module, their module, layer, parameters) of every module of a model."""
    absent = set()
    if config.channels == config.width:
        absent.add("encoder/feature_projection")
    if not config.feature_norm:
        absent.add("encoder/feature_norm")
    for ours, theirs, parts in (*HEADS[kind], *ENCODER):
        if ours not in absent:
            yield ours, theirs, None, parts
    for i in range(len(config.conv_layers)):
        theirs = f"feature_extractor.conv_layers.{i}"
        conv = (*CONV, BIAS) if config.conv_bias else CONV
        yield f"encoder/feature_encoder/conv_{i}", f"{theirs}.conv", None, conv
        if i == 0 or config.conv_norm == "layer":
            yield f"encoder/feature_encoder/norm_{i}", f"{theirs}.layer_norm", None, NORM
    if config.positions == "conv":
        ours, theirs = "encoder/context/positions", "encoder.pos_conv_embed"
        if config.pos_conv_norm == "batch":
            yield f"{ours}/norm", f"{theirs}.batch_norm", None, BATCH_NORM
        parts = (*CONV, BIAS) if config.pos_conv_norm == "batch" else POSITIONS
        yield ours, f"{theirs}.conv", None, parts
    block = CONFORMER if config.block == "conformer" else TRANSFORMER
    if config.positions == "relative":
        block += RELATIVE
    if config.adapter_dim:
        block += ADAPTER
    for i in range(config.num_layers):
        for ours, theirs, parts in block:
            yield f"encoder/context/layers/block/{ours}", f"encoder.layers.{i}.{theirs}", i, parts


def places(config: EncoderConfig, kind: str) -> dict[str, Place]:
    """The place of every tensor, by its name without the model's prefix."""
    found = {}
    for ours, theirs, layer, parts in _rows(config, kind):
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


def _drop_identity(tensors: dict[str, np.ndarray]) -> None:
    """Takes out a projection of the features that changes nothing; ours has none between equal
    widths, as fairseq, theirs always has."""
    weight, bias = (tensors.pop(f"{PROJECTION}.{part}", None) for part in ("weight", "bias"))
    if weight is not None and (np.any(bias) or not np.array_equal(weight, np.eye(len(weight)))):
        raise UserError(
            f"{PROJECTION} projects between equal widths; only the identity is supported there"
        )


def parameters(
    tensors: Mapping[str, np.ndarray], config: EncoderConfig, kind: str
) -> dict[str, Any]:
    """{"params": ..., "stats": ...}, float32: the variables of `models.wav2vec2.Wav2Vec2` or
    `models.ctc.CTCModel`; of kind "encoder" only what these have below `encoder`.

    Raises UserError listing tensors that are missing or have no place.
    """
    tensors = {bare_name(name): x for name, x in tensors.items()}
    table = places(config, kind)
    if kind != "pretrained" and MASK not in tensors:
        # models that were saved without time masking have none; it matters to training alone
        drawn = np.random.default_rng(0).random(config.width, np.float32)
        tensors[MASK] = drawn
        log.warning("the model has no %s: masked frames start from a random vector", MASK)
    if config.channels == config.width:
        _drop_identity(tensors)
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
    if kind != "pretrained":
        return variables
    # theirs stacks the groups along the codes; project_q takes all groups at once
    quantizer = variables["params"]["quantizer"]
    width = quantizer["codebook"].shape[-1]
    groups = len(variables["params"]["project_targets"]["kernel"]) // width
    quantizer["codebook"] = quantizer["codebook"].reshape(groups, -1, width)
    return variables


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, config) of a model directory, as `training.checkpoint.export_model` takes them.

    config: kind, model, and the quantizer or the alphabet. The waveform is normalised as
    preprocessor_config.json says. `padding_leaks` is on, as the published models were trained.
    Raises UserError for whatever is missing or cannot be expressed.
    """
    folder = Path(folder)
    theirs = _read_json(folder / "config.json")
    try:
        encoder, kind = encoder_config(theirs), model_kind(theirs)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, AttributeError) as error:
        raise UserError(f"{folder}/config.json has a value of the wrong kind: {error}") from None
    # transformers normalises unless told not to
    normalize = _read_json(folder / "preprocessor_config.json").get("do_normalize", True)
    variables = parameters(safetensors.read(folder), encoder, kind)
    config = {"kind": kind, "model": encoder.to_dict() | {"normalize_waveform": normalize}}
    if kind == "pretrained":
        config["quantizer"] = quantizer_config(theirs).to_dict()
    if kind == "ctc":
        alphabet, order = _read_alphabet(folder, theirs)
        head = variables["params"]["head"]
        if head["bias"].shape != order.shape:
            raise UserError(
                f"{folder}: vocab.json has {len(order)} symbols, "
                f"lm_head {len(head['bias'])} outputs"
            )
        head.update(kernel=head["kernel"][:, order], bias=head["bias"][order])
        config["alphabet"] = alphabet.to_dict()
    _check_shapes(variables, config)
    return variables, config


def _check_shapes(variables: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises UserError for tensors whose shape is not what config.json asks for."""
    encoder, kind = EncoderConfig.from_dict(config["model"]), config["kind"]
    audio = jnp.zeros((1, 2 * encoder.receptive_field), jnp.int16)
    rest = ()
    if kind == "pretrained":
        model = Wav2Vec2(encoder, QuantizerConfig.from_dict(config["quantizer"]))
        frames = encoder.frames(audio.shape[1])
        rest = (None, jnp.zeros((1, frames), bool), jnp.zeros((1, 1), jnp.int32))
    elif kind == "ctc":
        model = CTCModel(encoder, len(config["alphabet"]["symbols"]))
    else:
        model = Encoder(encoder)
    expected = jax.eval_shape(lambda: nn.meta.unbox(model.init(jax.random.key(0), audio, *rest)))
    for collection, tree in expected.items():
        ours = variables[collection]
        ours = ours["encoder"] if kind == "encoder" else ours
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found = ours
            for key in path:
                found = found[key.key]
            if found.shape != leaf.shape:
                name = "/".join(key.key for key in path)
                raise UserError(
                    f"config.json and the tensors disagree: {name} is {found.shape}, in our "
                    f"layout, where {leaf.shape} is expected"
                )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); is its folder a model?") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; is its folder a model?")
    return content


def _read_alphabet(folder: Path, config: Mapping[str, Any]) -> tuple[Alphabet, np.ndarray]:
    """The alphabet, blank first, and which of their outputs every symbol is."""
    ids = _read_json(folder / "vocab.json")
    if not all(isinstance(i, int) for i in ids.values()):
        raise UserError(f"{folder}/vocab.json holds one vocabulary per language; keep one of them")
    if (folder / "added_tokens.json").exists():
        ids |= _read_json(folder / "added_tokens.json")
    outputs, blank = _get(config, "vocab_size"), _get(config, "pad_token_id")
    if sorted(ids.values()) != list(range(outputs)):
        raise UserError(f"{folder}/vocab.json does not number the {outputs} outputs of the model")
    symbols = sorted(ids, key=ids.get)
    long = [s for s in symbols if len(s) > 1 and s[0] + s[-1] not in ("<>", "[]")]
    if long:
        raise UserError(
            f"{folder}/vocab.json has letters of several characters: {', '.join(long[:5])}; "
            "an alphabet here has single characters"
        )
    if blank not in ids.values():
        raise _refuse(config, "pad_token_id", f"it must be one of the {outputs} outputs")
    order = np.array([blank, *(i for i in range(outputs) if i != blank)])
    return Alphabet(tuple(symbols[i] for i in order)), order


def write(folder: str | Path, variables: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes an exported model as a directory that transformers loads; the inverse of `read`.

    config as of `read`. One switch has no counterpart there: transformers always computes as with
    `padding_leaks`, so padded batches differ from ours. Raises UserError for what transformers
    cannot express.
    """
    folder, kind = Path(folder), config["kind"]
    encoder = EncoderConfig.from_dict(config["model"])
    theirs = _their_config(encoder, kind)
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1,
        "sampling_rate": SAMPLE_RATE, "padding_side": "right", "padding_value": 0.0,
        "do_normalize": encoder.normalize_waveform,
        "return_attention_mask": encoder.conv_norm == "layer",
    }  # fmt: skip
    files = {"config.json": theirs, "preprocessor_config.json": preprocessor}
    if kind == "pretrained":
        quantizer = QuantizerConfig.from_dict(config["quantizer"])
        theirs |= {
            "num_codevector_groups": quantizer.groups,
            "num_codevectors_per_group": quantizer.codes,
            "codevector_dim": quantizer.width,
            "proj_codevector_dim": quantizer.projection,
        }
    if kind == "ctc":
        symbols = Alphabet.from_dict(config["alphabet"]).symbols
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        special = {key: token if token in symbols else None for key, token in special.items()}
        theirs |= {"vocab_size": len(symbols), "pad_token_id": 0, "ctc_zero_infinity": True}
        files["vocab.json"] = {symbol: i for i, symbol in enumerate(symbols)}
        files["tokenizer_config.json"] = special | {
            "tokenizer_class": "Wav2Vec2CTCTokenizer", "pad_token": symbols[0],
            "word_delimiter_token": "|", "do_lower_case": False,
        }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.write(folder, tensors(variables, encoder, kind))
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _model_type(config: EncoderConfig) -> str:
    if config.pos_conv_norm == "batch" or not config.feature_norm:
        return "hubert"
    return "wav2vec2-conformer" if config.block == "conformer" else "wav2vec2"


def _their_config(config: EncoderConfig, kind: str) -> dict[str, Any]:
    """config.json of an encoder, without the keys of its head."""
    conformer = config.block == "conformer"
    only = {"conformer_norm": "batch", "norm_order": "pre"} if conformer else {"positions": "conv"}
    if conformer and config.positions == "conv":
        raise UserError("transformers has no convolutional positions in a conformer")
    for key, value in only.items():
        if getattr(config, key) != value:
            raise UserError(
                f"model.{key} is {getattr(config, key)!r}; transformers has only {value!r} here"
            )
    model_type = _model_type(config)
    hubert = model_type == "hubert"
    if hubert and (conformer or kind == "pretrained" or config.adapter_dim):
        raise UserError(
            "model.pos_conv_norm=batch and model.feature_norm=False are Hubert's in transformers, "
            "which has neither a quantizer nor conformer blocks nor adapters"
        )
    prefix = {"wav2vec2-conformer": "Wav2Vec2Conformer", "hubert": "Hubert"}
    ends = {kind: end for end, kind in KINDS.items()}
    activation = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    dim, kernel, stride = (list(x) for x in zip(*config.conv_layers, strict=True))
    theirs = {
        "model_type": model_type,
        "architectures": [prefix.get(model_type, "Wav2Vec2") + ends[kind]],
        "conv_dim": dim, "conv_kernel": kernel, "conv_stride": stride,
        "num_feat_extract_layers": len(dim),
        "conv_bias": config.conv_bias,
        "feat_extract_norm": config.conv_norm,
        "feat_extract_activation": activation[config.conv_activation],
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.feed_forward,
        "do_stable_layer_norm": config.norm_order == "pre",
        "layer_norm_eps": config.norm_eps,
        "hidden_act": activation[config.activation],
        "num_conv_pos_embeddings": config.pos_conv_kernel,
        "num_conv_pos_embedding_groups": config.pos_conv_groups,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "feat_proj_dropout": config.dropout_input,
        "feat_quantizer_dropout": config.dropout_features,
        "layerdrop": config.layerdrop,
    }  # fmt: skip
    if config.adapter_dim:
        theirs["adapter_attn_dim"] = config.adapter_dim
    if hubert:
        theirs["feat_proj_layer_norm"] = config.feature_norm
        theirs["conv_pos_batch_norm"] = config.pos_conv_norm == "batch"
    if conformer:
        del theirs["do_stable_layer_norm"]
        positions = None if config.positions == "none" else config.positions
        theirs["position_embeddings_type"] = positions
        theirs["conv_depthwise_kernel_size"] = config.conformer_kernel
        theirs["conformer_conv_dropout"] = config.dropout
    return theirs


def tensors(
    variables: Mapping[str, Any], config: EncoderConfig, kind: str
) -> dict[str, np.ndarray]:
    """The tensors of transformers, by their whole names; the inverse of `parameters`."""
    heads = tuple(theirs for _, theirs, _ in HEADS[kind])
    found = {}
    for name, place in places(config, kind).items():
        x = variables
        for key in place.path:
            x = x[key]
        x = np.asarray(x, np.float32)
        if place.path[-1] == "codebook":
            x = x.reshape(-1, x.shape[-1])
        found[name] = restore(x if place.layer is None else x[place.layer], place.axes)
    if config.channels == config.width:
        found[f"{PROJECTION}.weight"] = np.eye(config.width, dtype=np.float32)
        found[f"{PROJECTION}.bias"] = np.zeros(config.width, np.float32)
    for name in list(found):
        if name.endswith(".running_mean"):
            count = name.replace("running_mean", "num_batches_tracked")
            found[count] = np.zeros((), np.int64)
    if config.block == "conformer":  # never called, but transformers expects them
        taps, groups = config.pos_conv_kernel, config.pos_conv_groups
        positions = "encoder.pos_conv_embed.conv."
        found[f"{positions}parametrizations.weight.original0"] = np.ones((1, 1, taps), np.float32)
        direction = np.ones((config.width, config.width // groups, taps), np.float32)
        found[f"{positions}parametrizations.weight.original1"] = direction
        found[f"{positions}bias"] = np.zeros(config.width, np.float32)
    if config.positions == "rotary":
        half = config.width // config.num_heads // 2
        frequencies = 10000.0 ** (-np.arange(half) / half)
        found["encoder.embed_positions.inv_freq"] = frequencies.astype(np.float32)
    prefix = "" if kind == "encoder" else PREFIXES[_model_type(config)]
    return {name if name.startswith(heads) else prefix + name: x for name, x in found.items()}


def restore(x: np.ndarray, axes: str) -> np.ndarray:
    """Our array in their layout: the inverse of `rearrange`."""
    theirs, ours = axes.split("->")
    x = x.transpose([ours.index(axis) for axis in theirs if axis != "1"])
    return np.expand_dims(x, tuple(i for i, axis in enumerate(theirs) if axis == "1"))
