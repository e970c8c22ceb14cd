"""BEST-RQ pre-training: which code of a random, frozen codebook a masked frame has (arXiv
2202.01855).

Configs of the kind "best_rq": configs/best_rq.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.keys.check import flag
from w2v_jax.measuring.flops import training_flops
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.config import RandomQuantizerConfig, check_part
from w2v_jax.models.heads.best_rq import BestRQModel, BestRQOutput
from w2v_jax.models.random_quantizer import random_codes
from w2v_jax.objectives.masking import started_spans, utterance_keys
from w2v_jax.objectives.random_quantizer import (
    code_counts,
    mean_perplexity,
    prediction_loss,
    stacked,
    wholly,
)
from w2v_jax.tasks.crops import CropTask
from w2v_jax.tasks.task import BITS, PATIENCE, SKIPPED, Data
from w2v_jax.training.health import Alarm
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.state import TrainState
from w2v_jax.training.task import Context, LossOutput, Variables


class BestRQ(CropTask):
    """Crops without padding -> spans of the spectrum made noise -> the codes of what was there.

    A label is that of the frames of the spectrum side by side from which one frame of the output
    comes, 4 after the convolutions, before any is masked. A frame of the output counts where all of
    them are: of one masked in part the model would hear the rest of what it is asked for. The
    convolutions see 3 frames of the spectrum on both sides of the first of the 4, so that the first
    frame of a span still hears a little of what stands before it, and none of its own label; in
    spans of 400 ms that is little, in much shorter ones it would be most.
    """

    recipe = "best_rq.py:tiny"
    best_by = "valid/prediction_bits"
    loss_scalar = "train/prediction_bits"
    keys = (*CropTask.keys, "mel_masking", "random_quantizer")

    def __init__(self, config):
        self.quantizer = RandomQuantizerConfig.from_dict(config.random_quantizer)
        self.masking = config.mel_masking.to_dict()
        self.noise = self.masking.pop("noise")
        super().__init__(config)
        self.quantizer.check_frontend(self.encoder.frontend)
        self.alarms = alarms(
            codes=self.quantizer.codes, normalization=self.encoder.frontend.normalization,
            warmup_steps=warmup_steps(config.optim, config.num_steps),
        )  # fmt: skip

    def check(self, values: Mapping[str, Any]) -> None:
        super().check(values)
        frontend, span = self.encoder.frontend, self.masking["span"]
        shortest = min(self.config.data.crop_seconds)
        frames = frontend.mel_frames(round(shortest * SAMPLE_RATE))
        if span < frontend.reduction:
            raise UserError(
                f"{flag('mel_masking.span', span)} is less than the {frontend.reduction} frames of "
                "the spectrum in one of the output, which counts where all of them are masked; set "
                f"--config.mel_masking.span={frontend.reduction} or more"
            )
        if span >= frames:
            raise UserError(
                f"{flag('mel_masking.span', span)} is as long as the shortest crop, {frames} "
                f"frames of the spectrum in {shortest:g} s; set --config.mel_masking.span="
                f"{max(frames // 2, frontend.reduction)} or less, or raise the shortest of "
                f"{flag('data.crop_seconds', self.config.data.crop_seconds)}"
            )

    # model and loss

    def init(self) -> Variables:
        return BestRQModel(self.encoder, self.quantizer).init(
            jax.random.key(self.seed), jnp.zeros((1, SAMPLE_RATE), jnp.int16)
        )

    def check_head(self, exported: Mapping[str, Any], path: str) -> None:
        old = RandomQuantizerConfig.from_dict(exported["random_quantizer"])
        check_part(self.quantizer, old, "quantizer", path)

    def forward(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context, *, train: bool,
        **kwargs,
    ) -> tuple[Any, jax.Array]:  # fmt: skip
        """(model output, bool [B, T]: the frames that count): one pass over full crops, with
        everything random keyed by utterance."""
        samples = batch["audio"].shape[1]
        frontend = self.encoder.frontend
        mask_keys, noise_keys = (
            utterance_keys(jax.random.fold_in(context.key, i), batch["id"]) for i in range(2)
        )
        mask = started_spans(mask_keys, frontend.mel_frames(samples), **self.masking)

        def hide(spectrum, frames):
            noise = jax.vmap(lambda key: jax.random.normal(key, spectrum.shape[1:]))(noise_keys)
            return jnp.where(mask[:, :, None], self.noise * noise, spectrum)

        dropout, layerdrop = jax.random.split(context.micro_key)
        out = BestRQModel(self.encoder, self.quantizer, train).apply(
            variables, batch["audio"], None, hide,
            rngs={"dropout": dropout, "layerdrop": layerdrop}, **kwargs,
        )  # fmt: skip
        counted = wholly(mask, frontend.reduction, frontend.frames(samples))
        return out, counted & (batch["id"] >= 0)[:, None]

    def labels(self, out: BestRQOutput) -> jax.Array:
        """int32 [B, T, G] of all frames."""
        frames = stacked(out.spectrum, self.encoder.frontend.reduction, out.logits.shape[1])
        return random_codes(frames, out.projection, out.codebook)

    def score(
        self, out: BestRQOutput, counted: jax.Array, batch: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Sums over a batch: the loss in nats, won frames, the frames that count and all frames;
        how often each code is the label of any of these, the label and the answer of one that
        counts, [G, V]."""
        labels, codes = self.labels(out), self.quantizer.codes
        loss, won, count = prediction_loss(out.logits, labels, counted)
        present = jnp.broadcast_to((batch["id"] >= 0)[:, None], counted.shape)
        return {
            "loss": loss, "won": won, "count": count,
            "frames": present.sum().astype(jnp.float32),
            "labels": code_counts(labels, present, codes),
            "answers": code_counts(out.logits.argmax(-1), counted, codes),
        }  # fmt: skip

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """Cross entropy of the codes of the frames that count; of several codebooks the mean."""
        (out, new), counted = self.forward(
            variables, batch, context, train=True, mutable=["stats"]
        )
        found = self.score(out, counted, batch)
        count = found["count"]
        any_masked = (count > 0).astype(jnp.float32)
        metrics = {
            "train/prediction_bits": (found["loss"] * BITS, count),
            "train/accuracy": (found["won"], count),
            "train/masked_share": (count, found["frames"]),
            "train/label_perplexity": (mean_perplexity(found["labels"]), jnp.float32(1)),
            "train/answer_perplexity": (
                any_masked * mean_perplexity(found["answers"]), any_masked
            ),
        }  # fmt: skip
        return found["loss"], LossOutput(count, metrics, new["stats"])

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """The same masks each time, no dropout."""
        context = self.of_validation()

        def sums(variables: Variables, batch):
            out, counted = self.forward(variables, batch, context, train=False)
            return self.score(out, counted, batch)

        total = self.summed(sums, data, mesh)

        def evaluate(variables: Variables) -> dict[str, float]:
            found = total(variables)
            if not (count := found["count"]):
                raise UserError(
                    f"--config.data.valid={self.config.data.valid} is so short that its masks hide "
                    "no frame wholly; give it more audio, or raise --config.mel_masking.prob="
                    f"{self.masking['prob']:g}"
                )
            return {
                "valid/prediction_bits": float(found["loss"] * BITS / count),
                "valid/accuracy": float(found["won"] / count),
                "valid/masked_share": float(found["count"] / found["frames"]),
                "valid/label_perplexity": float(mean_perplexity(found["labels"])),
                "valid/unused_codes": float((found["labels"] == 0).sum(-1).mean()),
                "valid/answer_perplexity": float(mean_perplexity(found["answers"])),
                "valid/masked_frames": float(found["count"]),
            }

        return evaluate

    def described(self) -> dict[str, Any]:
        return super().described() | {"random_quantizer": self.quantizer.to_dict()}

    # what it costs

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        """Labels and answers of the frames alone that count, as many as are expected in the middle
        of a row."""
        q, frontend = self.quantizer, self.encoder.frontend
        starts = max(self.masking["span"] - frontend.reduction + 1, 0)  # each masks the whole stack
        masked = frontend.frames(length) * (1 - (1 - self.masking["prob"]) ** starts)
        inputs = frontend.reduction * frontend.bins
        return super().forward_flops(length, layerdrop=layerdrop) | {
            "labels": 2.0 * masked * q.codebooks * q.width * (inputs + q.codes),
            "answers": 2.0 * masked * q.codebooks * q.codes * self.encoder.width,
        }

    def training_flops(self, length: int, *, layerdrop: bool = False) -> float:
        forward = self.forward_flops(length, layerdrop=layerdrop)
        labels = forward.pop("labels")  # which have no backward pass
        return labels + training_flops(self.encoder, forward, length)

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        yield from super().parts(state, batch, mesh, noise)
        out, counted, _ = self.passed(state, batch, mesh)

        def loss(logits, fixed, key):
            out, counted = fixed
            out = out.replace(logits=logits)
            return prediction_loss(logits, self.labels(out), counted)[0]

        yield Part("labels and loss", loss, out.logits, (out, counted))


def alarms(*, codes: int, normalization: str, warmup_steps: int) -> tuple[Alarm, ...]:
    """What can be wrong with the pre-training on codebooks of `codes` entries each.

    normalization: of the front end; warmup_steps: of the schedule.
    """
    # Measured on 16 minutes of one speaker: 3.2 of 512 codes and 4.3 of 8,192 without
    # normalisation, 101 and 167 with that per utterance, 107 and 310 with that of the corpus
    few = min(10.0, codes / 4)
    chance = math.log2(codes)
    settled = max(warmup_steps, PATIENCE)
    remedy = (
        "look whether the recordings are speech, and loud enough"
        if normalization != "none"
        else "start again in another --workdir with "
        "--config.model.frontend.normalization=utterance: without it all frames point the same way"
    )
    return (
        SKIPPED,
        Alarm(
            "few_labels",
            ("train/label_perplexity",),
            lambda step, s: s["train/label_perplexity"] < few,
            "the labels are a few codes only: their perplexity is {train/label_perplexity:.1f} of "
            f"{codes}. The codebook does not move, so that this will not mend itself: {remedy}",
        ),
        Alarm(
            "constant",
            ("train/answer_perplexity",),
            lambda step, s: step >= settled and s["train/answer_perplexity"] < 1.5,
            "the model answers with one code nearly everywhere, whatever it hears (perplexity "
            "{train/answer_perplexity:.2f}), though the warm-up is over. Start again in another "
            "--workdir with a lower --config.optim.peak_lr, a longer --config.optim.warmup_steps "
            "or --config.optim.clip_norm=1; with little audio fewer --config.random_quantizer.codes"
            " are learnt sooner",
        ),
        Alarm(
            "chance",
            ("train/prediction_bits",),
            lambda step, s: step >= settled and s["train/prediction_bits"] > chance - 0.02,
            f"the loss, {{train/prediction_bits:.3f}} bits, is not below chance, log2 of {codes} = "
            f"{chance:.3f}, though the warm-up is over. With little audio per update raise "
            "--config.data.batch_seconds (--config.run.accumulation makes it fit) or lower "
            "--config.optim.peak_lr; fewer --config.random_quantizer.codes are learnt sooner",
        ),
    )  # fmt: skip
