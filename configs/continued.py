"""Pre-training that goes on, on the audio of the domain that a model is for.

    python -m w2v_jax.pretrain --config=configs/continued.py:base --workdir=runs/call-centre \
        --config.run.init_from=runs/base/export \
        --config.data.train=calls.tsv --config.data.valid=calls-dev.tsv

A model that was pre-trained on other speech hears unlabelled audio of the domain before it is
fine-tuned. Unlabelled audio of the domain in pre-training closes 66 to 73 % of the gap between
labels of another domain and its own (arXiv 2104.01027, abstract). How long and how fast it goes on
here are our choices; the large sizes were not trained with this code.

Argument: that of configs/wav2vec2.py (base, large_lv60k, xlsr_300m, tiny, ...), or quickstart, the
network of configs/quickstart.py:pretrain,form=wav2vec2. run.init_from takes a run, an export, or
the pre-trained weights of transformers or fairseq (docs/weights.md); head and codebooks go on too.

Differences from the training from the start: a fifth of its peak learning rate and a tenth of its
updates, of which 8 % warm up; a Gumbel temperature that is low from the first update, as the
codebooks are learnt already.
"""

from w2v_jax.configs import quickstart, wav2vec2


def get_config(argument: str = "base"):
    if argument == "quickstart":
        config = quickstart.get_config("pretrain,form=wav2vec2")
        config.num_steps = 300
    else:
        config = wav2vec2.get_config(argument)
        config.num_steps //= 10
    config.optim.peak_lr /= 5
    config.optim.warmup_steps = config.num_steps * 8 // 100
    # whose absence is an error: without a model this is a short training at a low rate
    config.run.init_from = "runs/pretrain" if argument == "quickstart" else "runs/base/export"
    if "gumbel" in config:
        config.gumbel.start = config.gumbel.end
    return config
