"""Transformers' Wav2Vec2Bert (w2v-BERT 2.0): its config.json and preprocessor_config.json as ours.

Conformer blocks over two frames of a log-mel spectrum side by side. Its convolutions leave the
padding out as ours do; only the convolutions of its adapter see it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.interop.huggingface_files import choose, refuse
from w2v_jax.models.config import ConformerConfig, EncoderConfig
from w2v_jax.models.frontends.logmel import LogMelConfig
from w2v_jax.models.settings import nest, value_of

MODEL_TYPE = "wav2vec2-bert"
EXTRACTOR = "SeamlessM4TFeatureExtractor"
# their key of config.json -> ours, where the values are the same
SAME = {
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "feed_forward",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "feat_proj_dropout": "dropout_input",
    "layerdrop": "layerdrop",
    "conv_depthwise_kernel_size": "block.kernel",
    "conformer_conv_dropout": "block.dropout",
}
DISTANCES = {
    "left_max_position_embeddings": "positions.left",
    "right_max_position_embeddings": "positions.right",
}
POSITIONS = {"relative_key": "shaw", "relative": "relative", "rotary": "rotary", None: "none"}
# of transformers 5.24's config class: a config.json may lack what is as usual
DEFAULTS = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
    "intermediate_size": 4096, "feature_projection_input_dim": 160, "hidden_act": "swish",
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0, "layerdrop": 0.1, "conv_depthwise_kernel_size": 31,
    "conformer_conv_dropout": 0.1, "position_embeddings_type": "relative_key",
    "left_max_position_embeddings": 64, "right_max_position_embeddings": 8, "add_adapter": False,
    "num_adapter_layers": 1, "output_hidden_size": None,
}  # fmt: skip
# what our models compute, where transformers has a switch; a key that is absent has this value
ONLY = {
    "layer_norm_eps": 1e-5, "rotary_embedding_base": 10000, "adapter_kernel_size": 3,
    "adapter_stride": 2, "adapter_act": "relu", "use_intermediate_ffn_before_adapter": False,
}  # fmt: skip
# what it always has, keys of ours
FIXED = {
    "frontend.kind": "logmel", "frontend.preset": "seamless", "frontend.normalization": "utterance",
    "frontend.subsampling": "stack", "feature_norm": True, "norm_order": "none", "norm_eps": 1e-5,
    "block.kind": "conformer", "block.norm": "layer", "block.causal_convolution": True,
}  # fmt: skip
# and what else our blocks could be
USUAL = ("feed_forwards", "residual", "order", "convolution", "bias")
EXTRACTOR_DEFAULTS = {"num_mel_bins": 80, "stride": 2, "sampling_rate": SAMPLE_RATE}


def encoder_config(config: Mapping[str, Any], activations: Mapping[str, str]) -> EncoderConfig:
    """The encoder of a config.json, with two frames of the spectrum side by side: how many these
    are preprocessor_config.json says, see `frontend`. activations: their names -> ours. Raises
    UserError for what our models cannot express."""
    config = DEFAULTS | dict(config)
    for key, value in ONLY.items():
        if config.get(key, value) != value:
            raise refuse(config, key, f"only {value!r} is supported")
    positions = choose(config, "position_embeddings_type", POSITIONS)
    values = FIXED | {ours: config[theirs] for theirs, ours in SAME.items()}
    values |= {
        "activation": choose(config, "hidden_act", activations),
        "positions.kind": positions,
        "frontend.mels": config["feature_projection_input_dim"] // 2,
        "frontend.stack": 2,
        # of another subsampling; what a config of this size has
        "frontend.channels": config["hidden_size"],
        "frontend.projection": config["hidden_size"],
    }
    if positions == "shaw":
        values |= {ours: config[theirs] for theirs, ours in DISTANCES.items()}
    if config["add_adapter"]:
        wider = config["output_hidden_size"] or config["hidden_size"]
        values |= {
            "output.kind": "attentive",
            "output.layers": config["num_adapter_layers"],
            "output.width": 0 if wider == config["hidden_size"] else wider,
        }
    return EncoderConfig.from_dict(nest(values))


def frontend(
    encoder: EncoderConfig, preprocessor: Mapping[str, Any], config: Mapping[str, Any], where: Any
) -> LogMelConfig:
    """That of the encoder of a config.json as its preprocessor_config.json says it is. Raises
    UserError for one that is not this model's, naming the folder `where`."""
    named = preprocessor.get("feature_extractor_type", EXTRACTOR)
    if named != EXTRACTOR:
        raise UserError(f"{where}: its feature_extractor_type is {named!r}, not {EXTRACTOR}")
    found = EXTRACTOR_DEFAULTS | dict(preprocessor)
    bins, stack = found["num_mel_bins"], found["stride"]
    width = (DEFAULTS | dict(config))["feature_projection_input_dim"]
    if not all(isinstance(x, int) for x in (bins, stack, width)) or bins * stack != width:
        raise UserError(
            f"{where}: num_mel_bins {bins!r} times stride {stack!r} of its preprocessor is not "
            f"feature_projection_input_dim {width!r} of config.json"
        )
    return dataclasses.replace(encoder.frontend, mels=bins, stack=stack)


def their_config(config: EncoderConfig, activations: Mapping[str, str]) -> dict[str, Any]:
    """config.json of an encoder, without the keys of its head; activations: our names -> theirs.
    Raises UserError for what Wav2Vec2Bert cannot express."""
    usual = {f"block.{name}": getattr(ConformerConfig, name) for name in USUAL}
    for key, value in (FIXED | usual).items():
        if value_of(config, key) != value:
            raise UserError(
                f"model.{key} is {value_of(config, key)!r}; transformers' Wav2Vec2Bert, its only "
                f"model of log-mel spectra with these blocks, has only {value!r}"
            )
    names = {ours: theirs for theirs, ours in POSITIONS.items()}
    positions = config.positions.kind
    if positions not in names:
        raise UserError(f"transformers has no {positions} positions in a Wav2Vec2Bert")
    if config.block.kernel % 2 == 0:
        raise UserError(
            f"model.block.kernel is {config.block.kernel}; transformers has only odd kernels"
        )
    output = config.output
    if output.kind == "strided" or (output.layers and output.stride != 2):
        raise UserError(
            "transformers' Wav2Vec2Bert takes model.output.kind=attentive on top, with "
            "model.output.stride=2, or nothing"
        )
    theirs = {
        "model_type": MODEL_TYPE,
        "feature_projection_input_dim": config.frontend.width,
        "hidden_act": activations[config.activation],
        "layer_norm_eps": config.norm_eps,
        "position_embeddings_type": names[positions],
        "add_adapter": bool(output.layers),
    }
    theirs |= {key: value_of(config, ours) for key, ours in SAME.items()}
    if positions == "shaw":
        theirs |= {key: value_of(config, ours) for key, ours in DISTANCES.items()}
    if output.layers:
        theirs |= {
            "num_adapter_layers": output.layers, "adapter_kernel_size": 3, "adapter_stride": 2,
            "adapter_act": "relu", "output_hidden_size": config.context_width,
        }  # fmt: skip
    return theirs


def their_preprocessor(config: EncoderConfig) -> dict[str, Any]:
    """preprocessor_config.json of an encoder. The padding value is that of the published model;
    behind an attention mask it means nothing."""
    mels = config.frontend.mels
    return {
        "feature_extractor_type": EXTRACTOR, "feature_size": mels, "num_mel_bins": mels,
        "stride": config.frontend.stack, "sampling_rate": SAMPLE_RATE, "padding_side": "right",
        "padding_value": 1, "return_attention_mask": True,
    }  # fmt: skip
