"""wav2vec 2.0 pre-training (arXiv 2006.11477).

    python -m w2v_jax.pretrain --config=configs/wav2vec2.py:base --workdir=runs/base \
        --config.data.train=train-960.tsv --config.data.valid=dev-other.tsv

Argument (fairseq examples/wav2vec/config/pretraining; paper section 4.2):
    tiny         5.05 M parameters: for tests and for trying things on a CPU
    base         95 M; LibriSpeech 960 h, 400k updates of 1.6 h; 64 V100, 1.6 days in the paper
    large        317 M; LibriSpeech 960 h, 250k updates of 2.7 h; 128 V100, 2.3 days
    large_lv60k  317 M; Libri-Light 60k h, 600k updates of 2.7 h; 128 V100, 5.2 days
    xlsr_300m    317 M, XLS-R (arXiv 2111.09296): large_lv60k's network; 128 languages, 436k h,
    xlsr_1b      966 M     1M updates
    xlsr_2b      2.16 B
    conformer_rel_large   612 M: large_lv60k with conformer blocks, relative positions
    conformer_rope_large  587 M: the same with rotary positions

Kinds of the parts of the model after commas: tiny,block=conformer,positions=relative; a log-mel
spectrum instead of the waveform, with the masks unchanged (spans of 10 frames of 40 ms, as in arXiv
2010.10504): base,frontend=logmel; projections of the features as targets, no codes:
base,quantizer=linear.

base and all above it have not been trained with this code. base and the larges carry the values of
the paper; the batch and the learning rate of XLS-R are not known to us and stay large_lv60k's, as
do the conformers'. (fairseq's files of the large models say lr 0.005, 16 times the paper's, and
1M updates.)
"""

from w2v_jax.configs import common
from w2v_jax.errors import UserError

STEPS = {
    "large": 250_000, "large_lv60k": 600_000,
    "conformer_rel_large": 600_000, "conformer_rope_large": 600_000,
    "xlsr_300m": 1_000_000, "xlsr_1b": 1_000_000, "xlsr_2b": 1_000_000,
}  # fmt: skip


def get_config(argument: str = "base"):
    size, kinds = common.size_of(argument)
    sizes = ("tiny", "base", *STEPS)
    if size not in sizes:
        raise UserError(f"configs/wav2vec2.py:{size} is unknown; choose {', '.join(sizes)}")
    config = common.pretraining(size, kinds)
    if size == "tiny":
        common.for_a_cpu(config, 32.0, crop_seconds=(1.0, 2.0, 4.0))
        config.optim.warmup_steps = 1_000
        config.num_steps = 10_000
    elif size != "base":
        config.data.crop_seconds = (
            1.925, 4.485, 7.045, 9.605, 11.525, 13.445, 14.725, 16.005, 19.845,
        )  # fmt: skip
        config.data.batch_seconds = 9720.0
        config.optim.peak_lr = 3e-4
        config.num_steps = STEPS[size]
        config.optim.warmup_steps = config.num_steps * 8 // 100
        config.gumbel.end = 0.1
        if size != "large":
            config.loss.penalty_weight = 0.0
    if size != "tiny":
        config.execution.dtype = "bfloat16"
    return config
