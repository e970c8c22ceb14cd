"""wav2vec 2.0 pre-training: the contrastive task over masked frames (arXiv 2006.11477, 3.2).

Configs of the kind "wav2vec2": configs/wav2vec2.py; configs/wav2vec_conformer.py, whose targets are
no codes (arXiv 2010.10504), and configs/wav2vec_aug.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.measuring.flops import contrastive_flops
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.config import QuantizerConfig, differences, flags_of, quantizer_of
from w2v_jax.models.heads.quantizer import Quantizer
from w2v_jax.models.heads.wav2vec2 import PretrainingOutput, Wav2Vec2Model, projection
from w2v_jax.objectives.contrastive import (
    across_batch,
    average_usage,
    code_perplexity,
    contrastive_loss,
    dead_codes,
    diversity_loss,
    gumbel_noise,
    gumbel_temperature,
    perplexity,
    sample_cross_negatives,
    sample_negatives,
    target_similarity,
)
from w2v_jax.objectives.masking import masked_frames, max_masked, span_mask, utterance_keys
from w2v_jax.tasks.encoding import EncodingTask
from w2v_jax.tasks.task import PATIENCE, SKIPPED, Data, Shape
from w2v_jax.training.health import Alarm
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.state import TrainState, on_mesh
from w2v_jax.training.task import Context, LossOutput, Variables

BITS = 1 / math.log(2)
VALIDATION_KEY = 0  # masks and negatives of the validation set are the same at every evaluation


class Candidates(NamedTuple):
    """What is asked of the model's output; see `contrastive_loss`."""

    valid: jax.Array  # bool [B, M]: masked frames
    usable: jax.Array  # bool [B, K]: candidates, whose codes count
    own: jax.Array  # int32 [B, M]: the candidate that is the frame itself
    negatives: jax.Array  # int32 [B, M, N]; with cross_negatives into all B * K candidates
    temperature: jax.Array | None  # of the Gumbel softmax


class Wav2Vec2(EncodingTask):
    """Crops without padding -> masked frames -> which target is that of the frame."""

    command = "pretrain"
    recipe = "wav2vec2.py:tiny"
    best_by = "valid/contrastive_bits"
    loss_scalar = "train/contrastive_bits"
    pads = False
    keys = (
        *EncodingTask.keys, "data.crop_seconds", "data.concatenate_seconds", "masking",
        "quantizer", "loss", "gumbel",
    )  # fmt: skip
    over_micro_batch = ("loss.diversity_weight", "loss.penalty_weight")

    def __init__(self, config):
        self.quantizer = quantizer_of(config.quantizer)
        self.coded = isinstance(self.quantizer, QuantizerConfig)
        self.masking = config.masking.to_dict()
        self.everywhere = config.loss.negatives_from == "everywhere"
        if config.loss.targets == "clean":
            self.views = ("audio", "clean")
        super().__init__(config)
        expected = dict(
            negatives=config.loss.negatives + config.loss.cross_negatives,
            warmup_steps=warmup_steps(config.optim, config.num_steps), waveform=self.waveform,
        )  # fmt: skip
        if self.coded:
            codebooks = dict(groups=self.quantizer.groups, codes=self.quantizer.codes)
            self.alarms = alarms(**codebooks, **expected)
        else:
            self.over_micro_batch = ("loss.penalty_weight",)
            self.alarms = alarms_without_codes(**expected)

    # data: crops of a few lengths, each batch of one

    def open(self, path: str, mesh: Mesh, *, held_out: bool = False) -> Data:
        return self.open_crops(path, mesh, held_out=held_out)

    def shapes(self) -> list[Shape]:
        return self.crop_shapes()

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
        old = quantizer_of(exported["quantizer"])
        if old.kind != self.quantizer.kind:
            raise UserError(
                f"the targets in {path} are of quantizer.kind={old.kind}, here of "
                f"{self.quantizer.kind}; use a config with quantizer={old.kind} in its argument, "
                "or take over what fits with --config.run.partial_init=True"
            )
        if changes := self.quantizer.changes(old):
            raise UserError(
                f"the quantizer in {path} is another one ({differences(changes)}); set "
                f"{flags_of(changes)}, or take over what fits with --config.run.partial_init=True"
            )

    def forward(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context, *, train: bool,
        **kwargs,
    ) -> tuple[Any, Candidates]:  # fmt: skip
        """(model output, what is asked of it): one pass over the masked frames of full crops, with
        everything random keyed by utterance. With loss.targets=clean a batch has the same speech
        without augmentation besides, of which the targets are; what is held out is never
        augmented."""
        settings, quantizer = self.config.loss, self.quantizer
        model = Wav2Vec2Model(self.encoder, quantizer, train, self.everywhere)
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
        noise = temperature = None
        if self.coded:
            gumbel = self.config.gumbel
            temperature = gumbel_temperature(context.step, gumbel.start, gumbel.end, gumbel.decay)
            if train:
                shape = usable.shape[1], quantizer.groups, quantizer.codes
                noise = gumbel_noise(gumbel_keys, shape)
        dropout, layerdrop = jax.random.split(context.micro_key)
        out = model.apply(
            variables, batch["audio"], None, time_mask, index, noise=noise, temperature=temperature,
            clean=batch.get("clean"), rngs={"dropout": dropout, "layerdrop": layerdrop}, **kwargs,
        )  # fmt: skip
        negatives = sample_negatives(negative_keys, usable.sum(1), size, settings.negatives, own)
        if settings.cross_negatives:
            cross = sample_cross_negatives(cross_keys, usable, own, settings.cross_negatives)
            offset = usable.shape[1] * jnp.arange(rows)[:, None, None]
            negatives = jnp.concatenate([negatives + offset, cross], -1)
        return out, Candidates(valid, usable, own, negatives, temperature)

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
        extra = settings.penalty_weight * out.penalty
        one = jnp.float32(1)
        metrics = {
            "train/contrastive_bits": (contrastive * BITS, count),
            "train/accuracy": (won.astype(jnp.float32), count),
            "train/feature_penalty": (out.penalty, one),
        }
        if self.coded:
            diversity, soft = diversity_loss(out.code_logits, candidates.usable)
            extra = settings.diversity_weight * diversity + extra
            hard = code_perplexity(out.codes, candidates.usable, out.code_logits.shape[-1])
            metrics |= {
                "train/code_perplexity": (hard, one),
                "train/prob_perplexity": (soft, one),
                "train/temperature": (candidates.temperature, one),
            }
        else:
            similarity = target_similarity(out.targets, candidates.usable)
            metrics["train/target_similarity"] = similarity
        return contrastive + extra * count, LossOutput(count, metrics, new.get("stats", {}))

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """Hard codes where there are any, no dropout."""
        key = jax.random.key(VALIDATION_KEY)
        context = Context(jnp.int32(0), key, key)

        def sums(variables: Variables, batch):
            out, candidates = self.forward(variables, batch, context, train=False)
            loss, won, count = self.score(out, candidates)
            if not self.coded:
                return loss, won, count, target_similarity(out.targets, candidates.usable)
            one_hot = jax.nn.one_hot(out.codes, self.quantizer.codes)
            return loss, won, count, average_usage(one_hot, candidates.usable) * count

        total = self.summed(sums, data, mesh)

        def evaluate(variables: Variables) -> dict[str, float]:
            loss, won, count, targets = total(variables)
            if self.coded:
                groups = {
                    f"valid/code_perplexity_{g}": float(perplexity(targets[g : g + 1] / count))
                    for g in range(len(targets))
                }
                found = {"valid/code_perplexity": sum(groups.values()), **groups}
                found["valid/dead_codes"] = float(dead_codes(targets))
            else:
                found = {"valid/target_similarity": float(targets[0] / max(targets[1], 1))}
            return {
                "valid/contrastive_bits": float(loss * BITS / count),
                "valid/accuracy": float(won / count),
                **found,
                "valid/masked_frames": float(count),
            }

        return evaluate

    def described(self) -> dict[str, Any]:
        return super().described() | {"quantizer": self.quantizer.to_dict()}

    # what it costs

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        prob, span = self.masking["prob"], self.masking["span"]
        # spans of `span` frames start at prob / span of them (wav2vec 2.0, section 4.2: 49 %)
        masked = 1 - (1 - prob / span) ** span
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
        q, dtype = self.quantizer, self.encoder.compute_dtype
        context = Context(state.step, jax.random.key(3), jax.random.key(4))
        (out, _), candidates = on_mesh(
            jax.jit(lambda v, x: self.forward(v, x, context, train=True, mutable=["stats"])), mesh
        )({"params": state.params, "stats": state.stats}, batch)
        count, size = out.targets.shape[:2]
        width = self.encoder.frontend.width
        project = projection(q.width if self.coded else width, q, dtype, name="project_targets")

        def make_targets(moving, gumbel, key):
            (params, codebook), x = moving
            if not self.coded:
                return project.apply({"params": params}, x)
            found = Quantizer(q, dtype).apply({"params": codebook}, x, gumbel, 1.0)
            return project.apply({"params": params}, found.vectors), found.logits

        weights = state.params["project_targets"], state.params.get("quantizer", {})
        x = noise(count, size, width, dtype=dtype)
        gumbel = noise(count, size, q.groups, q.codes, dtype=jnp.float32) if self.coded else ()
        yield Part("quantizer" if self.coded else "targets", make_targets, (weights, x), gumbel)

        def loss(moving, fixed, key):
            out, candidates = fixed
            out = out.replace(**moving)
            contrastive, _, masked = self.score(out, candidates)
            if not self.coded:
                return contrastive
            diversity, _ = diversity_loss(out.code_logits, candidates.usable)
            return contrastive + self.config.loss.diversity_weight * diversity * masked

        names = ("context", "targets", "code_logits")[: 3 if self.coded else 2]
        moving = {name: getattr(out, name) for name in names}
        yield Part("loss", loss, moving, (out, candidates))


def chance_alarm(negatives: int, settled: int, fewer: str = "", *, waveform: bool) -> Alarm:
    """That the loss stays where guessing would be from update `settled` on."""
    chance = math.log2(1 + negatives)
    smoother = "--config.model.frontend.smoothing=0.8, " * waveform
    return Alarm(
        "chance",
        ("train/contrastive_bits",),
        lambda step, s: step >= settled and s["train/contrastive_bits"] > chance - 0.02,
        "the loss, {train/contrastive_bits:.3f} bits, is not below chance, log2(1 + negatives) "
        f"= {chance:.3f}, though the warm-up is over. With little audio per update raise "
        "--config.data.batch_seconds (--config.run.accumulation makes it fit) or lower "
        "--config.optim.peak_lr; a new encoder leaves chance sooner with "
        f"{smoother}{fewer}a shorter --config.masking.span",
    )


def alarms_without_codes(
    *, negatives: int, warmup_steps: int, waveform: bool = True
) -> tuple[Alarm, ...]:
    """What can be wrong where the targets are no codes; arguments as of `alarms`."""
    settled = max(warmup_steps, PATIENCE)
    return (
        SKIPPED,
        Alarm(
            "collapse",
            ("train/target_similarity", "train/contrastive_bits"),
            lambda step, s: step >= settled and s["train/target_similarity"] > 0.99,
            "the targets are collapsing: the mean cosine of two targets of an utterance is "
            "{train/target_similarity:.4f} (1: the same target for every frame), so that nothing "
            "tells the frames apart; the loss is {train/contrastive_bits:.3f} bits. Start again in "
            "another --workdir with a lower --config.optim.peak_lr or a longer "
            "--config.optim.warmup_steps, or take codes instead (quantizer=gumbel in the argument "
            "of the config)",
        ),
        chance_alarm(negatives, settled, waveform=waveform),
    )


def alarms(
    *, groups: int, codes: int, negatives: int, warmup_steps: int, waveform: bool = True
) -> tuple[Alarm, ...]:
    """What can be wrong with the pre-training of `groups` codebooks of `codes` entries each.

    negatives: of all kinds together; warmup_steps: of the schedule; waveform: whether the front end
    hears samples, and has the keys of one that does.
    """
    # Measured with configs/quickstart.py, 2 x 32 codes: never below 18 as it is; 8 to 12 from
    # update 60 on with a diversity_weight of 0.1; 2.2 to 4.2 with 0 and a peak_lr of 3e-3, where
    # 1.5 per group would have missed 4 of 10 lines.
    few = min(5.0, codes / 4)
    settled = max(warmup_steps, PATIENCE)
    group_names = tuple(f"valid/code_perplexity_{g}" for g in range(groups))
    restart = (
        "Start again in another --workdir with a higher --config.loss.diversity_weight, a lower "
        "--config.optim.peak_lr or a longer --config.optim.warmup_steps"
    )
    return (
        SKIPPED,
        Alarm(
            "collapse",
            ("train/code_perplexity", "train/accuracy"),
            lambda step, s: s["train/code_perplexity"] < few * groups,
            "the codebook is collapsing: the perplexity of its codes is "
            f"{{train/code_perplexity:.2f}} ({groups} is one code per group, {groups * codes} all "
            "of them). Negatives with the codes of the positive do not count, so the fewer codes "
            "are left, the nearer the loss comes to 0 and the accuracy, now {train/accuracy:.3f}, "
            "to 1, with nothing learnt. "
            + restart,
        ),
        Alarm(
            "group_collapse",
            group_names,
            lambda step, s: min(s[name] for name in group_names) < few,
            "on the validation set a group of the codebook is down to a few codes; perplexities "
            f"of the groups, each at most {codes}: "
            + ", ".join(f"{{{name}:.2f}}" for name in group_names)
            + ". " + restart,
        ),
        chance_alarm(negatives, settled, "fewer --config.quantizer.codes and ", waveform=waveform),
        Alarm(
            "dead_codes",
            ("valid/dead_codes", "valid/masked_frames"),
            lambda step, s: step >= settled
            and s["valid/masked_frames"] >= 20 * codes
            and s["valid/dead_codes"] > groups * codes / 2,
            f"{{valid/dead_codes:.0f}} of {groups * codes} codes are chosen by none of the "
            "{valid/masked_frames:.0f} masked frames of the validation set. Raise "
            "--config.loss.diversity_weight, keep the Gumbel temperature high for longer "
            "(--config.gumbel.decay nearer to 1), or take fewer --config.quantizer.codes",
        ),
    )  # fmt: skip
