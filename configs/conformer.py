"""Supervised training of the Conformer with CTC (arXiv 2005.08100).

    python -m w2v_jax.finetune --config=configs/conformer.py:s --workdir=runs/conformer-s \
        --config.data.train=train-960.tsv --config.data.valid=dev-other.tsv

Argument: SIZE, or SIZE,ablation=NAME.

    tiny   2.0 M parameters of the encoder: for trying things on a CPU
    s      8.7 M: 16 blocks of 144 channels, 4 heads
    m      27.3 M: 16 of 256, 4 heads
    l      115.1 M: 17 of 512, 8 heads

The paper's S, M and L have 10.3, 30.7 and 118.8 M, an LSTM decoder of an RNN transducer included.
One of 320 units for S and 640 for M and L, with 1,024 word pieces and a joint network of 320, makes
these encoders 10.3, 31.9 and 119.8 M: M and L differ by 1.2 and 1.0 M, as the widths of their
decoders' embeddings and joint networks are not published.

ablation, a row of table 3, each with those before it:

    relu         ReLU instead of Swish
    no_conv      no convolution module
    no_macaron   one feed-forward, at the end and added whole, instead of two halves
    no_relpos    plain attention: sinusoids added to the first block's input, arXiv 1706.03762's

or a single change of the block:

    only_relu, only_no_conv, only_no_relpos       as above (table 3)
    lightweight, conv_first, parallel             another convolution, another order (table 4)
    full_step, single_ffn                         feed-forwards (table 5; single_ffn as no_macaron)

Tables 6 and 7 are flags: --config.model.num_heads=8 --config.model.block.kernel=17. An even kernel,
32 say, sees 15 frames of the past and 16 of the future.

From the paper: the sizes, 80 log-mel bins, subsampling to 40 ms, dropout, Adam, the schedule (10k
updates up to 0.05 / sqrt(width)), SpecAugment with bands of 27 bins and 10 spans of at most 5 % of
the utterance. Otherwise here: CTC with letters instead of an RNN transducer with word pieces, which
costs accuracy; no variational noise; its L2 term of 1e-6 is decoupled from the gradient, as all
weight decay here; no language model. The batch and the number of updates are ours.
Measured at small sizes alone (docs/lecture.md).
"""

from w2v_jax.configs import common
from w2v_jax.errors import UserError

SIZES = ("tiny", "s", "m", "l")
# what each changes, keys of model; positions=KIND chooses a kind
RELU = {"activation": "relu"}
NO_CONV = {"block.convolution": "none"}
SINGLE = {"block.feed_forwards": 1, "block.residual": 1.0}
ABSOLUTE = {"positions": "sinusoidal"}
ABLATIONS = {
    "relu": RELU,
    "no_conv": RELU | NO_CONV,
    "no_macaron": RELU | NO_CONV | SINGLE,
    "no_relpos": RELU | NO_CONV | SINGLE | ABSOLUTE,
    "only_relu": RELU,
    "only_no_conv": NO_CONV,
    "only_no_relpos": ABSOLUTE,
    "lightweight": {"block.convolution": "lightweight"},
    "conv_first": {"block.order": "convolution_first"},
    "parallel": {"block.order": "parallel"},
    "full_step": {"block.residual": 1.0},
    "single_ffn": SINGLE,
}


def get_config(argument: str = "s"):
    size, kinds = common.size_of(argument)
    name = kinds.pop("ablation", "")
    if size not in SIZES or (name and name not in ABLATIONS):
        raise UserError(
            f"configs/conformer.py:{argument} is unknown; write SIZE or SIZE,ablation=NAME with "
            f"SIZE one of {', '.join(SIZES)} and NAME one of {', '.join(ABLATIONS)}"
        )
    changes = dict(ABLATIONS.get(name, {}))
    if positions := changes.pop("positions", ""):
        if "positions" in kinds:
            raise UserError(
                f"configs/conformer.py:{argument}: ablation={name} has positions of its own; leave "
                f"out positions={kinds['positions']}, or choose another ablation"
            )
        kinds["positions"] = positions
    config = common.finetuning(f"conformer_{size}", kinds)
    config.model.update(dropout=0.1, activation_dropout=0.1, layerdrop=0.0)
    config.model.update_from_flattened_dict(changes)
    config.freeze_steps = 0
    if config.model.frontend.kind == "logmel":
        config.spec_augment.time_width = 1_000  # 10 s: the share alone limits them
    else:  # whose convolutions are of random weights too
        config.model.frontend.grad_mult = 1.0
    peak = 0.05 / config.model.width**0.5
    common.transformer_schedule(config, peak_lr=peak, warmup_steps=10_000)
    config.num_steps = 100_000
    config.run.update(save_steps=1_000, eval_steps=1_000)
    if size == "tiny":
        common.for_a_cpu(config, 64.0)
        config.optim.update(peak_lr=2e-3, warmup_steps=500)
        config.num_steps = 5_000
        return config
    config.execution.dtype = "bfloat16"
    config.data.batch_seconds = 3600.0
    return config
