"""What is measured: the full form for a GPU, and a small one that any two cores can do."""

import dataclasses
from typing import Any

Keys = dict[str, Any]  # dotted keys of a config -> values


@dataclasses.dataclass(frozen=True)
class Update:
    """An update that is timed."""

    title: str
    config: str
    rows: int
    seconds: float
    keys: Keys = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Form:
    """The check as a whole."""

    budget: float  # seconds of everything, unless GPU_CHECK_SECONDS says otherwise
    together: float  # share of them after which the card is for one at a time, if the first can
    alone: float  # share of them that is kept for that in any case
    updates: dict[str, Update]  # the first has priority
    steps: int  # updates that are timed, at most
    golden: tuple[str, ...]  # beginnings of the names of golden cases; (): all of them
    torch: bool
    resume: Keys  # of configs/quickstart.py:pretrain, killed and started again
    training: float  # seconds of the training program alone on the card
    start: float  # seconds below which that is not worth starting


def flags(keys: Keys) -> list[str]:
    return [f"--config.{key}={value}" for key, value in keys.items()]


def changed(config: Any, keys: Keys) -> Any:
    """The config with dotted keys changed in place."""
    for key, value in keys.items():
        *groups, name = key.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[name] = value
    return config


def one_shape(rows: int, seconds: float) -> Keys:
    """What makes all updates of a training such rows; also what is timed, so that the compilation
    cache has the training's program."""
    return {
        "data.crop_seconds": (seconds,), "data.concatenate_seconds": seconds,
        "data.batch_seconds": rows * seconds, "data.row_multiple": min(rows, 8),
    }  # fmt: skip


BFLOAT16 = {"execution.dtype": "bfloat16"}
# the program of a fine-tuning with frozen updates holds the update twice and compiles for as long;
# what it does later is this
UNFROZEN = {"freeze_steps": 0}
CROP = 15.365  # seconds, the longest of the configs: 768 frames
BASE = one_shape(24, CROP) | BFLOAT16
FULL = Form(
    budget=340.0,
    together=0.6,
    alone=0.25,
    updates={
        "base": Update("BASE", "configs/wav2vec2.py:base", 24, CROP, BASE),
        "large": Update("LARGE LV-60k", "configs/wav2vec2.py:large_lv60k", 12, CROP, BFLOAT16),
        "conformer": Update(
            "BASE, conformer, relative positions",
            "configs/wav2vec2.py:base,block=conformer,positions=relative", 24, CROP, BFLOAT16,
        ),
        "ctc": Update(
            "CTC fine-tuning, BASE", "configs/finetune.py:split=10h,size=base", 24, 15.6,
            BFLOAT16 | UNFROZEN,
        ),
    },
    steps=12,
    golden=(),
    torch=True,
    resume={"num_steps": 400, "run.save_steps": 100, "run.eval_steps": 400},
    training=45.0,
    start=35.0,
)  # fmt: skip

TINY = {
    "model.width": 32, "model.num_layers": 1, "model.num_heads": 2, "model.feed_forward": 64,
    "model.frontend.conv_layers": ((16, 10, 5), (16, 8, 4), (16, 4, 4), (24, 4, 4)),
}  # fmt: skip
POSITIONS = {"model.positions.kernel": 16, "model.positions.groups": 2}
PRETRAINING = TINY | POSITIONS | {
    "quantizer.codes": 8, "quantizer.width": 16, "quantizer.projection": 16,
}  # fmt: skip
SMALL = Form(
    budget=110.0,
    together=0.8,
    alone=0.2,
    updates={
        "base": Update(
            "tiny", "configs/wav2vec2.py:tiny", 2, 1.0,
            PRETRAINING | one_shape(2, 1.0) | BFLOAT16,
        ),
        "ctc": Update(
            "tiny, CTC", "configs/finetune.py:split=10h,size=tiny", 2, 1.0,
            TINY | POSITIONS | BFLOAT16 | UNFROZEN,
        ),
    },
    steps=5,
    golden=("ctc_w2v2_base",),
    torch=False,
    resume=PRETRAINING | one_shape(2, 1.0)
    | {
        "num_steps": 20, "optim.warmup_steps": 5, "run.save_steps": 10, "run.eval_steps": 20,
        "run.log_steps": 5,
    },
    training=2.0,
    start=15.0,
)  # fmt: skip
