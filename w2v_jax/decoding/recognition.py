"""From audio to text with a CTC model."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.decoding.greedy import best_path
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.ctc import CTCModel
from w2v_jax.text.alphabet import Alphabet

WINDOW_SECONDS = 30.0  # longer audio is cut into windows of this length
CONTEXT_SECONDS = 2.0  # which overlap by twice this much; its frames come from the neighbour


class Recognizer:
    """Greedy decoding. One compiled program per batch shape."""

    def __init__(self, config: EncoderConfig, alphabet: Alphabet, *, sharding=None):
        """sharding: of the result where the parameters live on a mesh (replicated)."""
        self.config, self.alphabet = config, alphabet
        # published models are scored one utterance at a time, without any padding; ours, which
        # pads for the sake of the shapes, equals that only where padding does not leak
        alone = dataclasses.replace(config, padding_leaks=False, frame_rule="convolution")
        model = CTCModel(alone, len(alphabet))

        def ids(variables, audio, length):
            logits, frames = model.apply(variables, audio, length)
            return logits.argmax(-1).astype(jnp.int32), frames

        def log_probs(variables, audio, length):
            logits, frames = model.apply(variables, audio, length)
            return jax.nn.log_softmax(logits), frames

        self._ids = jax.jit(ids, out_shardings=sharding)
        self._log_probs = jax.jit(log_probs, out_shardings=sharding)
        # of several processes each has a part of what it is given, and needs all of it
        self._whole = jax.jit(lambda x: x, out_shardings=sharding)

    def batch(self, variables: Any, audio, length) -> list[str]:
        """Texts of int16 [B, S] with length int32 [B] in samples."""
        ids, frames = jax.device_get(self._ids(variables, audio, length))
        return [
            self.alphabet.decode(best_path(row, int(n))) for row, n in zip(ids, frames, strict=True)
        ]

    def batches(self, variables: Any, batches: Iterable[tuple[dict, float]]) -> dict[int, str]:
        """{item: text} of evaluation batches [1, B, ...]; rows with id -1 are left out."""
        texts = {}
        for batch, _ in batches:
            found = self.batch(variables, batch["audio"][0], batch["length"][0])
            ids = jax.device_get(self._whole(batch["id"][0]))
            texts |= {int(i): text for i, text in zip(ids, found, strict=True) if i >= 0}
        return texts

    def text(self, variables: Any, audio: np.ndarray) -> str:
        """Text of one recording int16 [S] of any length; too short to give a frame: ''."""
        ids = self.log_probs(variables, audio).argmax(-1)
        return self.alphabet.decode(best_path(ids, len(ids)))

    def log_probs(self, variables: Any, audio: np.ndarray) -> np.ndarray:
        """ln p float32 [T, V] of the symbols in every frame of a recording int16 [S] of any
        length."""
        stride = self.config.context_stride
        window = round(WINDOW_SECONDS * SAMPLE_RATE / stride) * stride
        context = round(CONTEXT_SECONDS * SAMPLE_RATE / stride) * stride
        hop = window - 2 * context
        if len(audio) < self.config.receptive_field:
            return np.zeros((0, len(self.alphabet)), np.float32)
        parts = []
        for start in range(0, max(len(audio) - 2 * context, 1), hop):
            piece = audio[start : start + window]
            # padded up to whole seconds, so that few shapes are compiled
            size = -(-len(piece) // SAMPLE_RATE) * SAMPLE_RATE
            padded = np.zeros((1, size), np.int16)
            padded[0, : len(piece)] = piece
            found, frames = jax.device_get(
                self._log_probs(variables, padded, np.array([len(piece)], np.int32))
            )
            left = context // stride if start else 0
            last = start + window >= len(audio)
            right = int(frames[0]) if last else (window - context) // stride
            parts.append(found[0, left:right])
            if last:
                break
        return np.concatenate(parts)
