r"""data2vec pre-training (arXiv 2202.03555; fairseq examples/data2vec).

    python -m w2v_jax.pretrain --config=configs/data2vec.py:base --workdir=runs/data2vec \
        --config.data.train=train-960.tsv --config.data.valid=dev-other.tsv
    python -m w2v_jax.export --workdir=runs/data2vec --output=runs/data2vec/export
    python -m w2v_jax.finetune --config=configs/finetune.py:split=10h,size=data2vec_base \
        --workdir=runs/data2vec-10h --config.run.init_from=runs/data2vec/export \
        --config.data.train=train-10h.tsv --config.data.valid=dev-other.tsv

Argument:
    base        93 M parameters; 400k updates of 63 min: 16 GPUs there
    large       313 M; no file of fairseq's says how it was trained: base's values, half of base's
                peak learning rate and the batch are our choice
    tiny        configs/wav2vec2.py's with the positions of data2vec, for a CPU
    quickstart  the smaller network of configs/quickstart.py, positions too, of which
                configs/quickstart.py:finetune,form=wav2vec2 is the fine-tuning; for two CPU cores

The values of base are those of fairseq's base_librispeech.yaml: masks, the teacher's decay, 8
layers of targets, learning rate, crops of 2 to 20 s normalised to unit variance. Differences: crops
of a few lengths instead of cutting every batch to its shortest utterance, and masks as they are
drawn.
tiny and quickstart carry our values. Not trained with this code beyond the small sizes.
"""

from w2v_jax.configs import common, quickstart
from w2v_jax.errors import UserError

# peak learning rate, seconds per update
PUBLISHED = {"base": (5e-4, 3_800.0), "large": (2.5e-4, 3_800.0)}
SMALL = ("tiny", "quickstart")


def get_config(argument: str = "base"):
    size, kinds = common.size_of(argument)
    if size not in (*PUBLISHED, *SMALL):
        raise UserError(
            f"configs/data2vec.py:{argument} is unknown; choose {', '.join((*SMALL, *PUBLISHED))}"
        )
    if size == "tiny":
        kinds = {"positions": "conv_stack"} | kinds
    config = common.masked(f"data2vec_{size}" if size in PUBLISHED else size, kinds)
    config.kind = "data2vec"
    config.masking.minimum = 1
    config.teacher = common.ConfigDict(dict(start=0.999, end=0.9999, steps=30_000, layers=8))
    if size in SMALL:
        small(config, size)
    else:
        lr, seconds = PUBLISHED[size]
        del config.optim.warmup_steps
        config.optim.update(schedule="tri_stage", peak_lr=lr)
        config.optim.phases = (0.03, 0.9, 0.07)
        config.data.batch_seconds = seconds
        config.data.crop_seconds = (*config.data.crop_seconds, 19.845)
        config.execution.dtype = "bfloat16"
    return config


def small(config, size: str) -> None:
    common.for_a_cpu(config, 32.0, crop_seconds=(1.0, 2.0, 4.0))
    # a teacher that follows within a hundred updates agrees with the student on a few directions
    # of the targets that are easily told, and forgets the others
    config.teacher.update(layers=4)
    config.optim.update(warmup_steps=500, clip_norm=5.0)
    config.num_steps = 5_000
    if size == "quickstart":
        theirs = quickstart.get_config("pretrain,form=wav2vec2")
        config.model.update(dropout=0.05, attention_dropout=0.0, dropout_input=0.0, layerdrop=0.0)
        if config.model.frontend.kind == "waveform":
            # kernels that start as averages lose in these updates what they hear at first
            config.model.frontend.update(grad_mult=1.0, smoothing=0.0)
        config.data.update(batch_seconds=24.0, crop_seconds=(4.0,), concatenate_seconds=4.0)
        config.optim.update(warmup_steps=50, clip_norm=5.0, peak_lr=1e-3)
        config.run.update(theirs.run)
        config.num_steps = 1_200
