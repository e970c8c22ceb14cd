"""The experiments behind launch/quickstart.sh: 16 minutes of one speaker, all or 5 of them with
transcripts, for two CPU cores.

    python -m w2v_jax.pretrain --config=configs/quickstart.py:pretrain,form=conformer \
        --workdir=runs/pretrain
    python -m w2v_jax.finetune --config=configs/quickstart.py:finetune,form=conformer \
        --workdir=runs/finetuned-0 --config.run.init_from=runs/pretrain/export
    python -m w2v_jax.finetune --config=configs/quickstart.py:finetune,form=conformer \
        --workdir=runs/all-0 --config.data.train=runs/data/train.tsv --config.num_steps=1500

Argument: STAGE, pretrain or finetune, and form=wav2vec2 (the usual) or form=conformer.

conformer: six Conformer blocks of 128 channels on a log-mel spectrum, 40 ms per frame; contrastive
with linear targets and spans of 160 ms; CTC on utterances alone and joined, with SpecAugment,
changes of speed and averaged weights.

wav2vec2: differences from the paper, all to learn something within minutes from 24 s of audio per
update instead of 1.6 h: a smaller feature encoder whose kernels start as averages over time,
pre-norm blocks, 2 x 32 codes, spans of 5 frames, learning rates and a Gumbel temperature that move
faster, little dropout, ten times the diversity loss.
"""

from w2v_jax.configs import common, wav2vec_conformer
from w2v_jax.errors import UserError

DATA = "runs/data"


def get_config(argument: str = "pretrain"):
    stage, kinds = common.size_of(argument)
    form = kinds.pop("form", "wav2vec2")
    if stage not in ("pretrain", "finetune") or form not in FORMS or kinds:
        raise UserError(
            f"configs/quickstart.py:{argument} is unknown; write pretrain or finetune, and "
            f"form={' or form='.join(FORMS)}: pretrain,form=conformer"
        )
    config = FORMS[form](stage)
    config.data.update(
        train=f"{DATA}/{'train' if stage == 'pretrain' else 'labelled'}.tsv",
        valid=f"{DATA}/dev.tsv", row_multiple=1,
    )  # fmt: skip
    config.run.update(threads=1, cache_gigabytes=1.0, log_steps=10, save_steps=100)
    return config


def conformer(stage: str):
    """On a log-mel spectrum; what is not said is wav2vec_conformer.py's, or that of all CTC."""
    if stage == "pretrain":
        config = wav2vec_conformer.get_config("tiny")
        config.masking.update(prob=0.4, span=4)
        config.data.update(crop_seconds=(3.8551,), concatenate_seconds=3.8551)
        config.optim.update(schedule="linear", peak_lr=1e-3, warmup_steps=100, weight_decay=0.01)
        config.num_steps, config.run.eval_steps = 1_500, 250
    else:
        config = common.finetuning("conformer_tiny")
        config.freeze_steps, config.final_dropout, config.ema_decay = 0, 0.1, 0.995
        config.spec_augment.update(frequency_width=20, time_masks=5)
        config.data.update(num_buckets=4, max_seconds=32.0, concatenate_seconds=5.0)
        config.optim.update(peak_lr=2e-3, b2=0.98, weight_decay=0.01)
        config.num_steps, config.run.eval_steps = 900, 150
    config.model.update(
        width=128, num_layers=6, feed_forward=512, dropout=0.2, activation_dropout=0.2,
        attention_dropout=0.1, layerdrop=0.0,
    )  # fmt: skip
    config.model.frontend.update(channels=32, projection=128)
    config.model.block.kernel = 15
    config.data.batch_seconds = 32.0
    config.data.augment.update(speed_prob=0.5, speed_factors=(0.9, 0.95, 1.05, 1.1))
    config.optim.clip_norm = 5.0
    return config


def wav2vec2(stage: str):
    """On the waveform."""
    config = (
        common.pretraining("quickstart") if stage == "pretrain" else common.finetuning("quickstart")
    )
    config.data.batch_seconds = 24.0
    config.optim.clip_norm = 1.0
    if stage == "pretrain":
        config.model.update(
            dropout=0.05, attention_dropout=0.0, dropout_input=0.0, layerdrop=0.0
        )
        config.model.frontend.update(grad_mult=1.0, smoothing=0.8)
        config.quantizer.dropout = 0.0
        config.masking.update(prob=0.4, span=5)
        # frames that resemble their neighbours are predictable at once, soonest with a few codes
        # for all: at the usual weight of 0.1 the codebooks collapse to 6 of 64
        config.loss.update(penalty_weight=1.0, diversity_weight=1.0)
        config.gumbel.decay = 0.999
        config.data.update(crop_seconds=(4.0,), concatenate_seconds=4.0)
        config.optim.update(peak_lr=5e-4, warmup_steps=50)
        config.num_steps, config.run.eval_steps = 600, 100
        return config
    # kernels that average over time are the slower start for CTC from random weights
    config.model.update(
        dropout=0.05, attention_dropout=0.0, dropout_input=0.0, activation_dropout=0.0,
        layerdrop=0.0,
    )  # fmt: skip
    config.model.frontend.update(grad_mult=1.0, smoothing=0.0)
    config.time_masking.update(prob=0.2, span=5)
    config.channel_masking.update(prob=0.1, span=16)
    config.data.update(num_buckets=4, max_seconds=6.0)
    config.optim.peak_lr = 5e-4
    config.freeze_steps = 0
    config.num_steps, config.run.eval_steps = 300, 50
    return config


FORMS = {"wav2vec2": wav2vec2, "conformer": conformer}
