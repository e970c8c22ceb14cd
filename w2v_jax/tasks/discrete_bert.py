"""Discrete BERT pre-training: which token a masked frame has (arXiv 1911.03912).

Configs of the kind "discrete_bert": configs/discrete_bert.py.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.encoder import feature_encoder
from w2v_jax.models.heads.discrete_bert import DiscreteBERT
from w2v_jax.objectives.cluster_scores import Score, nearest_known, perplexity
from w2v_jax.objectives.masking import expected_share
from w2v_jax.objectives.random_quantizer import code_counts, prediction_loss
from w2v_jax.tasks.crops import CropTask
from w2v_jax.tasks.masked_prediction import valid_scalars
from w2v_jax.tasks.task import BITS, PATIENCE, SKIPPED, Data
from w2v_jax.training.health import Alarm
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.state import TrainState
from w2v_jax.training.task import Context, LossOutput, Variables


class DiscreteBert(CropTask):
    """Crops without padding -> tokens, in spans of which nothing is heard -> these tokens.

    The front end's tokenizer is frozen, so that its tokens are input and label at once. A masked
    frame has the mask embedding in the place of its token's. A token depends on frames beside its
    own (the deltas of MFCC reach 40 ms to both sides), so that neighbours of a span know a little
    of the tokens at its ends; in the middle of a span of 200 ms nothing is left of that.
    """

    recipe = "discrete_bert.py:tiny"
    best_by = "valid/prediction_bits"
    loss_scalar = "train/prediction_bits"
    keys = (*CropTask.keys, "masking")

    def __init__(self, config):
        super().__init__(config)
        self.encoder.check_tokens()
        self.alarms = alarms(warmup_steps=warmup_steps(config.optim, config.num_steps))

    # model and loss

    def init(self) -> Variables:
        audio = jnp.zeros((1, SAMPLE_RATE), jnp.int16)
        return DiscreteBERT(self.encoder).init(jax.random.key(self.seed), audio)

    def tokens(self, variables: Variables, audio: jax.Array) -> jax.Array:
        """int32 [B, T] of full rows."""
        inner = {
            name: tree["encoder"]["feature_encoder"]
            for name, tree in variables.items() if "encoder" in tree
        }  # fmt: skip
        return feature_encoder(self.encoder).apply(inner, audio, method="tokens")

    def forward(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context, *, train: bool,
        **kwargs,
    ) -> tuple[Any, jax.Array]:  # fmt: skip
        return self.masked(DiscreteBERT(self.encoder, train), variables, batch, context, **kwargs)

    def score(self, logits: jax.Array, tokens: jax.Array, masked: jax.Array) -> Score:
        """Of logits [B, T, V] and tokens int32 [B, T], over the masked frames."""
        loss, won, count = prediction_loss(logits[:, :, None], tokens[:, :, None], masked)
        classes = self.encoder.frontend.classes
        occur = lambda x: code_counts(x[..., None], masked, classes)[0]  # noqa: E731
        return Score(loss, won, count, occur(tokens), occur(logits.argmax(-1)))

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """Cross entropy of the tokens of the masked frames."""
        (logits, new), masked = self.forward(
            variables, batch, context, train=True, mutable=["stats"]
        )
        found = self.score(logits, self.tokens(variables, batch["audio"]), masked)
        any_masked = (found.count > 0).astype(jnp.float32)
        present = (batch["id"] >= 0).sum().astype(jnp.float32)
        metrics = {
            "train/prediction_bits": (found.loss * BITS, found.count),
            "train/accuracy": (found.won, found.count),
            "train/masked_share": (found.count, present * masked.shape[1]),
            "train/label_perplexity": (any_masked * perplexity([found], "labels"), any_masked),
            "train/answer_perplexity": (any_masked * perplexity([found], "answers"), any_masked),
        }
        return found.loss, LossOutput(found.count, metrics, new["stats"])

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """The same masks each time, no dropout; with what is right without hearing anything: always
        the most frequent token, and that of the nearest frame that is not masked."""
        context = self.of_validation()

        def sums(variables: Variables, batch):
            logits, masked = self.forward(variables, batch, context, train=False)
            tokens = self.tokens(variables, batch["audio"])
            copied = masked & (nearest_known(tokens, ~masked) == tokens)
            return self.score(logits, tokens, masked), copied.sum()

        total = self.summed(sums, data, mesh)

        def evaluate(variables: Variables) -> dict[str, float]:
            found, copied = total(variables)
            return valid_scalars(found, copied) | {"valid/masked_frames": float(found.count)}

        return evaluate

    # what it costs

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        """Answers of the masked frames alone, as many as are expected."""
        frontend = self.encoder.frontend
        share = expected_share(self.config.masking.prob, self.config.masking.span)
        masked = frontend.frames(length) * share
        return super().forward_flops(length, layerdrop=layerdrop) | {
            "answers": 2.0 * masked * frontend.classes * self.encoder.width
        }

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        yield from super().parts(state, batch, mesh, noise)
        frontend = self.encoder.frontend
        count, samples = batch["audio"].shape
        frames = frontend.frames(samples)
        logits = noise(count, frames, frontend.classes, dtype=jnp.float32)
        fixed = jnp.zeros((count, frames), jnp.int32), jnp.ones((count, frames), bool)

        def loss(logits, fixed, key):
            tokens, masked = fixed
            return prediction_loss(logits[:, :, None], tokens[:, :, None], masked)[0]

        yield Part("loss", loss, logits, fixed)


def alarms(*, warmup_steps: int) -> tuple[Alarm, ...]:
    """What can be wrong with the pre-training; warmup_steps: of the schedule."""
    settled = max(warmup_steps, PATIENCE)

    def at_chance(step: int, s: dict[str, Any]) -> bool:
        frequencies = math.log2(max(s["train/label_perplexity"], 1.0))
        return step >= settled and s["train/prediction_bits"] > frequencies - 0.02

    return (
        SKIPPED,
        Alarm(
            "few_labels",
            ("train/label_perplexity",),
            lambda step, s: s["train/label_perplexity"] < 3,
            "the tokens are a few only: their perplexity is {train/label_perplexity:.1f}. The "
            "tokenizer does not move, so that this will not mend itself: look whether the "
            "recordings are speech, and loud enough, and whether the centroids of --config.model."
            "frontend.centroids were learnt from such speech",
        ),
        Alarm(
            "chance",
            ("train/prediction_bits", "train/label_perplexity"),
            at_chance,
            "the loss, {train/prediction_bits:.3f} bits, is not below what the frequencies of the "
            "tokens alone are worth (perplexity {train/label_perplexity:.1f}), though the warm-up "
            "is over: nothing is learnt from what surrounds a span. Raise --config.optim.peak_lr, "
            "or --config.data.batch_seconds (--config.run.accumulation makes it fit), or mask "
            "shorter spans with --config.masking.span",
        ),
    )  # fmt: skip
