r"""Discrete BERT pre-training (arXiv 1911.03912): the Transformer hears tokens, and says which ones
were in masked spans.

    python -m w2v_jax.units learn --features=mfcc --data=train-960.tsv --share=0.1 --clusters=100 \
        --output=mfcc100.npz
    python -m w2v_jax.pretrain --config=configs/discrete_bert.py:base --workdir=runs/discrete \
        --config.model.frontend.centroids=mfcc100.npz \
        --config.data.train=train-960.tsv --config.data.valid=dev-other.tsv
    python -m w2v_jax.export --workdir=runs/discrete --output=runs/discrete/export
    python -m w2v_jax.finetune --config=configs/finetune.py:split=10m,size=base,frontend=units \
        --workdir=runs/discrete-10m --config.run.init_from=runs/discrete/export \
        --config.data.train=train-10m.tsv --config.data.valid=dev-other.tsv

Argument:
    tiny  4 blocks of 256, 3.7 M parameters: for trying things on a CPU
    base  12 blocks of 768, 90 M: the network of wav2vec 2.0 BASE

It is the baseline of wav2vec 2.0's tables: pre-trained on LS-960 and fine-tuned on 10 minutes, WER
16.3 on test-clean and 25.2 on test-other (the paper's abstract). The tokens of that are
vq-wav2vec's, which is not here; with other tokens these are not its numbers. Here they are, 50 per
second,
    tokenizer=kmeans   centroids of HuBERT's MFCC; the file becomes part of the model
    tokenizer=random   BEST-RQ's random projection and codebook: no file, nothing is learnt
        (--config.model.frontend.tokenizer=random --config.model.frontend.classes=512)
Fine-tuning takes tokenizer and classes as flags too where they are not kmeans and 100, and the
centroids from the model. Another front end in its argument is refused.

Ours, as the paper's text could not be checked: a linear layer to the tokens, masks of 200 ms that
the mask embedding replaces whole, convolutional positions, and of wav2vec 2.0's recipe the
optimizer, the batch and the number of updates. base has not been trained with this code.
"""

from w2v_jax.configs import common
from w2v_jax.errors import UserError

SIZES = ("tiny", "base")


def get_config(argument: str = "base"):
    size, kinds = common.size_of(argument)
    if size not in SIZES:
        raise UserError(f"configs/discrete_bert.py:{size} is unknown; choose {', '.join(SIZES)}")
    config = common.masked(size, {"frontend": "units"} | kinds)
    common.EncoderConfig.from_dict(config.model).check_tokens()
    config.kind = "discrete_bert"
    config.masking.prob = 0.5
    if size == "tiny":
        common.for_a_cpu(config, 64.0, crop_seconds=(2.0, 4.0, 8.0))
        config.optim.warmup_steps = 500
        config.num_steps = 5_000
        return config
    config.execution.dtype = "bfloat16"
    return config
