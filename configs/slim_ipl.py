"""slimIPL (arXiv 2010.11524): CTC on transcripts and on labels that the model makes itself.

    python -m w2v_jax.finetune --config=configs/slim_ipl.py:split=10h,size=base \
        --workdir=runs/slim-10h --config.run.init_from=runs/base-10h/export \
        --config.data.train=train-10h.tsv --config.data.unlabelled=train-960h.tsv \
        --config.data.valid=dev-other.tsv

split, size and what may follow: those of configs/finetune.py, whose values these are; besides them

tiny        for trying things
quickstart  on the data of launch/quickstart.sh, for two CPU cores, after its fine-tuning; labels
            are those of the averaged weights, from which it also starts:

    python -m w2v_jax.finetune --config=configs/slim_ipl.py:quickstart \
        --workdir=runs/slim-0 --config.run.init_from=runs/finetuned-0

From wav2letter's recipes/slimIPL: blocks of 1 update on transcripts and 4 on labels of the model
(100h and more) or 10 (less), a cache of 100 or 1,000 batches, of which a tenth are replaced after
they were heard; labels are greedy, without dropout and augmentation. Its model is another (36
Transformer layers from random weights, dropout 0.5, Adagrad, 20,000 updates on transcripts before
the first label); those of configs/finetune.py, and to begin with a model that such a run has
trained (pseudo.start=0), are our choice. Rows without a label, or with an empty one, are not
trained on, which is ours too. With ema_decay=0.999 labels are those of the averaged weights.
Not measured with this code yet.
"""

from ml_collections import ConfigDict

from w2v_jax.configs import finetune
from w2v_jax.configs import quickstart as quickstart_configs
from w2v_jax.errors import UserError

LITTLE = dict(start=0, ratio=(1, 10), cache=1_000, replace=0.1, num_buckets=4)
MUCH = LITTLE | dict(ratio=(1, 4), cache=100)


def get_config(argument: str = "split=10h,size=base"):
    if argument == "quickstart":
        return quickstart()
    tiny = argument == "tiny"
    if not tiny and "split=" not in argument:
        raise UserError(
            f"configs/slim_ipl.py:{argument} is unknown; write tiny, quickstart, or what "
            "configs/finetune.py takes: split=10h,size=base"
        )
    config = finetune.get_config("split=10h,size=tiny" if tiny else argument)
    choice = dict(part.partition("=")[::2] for part in argument.split(","))
    added(config, MUCH if tiny or choice["split"] in ("100h", "960h") else LITTLE)
    if tiny:
        config.pseudo.update(start=500, cache=20)
    return config


def added(config: ConfigDict, pseudo: dict) -> None:
    """Makes a config of CTC one of slimIPL."""
    config.kind, config.data.unlabelled, config.pseudo = "slim_ipl", "", ConfigDict(pseudo)
    del config.run.init_head  # a CTC model is always taken whole


def quickstart() -> ConfigDict:
    """The network of configs/quickstart.py:finetune,form=conformer, trained on."""
    config = quickstart_configs.get_config("finetune,form=conformer")
    added(config, MUCH | dict(cache=20, replace=0.2, num_buckets=2))
    config.data.update(unlabelled=f"{quickstart_configs.DATA}/train.tsv", num_buckets=3)
    config.optim.peak_lr, config.num_steps, config.run.eval_steps = 5e-4, 1_000, 125
    return config
