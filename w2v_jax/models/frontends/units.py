"""Frames as words: a frozen tokenizer gives every 20 ms one of a few tokens, and every token has a
learnt embedding (Discrete BERT, arXiv 1911.03912, whose tokenizer is vq-wav2vec; these are not)."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.audio.logmel import HOP
from w2v_jax.audio.mfcc import PRESET, WIDTH
from w2v_jax.models.frontends.logmel import LogMelConfig
from w2v_jax.models.frontends.mfcc import mfcc
from w2v_jax.models.layers import boxed
from w2v_jax.models.random_quantizer import EXACT, RandomQuantizer, random_codes
from w2v_jax.models.settings import Execution, Settings, free

STEP = 2  # frames of 10 ms from one token to the next
SPECTRUM = LogMelConfig(subsampling="stack", stack=STEP)  # what the random codes are of
CEPSTRAL = LogMelConfig(preset="kaldi", mels=PRESET.mels, subsampling="stack")  # MFCC's, to count
CODE_WIDTH = 16  # where its frames and the random codes are compared, BEST-RQ's


def nearest(x: jax.Array, centroids: jax.Array) -> jax.Array:
    """The centroid [K, D] nearest to every frame, the first of several: float32 [..., D] -> int32
    [...]. |x|^2 is the same for all and left out."""
    product = jnp.einsum("...d,kd->...k", x, centroids, precision=EXACT)
    return (jnp.square(centroids).sum(-1) - 2 * product).argmin(-1)


@dataclasses.dataclass(frozen=True)
class UnitsConfig(Settings):
    """Which tokens, and how wide an embedding is.

    tokenizer: kmeans, the nearest centroid of every second frame of HuBERT's MFCC; random, the code
    that BEST-RQ's random quantizer gives two frames of the log-mel spectrum, normalised per
    utterance. centroids: where a training finds those of kmeans; digest: which those were. Neither
    is needed to use a model, which holds the centroids themselves.
    """

    kind: ClassVar[str] = "units"
    path: ClassVar[str] = "model.frontend"
    frozen: ClassVar[bool] = False
    bins: ClassVar[int] = 0
    stride: ClassVar[int] = STEP * HOP

    tokenizer: str = "kmeans"
    classes: int = 100
    width: int = 768
    centroids: str = free("")
    digest: str = free("")

    @property
    def random(self) -> bool:
        return self.tokenizer == "random"

    @property
    def receptive_field(self) -> int:
        """Samples without which there is no token. (A token of MFCC depends on 8 hops more through
        the slopes, one of the spectrum on its whole row through the norm.)"""
        return SPECTRUM.receptive_field if self.random else PRESET.shortest

    @property
    def middle(self) -> float:
        """Samples from where a token stands to the middle of what it is of."""
        return SPECTRUM.middle if self.random else PRESET.middle

    @property
    def taps(self) -> dict[str, int]:
        """Nothing of its inside but the tokens, which are no vectors."""
        return {}

    def frames(self, samples):
        """Tokens of `samples`, an int or array."""
        if self.random:
            return SPECTRUM.frames(samples)
        return (PRESET.frames(samples) + STEP - 1) // STEP

    def valid_frames(self, length: jax.Array, samples: int, frames: int) -> jax.Array:
        """How many of `frames`, cut from rows of `samples`, count in rows with length int32 [B]."""
        return self.frames(length).clip(0, frames)

    def alone(self) -> "UnitsConfig":
        """Itself: its tokens depend on no other row."""
        return self

    def flops(self, samples: int) -> dict[str, float]:
        """Operations of a forward pass over one row, by part; looking up is none."""
        mel, compared = CEPSTRAL, WIDTH * self.classes
        if self.random:
            mel, compared = SPECTRUM, CODE_WIDTH * (SPECTRUM.width + self.classes)
        return mel.flops(samples) | {"tokens": 2.0 * self.frames(samples) * compared}

    def backward_flops(self, samples: int) -> float:
        """Operations of its backward pass: none, the tokens are frozen."""
        return 0.0

    def module(self, execution: Execution, padding_leaks: bool, **kwargs) -> nn.Module:
        """(audio [B, S], length int32 [B] in samples or None) -> frames [B, T, C]; and its
        `tokens`."""
        return Units(self, execution, **kwargs)


class Units(nn.Module):
    """Tokens and their embeddings, from N(0, 0.02) as those of words (models/language.py); what
    their size is does not matter to an encoder that normalises its features.

    What makes the tokens stands in `stats`: in checkpoints and exports, but no optimizer knows it.
    Centroids are zeros until a training is given them (tasks/encoding.py).
    """

    config: UnitsConfig
    execution: Execution

    def setup(self):
        cfg = self.config
        if cfg.random:
            self.quantizer = RandomQuantizer(1, cfg.classes, CODE_WIDTH, SPECTRUM.width)
        else:
            self.centroids = self.variable("stats", "centroids", jnp.zeros, (cfg.classes, WIDTH))
        init = boxed(nn.initializers.normal(0.02), "vocab", "embed")
        self.embedding = self.param("embedding", init, (cfg.classes, cfg.width))

    def tokens(self, audio: jax.Array, length: jax.Array | None = None) -> jax.Array:
        """audio int16 or float [B, S], length int32 [B] in samples or None -> int32 [B, T]; what
        lies beyond a row's frames means nothing."""
        if not self.config.random:
            return nearest(mfcc(audio, length)[:, ::STEP], self.centroids.value)
        mel, _ = SPECTRUM.spectrum(audio, length)
        count = SPECTRUM.frames(audio.shape[1])
        frames = mel[:, : STEP * count].reshape(len(mel), count, SPECTRUM.width)
        return random_codes(frames, *self.quantizer())[:, :, 0]

    def __call__(self, audio: jax.Array, length: jax.Array | None = None) -> jax.Array:
        """As `tokens` -> [B, T, width]."""
        return self.embedding.astype(self.execution.compute_dtype)[self.tokens(audio, length)]
