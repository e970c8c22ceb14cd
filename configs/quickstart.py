"""The experiment behind launch/quickstart.sh: 16 minutes of one speaker, 5 of them with
transcripts, for two CPU cores.

    python -m w2v_jax.pretrain --config=configs/quickstart.py:pretrain --workdir=runs/pretrain
    python -m w2v_jax.finetune --config=configs/quickstart.py:finetune --workdir=runs/finetuned-0 \
        --config.run.init_from=runs/pretrain/export
    python -m w2v_jax.finetune --config=configs/quickstart.py:finetune --workdir=runs/scratch-0

Differences from the paper, all to learn something within minutes from 24 s of audio per update
instead of 1.6 h: a smaller feature encoder whose kernels start as averages over time, pre-norm
blocks, 2 x 32 codes, spans of 5 frames, learning rates and a Gumbel temperature that move faster,
little dropout, ten times the diversity loss.
"""

from w2v_jax.configs import common
from w2v_jax.errors import UserError

DATA = "runs/data"


def get_config(stage: str = "pretrain"):
    if stage not in ("pretrain", "finetune"):
        raise UserError(f"configs/quickstart.py:{stage} is unknown; write pretrain or finetune")
    config = (
        common.pretraining("quickstart") if stage == "pretrain" else common.finetuning("quickstart")
    )
    config.data.update(
        train=f"{DATA}/{'train' if stage == 'pretrain' else 'labelled'}.tsv",
        valid=f"{DATA}/dev.tsv", batch_seconds=24.0, row_multiple=1,
    )  # fmt: skip
    config.run.update(threads=1, cache_gigabytes=1.0, log_steps=10, save_steps=100)
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
