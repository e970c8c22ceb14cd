"""wav2vec-Conformer pre-training: linear targets on a log-mel spectrum (arXiv 2010.10504).

    python -m w2v_jax.pretrain --config=configs/wav2vec_conformer.py:xl --workdir=runs/xl \
        --config.data.train=libri-light.tsv --config.data.valid=dev-other.tsv

wav2vec 2.0 without codes: 80 log-mel bins, two convolutions that leave a frame per 40 ms, spans of
10 of these masked (49 % of them), a Conformer, and the contrastive task against a linear layer of
the frames that were not masked. No quantizer, no diversity loss.

Argument: SIZE, kinds of the parts of the model after commas. xl,quantizer=gumbel has codes on the
same encoder, to compare the two.

    tiny   2.0 M parameters of the encoder: for trying things on a CPU
    l      115 M: configs/conformer.py's
    xl     610 M: 24 blocks of 1024 channels, 8 heads, kernel 5, no relative positions
    xxl    1,045 M: 42 such blocks; Adafactor

From the paper, as others report it (its text was not at hand): sizes, input, subsampling, masks,
the batch of 2,048 utterances, Adam or Adafactor (0.9, 0.98), the transformer schedule (25k updates
up to 2e-3), gradients of at most 20, 400k updates. Ours, as the paper's were not known to us: the
masked frames become one learnt vector, after the linear layer of the subsampling; temperature 0.1
and 100 negatives, wav2vec 2.0's; targets as wide as the model; crops of 5 to 15 s, 8.7 h per update
(2,048 of the longest: of shorter crops there are more); dropout 0.1, weight decay and eps, the
Conformer's. l and tiny, which are not among its pre-trained ones, share the recipe, tiny with fewer
updates.

configs/finetune.py:split=100h,size=wav2vec_conformer_xl fine-tunes it with CTC; the paper had an
RNN transducer, and self-training after it. Measured at small sizes alone (docs/lecture.md).
"""

from w2v_jax.configs import common
from w2v_jax.errors import UserError

SIZES = ("tiny", "l", "xl", "xxl")


def get_config(argument: str = "xl"):
    size, kinds = common.size_of(argument)
    if size not in SIZES:
        raise UserError(
            f"configs/wav2vec_conformer.py:{size} is unknown; choose {', '.join(SIZES)}"
        )
    config = common.pretraining(f"wav2vec_conformer_{size}", kinds)
    config.model.update(dropout=0.1, activation_dropout=0.1, dropout_input=0.0, layerdrop=0.0)
    common.transformer_schedule(config, clip_norm=20.0)
    if size == "xxl":
        config.optim.update(kind="adafactor", eps=1e-30)
    if size == "tiny":
        common.for_a_cpu(config, 32.0, crop_seconds=(1.28, 2.56, 3.84))
        config.optim.warmup_steps = 1_000
        config.num_steps = 10_000
        return config
    config.execution.dtype = "bfloat16"
    config.data.crop_seconds = (5.12, 7.68, 10.24, 12.80, 15.36)  # 64 n frames
    config.data.batch_seconds = 2_048 * 15.36
    return config
