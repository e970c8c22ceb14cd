"""The systems of the experiments on the Conformer line, each a config:

    python -m w2v_jax.pretrain --config=benchmarks/conformer_line/systems.py:pretrain,SYSTEM ...
    python -m w2v_jax.finetune --config=benchmarks/conformer_line/systems.py:finetune,SYSTEM ...

so that every one can be run, drawn (python -m w2v_jax.report) and changed alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from w2v_jax.configs import best_rq, common, conformer, quickstart, wav2vec_aug
from w2v_jax.errors import UserError

UPDATES = {"pretrain": 400, "finetune": 300, "supervised": 600}
WAVEFORM_CONVOLUTIONS = (
    (32, 10, 5), (64, 3, 2), (64, 3, 2), (96, 3, 2), (128, 3, 2), (128, 2, 2), (128, 2, 2),
)  # fmt: skip


class System(NamedTuple):
    """A row. objective: how it is pre-trained, codes, linear or best_rq; empty: not at all, its
    labels are all transcripts with `supervised`, else the third of them. ablation: a name of
    configs/conformer.py. changes: of the config, by dotted keys. updates: of pre-training, times
    the usual."""

    label: str
    objective: str = ""
    frontend: str = "logmel"
    block: str = "conformer"
    ablation: str = ""
    supervised: bool = False
    changes: Mapping[str, object] = {}
    updates: float = 1.0


AUGMENTATION, LIGHTWEIGHT = wav2vec_aug.AUGMENTATION, wav2vec_aug.LIGHTWEIGHT
DEEPER = wav2vec_aug.CODES | wav2vec_aug.PROJECTIONS

SYSTEMS = {
    # table 3, every row with the changes of those above it
    "conformer": System("Conformer", supervised=True),
    "relu": System("ReLU instead of Swish", ablation="relu", supervised=True),
    "no_conv": System("no convolution", ablation="no_conv", supervised=True),
    "no_macaron": System("one feed-forward", ablation="no_macaron", supervised=True),
    "no_relpos": System("no relative positions", ablation="no_relpos", supervised=True),
    "deep_transformer": System(
        "the same, twice the blocks", ablation="no_relpos", supervised=True,
        changes={"model.num_layers": 12},
    ),
    # inputs and objectives
    "mel_scratch": System("log-mel, not pre-trained"),
    "mel_codes": System("log-mel, codes", "codes"),
    "mel_linear": System("log-mel, linear targets", "linear"),
    "mel_best_rq": System("log-mel, BEST-RQ", "best_rq"),
    "mel_codes_long": System("log-mel, codes, the waveform's minutes", "codes", updates=2.5),
    "wave_scratch": System("waveform, not pre-trained", frontend="waveform"),
    "wave_codes": System("waveform, codes, Conformer", "codes", "waveform"),
    # Wav2Vec-Aug
    "wave_transformer": System("waveform, codes, Transformer", "codes", "waveform", "transformer"),
    "wave_augmented": System("augmented audio", "codes", "waveform", changes=AUGMENTATION),
    "wave_clean": System(
        "the same, targets of the clean audio", "codes", "waveform",
        changes=AUGMENTATION | {"loss.targets": "clean"},
    ),
    "wave_deeper": System("deeper heads", "codes", "waveform", changes=DEEPER),
    "wave_lightweight": System("light-weight convolutions", "codes", "waveform",
                               changes=LIGHTWEIGHT),
    "wave_all": System("all but the clean targets", "codes", "waveform",
                       changes=AUGMENTATION | DEEPER | LIGHTWEIGHT),
}  # fmt: skip
TITLES = {
    "ablations": "Conformer with CTC, changes added up",
    "inputs": "Waveform or log-mel",
    "objectives": "What is learnt without labels, on log-mel",
    "wav2vec_aug": "Wav2Vec-Aug, one change each",
}
TABLES = {
    "ablations": ("conformer", "relu", "no_conv", "no_macaron", "no_relpos", "deep_transformer"),
    "inputs": ("wave_scratch", "wave_codes", "mel_scratch", "mel_codes", "mel_codes_long"),
    "objectives": ("mel_scratch", "mel_codes", "mel_linear", "mel_best_rq"),
    "wav2vec_aug": (
        "wave_scratch", "wave_transformer", "wave_codes", "wave_augmented", "wave_clean",
        "wave_deeper", "wave_lightweight", "wave_all",
    ),
}  # fmt: skip


def get_config(argument: str) -> ConfigDict:
    """argument: STAGE,SYSTEM with STAGE pretrain or finetune."""
    stage, _, name = argument.partition(",")
    if stage not in ("pretrain", "finetune") or name not in SYSTEMS:
        raise UserError(
            f"systems.py:{argument} is unknown; write pretrain or finetune, a comma and one "
            f"of {', '.join(SYSTEMS)}"
        )
    system = SYSTEMS[name]
    config = pretraining(system) if stage == "pretrain" else finetuning(system)
    config.run.update(threads=1, cache_gigabytes=1.0, log_steps=20, eval_steps=100, save_steps=200)
    config.data.row_multiple = 1
    of_the_model = {k: v for k, v in system.changes.items() if k.startswith("model.")}
    config.update_from_flattened_dict(system.changes if stage == "pretrain" else of_the_model)
    return config


def kinds(system: System) -> dict[str, str]:
    found = {"frontend": system.frontend, "block": system.block}
    return found | ({"positions": "relative"} if system.block == "conformer" else {})


def shape(model: ConfigDict, system: System) -> None:
    """Four blocks of 128 channels, six where a system is supervised with all transcripts."""
    model.update(
        width=128, num_layers=6 if system.supervised else 4, num_heads=4, feed_forward=512,
        norm_order="none" if system.block == "conformer" else "pre",
    )  # fmt: skip
    if system.frontend == "logmel":
        model.frontend.update(channels=32, projection=128)
    else:
        model.frontend.update(conv_layers=WAVEFORM_CONVOLUTIONS, grad_mult=1.0, smoothing=0.8)
    if "kernel" in model.block:
        model.block.kernel = 15


def pretraining(system: System) -> ConfigDict:
    """24 s per update in crops of 4 s; objectives as in configs/quickstart.py."""
    if system.objective == "best_rq":
        config = best_rq.get_config("tiny")
        config.random_quantizer.codes = 256
        config.mel_masking.update(prob=0.02, span=20)
        config.model = common.model("quickstart", kinds(system))
    elif system.objective:
        quantizer = "linear" if system.objective == "linear" else "gumbel"
        config = common.pretraining("quickstart", kinds(system) | {"quantizer": quantizer})
        # spans of 100 ms from the waveform, a frame per 20 ms, of 160 ms from the spectrum, per 40
        config.masking.update(prob=0.4, span=5 if system.frontend == "waveform" else 4)
        config.loss.penalty_weight = 1.0 if system.frontend == "waveform" else 0.0
        if quantizer == "gumbel":
            config.quantizer.dropout, config.gumbel.decay = 0.0, 0.999
            config.loss.diversity_weight = 1.0
    else:
        raise UserError(f"{system.label} is not pre-trained")
    shape(config.model, system)
    config.model.update(
        dropout=0.1, activation_dropout=0.1, attention_dropout=0.0, dropout_input=0.0,
        layerdrop=0.0,
    )  # fmt: skip
    seconds = 4.0 if system.frontend == "waveform" else 3.8551  # 200 frames, 96
    config.data.update(batch_seconds=24.0, crop_seconds=(seconds,), concatenate_seconds=seconds)
    config.optim.update(
        schedule="linear", warmup_steps=50, clip_norm=5.0, weight_decay=0.01,
        peak_lr=5e-4 if system.frontend == "waveform" else 1e-3,
    )  # fmt: skip
    config.num_steps = round(UPDATES["pretrain"] * system.updates)
    return config


def finetuning(system: System) -> ConfigDict:
    """CTC as in configs/quickstart.py, of the same form."""
    form = "wav2vec2" if system.frontend == "waveform" else "conformer"
    config = quickstart.get_config(f"finetune,form={form}")
    if system.supervised:
        ablated = conformer.get_config(
            f"tiny,ablation={system.ablation}" if system.ablation else "tiny"
        )
        for key in ("block", "positions", "activation"):
            config.model[key] = ablated.model[key]
    else:
        usual = {k: config.model[k] for k in config.model if "drop" in k}
        config.model = common.model("quickstart", kinds(system))
        config.model.update(usual)
    shape(config.model, system)
    # alone, as the waveform's
    config.data.update(batch_seconds=32.0 if system.supervised else 24.0, concatenate_seconds=0.0)
    config.num_steps = UPDATES["supervised" if system.supervised else "finetune"]
    config.optim.peak_lr = 1e-3
    return config
