"""Checkpoints of HuggingFace transformers: Wav2Vec2, Wav2Vec2Conformer, Wav2Vec2Bert, Hubert and
Data2VecAudio, as base models, with the pre-training head (of the first two) and with the CTC head.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError, brief
from w2v_jax.interop import safetensors, wav2vec2_bert
from w2v_jax.interop.exported import check_model
from w2v_jax.interop.huggingface_files import (
    choose,
    get,
    read_alphabet,
    read_json,
    read_preprocessor,
    refuse,
)
from w2v_jax.interop.huggingface_tensors import (
    PREFIXES,
    parameters,
    tensors,
    unused_positions,
)
from w2v_jax.keys.check import shown
from w2v_jax.models.catalogue import encoder_config as encoder_config_of
from w2v_jax.models.config import ConformerConfig, EncoderConfig, QuantizerConfig, quantizer_of
from w2v_jax.models.positions import CONVOLUTIONS
from w2v_jax.models.settings import nest, value_of
from w2v_jax.places import writing
from w2v_jax.text.alphabet import Alphabet

log = logging.getLogger(__name__)
# the kinds of models that `write` takes
WRITES = ("wav2vec2", "ctc", "encoder", "hubert", "data2vec")
WRITTEN_BY = b'"written_by": "w2v_jax"'  # near the beginning of the config.json of `write`
FILES = (  # of `write`, besides config.json
    "preprocessor_config.json", "vocab.json", "tokenizer_config.json", "model.safetensors",
)  # fmt: skip
HEADLESS = {"hubert": "masked prediction", "data2vec": "data2vec"}  # it has no head for these
# what an architecture of config.json ends with -> our kind of model
KINDS = {"ForPreTraining": "wav2vec2", "ForCTC": "ctc", "Model": "encoder"}

# their name -> ours; of several names the first is the one we write
ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu", "swish": "swish", "silu": "swish",
}  # fmt: skip

# their key of config.json -> ours, where the values are the same
SAME = {
    "conv_bias": "frontend.bias",
    "feat_extract_norm": "frontend.norm",
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "feed_forward",
    "layer_norm_eps": "norm_eps",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "dropout_input",
    "layerdrop": "layerdrop",
}
POSITIONS = {
    "num_conv_pos_embeddings": "positions.kernel",
    "num_conv_pos_embedding_groups": "positions.groups",
}
STACK = {
    "num_conv_pos_embeddings": "positions.layers",
    "conv_pos_kernel_size": "positions.kernel",
    "num_conv_pos_embedding_groups": "positions.groups",
}
QUANTIZER = {
    "num_codevector_groups": "groups",
    "num_codevectors_per_group": "codes",
    "codevector_dim": "width",
    "proj_codevector_dim": "projection",
    "feat_quantizer_dropout": "dropout",
}

# of transformers 5.23's config classes: a config.json may lack what is as usual
DEFAULTS = {
    "conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_bias": False, "feat_extract_norm": "group",
    "feat_extract_activation": "gelu", "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu",
    "layer_norm_eps": 1e-5, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False, "feat_proj_layer_norm": True, "conv_pos_batch_norm": False,
    "hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1,
    "feat_proj_dropout": 0.0, "feat_quantizer_dropout": 0.0, "final_dropout": 0.1,
    "conformer_conv_dropout": 0.1, "layerdrop": 0.1, "num_codevector_groups": 2,
    "num_codevectors_per_group": 320, "codevector_dim": 256, "proj_codevector_dim": 256,
    "pad_token_id": 0, "position_embeddings_type": "relative", "conv_depthwise_kernel_size": 31,
    "adapter_attn_dim": None, "add_adapter": False, "num_adapter_layers": 3, "adapter_stride": 2,
    "output_hidden_size": None,
}  # fmt: skip
DATA2VEC = "data2vec-audio"
# of its config class, and what its models have whatever config.json says
DATA2VEC_DEFAULTS = {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19}
DATA2VEC_ONLY = {
    "feat_extract_norm": "layer", "do_stable_layer_norm": False, "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False, "adapter_attn_dim": None,
}  # fmt: skip
# of our conformer blocks, which transformers has as in the paper
SWITCHES = ("feed_forwards", "residual", "order", "convolution", "causal_convolution", "bias")
# what our models compute, where transformers has a switch; a key that is absent has this value
ONLY = {
    "rotary_embedding_base": 10000,
    "adapter_kernel_size": 3,
}


def model_kind(config: Mapping[str, Any]) -> str:
    """ "wav2vec2", "ctc" or, without a head, "encoder"."""
    choose(config, "model_type", PREFIXES)
    named = get(config, "architectures")
    architecture = str(named[-1]) if isinstance(named, list) and named else ""
    kinds = [kind for end, kind in KINDS.items() if architecture.endswith(end)]
    headless = config.get("model_type") in ("hubert", wav2vec2_bert.MODEL_TYPE, DATA2VEC)
    if not kinds or (headless and kinds[0] == "wav2vec2"):
        raise refuse(config, "architectures", f"one must end with {', '.join(KINDS)}")
    return kinds[0]


def encoder_config(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder of a transformers config.json.

    `frontend.normalize` stays False: transformers keeps it in preprocessor_config.json. Raises
    UserError for what our models cannot express.
    """
    choose(config, "model_type", PREFIXES)
    if config["model_type"] == wav2vec2_bert.MODEL_TYPE:
        return wav2vec2_bert.encoder_config(config, ACTIVATIONS)
    conformer = config["model_type"] == "wav2vec2-conformer"
    stack = config["model_type"] == DATA2VEC
    if stack:
        config = DATA2VEC_DEFAULTS | dict(config) | DATA2VEC_ONLY
    config = DEFAULTS | dict(config)
    for key, value in ONLY.items():
        if config.get(key, value) != value:
            raise refuse(config, key, f"only {value!r} is supported")
    layers = [config[f"conv_{key}"] for key in ("dim", "kernel", "stride")]
    if not all(isinstance(layer, list) for layer in layers):
        raise refuse(config, "conv_dim", "conv_dim, conv_kernel and conv_stride must be lists")
    if len({len(layer) for layer in layers}) > 1:
        raise refuse(config, "conv_dim", "conv_kernel and conv_stride must have the same length")
    activation = choose(config, "feat_extract_activation", ACTIVATIONS)
    values = {
        "frontend.kind": "waveform",
        "frontend.conv_layers": tuple(zip(*layers, strict=True)),
        "frontend.activation": activation,
        "frontend.grad_mult": 1.0,
        "frontend.normalize_eps": 1e-7,
        "feature_norm": config["feat_proj_layer_norm"],
        "norm_order": "pre" if conformer or config["do_stable_layer_norm"] else "post",
        "activation": choose(config, "hidden_act", ACTIVATIONS),
        "padding_leaks": True,
    } | {ours: config[theirs] for theirs, ours in SAME.items()}
    if config["add_adapter"] and config["model_type"] != "hubert":  # which ignores the key
        values |= {
            "output.kind": "strided",
            "output.layers": config["num_adapter_layers"],
            "output.width": _output_width(config),
            "output.stride": config["adapter_stride"],
        }
    if conformer:  # the positional convolution is in the checkpoint, but never called
        if config["conv_depthwise_kernel_size"] % 2 == 0:
            raise refuse(config, "conv_depthwise_kernel_size", "it must be odd")
        kinds = {"relative": "relative", "rotary": "rotary", None: "none"}
        values |= {
            "positions.kind": choose(config, "position_embeddings_type", kinds),
            "block.kind": "conformer",
            "block.kernel": config["conv_depthwise_kernel_size"],
            "block.dropout": config["conformer_conv_dropout"],
        }
    else:
        values |= {
            "positions.kind": "conv_stack" if stack else "conv",
            "positions.activation": activation,
            "block.kind": "transformer",
            "block.adapter_dim": config["adapter_attn_dim"] or 0,
        } | {ours: config[theirs] for theirs, ours in (STACK if stack else POSITIONS).items()}
        if not stack:
            values["positions.norm"] = "batch" if config["conv_pos_batch_norm"] else "weight"
    return EncoderConfig.from_dict(nest(values))


def _output_width(config: Mapping[str, Any]) -> int:
    """0 where the output is as wide as the model: then there is no projection to it."""
    width = config["output_hidden_size"] or config["hidden_size"]
    return 0 if width == config["hidden_size"] else width


def quantizer_config(config: Mapping[str, Any]) -> QuantizerConfig:
    """The quantizer and the projections of a transformers config.json."""
    config = DEFAULTS | dict(config)
    return QuantizerConfig(**{ours: config[theirs] for theirs, ours in QUANTIZER.items()})


def read(
    folder: str | Path, language: str = "", *, ignore_unknown: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, config) of a model directory, as `training.checkpoint.export_model` takes them.

    config: kind, model, and the quantizer or the alphabet. The waveform is normalised as
    preprocessor_config.json says. `padding_leaks` is on, as the published models were trained,
    but for Wav2Vec2Bert, whose convolutions leave the padding out.
    language: of an MMS model, whose adapters and head are in adapter.LANGUAGE.safetensors.
    ignore_unknown: accepts tensors that have no place and letters without an output.
    Raises UserError for whatever is missing or cannot be expressed.
    """
    folder = Path(folder)
    theirs = read_json(folder / "config.json")
    try:
        encoder, kind = encoder_config(theirs), model_kind(theirs)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise UserError(
            f"{folder}/config.json has a value of the wrong kind: {brief(error)}"
        ) from None
    preprocessor = read_preprocessor(folder)
    if theirs["model_type"] == wav2vec2_bert.MODEL_TYPE:
        frontend = wav2vec2_bert.frontend(encoder, preprocessor, theirs, folder)
    else:
        # transformers normalises unless told not to
        normalize = preprocessor.get("do_normalize", True)
        if not isinstance(normalize, bool):
            raise UserError(f"{folder}: do_normalize is {normalize!r}, neither true nor false")
        frontend = dataclasses.replace(encoder.frontend, normalize=normalize)
    encoder = dataclasses.replace(encoder, frontend=frontend)
    rate = preprocessor.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UserError(f"{folder}: its audio has {rate} samples per second, not {SAMPLE_RATE}")
    if not re.fullmatch(r"[\w-]*", language):
        raise UserError(f"--language={language} is no name of a language, such as eng")
    arrays = safetensors.read(folder)
    if language:
        arrays |= safetensors.read(folder, f"adapter.{language}.safetensors")
    variables = parameters(arrays, encoder, kind, ignore_unknown=ignore_unknown)
    config = {"kind": kind, "model": encoder.to_dict()}
    if kind == "wav2vec2":
        config["quantizer"] = quantizer_config(theirs).to_dict()
    if kind == "ctc":
        head = variables["params"]["head"]
        blank = theirs.get("pad_token_id", DEFAULTS["pad_token_id"])
        alphabet, order = read_alphabet(
            folder, len(head["bias"]), blank, language, ignore_unknown=ignore_unknown
        )
        head.update(kernel=head["kernel"][:, order], bias=head["bias"][order])
        config["alphabet"] = alphabet.to_dict()
        config["final_dropout"] = theirs.get("final_dropout", DEFAULTS["final_dropout"])
    check_model(variables, config, folder)
    return variables, config


def write(folder: str | Path, variables: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes an exported model as a directory that transformers loads; the inverse of `read`.

    config as of `read`; of the kinds "hubert" and "data2vec" the encoder alone is written,
    transformers has no head for them. One switch has no counterpart there: transformers always
    computes as with `padding_leaks` (but for Wav2Vec2Bert), so padded batches differ from ours.
    Raises UserError for what transformers cannot express.
    """
    folder, kind = Path(folder), config["kind"]
    encoder = encoder_config_of(config)
    theirs = _their_config(encoder, kind)
    if kind in ("hubert", "data2vec"):
        log.warning("transformers has no head for %s: %s are left out", HEADLESS[kind],
                    ", ".join(sorted(variables["params"].keys() - {"encoder"})))  # fmt: skip
        kind = "encoder"
    theirs = {"written_by": "w2v_jax"} | theirs
    files = {"config.json": theirs, "preprocessor_config.json": _their_preprocessor(encoder)}
    if kind == "wav2vec2":
        quantizer = quantizer_of(config["quantizer"])
        if quantizer.kind != "gumbel" or quantizer.depth + quantizer.projection_depth > 2:
            raise UserError(
                "transformers has neither quantizer.kind=linear nor more than one layer for codes "
                f"and projections, this model has {shown(quantizer.to_dict())}; write its encoder "
                "fine-tuned with CTC"
            )
        theirs |= {key: getattr(quantizer, ours) for key, ours in QUANTIZER.items()}
    if kind == "ctc":
        symbols = Alphabet.from_dict(config["alphabet"]).symbols
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        special = {key: token if token in symbols else None for key, token in special.items()}
        theirs |= {"vocab_size": len(symbols), "pad_token_id": 0, "ctc_zero_infinity": True}
        theirs["final_dropout"] = config.get("final_dropout", 0.0)
        files["vocab.json"] = {symbol: i for i, symbol in enumerate(symbols)}
        files["tokenizer_config.json"] = special | {
            "tokenizer_class": "Wav2Vec2CTCTokenizer", "pad_token": symbols[0],
            "word_delimiter_token": "|", "do_lower_case": False,
        }  # fmt: skip
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.write(folder, tensors(variables, encoder, kind, theirs["model_type"]))
        for name, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")


def _their_preprocessor(config: EncoderConfig) -> dict[str, Any]:
    if config.frontend.kind == "logmel":
        return wav2vec2_bert.their_preprocessor(config)
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1,
        "sampling_rate": SAMPLE_RATE, "padding_side": "right", "padding_value": 0.0,
        "do_normalize": config.frontend.normalize,
        "return_attention_mask": config.frontend.norm == "layer",
    }  # fmt: skip


def _model_type(config: EncoderConfig, kind: str) -> str:
    if config.positions.kind == "conv_stack":
        return DATA2VEC
    if kind == "hubert" or value_of(config, "positions.norm") == "batch" or not config.feature_norm:
        return "hubert"
    return "wav2vec2-conformer" if config.conformer else "wav2vec2"


def _their_config(config: EncoderConfig, kind: str) -> dict[str, Any]:
    """config.json of an encoder, without the keys of its head."""
    conformer, positions = config.conformer, config.positions.kind
    ends = {kind: end for end, kind in KINDS.items()} | dict.fromkeys(HEADLESS, "Model")
    activation = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    if config.frontend.kind == "logmel":
        if kind == "wav2vec2":
            raise UserError("transformers' Wav2Vec2Bert has no pre-training head; export a CTC one")
        theirs = wav2vec2_bert.their_config(config, activation)
        return theirs | {"architectures": ["Wav2Vec2Bert" + ends[kind]]}
    if config.frontend.kind != "waveform":
        raise UserError(
            f"transformers has no model of model.frontend.kind={config.frontend.kind}; write it "
            "with --format=orbax"
        )
    only: dict[str, Any] = {"frontend.lightweight": 0}
    if config.output.layers:
        only["output.kind"] = "strided"
    if conformer:
        usual = {name: getattr(ConformerConfig, name) for name in SWITCHES}
        only |= {f"block.{name}": value for name, value in usual.items()}
        only |= {"block.norm": "batch", "norm_order": "pre"}
        if positions in ("conv", "conv_stack", "sinusoidal", "shaw"):
            raise UserError(f"transformers has no {positions} positions in a conformer")
        if config.block.kernel % 2 == 0:
            raise UserError(
                f"model.block.kernel is {config.block.kernel}; transformers has only odd kernels"
            )
    else:
        # one activation of all convolutions
        if positions in CONVOLUTIONS:
            only["positions.activation"] = value_of(config, "frontend.activation")
        else:
            only |= {"positions.kind": "conv"}
        if positions == "conv_stack":
            only |= {"frontend.norm": "layer", "norm_order": "post", "feature_norm": True}
            only |= {"block.adapter_dim": 0}
    for key, value in only.items():
        if value_of(config, key) != value:
            raise UserError(
                f"model.{key} is {value_of(config, key)!r}; transformers has only {value!r} here"
            )
    model_type = _model_type(config, kind)
    hubert = model_type == "hubert"
    if model_type == DATA2VEC and kind == "wav2vec2":
        raise UserError(
            "model.positions.kind=conv_stack makes it a Data2VecAudio, to which transformers gives "
            "no quantizer; write its encoder fine-tuned with CTC"
        )
    adapter_dim = value_of(config, "block.adapter_dim")
    if hubert and (conformer or kind == "wav2vec2" or adapter_dim or config.output.layers):
        raise UserError(
            "masked prediction, model.positions.norm=batch and model.feature_norm=False make it a "
            "Hubert, to which transformers gives neither quantizer, conformer blocks nor adapters"
        )
    prefix = {
        "wav2vec2-conformer": "Wav2Vec2Conformer", "hubert": "Hubert", DATA2VEC: "Data2VecAudio",
    }  # fmt: skip
    dim, kernel, stride = (list(x) for x in zip(*config.frontend.conv_layers, strict=True))
    theirs = {
        "model_type": model_type,
        "architectures": [prefix.get(model_type, "Wav2Vec2") + ends[kind]],
        "conv_dim": dim, "conv_kernel": kernel, "conv_stride": stride,
        "num_feat_extract_layers": len(dim),
        "feat_extract_activation": activation[config.frontend.activation],
        "hidden_act": activation[config.activation],
    }  # fmt: skip
    theirs |= {key: value_of(config, ours) for key, ours in SAME.items()}
    if adapter_dim:
        theirs["adapter_attn_dim"] = adapter_dim
    if config.output.layers:
        theirs |= {
            "add_adapter": True, "num_adapter_layers": config.output.layers,
            "adapter_kernel_size": 3, "adapter_stride": config.output.stride,
            "output_hidden_size": config.context_width,
        }  # fmt: skip
    if hubert:
        theirs["feat_proj_layer_norm"] = config.feature_norm
        theirs["conv_pos_batch_norm"] = config.positions.norm == "batch"
    if conformer:
        theirs["position_embeddings_type"] = None if positions == "none" else positions
        theirs["conv_depthwise_kernel_size"] = config.block.kernel
        theirs["conformer_conv_dropout"] = config.block.dropout
        theirs |= dict(zip(POSITIONS, unused_positions(config), strict=True))
    elif model_type == DATA2VEC:
        theirs |= {key: value_of(config, ours) for key, ours in STACK.items()}
    else:
        theirs |= {key: value_of(config, ours) for key, ours in POSITIONS.items()}
        theirs["do_stable_layer_norm"] = config.norm_order == "pre"
    return theirs
