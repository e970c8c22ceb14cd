"""BEST-RQ pre-training of a Conformer (arXiv 2202.01855).

    python -m w2v_jax.pretrain --config=configs/best_rq.py:base --workdir=runs/best-rq \
        --config.data.train=train-960.tsv --config.data.valid=dev-other.tsv
    python -m w2v_jax.export --workdir=runs/best-rq --output=runs/best-rq/export
    python -m w2v_jax.finetune --config=configs/finetune.py:split=100h,size=best_rq_base \
        --workdir=runs/best-rq-100h --config.run.init_from=runs/best-rq/export \
        --config.data.train=train-100h.tsv --config.data.valid=dev-other.tsv

Argument, and its size in configs/finetune.py (of tiny and l configs/conformer.py has recipes too):
    tiny  conformer_tiny, 2.0 M parameters, 512 codes: for trying things on a CPU
    base  best_rq_base, 12 blocks of 576: SpeechBrain's recipe for LibriSpeech (its BEST-RQ hparams)
    l     conformer_l, 115 M: 17 blocks of 512; base's recipe
    xl    conformer_xl, 0.6 B: 24 blocks of 1,024

The method is the paper's: labels of a frozen Xavier projection and a frozen normal codebook of
length 1, noise in the place of masked frames of the spectrum, a softmax over the codes.

SpeechBrain's, in base: blocks, feed-forwards of 2,048, GELU, relative positions, Adam and its
schedule, gradients clipped at 10, 300k updates, bfloat16, at most 60 s per crop (here 32) and 2 to
4 h per update (here 3). Otherwise here: 8 heads, kernels of 31, 128 channels in both convolutions
of the front end (SpeechBrain: 128 and 32), and independent masks per utterance (SpeechBrain: one
for the batch, holes of 40 ms). Ours, as the paper's text could not be checked: 8,192 codes of 16,
masks of 400 ms that each frame of 10 ms starts with a probability of 0.01, noise of 0.1; in xl the
shape of the network, learning rate, warm-up, batch and number of updates.

Several codebooks, a softmax each: --config.random_quantizer.codebooks=16.
Measured at small sizes alone (docs/lecture.md).
"""

from w2v_jax.configs import common
from w2v_jax.errors import UserError
from w2v_jax.models.config import RandomQuantizerConfig

SIZES = {
    "tiny": "conformer_tiny", "base": "best_rq_base", "l": "conformer_l", "xl": "conformer_xl",
}  # fmt: skip


def get_config(argument: str = "base"):
    size, kinds = common.size_of(argument)
    if size not in SIZES:
        raise UserError(f"configs/best_rq.py:{size} is unknown; choose {', '.join(SIZES)}")
    config = common.masked(SIZES[size], kinds)
    RandomQuantizerConfig.check_frontend(common.EncoderConfig.from_dict(config.model).frontend)
    config.kind = "best_rq"
    del config.masking
    config.mel_masking = common.ConfigDict(dict(prob=0.01, span=40, noise=0.1))
    config.random_quantizer = common.ConfigDict(RandomQuantizerConfig().to_dict())
    config.model.layerdrop = 0.0
    # of 16 n frames of 40 ms each
    config.data.crop_seconds = (
        1.9351, 4.4951, 7.0551, 9.6151, 11.5351, 13.4551, 14.7351, 16.0151, 19.8551, 32.0151,
    )  # fmt: skip
    common.transformer_schedule(config, peak_lr=8e-4, weight_decay=0.01, clip_norm=10.0)
    config.num_steps = 300_000
    if size == "tiny":
        config.random_quantizer.codes = 512
        common.for_a_cpu(config, 64.0, crop_seconds=(2.0, 4.0, 8.0))
        config.optim.update(peak_lr=2e-3, warmup_steps=500)
        config.num_steps = 5_000
        return config
    config.execution.dtype = "bfloat16"
    config.data.batch_seconds = 10_800.0
    if size == "xl":
        config.optim.peak_lr = 4e-3
        config.data.batch_seconds = 32_768.0  # 2,048 of 16 s
    return config
