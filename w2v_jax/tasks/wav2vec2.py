"""wav2vec 2.0 pre-training: the contrastive task over masked frames (arXiv 2006.11477, 3.2).

Configs of the kind "wav2vec2": configs/wav2vec2.py; configs/wav2vec_conformer.py, whose targets are
no codes (arXiv 2010.10504), and configs/wav2vec_aug.py.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.measuring.flops import contrastive_flops
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.config import check_part, quantizer_of
from w2v_jax.models.heads.wav2vec2 import PretrainingOutput, Wav2Vec2Model
from w2v_jax.objectives.contrastive import (
    across_batch,
    contrastive_loss,
    sample_cross_negatives,
    sample_negatives,
)
from w2v_jax.objectives.masking import (
    expected_share,
    masked_frames,
    max_masked,
    span_mask,
    utterance_keys,
)
from w2v_jax.tasks.crops import CropTask
from w2v_jax.tasks.targets import targets_of
from w2v_jax.tasks.task import BITS, Data
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.state import TrainState
from w2v_jax.training.task import Context, LossOutput, Variables


class Candidates(NamedTuple):
    """What is asked of the model's output; see `contrastive_loss`."""

    valid: jax.Array  # bool [B, M]: masked frames
    usable: jax.Array  # bool [B, K]: candidates, whose codes count
    own: jax.Array  # int32 [B, M]: the candidate that is the frame itself
    negatives: jax.Array  # int32 [B, M, N]; with cross_negatives into all B * K candidates


class Wav2Vec2(CropTask):
    """Crops without padding -> masked frames -> which target is that of the frame."""

    recipe = "wav2vec2.py:tiny"
    best_by = "valid/contrastive_bits"
    loss_scalar = "train/contrastive_bits"
    keys = (*CropTask.keys, "masking", "quantizer", "loss", "gumbel")

    def __init__(self, config):
        self.targets = targets_of(config)
        self.quantizer = self.targets.quantizer
        self.over_micro_batch = self.targets.over_micro_batch
        self.masking = config.masking.to_dict()
        self.everywhere = config.loss.negatives_from == "everywhere"
        if config.loss.targets == "clean":
            self.views = ("audio", "clean")
        super().__init__(config)
        self.alarms = self.targets.alarms(
            negatives=config.loss.negatives + config.loss.cross_negatives,
            warmup_steps=warmup_steps(config.optim, config.num_steps), waveform=self.waveform,
        )  # fmt: skip

    # model and loss

    def init(self) -> Variables:
        return Wav2Vec2Model(self.encoder, self.quantizer).init(
            jax.random.key(self.seed),
            jnp.zeros((1, SAMPLE_RATE), jnp.int16),
            None,
            jnp.zeros((1, self.encoder.frontend.frames(SAMPLE_RATE)), bool),
            jnp.zeros((1, 2), jnp.int32),
        )

    def check_head(self, exported: Mapping[str, Any], path: str) -> None:
        check_part(self.quantizer, quantizer_of(exported["quantizer"]), "quantizer", path)

    def forward(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context, *, train: bool,
        **kwargs,
    ) -> tuple[Any, Candidates]:  # fmt: skip
        """(model output, what is asked of it): one pass over the masked frames of full crops, with
        everything random keyed by utterance. With loss.targets=clean a batch has the same speech
        without augmentation besides, of which the targets are; what is held out is never
        augmented."""
        settings = self.config.loss
        model = Wav2Vec2Model(self.encoder, self.quantizer, train, self.everywhere)
        rows, samples = batch["audio"].shape
        frames = self.encoder.frontend.frames(samples)
        mask_keys, negative_keys, gumbel_keys, cross_keys = (
            utterance_keys(jax.random.fold_in(context.key, i), batch["id"]) for i in range(4)
        )
        time_mask = span_mask(mask_keys, jnp.full(rows, frames), frames, **self.masking)
        size = max_masked(frames, **self.masking)
        index, valid = masked_frames(time_mask, size)
        present = batch["id"][:, None] >= 0
        valid &= present
        if self.everywhere:
            own, usable = index, jnp.broadcast_to(present, (rows, frames))
        else:
            own, usable = jnp.broadcast_to(jnp.arange(size), (rows, size)), valid
        drawn = self.targets.drawn(context.step, gumbel_keys, usable.shape[1], train=train)
        dropout, layerdrop = jax.random.split(context.micro_key)
        out = model.apply(
            variables, batch["audio"], None, time_mask, index, clean=batch.get("clean"),
            rngs={"dropout": dropout, "layerdrop": layerdrop}, **drawn, **kwargs,
        )  # fmt: skip
        negatives = sample_negatives(negative_keys, usable.sum(1), size, settings.negatives, own)
        if settings.cross_negatives:
            cross = sample_cross_negatives(cross_keys, usable, own, settings.cross_negatives)
            offset = usable.shape[1] * jnp.arange(rows)[:, None, None]
            negatives = jnp.concatenate([negatives + offset, cross], -1)
        return out, Candidates(valid, usable, own, negatives)

    def score(self, out: PretrainingOutput, candidates: Candidates) -> tuple[jax.Array, ...]:
        """The contrastive loss in nats, won frames and frame count of a batch."""
        settings = self.config.loss
        arrays = dict(
            context=out.context, targets=out.targets, codes=out.codes, valid=candidates.valid,
            negatives=candidates.negatives, own=candidates.own, usable=candidates.usable,
        )  # fmt: skip
        if settings.cross_negatives:
            arrays = across_batch(**arrays)
        elif not self.everywhere:
            arrays["own"] = None  # frame i is candidate i: no gather
        return contrastive_loss(**arrays, temperature=settings.temperature)

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """contrastive + diversity_weight * diversity * frames + penalty_weight * penalty * frames
        (fairseq wav2vec_criterion.py): both extra terms weigh per masked frame. Without codes there
        is no diversity."""
        settings = self.config.loss
        (out, new), candidates = self.forward(
            variables, batch, context, train=True, mutable=["stats"]
        )
        contrastive, won, count = self.score(out, candidates)
        count = count.astype(jnp.float32)
        regularized, more = self.targets.regularized(out, candidates.usable, context.step)
        extra = regularized + settings.penalty_weight * out.penalty
        metrics = {
            "train/contrastive_bits": (contrastive * BITS, count),
            "train/accuracy": (won.astype(jnp.float32), count),
            "train/feature_penalty": (out.penalty, jnp.float32(1)),
        }
        return contrastive + extra * count, LossOutput(count, metrics | more, new.get("stats", {}))

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """Hard codes where there are any, no dropout."""
        context = self.of_validation()

        def sums(variables: Variables, batch):
            out, candidates = self.forward(variables, batch, context, train=False)
            loss, won, count = self.score(out, candidates)
            return loss, won, count, self.targets.sums(out, candidates.usable, count)

        total = self.summed(sums, data, mesh)

        def evaluate(variables: Variables) -> dict[str, float]:
            loss, won, count, targets = total(variables)
            return {
                "valid/contrastive_bits": float(loss * BITS / count),
                "valid/accuracy": float(won / count),
                **self.targets.scalars(targets, count),
                "valid/masked_frames": float(count),
            }

        return evaluate

    def described(self) -> dict[str, Any]:
        return super().described() | {"quantizer": self.quantizer.to_dict()}

    # what it costs

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        masked = expected_share(self.masking["prob"], self.masking["span"])
        negatives = self.config.loss.negatives + self.config.loss.cross_negatives
        found = super().forward_flops(length, layerdrop=layerdrop) | contrastive_flops(
            self.encoder, self.quantizer, length, masked, negatives, everywhere=self.everywhere
        )
        if "clean" in self.views:
            found["clean features"] = sum(self.encoder.frontend.flops(length).values())
        return found

    def training_flops(self, length: int, *, layerdrop: bool = False) -> float:
        found = super().training_flops(length, layerdrop=layerdrop)
        if "clean" in self.views:  # counted as one layer of three products, but it knows better
            frontend = self.encoder.frontend
            found += frontend.backward_flops(length) - 2 * sum(frontend.flops(length).values())
        return found

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        yield from super().parts(state, batch, mesh, noise)
        out, candidates, context = self.passed(state, batch, mesh)
        rows, size = out.targets.shape[:2]
        make, params, fixed = self.targets.maker(state.params, self.encoder, noise, rows, size)
        x = noise(rows, size, self.encoder.frontend.width, dtype=self.encoder.compute_dtype)
        made = lambda moving, fixed, key: make(*moving, fixed)  # noqa: E731
        yield Part(self.targets.part, made, (params, x), fixed)

        def loss(moving, fixed, key):
            out, candidates = fixed
            out = out.replace(**moving)
            contrastive, _, masked = self.score(out, candidates)
            extra, _ = self.targets.regularized(out, candidates.usable, context.step)
            return contrastive + extra * masked

        moving = {name: getattr(out, name) for name in self.targets.moving}
        yield Part("loss", loss, moving, (out, candidates))
