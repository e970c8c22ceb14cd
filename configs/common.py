"""What the recipes share: model sizes and the blocks of a config with their usual values.

What the keys mean, and what they may be: w2v_jax/keys/table.py, docs/keys.md.
"""

import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from w2v_jax.data import augmentation, mixing
from w2v_jax.errors import UserError
from w2v_jax.models.config import QUANTIZERS as TARGETS
from w2v_jax.models.config import EncoderConfig, quantizer_of
from w2v_jax.models.settings import Execution, nest

# of the unions of a model, what a size has that names nothing else
KINDS = {"frontend": "waveform", "block": "transformer", "positions": "conv", "output": "plain"}

# Sources: wav2vec 2.0 (arXiv 2006.11477) section 4.2 and fairseq examples/wav2vec/config. Dotted
# keys of EncoderConfig; what a size does not name has the value of BASE
SIZES = {
    "tiny": {
        "frontend.conv_layers": ((256, 10, 5),) + ((256, 3, 2),) * 4 + ((256, 2, 2),) * 2,
        "width": 256, "num_layers": 4, "num_heads": 4, "feed_forward": 1024,
    },
    # a quarter of tiny's arithmetic in the feature encoder, for two CPU cores
    "quickstart": {
        "frontend.conv_layers": (
            (64, 10, 5), (128, 3, 2), (128, 3, 2), (192, 3, 2), (192, 3, 2),
            (256, 2, 2), (256, 2, 2),
        ),
        "width": 256, "num_layers": 4, "num_heads": 4, "feed_forward": 1024, "norm_order": "pre",
    },
    "base": {"width": 768, "num_layers": 12, "num_heads": 12, "feed_forward": 3072},
    "large": {
        "width": 1024, "num_layers": 24, "num_heads": 16, "feed_forward": 4096, "layerdrop": 0.2,
    },
    "large_lv60k": {
        "width": 1024, "num_layers": 24, "num_heads": 16, "feed_forward": 4096,
        "frontend.bias": True, "frontend.norm": "layer", "frontend.normalize": True,
        "frontend.grad_mult": 1.0, "norm_order": "pre", "dropout": 0.0, "attention_dropout": 0.0,
        "dropout_input": 0.0, "layerdrop": 0.0,
    },
}  # fmt: skip
# XLS-R (arXiv 2111.09296): the network of large_lv60k, wider and deeper
SIZES["xlsr_300m"] = SIZES["large_lv60k"]
SIZES["xlsr_1b"] = SIZES["large_lv60k"] | dict(width=1280, num_layers=48, feed_forward=5120)
SIZES["xlsr_2b"] = SIZES["large_lv60k"] | dict(width=1920, num_layers=48, feed_forward=7680)
# wav2vec2-conformer: large_lv60k with conformer blocks
CONFORMER = {"block.kind": "conformer", "block.dropout": 0.0, "activation": "swish"}
SIZES["conformer_rel_large"] = SIZES["large_lv60k"] | CONFORMER | {"positions.kind": "relative"}
SIZES["conformer_rope_large"] = SIZES["large_lv60k"] | CONFORMER | {"positions.kind": "rotary"}
# the Conformer of arXiv 2005.08100, table 1
_PAPER = {
    "frontend.kind": "logmel", "block.kind": "conformer", "block.kernel": 32,
    "block.bias": True, "positions.kind": "relative", "activation": "swish", "feature_norm": False,
    "norm_order": "none",
}  # fmt: skip
for _name, _width, _layers, _heads in (
    ("tiny", 96, 8, 4), ("s", 144, 16, 4), ("m", 256, 16, 4), ("l", 512, 17, 8),
):  # fmt: skip
    SIZES[f"conformer_{_name}"] = _PAPER | dict(
        width=_width, num_layers=_layers, num_heads=_heads, feed_forward=4 * _width
    )
# of BEST-RQ (arXiv 2202.01855): SpeechBrain's for LibriSpeech; see best_rq.py
SIZES["best_rq_base"] = _PAPER | {
    "width": 576, "num_layers": 12, "num_heads": 8, "feed_forward": 2048, "block.kernel": 31,
    "activation": "gelu",
}  # fmt: skip
# of wav2vec-Conformer (arXiv 2010.10504): the larger ones have a short kernel and no positions but
# what the convolutions see
for _name in ("tiny", "l"):
    SIZES[f"wav2vec_conformer_{_name}"] = SIZES[f"conformer_{_name}"]
for _name, _layers in (("xl", 24), ("xxl", 42)):
    SIZES[f"wav2vec_conformer_{_name}"] = _PAPER | {
        "positions.kind": "none", "block.kernel": 5, "width": 1024, "num_layers": _layers,
        "num_heads": 8, "feed_forward": 4096,
    }  # fmt: skip
SIZES["conformer_xl"] = SIZES["wav2vec_conformer_xl"] | {"positions.kind": "relative"}  # BEST-RQ's
# w2v-BERT 2.0 (transformers Wav2Vec2Bert), for its published weights
SIZES["w2v_bert_2"] = {
    "frontend.kind": "logmel", "frontend.preset": "seamless",
    "frontend.normalization": "utterance", "frontend.subsampling": "stack", "frontend.stack": 2,
    "block.kind": "conformer", "block.norm": "layer", "block.causal_convolution": True,
    "positions.kind": "shaw", "activation": "swish", "norm_order": "none",
    "width": 1024, "num_layers": 24, "num_heads": 16, "feed_forward": 4096, "dropout": 0.0,
    "attention_dropout": 0.0, "dropout_input": 0.0, "layerdrop": 0.0,
}  # fmt: skip
# HuBERT (arXiv 2106.07447): like them, without bias in the feature encoder
SIZES["hubert_base"] = SIZES["base"]
SIZES["hubert_large"] = SIZES["large_lv60k"] | {"frontend.bias": False}
SIZES["hubert_xlarge"] = SIZES["xlsr_1b"] | {"frontend.bias": False}
# data2vec (arXiv 2202.03555; fairseq base_librispeech.yaml): layer norms in the convolutions, and
# post-norm blocks in large too, as transformers has it
_DATA2VEC = {
    "frontend.norm": "layer", "frontend.normalize": True, "frontend.grad_mult": 1.0,
    "positions.kind": "conv_stack", "dropout_input": 0.0,
}  # fmt: skip
SIZES["data2vec_base"] = SIZES["base"] | _DATA2VEC
SIZES["data2vec_large"] = SIZES["large"] | _DATA2VEC | {"layerdrop": 0.05}

# of the convolutions over a log-mel spectrum, where they are not as many as the model is wide
LOGMEL_CHANNELS = {"tiny": 64, "quickstart": 32, "best_rq_base": 128}

QUANTIZERS = {
    "tiny": dict(groups=2, codes=320, width=256, projection=128),
    # with 640 codes the loss stays at chance for hundreds of small updates
    "quickstart": dict(groups=2, codes=32, width=256, projection=128),
    "base": dict(groups=2, codes=320, width=256, projection=256),
    "large": dict(groups=2, codes=320, width=768, projection=768),
    "large_lv60k": dict(groups=2, codes=320, width=768, projection=768, dropout=0.0),
}
for _size in ("xlsr_300m", "conformer_rel_large", "conformer_rope_large"):
    QUANTIZERS[_size] = QUANTIZERS["large_lv60k"]
for _size in ("xlsr_1b", "xlsr_2b"):
    QUANTIZERS[_size] = QUANTIZERS["large_lv60k"] | dict(width=1024, projection=1024)
# compared at the model's width; of a quantizer in place of the linear targets there are no numbers
LINEAR = tuple(size for size in SIZES if size.startswith("wav2vec_conformer_"))
for _size in LINEAR:
    _width = SIZES[_size]["width"]
    QUANTIZERS[_size] = dict(groups=2, codes=320, width=_width, projection=_width, dropout=0.0)
# the heads of the published HuBERT models, with fairseq's four rows beside the 500 clusters
PREDICTIONS = {
    "hubert_base": dict(classes=(504,), projection=256),
    "hubert_large": dict(classes=(504,), projection=768),
    "hubert_xlarge": dict(classes=(504,), projection=1024),
}


def model(size: str, kinds: Mapping[str, str] | None = None) -> ConfigDict:
    """Every key of the encoder, so that each can be set from the command line.

    kinds: other members of the unions, with their usual values: {"block": "conformer"}.
    """
    if size not in SIZES:
        raise UserError(f"the config has no size {size!r}; choose {', '.join(SIZES)}")
    values = nest(SIZES[size])
    for union, kind in KINDS.items():  # a size that sets keys of the usual kind need not name it
        values[union] = {"kind": kind} | values.get(union, {})
    for union, kind in (kinds or {}).items():
        if union not in KINDS:
            raise UserError(f"{union} is no union of the model; choose {', '.join(KINDS)}")
        if values[union]["kind"] != kind:
            values[union] = {"kind": kind}
    if values["frontend"]["kind"] == "logmel":  # the published ones have the model's width
        width = values["width"]
        channels = LOGMEL_CHANNELS.get(size, width)
        values["frontend"] |= {"channels": channels, "projection": width}
    if values["frontend"]["kind"] == "units":
        values["frontend"] |= {"width": values["width"]}
    return ConfigDict(EncoderConfig.from_dict(values).to_dict())


def size_of(argument: str) -> tuple[str, dict[str, str]]:
    """(size, kinds) of the argument "base,block=conformer,positions=relative"."""
    size, *rest = argument.split(",")
    if not all(re.fullmatch(r"\w+=\w+", part) for part in rest):
        raise UserError(f"{argument!r} is no argument; write SIZE, or SIZE,block=conformer")
    names = [part.partition("=")[0] for part in rest]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{argument!r} has {' and '.join(twice)} twice; write each once")
    return size, dict(part.split("=") for part in rest)


def execution(*keys: str) -> ConfigDict:
    """How the model is computed, with these keys or all."""
    values = Execution().to_dict()
    return ConfigDict({key: values[key] for key in keys or values})


def masked(size: str, kinds: Mapping[str, str] | None = None) -> ConfigDict:
    """What all pre-training by masked crops has in common; kinds as in `model`. Its kind and head
    are to be added."""
    config = ConfigDict()
    config.seed = 0
    config.model = model(size, kinds)
    config.execution = execution()
    config.masking = ConfigDict(dict(prob=0.65, span=10, minimum=2))
    config.data = data()
    # of 16 n frames each, 96 to 768: products of other numbers of rows are padded on accelerators.
    # Of lengths like LibriSpeech's a pass leaves 7.9 % outside its crops (python -m
    # tests.measure.padding_share)
    config.data.crop_seconds = (1.925, 4.485, 7.045, 9.605, 11.205, 12.805, 14.085, 15.365)
    config.data.concatenate_seconds = 0.0
    config.optim = ConfigDict(
        dict(
            kind="adam", schedule="linear", peak_lr=5e-4, warmup_steps=32_000,
            b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=0.0,
        )
    )  # fmt: skip
    add_run(config)
    return config


def quantizer(size: str, kind: str = "") -> ConfigDict:
    """Every key of what makes the targets: codes, or with kind=linear, the usual one of LINEAR,
    projections of features."""
    kind = kind or ("linear" if size in LINEAR else "gumbel")
    fields = TARGETS[kind].__dataclass_fields__ if kind in TARGETS else {}
    values = {key: value for key, value in QUANTIZERS[size].items() if key in fields}
    return ConfigDict(quantizer_of({"kind": kind} | values).to_dict())


def pretraining(size: str, kinds: Mapping[str, str] | None = None) -> ConfigDict:
    """A pre-training config with the values all wav2vec 2.0 recipes have in common; kinds as in
    `model`, and of the targets: {"quantizer": "linear"}."""
    kinds = dict(kinds or {})
    chosen = kinds.pop("quantizer", "")
    if size in SIZES and size not in QUANTIZERS:
        raise UserError(f"{size} has no quantizer; choose {', '.join(QUANTIZERS)}")
    config = masked(size, kinds)
    config.kind = "wav2vec2"
    config.quantizer = quantizer(size, chosen)
    config.loss = ConfigDict(
        dict(
            negatives=100, temperature=0.1, penalty_weight=10.0, negatives_from="masked",
            cross_negatives=0, targets="augmented",
        )
    )  # fmt: skip
    if config.quantizer.kind == "gumbel":
        config.loss.diversity_weight = 0.1
        config.gumbel = ConfigDict(dict(start=2.0, end=0.5, decay=0.999995))
    if config.model.frontend.kind == "logmel":  # nothing there grows as convolutions of samples do
        config.loss.penalty_weight = 0.0
    return config


def finetuning(size: str, kinds: Mapping[str, str] | None = None) -> ConfigDict:
    """A CTC fine-tuning config with the values all wav2vec 2.0 recipes have in common; kinds as in
    `model`."""
    config = ConfigDict()
    config.kind = "ctc"
    config.seed = 0
    config.model = model(size, kinds)
    config.execution = execution()
    if "grad_mult" in config.model.frontend:  # the published recipes freeze the convolutions
        config.model.frontend.grad_mult = 0.0
    config.model.update(
        dropout=0.0, attention_dropout=0.0, activation_dropout=0.1, dropout_input=0.0,
        layerdrop=0.1,
    )  # fmt: skip
    config.reinit_layers = 0
    config.letters = ""
    config.language = ""
    config.final_dropout = 0.0
    config.freeze_steps = 10_000
    config.time_masking = ConfigDict(dict(prob=0.65, span=10, minimum=2))
    config.channel_masking = ConfigDict(dict(prob=0.25, span=64, minimum=0))
    if config.model.frontend.kind == "logmel":
        # the Conformer's (arXiv 2005.08100; how many bands: algoperf), instead of those masks
        config.spec_augment = ConfigDict(
            dict(frequency_masks=2, frequency_width=27, time_masks=10, time_width=100,
                 time_share=0.05)
        )  # fmt: skip
        config.time_masking.update(prob=0.0, minimum=0)
        config.channel_masking.prob = 0.0
    config.data = data()
    config.data.num_buckets = 14  # 4.6 % padding for the same lengths
    config.data.min_seconds = 0.1
    config.data.max_seconds = 30.0
    config.data.concatenate_seconds = 0.0
    config.optim = ConfigDict(
        dict(
            kind="adam", schedule="tri_stage", peak_lr=5e-5, phases=(0.1, 0.4, 0.5),
            b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.0, clip_norm=0.0,
        )
    )  # fmt: skip
    add_run(config)
    config.run.init_head = False
    return config


def data() -> ConfigDict:
    config = ConfigDict()
    config.train = ""
    config.valid = ""
    config.update(mixing.DEFAULTS)
    config.batch_seconds = 5760.0
    config.row_multiple = 8
    config.augment = ConfigDict(augmentation.DEFAULTS)
    return config


def add_run(config: ConfigDict) -> None:
    config.ema_decay = 0.0
    config.num_steps = 400_000
    config.run = ConfigDict(
        dict(
            init_from="", partial_init=False, mesh=dict(data=-1, fsdp=1, tensor=1),
            accumulation=1, threads=4, workers=0, cache_gigabytes=0.0, max_bad_share=0.05,
            log_steps=200, save_steps=5_000, eval_steps=5_000,
            keep_last=2, keep_every=0, keep_best=0,
            max_skipped=10, hang_seconds=1800.0, profile_steps="", dry_run=False,
        )
    )  # fmt: skip


def transformer_schedule(config: ConfigDict, **values: float) -> None:
    """The optimizer of the Conformer line: Adam, and a learning rate that falls with the root of
    the updates (arXiv 1706.03762); values: the keys of config.optim that differ."""
    config.optim = ConfigDict(
        dict(
            kind="adam", schedule="inverse_sqrt", peak_lr=2e-3, warmup_steps=25_000,
            b1=0.9, b2=0.98, eps=1e-9, weight_decay=1e-6, clip_norm=0.0,
        )
        | values
    )  # fmt: skip


def for_a_cpu(config: ConfigDict, batch_seconds: float, **data: object) -> None:
    """Small batches, checkpoints and evaluations soon; data: keys of config.data."""
    config.data.update(batch_seconds=batch_seconds, row_multiple=1, **data)
    config.run.update(log_steps=20, save_steps=500, eval_steps=500)
