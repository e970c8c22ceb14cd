"""Transformer language models of letters or words, to rescore what a recognizer found.

    python -m w2v_jax.train_lm --config=configs/lm.py:words_large --workdir=runs/lm \
        --config.data.train=librispeech-lm-norm.txt.gz --config.data.valid=dev.txt

Argument:
    letters_tiny  for trying things on a CPU, a few hundred thousand letters; too little of both to
                  reach a 4-gram of letters
    words_tiny    the same for the words of a small text
    letters_base  38 M parameters
    words_large   the word model of wav2vec 2.0 (section 4.3; fairseq's transformer_lm_gbw as in
                  wav2letter, recipes/sota/2019/lm): 20 blocks of 1280, 16 heads, 6144; 128 GPUs

The published word model has adaptive embeddings and an adaptive softmax (562 M parameters); ours
has one tied table of the 200,000 most frequent words in their place (702 M). It was trained by
Nesterov's method at learning rate 1 with gradients clipped to 0.1, for 48 epochs; ours has Adam,
and its learning rate and updates are a guess: neither letters_base nor words_large was trained.
"""

from ml_collections import ConfigDict

from w2v_jax.configs import common
from w2v_jax.errors import UserError
from w2v_jax.models.language import LanguageConfig

SIZES = {
    "letters_tiny": dict(width=128, num_layers=4, num_heads=4, feed_forward=512),
    "words_tiny": dict(width=192, num_layers=2, num_heads=4, feed_forward=768),
    "letters_base": dict(width=512, num_layers=12, num_heads=8, feed_forward=2048),
    "words_large": dict(width=1280, num_layers=20, num_heads=16, feed_forward=6144),
}


def get_config(size: str = "letters_base"):
    if size not in SIZES:
        raise UserError(f"configs/lm.py:{size} is unknown; choose {', '.join(SIZES)}")
    config = ConfigDict()
    config.kind = "language"
    config.seed = 0
    config.unit = size.partition("_")[0]
    config.letters = ""
    config.language = ""
    config.num_words = 200_000
    config.model = ConfigDict(LanguageConfig(**SIZES[size]).to_dict())
    config.execution = common.execution("dtype", "remat", "layers", "attention")
    config.data = ConfigDict(
        dict(train="", valid="", batch_tokens=262_144, num_buckets=8, row_multiple=8)
    )
    config.optim = ConfigDict(
        dict(
            kind="adam", schedule="linear", peak_lr=5e-4, warmup_steps=16_000,
            b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.01, clip_norm=1.0,
        )
    )  # fmt: skip
    common.add_run(config)
    config.run.threads = 2
    if size.endswith("tiny"):
        config.model.update(dropout=0.05, attention_dropout=0.0)
        # at first many small updates teach more than a few large ones
        config.data.update(batch_tokens=768, row_multiple=1, num_buckets=3)
        config.optim.update(peak_lr=2e-3, warmup_steps=100)
        config.num_steps = 1200
        config.run.update(log_steps=50, save_steps=300, eval_steps=300)
        if size == "words_tiny":  # a word is seen a few times: what is learnt of it must be general
            config.model.update(dropout=0.4, attention_dropout=0.1)
            config.optim.update(peak_lr=1e-3, weight_decay=0.1)
            config.num_steps, config.run.eval_steps = 500, 100
        return config
    config.execution.dtype = "bfloat16"
    config.num_steps = 150_000
    if size == "letters_base":
        config.model.max_tokens = 512
        config.optim.warmup_steps = 4_000
    return config
