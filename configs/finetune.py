"""CTC fine-tuning on LibriSpeech splits (wav2vec 2.0 section 4.3, fairseq config/finetuning).

    python -m w2v_jax.finetune --config=configs/finetune.py:split=10h,size=base \
        --workdir=runs/base-10h --config.run.init_from=runs/base/export \
        --config.data.train=train-10h.tsv --config.data.valid=dev-other.tsv

split: 10m, 1h, 10h, 100h, 960h
size:  tiny, base, large, large_lv60k; xlsr_300m, xlsr_1b, xlsr_2b, conformer_rel_large,
       conformer_rope_large (these and large: the values of large_lv60k); hubert_base, hubert_large,
       hubert_xlarge (fairseq's one published recipe, base with 10 h, for every split; converted
       checkpoints may have other switches, frontend.bias say: the error message names the flags);
       data2vec_base, data2vec_large (the values of base and of large_lv60k);
       w2v_bert_2, the weights of w2v-BERT 2.0; conformer_tiny, _s, _m, _l, which
       configs/conformer.py trains from random weights, and conformer_xl, best_rq_base, which
       configs/best_rq.py pre-trains (no recipe is known to us: large_lv60k's);
       wav2vec_conformer_tiny, _l, _xl, _xxl, of configs/wav2vec_conformer.py: the encoder's peak
       learning rate of arXiv 2010.10504 (its transducer had another), otherwise large_lv60k's
kinds of the parts of the model may follow: split=10h,size=tiny,block=conformer,positions=relative;
with frontend=logmel SpecAugment takes the place of the masks; frontend=units: of a model that
configs/discrete_bert.py pre-trains
Not measured with this code yet.
"""

from w2v_jax.configs import common
from w2v_jax.errors import UserError

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
# the small size is for trying things; its values are the choice of this repository
RECIPES["tiny"] = dict.fromkeys(RECIPES["base"], (0.0005, 2000, 0.5, 0.1, 0.05, 0))
LINEAR_TARGETS = {k: (3e-4, *rest) for k, (_, *rest) in RECIPES["large_lv60k"].items()}
for _size in common.SIZES:
    if _size.startswith("hubert"):
        RECIPES[_size] = dict.fromkeys(RECIPES["base"], (2e-5, 25_000, 0.75, 0.5, 0.1, 10_000))
    elif _size.startswith("data2vec"):
        RECIPES[_size] = RECIPES["base" if _size == "data2vec_base" else "large_lv60k"]
    elif _size in common.LINEAR:
        RECIPES[_size] = LINEAR_TARGETS
    elif _size.startswith(("xlsr", "conformer", "large", "w2v_bert", "best_rq")):
        RECIPES[_size] = RECIPES["large_lv60k"]


def get_config(argument: str = "split=10h,size=base"):
    choice = {"size": "base", **dict(part.partition("=")[::2] for part in argument.split(","))}
    size, split = choice.pop("size"), choice.pop("split", None)
    kinds = choice
    if size not in RECIPES or split not in RECIPES[size]:
        raise UserError(
            f"configs/finetune.py:{argument} is unknown; write split=S,size=Z with S one of "
            f"{', '.join(RECIPES['base'])} and Z one of {', '.join(RECIPES)}"
        )
    recipe = RECIPES[size][split]
    config = common.finetuning(size, kinds)
    config.optim.peak_lr, config.num_steps = recipe[:2]
    if "spec_augment" not in config:  # which is instead of them
        config.time_masking.prob, config.channel_masking.prob = recipe[2:4]
    config.model.layerdrop, config.freeze_steps = recipe[4:]
    if size.startswith("hubert"):  # 8,000 updates up and 72,000 down, of which 17,000 happen
        config.optim.phases = (0.32, 0.0, 2.88)
    if size == "tiny":
        config.data.update(batch_seconds=32.0, row_multiple=1)
        config.run.update(save_steps=200, eval_steps=200)
        return config
    config.execution.dtype = "bfloat16"
    config.data.batch_seconds = 1920.0 if (size, split) == ("large_lv60k", "960h") else 1600.0
    config.run.update(save_steps=1_000, eval_steps=1_000)
    return config
