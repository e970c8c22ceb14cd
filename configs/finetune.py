"""CTC fine-tuning on LibriSpeech splits (wav2vec 2.0 section 4.3, fairseq config/finetuning).

    python -m w2v_jax.finetune --config=configs/finetune.py:split=10h,size=base \
        --workdir=runs/base-10h --config.init_from=runs/base/export \
        --config.data.train=train-10h.tsv --config.data.valid=dev-other.tsv

split: 10m, 1h, 10h, 100h, 960h; size: base, large_lv60k. Not measured with this code yet.
"""

from configs import common

# peak learning rate, updates, time mask, channel mask, layerdrop, frozen updates
RECIPES = {
    "base": {
        "10m": (5e-5, 13_000, 0.65, 0.25, 0.1, 10_000),
        "1h": (5e-5, 13_000, 0.65, 0.25, 0.1, 10_000),
        "10h": (5e-5, 20_000, 0.65, 0.5, 0.05, 10_000),
        "100h": (3e-5, 80_000, 0.65, 0.5, 0.1, 0),
        "960h": (1e-4, 320_000, 0.5, 0.1, 0.1, 0),
    },
    "large_lv60k": {
        "10m": (1e-4, 13_000, 0.65, 0.25, 0.1, 10_000),
        "1h": (3e-4, 13_000, 0.75, 0.25, 0.1, 10_000),
        "10h": (1e-4, 20_000, 0.75, 0.25, 0.1, 10_000),
        "100h": (3e-5, 80_000, 0.5, 0.5, 0.1, 10_000),
        "960h": (3e-5, 320_000, 0.5, 0.25, 0.1, 10_000),
    },
}
BATCH_SECONDS = {"base": 1600.0, "large_lv60k": 1600.0}


def get_config(argument: str = "split=10h,size=base"):
    choice = dict(part.split("=") for part in argument.split(","))
    size = choice.get("size", "base")
    recipe = RECIPES[size][choice["split"]]
    config = common.finetuning(size)
    config.optim.peak_lr, config.num_steps = recipe[:2]
    config.time_masking.prob, config.channel_masking.prob = recipe[2:4]
    config.model.layerdrop, config.freeze_steps = recipe[4:]
    config.model.dtype = "bfloat16"
    config.data.batch_seconds = BATCH_SECONDS[size]
    config.save_steps = config.eval_steps = 1_000
    return config
