"""Small configs and batches shared by the tests."""

import numpy as np
from ml_collections import ConfigDict

from configs import common
from w2v_jax.text.alphabet import BOUNDARY, Alphabet

MODEL = dict(
    # the frame rate of the published models with four convolutions: a fifth less to compile
    conv_layers=((16, 10, 5), (16, 8, 4), (16, 4, 4), (24, 4, 4)),
    width=32, num_layers=2, num_heads=4, feed_forward=64, pos_conv_kernel=16, pos_conv_groups=4,
)  # fmt: skip
NO_DROPOUT = dict(
    dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, dropout_input=0.0,
    dropout_features=0.0, layerdrop=0.0, conformer_dropout=0.0,
)  # fmt: skip


def pretraining(**model) -> ConfigDict:
    """A pre-training config of a model that compiles in seconds."""
    config = common.pretraining("tiny")
    config.model.update({**MODEL, **model})
    config.quantizer = ConfigDict(dict(groups=2, codes=8, width=16, projection=16))
    config.loss.negatives = 10
    config.data.update(batch_seconds=8.0, row_multiple=1, crop_seconds=(1.0, 2.0))
    config.run.update(threads=1)
    config.optim.update(warmup_steps=2, peak_lr=1e-3)
    config.num_steps = 8
    config.run.update(log_steps=2, save_steps=3, eval_steps=4)
    return config


def finetuning(**model) -> ConfigDict:
    """A fine-tuning config of a model that compiles in seconds."""
    config = common.finetuning("tiny")
    config.model.update({**MODEL, **model})
    config.data.update(batch_seconds=8.0, row_multiple=1, num_buckets=2, max_seconds=3.0)
    config.run.update(threads=1)
    config.freeze_steps = 0
    config.num_steps = 8
    config.run.update(log_steps=2, save_steps=3, eval_steps=4)
    return config


def noise_batch(rows: int, samples: int, *, accumulation: int = 1, seed: int = 0) -> dict:
    """A pre-training batch of noise, arrays [A, B, ...]."""
    rng = np.random.default_rng(seed)
    return {
        "audio": (rng.normal(size=(accumulation, rows, samples)) * 3000).astype(np.int16),
        "length": np.full((accumulation, rows), samples, np.int32),
        "id": np.arange(accumulation * rows, dtype=np.int32).reshape(accumulation, rows),
    }


def labelled_batch(rows: int, samples: int, *, lengths=None, seed: int = 0) -> dict:
    """A fine-tuning batch of noise with random labels, arrays [1, B, ...]."""
    rng = np.random.default_rng(seed)
    batch = noise_batch(rows, samples, seed=seed)
    if lengths is not None:
        batch["length"] = np.array([lengths], np.int32)
    return batch | {
        "labels": rng.integers(5, 32, (1, rows, 8)).astype(np.int32),
        "label_length": rng.integers(1, 6, (1, rows)).astype(np.int32),
    }


def spoken(alphabet: Alphabet, text: str, *, seed: int = 0, pause: int = 6) -> np.ndarray:
    """ln p [T, V] of a model that hears the text: a letter takes a frame or two and up to two
    blanks after it, a word boundary one frame among `pause` blanks."""
    rng = np.random.default_rng(seed)
    ids = [0] * pause
    for letter in text:
        if letter == " ":
            before = int(rng.integers(pause + 1))
            ids += [0] * before + [alphabet.ids[BOUNDARY]] + [0] * (pause - before)
        else:
            ids += [alphabet.ids[letter]] * int(rng.integers(1, 3)) + [0] * int(rng.integers(1, 3))
    logits = rng.normal(size=(len(ids), len(alphabet))) + 9.0 * np.eye(len(alphabet))[ids]
    return (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).astype(np.float32)
