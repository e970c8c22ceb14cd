"""c-siam pre-training: a contrastive siamese network (arXiv 2205.14054).

    python -m w2v_jax.pretrain --config=configs/c_siam.py:base --workdir=runs/c-siam \
        --config.data.train=train-960.tsv --config.data.valid=dev-other.tsv
    python -m w2v_jax.pretrain ... --config.loss.ctc_weight=1.0 --config.data.labelled=train-100.tsv
    python -m w2v_jax.finetune --config=configs/finetune.py:split=10h,size=base \
        --workdir=runs/c-siam-10h --config.run.init_from=runs/c-siam \
        --config.data.train=train-10h.tsv --config.data.valid=dev-other.tsv

Argument:
    tiny        configs/wav2vec2.py's network, for a CPU
    quickstart  the smaller network of configs/quickstart.py, of which
                configs/quickstart.py:finetune,form=wav2vec2 is the fine-tuning
    base        95 M; the batch, crops and schedule of wav2vec 2.0's base
    large       317 M; the network of large_lv60k (its fine-tuning: size=large_lv60k)

Kinds of the parts of the model after commas: base,frontend=logmel,block=conformer,
positions=relative; of the predictor: base,predictor=transformer or none.

Known of the paper, from its abstract and the patents of its authors: two branches of one encoder,
identical, the target's gradient stopped; the other one's input masked and changed in time; the
targets moved to its time; a learnt transformation on it; a contrastive loss; a supervised loss
beside it that moves the same encoder. Its text was not at hand, and no code of it is public. Ours,
every one of them:
    network     wav2vec 2.0's, on the waveform or a log-mel spectrum
    masks       wav2vec 2.0's spans
    warp        an utterance faster by 0.8 to 1.25, pieces of 1.5 s by 0.7 to 1.4 besides, both
                log-uniform, up to 0.4 s of the beginning cut off; linear between frames of a
                spectrum, cubic between samples (which moves the pitch too)
    predictor   two linear layers, GELU between, the inner one twice as wide
    loss        cosine / 0.1, 100 negatives from masked frames of the utterance
    CTC         (loss.ctc_weight) its letters count as masked frames do; half as much labelled
                audio beside every update, masked, not warped; the paper had a transducer
    optimizer   wav2vec 2.0's of the size; batch, crops and number of updates as well
--config.warp.enabled=False is the network without the warp. base and large have not been trained
with this code; what was measured at small sizes: docs/teachers.md.
"""

from w2v_jax.configs import common, quickstart
from w2v_jax.errors import UserError
from w2v_jax.models.heads.predictor import predictor_of

SIZES = {"tiny": "tiny", "quickstart": "quickstart", "base": "base", "large": "large_lv60k"}


def get_config(argument: str = "base"):
    size, kinds = common.size_of(argument)
    if size not in SIZES:
        raise UserError(f"configs/c_siam.py:{size} is unknown; choose {', '.join(SIZES)}")
    predictor = predictor_of({"kind": kinds.pop("predictor", "mlp")})
    config = common.masked(SIZES[size], kinds)
    config.kind = "c_siam"
    config.warp = common.ConfigDict(
        dict(
            enabled=True, stretch=(0.8, 1.25), rate=(0.7, 1.4), knot_seconds=1.5,
            offset_seconds=0.4,
        )
    )  # fmt: skip
    config.predictor = common.ConfigDict(predictor.to_dict())
    config.loss = common.ConfigDict(
        dict(negatives=100, negatives_from="masked", temperature=0.1, ctc_weight=0.0)
    )
    config.data.labelled = config.letters = config.language = ""
    config.labelled = common.ConfigDict(
        dict(ratio=1.0, batch_seconds=config.data.batch_seconds / 2, num_buckets=4,
             max_seconds=30.0)
    )  # fmt: skip
    if size in ("tiny", "quickstart"):
        small(config, size, kinds)
        return config
    config.execution.dtype = "bfloat16"
    if size == "large":
        config.data.batch_seconds = 9720.0
        config.optim.peak_lr = 3e-4
        config.num_steps = 600_000
        config.optim.warmup_steps = 48_000
    return config


def small(config, size: str, kinds) -> None:
    common.for_a_cpu(config, 32.0, crop_seconds=(2.0, 4.0))
    config.labelled.update(batch_seconds=16.0, num_buckets=2, max_seconds=8.0)
    config.optim.update(warmup_steps=500, clip_norm=10.0)
    config.num_steps = 5_000
    if size == "quickstart":
        theirs = quickstart.get_config("pretrain,form=wav2vec2")
        if not kinds:
            config.model = theirs.model
        config.masking.update(prob=0.4, span=5)
        config.data.update(batch_seconds=24.0, crop_seconds=(4.0,), concatenate_seconds=4.0)
        config.optim.update(warmup_steps=50, clip_norm=5.0, peak_lr=1e-3)
        config.run.update(theirs.run)
        config.num_steps = 1_200
