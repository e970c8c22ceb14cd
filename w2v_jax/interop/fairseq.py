"""Checkpoints of fairseq (.pt): wav2vec 2.0 and HuBERT, pre-trained or fine-tuned with CTC.

They are read only; neither fairseq nor omegaconf is needed.
"""

import ast
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError, brief
from w2v_jax.interop import torch_file
from w2v_jax.interop.exported import check_model
from w2v_jax.interop.huggingface_tensors import parameters
from w2v_jax.interop.vocabulary import checked_alphabet
from w2v_jax.models.config import EncoderConfig, PredictionConfig, QuantizerConfig
from w2v_jax.models.settings import nest, value_of
from w2v_jax.text.alphabet import Alphabet

# fairseq's name of a model -> (ours, whether CTC was trained on top)
MODELS = {
    "wav2vec2": "wav2vec2", "hubert": "hubert", "wav2vec_ctc": "ctc", "hubert_ctc": "ctc",
}  # fmt: skip
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # the head of every dictionary; <s> is the blank
DICTIONARY = "dict.ltr.txt"

# their key -> ours, where the values are the same, and their default for files older than the key
SAME = {
    "conv_bias": ("frontend.bias", False),
    "encoder_embed_dim": ("width", 768),
    "encoder_layers": ("num_layers", 12),
    "encoder_attention_heads": ("num_heads", 12),
    "encoder_ffn_embed_dim": ("feed_forward", 3072),
    "feature_grad_mult": ("frontend.grad_mult", 1.0),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "dropout_input": ("dropout_input", 0.0),
    "encoder_layerdrop": ("layerdrop", 0.0),
}
# what our models compute, where fairseq has a switch; an absent key has this value
ONLY = {
    "quantize_targets": True, "quantize_input": False, "same_quantizer": False,
    "target_glu": False, "quantizer_depth": 1, "pos_conv_depth": 1, "crop_seq_to_multiple": 1,
}  # fmt: skip
CHOICES = {
    "extractor_mode": {"default": "group", "layer_norm": "layer"},
    "activation_fn": {
        "gelu": "gelu", "relu": "relu", "swish": "swish",
        "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    },
    "layer_type": {"transformer": "transformer", "conformer": "conformer"},
    "pos_enc_type": {"rel_pos": "relative", "rope": "rotary"},
}  # fmt: skip
WAV2VEC2_CONV = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] + [(512, 2, 2)]"

# fairseq's names as those of transformers, which huggingface_tensors knows; in this order
RENAMES = (
    (r"^w2v_encoder\.w2v_model\.", ""),
    (r"^w2v_encoder\.proj\.", "lm_head."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.(?:1\.)?", r"\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^quantizer\.vars$", "quantizer.codevectors"),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    # of a transformer block
    (r"\.self_attn\.([qkv]|out)_proj\.", r".attention.\1_proj."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    # of a conformer block
    (r"\.(ffn[12])\.layer_norm\.", r".\1_layer_norm."),
    (r"\.w_1\.", ".intermediate_dense."),
    (r"\.w_2\.", ".output_dense."),
)
TRANSFORMER = ((r"\.self_attn_layer_norm\.", ".layer_norm."),)
BATCH_NORM_POSITIONS = (  # before the rule for pos_conv.0
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.batch_norm."),
    (r"^encoder\.pos_conv\.1\.", "encoder.pos_conv_embed.conv."),
)
CONTRASTIVE = ((r"^final_proj\.", "project_hid."),)


def _choose(config: Mapping[str, Any], key: str, default: str) -> str:
    value = config.get(key) or default
    if value not in CHOICES[key]:
        known = ", ".join(CHOICES[key])
        raise UserError(f"the checkpoint's {key} is {value!r}; it must be one of {known}")
    return CHOICES[key][value]


def _conv_layers(text: str) -> tuple:
    """The layers of fairseq's Python expression, which is parsed and not run.

    A sum of lists of (channels, kernel, stride), each perhaps times a number.
    """

    def value(node):
        match node:
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Mult(), right):
                return value(left) * value(right)
        return ast.literal_eval(node)

    try:
        return tuple(value(ast.parse(text.strip(), mode="eval").body))
    except (ValueError, SyntaxError, TypeError, AttributeError):
        raise UserError(f"the checkpoint's conv_feature_layers is {text!r}; no list") from None


def encoder_config(model: Mapping[str, Any]) -> EncoderConfig:
    """The encoder of fairseq's model config (Wav2Vec2Config, HubertConfig).

    `frontend.normalize` stays False: fairseq keeps it with the task. Raises UserError for what our
    models cannot express.
    """
    for key, value in ONLY.items():
        if model.get(key, value) != value:
            raise UserError(
                f"the checkpoint's {key} is {model[key]!r}; only {value!r} is supported"
            )
    values = {ours: model.get(key, default) for key, (ours, default) in SAME.items()}
    hubert = "label_rate" in model or "untie_final_proj" in model
    values |= {
        "frontend.kind": "waveform",
        "frontend.conv_layers": _conv_layers(model.get("conv_feature_layers") or WAV2VEC2_CONV),
        "frontend.norm": _choose(model, "extractor_mode", "default"),
        "frontend.frame_rule": "samples" if hubert else "convolution",
        "norm_order": "pre" if model.get("layer_norm_first") else "post",
        "padding_leaks": True,
    }
    block = _choose(model, "layer_type", "transformer")
    values["block.kind"] = block
    if block == "conformer":
        if model.get("attn_type") != "espnet":
            raise UserError(
                f"the checkpoint's attn_type is {model.get('attn_type')!r}; conformers need espnet"
            )
        kernel = model.get("depthwise_conv_kernel_size", 31)
        if kernel % 2 == 0:
            raise UserError(f"the checkpoint's depthwise_conv_kernel_size is {kernel}, not odd")
        values |= {
            "positions.kind": _choose(model, "pos_enc_type", "abs"),
            "block.kernel": kernel,
            "activation": "swish",
        }
        # one dropout for everything inside its blocks
        for key in ("attention_dropout", "activation_dropout", "block.dropout"):
            values[key] = values["dropout"]
    else:
        values |= {
            "positions.kind": "conv",
            "positions.kernel": model.get("conv_pos", 128),
            "positions.groups": model.get("conv_pos_groups", 16),
            "positions.norm": "batch" if model.get("conv_pos_batch_norm") else "weight",
            "activation": _choose(model, "activation_fn", "gelu"),
        }
    return EncoderConfig.from_dict(nest(values))


def quantizer_config(model: Mapping[str, Any]) -> QuantizerConfig:
    """The quantizer and the projections of a wav2vec 2.0 model config."""
    projection = model.get("final_dim") or model.get("encoder_embed_dim", 768)
    return QuantizerConfig(
        groups=model.get("latent_groups", 2),
        codes=model.get("latent_vars", 320),
        width=model.get("latent_dim") or projection,
        projection=projection,
        dropout=model.get("dropout_features", 0.0),
    )


def prediction_config(model: Mapping[str, Any], classes: tuple[int, ...]) -> PredictionConfig:
    """The head of a HuBERT model config; classes: of every set of labels."""
    return PredictionConfig(
        classes=classes,
        projection=model.get("final_dim") or model.get("encoder_embed_dim", 768),
        tied=not model.get("untie_final_proj", False),
        label_rate=float(model.get("label_rate") or 50),
    )


def rename(tensors: Mapping[str, np.ndarray], config: EncoderConfig, kind: str) -> dict:
    """Tensors under the names of transformers; those without a rule keep theirs."""
    rules = RENAMES
    if value_of(config, "positions.norm") == "batch":
        rules = BATCH_NORM_POSITIONS + tuple(r for r in rules if "pos_conv" not in r[0])
    if not config.conformer:
        rules += TRANSFORMER
    if kind == "wav2vec2":
        rules += CONTRASTIVE
    renamed = {}
    for name, x in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = x
    return renamed


def read(
    path: str | Path, *, ignore_unknown: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, config) of a .pt file, as `training.checkpoint.export_model` takes them.

    config: kind (wav2vec2, hubert or ctc), model, and the quantizer, the prediction head or the
    alphabet. A fine-tuned model's letters are in the file or, in older ones, in dict.ltr.txt beside
    it. `padding_leaks` is on, as the published models were trained. Needs torch. `ignore_unknown`
    accepts tensors that have no place. Raises UserError for whatever is missing or cannot be
    expressed.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; --workdir is the .pt file itself with --from=fairseq")
    state = torch_file.load(path, ("model", "cfg", "args", "task_state"))
    return convert(state, path, ignore_unknown=ignore_unknown)


def convert(
    state: Mapping[str, Any], path: Path, *, ignore_unknown: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `read`, of the content of the file `path` as dicts and arrays."""
    if not isinstance(state.get("model"), Mapping):
        raise UserError(f"{path} is no checkpoint of fairseq: it has no 'model'")
    try:
        kind, model, task = _settings(path, state)
        rate = task.get("sample_rate") or SAMPLE_RATE
        if rate != SAMPLE_RATE:
            raise UserError(f"{path}: its audio has {rate} samples per second, not {SAMPLE_RATE}")
        normalize = task.get("normalize", False)
        if not isinstance(normalize, bool | int):
            raise UserError(f"{path}: normalize is {normalize!r}, neither true nor false")
        encoder = encoder_config(model)
        tensors = rename(state["model"], encoder, kind)
        variables = parameters(tensors, encoder, kind, ignore_unknown=ignore_unknown)
        frontend = dataclasses.replace(encoder.frontend, normalize=bool(normalize))
        encoder = dataclasses.replace(encoder, frontend=frontend)
        config = {"kind": kind, "model": encoder.to_dict()}
        if kind == "wav2vec2":
            config["quantizer"] = quantizer_config(model).to_dict()
        elif kind == "hubert":
            classes = _classes(path, state)
            config["prediction"] = prediction_config(model, classes).to_dict()
        else:
            config["alphabet"] = _alphabet(path, state).to_dict()
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{path} has a value of the wrong kind: {brief(error)}") from None
    check_model(variables, config, path)
    return variables, config


def _settings(path: Path, state: Mapping[str, Any]) -> tuple[str, dict, dict]:
    """(our kind, config of the encoder's model, config of the task)."""
    whole = state.get("cfg") or state.get("args")
    if not whole:
        raise UserError(f"{path} has neither 'cfg' nor 'args': the model's sizes are not known")
    model, task = _split(whole)
    name = model.get("_name") or model.get("arch")
    if name not in MODELS:
        raise UserError(f"{path} holds a {name} model; it must be one of {', '.join(MODELS)}")
    if MODELS[name] == "ctc":
        task = task | {"normalize": model.get("normalize", task.get("normalize", False))}
        if not model.get("w2v_args"):
            raise UserError(f"{path} has no w2v_args: the sizes of its encoder are not known")
        model, _ = _split(model["w2v_args"])
    return MODELS[name], model, task


def _split(whole: Mapping[str, Any]) -> tuple[dict, dict]:
    """(model, task) of a config; in old files one flat namespace is both."""
    if isinstance(whole.get("model"), dict):
        parts = whole["model"], whole.get("task") or {}
        return tuple({key: _resolved(x, whole) for key, x in part.items()} for part in parts)
    return dict(whole), dict(whole)


def _resolved(value: Any, whole: Mapping[str, Any]) -> Any:
    """A value with hydra's references, such as ${task.normalize}, followed: files of its first
    months hold them."""
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if reference is None:
        return value
    for key in reference[1].split("."):
        whole = whole[key]
    return whole


def _classes(path: Path, state: Mapping[str, Any]) -> tuple[int, ...]:
    """Classes of every set of labels."""
    total = len(state["model"]["label_embs_concat"])
    dictionaries = (state.get("task_state") or {}).get("dictionaries") or ()
    classes = tuple(len(d["symbols"]) for d in dictionaries if d) or (total,)
    if sum(classes) != total:
        raise UserError(f"{path}: dictionaries of {classes} symbols, but {total} label embeddings")
    return classes


def _alphabet(path: Path, state: Mapping[str, Any]) -> Alphabet:
    """The letters of a fine-tuned model, blank first. Their blank, <s>, is our <pad>."""
    outputs = len(state["model"]["w2v_encoder.proj.bias"])
    dictionary = (state.get("task_state") or {}).get("target_dictionary")
    if dictionary:
        symbols, source = list(dictionary["symbols"]), path
    else:
        source = path.parent / DICTIONARY
        try:
            lines = source.read_text(encoding="utf-8").splitlines()
        except OSError:
            raise UserError(f"{path} names no letters; put its {DICTIONARY} beside it") from None
        symbols = [*SPECIAL, *(line.rsplit(maxsplit=1)[0] for line in lines if line.strip())]
    if len(symbols) != outputs or tuple(symbols[:4]) != SPECIAL:
        raise UserError(
            f"{source} has {len(symbols)} symbols that begin with {', '.join(symbols[:4])}; the "
            f"model has {outputs} outputs, the first of them {', '.join(SPECIAL)}"
        )
    # fairseq fills dictionaries up to a multiple of 8 with words of its own
    made_up = {symbol for symbol in symbols if symbol.startswith("madeupword")}
    return checked_alphabet(["<pad>", "<s>", *symbols[2:]], source, made_up)
