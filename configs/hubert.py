"""HuBERT pre-training (arXiv 2106.07447, section IV; fairseq examples/hubert/config/pretrain).

    python -m w2v_jax.units learn --features=mfcc --data=train-960.tsv --share=0.1 --clusters=100 \
        --output=runs/mfcc100.npz
    python -m w2v_jax.units apply --centroids=runs/mfcc100.npz --name=mfcc100 \
        --data=train-960.tsv,dev-other.tsv
    python -m w2v_jax.pretrain --config=configs/hubert.py:base,iteration=1 --workdir=runs/hubert-1 \
        --config.data.train=train-960.tsv --config.data.valid=dev-other.tsv

launch/hubert.sh does all of it, both iterations, and fine-tunes with
configs/finetune.py:split=10h,size=hubert_base.

Argument; units by the names that data.units expects of them:
    base,iteration=1  95 M parameters; LibriSpeech 960 h, units mfcc100 (100 clusters of MFCC), 250k
                      updates of 47 min; 32 GPUs, 9.5 h per 100k updates
    base,iteration=2  it1-layer6-500: 500 clusters of layer 6 of iteration 1; 400k updates
    large             317 M; Libri-Light 60k h, it2-layer9-500: 500 clusters of layer 9 of base's
                      iteration 2; 400k updates of 2.0 h; 128 GPUs
    xlarge            964 M; the same with 1.6 h per update; 256 GPUs
    tiny              configs/wav2vec2.py's, for a CPU; iteration=2 has it1-layer2-100
    quickstart        the smaller network of configs/quickstart.py, of which
                      configs/quickstart.py:finetune,form=wav2vec2 is the fine-tuning; for
                      launch/hubert.sh on two cores

Other units: --config.data.units='("mine",)' --config.prediction.classes='(200,)'
--config.prediction.label_rate=50, a name, a number of classes per set of labels. To go on from a
checkpoint of fairseq, whose head has 4 rows more, classes is '(504,)' for 500 clusters:
--config.run.init_from=hubert_base_ls960.pt with its clusters as units, and the switches of the
model that the error message names.

The values of base, large and xlarge are those of fairseq's files: learning rate, warm-up, clipping,
masks (8 % of the frames start a span of 10), batch, labels. Differences: a row per cluster and no
special ones, crops of a few lengths from 1.9 s on instead of cutting every batch to its shortest
utterance, whole spans (fairseq evens out the masked frames of a batch by unmasking some).
tiny and quickstart carry our values. Not trained with this code beyond the small sizes.
"""

from w2v_jax.configs import common, quickstart
from w2v_jax.errors import UserError

# peak learning rate, seconds per update, gradient clipped at, units
PUBLISHED = {
    "base": (5e-4, 2_800.0, 10.0, "it1-layer6-500"),
    "large": (1.5e-3, 7_200.0, 1.0, "it2-layer9-500"),
    "xlarge": (3e-3, 5_760.0, 1.0, "it2-layer9-500"),
}
SMALL = ("tiny", "quickstart")
MFCC = dict(classes=(100,), label_rate=100.0)


def get_config(argument: str = "base"):
    size, kinds = common.size_of(argument)
    iterations = {"large": "2", "xlarge": "2"}
    iteration = kinds.pop("iteration", iterations.get(size, "1"))
    if size not in (*PUBLISHED, *SMALL) or iteration not in iterations.get(size, "12"):
        raise UserError(
            f"configs/hubert.py:{argument} is unknown; choose {', '.join((*SMALL, *PUBLISHED))}; "
            f"of {', '.join(SMALL)} and base iteration=1 or iteration=2: base,iteration=2"
        )
    config = common.masked(f"hubert_{size}" if size in PUBLISHED else size, kinds)
    config.kind = "hubert"
    config.masking.prob = 0.8
    config.loss = common.ConfigDict(
        dict(temperature=0.1, masked_weight=1.0, unmasked_weight=0.0, penalty_weight=10.0)
    )
    if config.model.frontend.kind == "logmel":  # nothing there grows as convolutions of samples do
        config.loss.penalty_weight = 0.0
    if size in SMALL:
        small(config, size)
        units, head = "it1-layer2-100", dict(classes=(100,), projection=128)
    else:
        published(config, size, iteration)
        units = PUBLISHED[size][-1]
        head = common.PREDICTIONS[f"hubert_{size}"] | dict(classes=(500,))
    head |= dict(tied=False, label_rate=50.0)
    if iteration == "1":
        units, head = "mfcc100", head | MFCC
    config.data.units = (units,)
    config.prediction = common.ConfigDict(head)
    return config


def published(config, size: str, iteration: str) -> None:
    lr, seconds, clip_norm, _ = PUBLISHED[size]
    config.optim.update(peak_lr=lr, clip_norm=clip_norm, warmup_steps=32_000)
    config.num_steps = 250_000 if iteration == "1" else 400_000
    config.data.batch_seconds = seconds
    config.execution.dtype = "bfloat16"


def small(config, size: str) -> None:
    common.for_a_cpu(config, 32.0, crop_seconds=(1.0, 2.0, 4.0))
    config.optim.update(warmup_steps=500, clip_norm=10.0)
    config.num_steps = 5_000
    if size == "quickstart":
        theirs = quickstart.get_config("pretrain,form=wav2vec2")
        config.model = theirs.model
        # with the published mask and loss, of masked frames alone, it stays at the most frequent
        # label for a thousand such updates
        config.masking.update(prob=0.4, span=5)
        config.loss.update(unmasked_weight=1.0, penalty_weight=0.0)
        config.data.update(batch_seconds=24.0, crop_seconds=(4.0,), concatenate_seconds=4.0)
        config.optim.update(warmup_steps=50, clip_norm=5.0, peak_lr=2e-3)
        config.run.update(theirs.run)
        config.num_steps = 1_200
