"""What the targets of the contrastive task are: codes of learnt codebooks (arXiv 2006.11477), or
projections of the features as they are (arXiv 2010.10504); what comes with either."""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig, LinearTargets, QuantizerConfig, quantizer_of
from w2v_jax.models.heads.quantizer import Quantizer
from w2v_jax.models.heads.wav2vec2 import PretrainingOutput, projection
from w2v_jax.objectives.contrastive import (
    average_usage,
    code_perplexity,
    dead_codes,
    diversity_loss,
    gumbel_noise,
    gumbel_temperature,
    perplexity,
    target_similarity,
)
from w2v_jax.tasks.task import PATIENCE, SKIPPED
from w2v_jax.training.health import Alarm
from w2v_jax.training.task import Metrics


class Features:
    """Projections of the features: no codes, no diversity, nothing random.

    settings: config.loss; of a batch `usable`, bool [B, K], are the candidates that count.
    """

    part: ClassVar[str] = "targets"  # what making them is called where parts are timed
    over_micro_batch: ClassVar[tuple[str, ...]] = ("loss.penalty_weight",)
    moving: ClassVar[tuple[str, ...]] = ("context", "targets")  # what the loss has a gradient of

    def __init__(self, config, quantizer: LinearTargets | QuantizerConfig):
        self.config, self.quantizer = config, quantizer

    def drawn(
        self, step: jax.Array, keys: jax.Array, candidates: int, *, train: bool
    ) -> dict[str, Any]:
        """The model's arguments that depend on the update, and are random per utterance: a key
        each."""
        return {}

    def regularized(
        self, out: PretrainingOutput, usable: jax.Array, step: jax.Array
    ) -> tuple[jax.Array | float, Metrics]:
        """(what the loss has more of per masked frame, metrics)."""
        return 0.0, {"train/target_similarity": target_similarity(out.targets, usable)}

    def sums(self, out: PretrainingOutput, usable: jax.Array, count: jax.Array) -> Any:
        """Of a batch of held-out data with `count` masked frames, to be added up."""
        return target_similarity(out.targets, usable)

    def scalars(self, sums: Any, count: float) -> dict[str, float]:
        """Of all the sums and masked frames."""
        total, pairs = sums
        return {"valid/target_similarity": float(total / max(pairs, 1))}

    def maker(
        self, params: Mapping[str, Any], encoder: EncoderConfig, noise: Callable, rows: int,
        size: int,
    ) -> tuple[Callable, Any, Any]:  # fmt: skip
        """(function, parameters, what else it reads) of making `size` targets in each row from
        features: function(parameters, features, else)."""
        q, width, dtype = self.quantizer, encoder.frontend.width, encoder.compute_dtype
        project = projection(width, q, dtype, name="project_targets")
        make = lambda params, x, _: project.apply({"params": params}, x)  # noqa: E731
        return make, params["project_targets"], ()

    def alarms(self, **expected: Any) -> tuple[Alarm, ...]:
        return alarms_without_codes(**expected)


class Codes(Features):
    """Gumbel codes; a diversity term keeps all of them in use."""

    part = "quantizer"
    over_micro_batch = ("loss.diversity_weight", "loss.penalty_weight")
    moving = ("context", "targets", "code_logits")

    def temperature(self, step: jax.Array) -> jax.Array:
        gumbel = self.config.gumbel
        return gumbel_temperature(step, gumbel.start, gumbel.end, gumbel.decay)

    def drawn(
        self, step: jax.Array, keys: jax.Array, candidates: int, *, train: bool
    ) -> dict[str, Any]:
        found = {"temperature": self.temperature(step)}
        if train:
            shape = candidates, self.quantizer.groups, self.quantizer.codes
            found["noise"] = gumbel_noise(keys, shape)
        return found

    def regularized(
        self, out: PretrainingOutput, usable: jax.Array, step: jax.Array
    ) -> tuple[jax.Array | float, Metrics]:
        diversity, soft = diversity_loss(out.code_logits, usable)
        hard = code_perplexity(out.codes, usable, out.code_logits.shape[-1])
        one = jnp.float32(1)
        return self.config.loss.diversity_weight * diversity, {
            "train/code_perplexity": (hard, one),
            "train/prob_perplexity": (soft, one),
            "train/temperature": (self.temperature(step), one),
        }

    def sums(self, out: PretrainingOutput, usable: jax.Array, count: jax.Array) -> Any:
        one_hot = jax.nn.one_hot(out.codes, self.quantizer.codes)
        return average_usage(one_hot, usable) * count

    def scalars(self, sums: Any, count: float) -> dict[str, float]:
        groups = {
            f"valid/code_perplexity_{g}": float(perplexity(sums[g : g + 1] / count))
            for g in range(len(sums))
        }
        return {
            "valid/code_perplexity": sum(groups.values()), **groups,
            "valid/dead_codes": float(dead_codes(sums)),
        }  # fmt: skip

    def maker(
        self, params: Mapping[str, Any], encoder: EncoderConfig, noise: Callable, rows: int,
        size: int,
    ) -> tuple[Callable, Any, Any]:  # fmt: skip
        q, dtype = self.quantizer, encoder.compute_dtype
        project = projection(q.width, q, dtype, name="project_targets")

        def make(params, x, gumbel):
            codebook, projected = params
            found = Quantizer(q, dtype).apply({"params": codebook}, x, gumbel, 1.0)
            return project.apply({"params": projected}, found.vectors), found.logits

        gumbel = noise(rows, size, q.groups, q.codes, dtype=jnp.float32)
        return make, (params["quantizer"], params["project_targets"]), gumbel

    def alarms(self, **expected: Any) -> tuple[Alarm, ...]:
        return alarms(groups=self.quantizer.groups, codes=self.quantizer.codes, **expected)


TARGETS = {QuantizerConfig.kind: Codes, LinearTargets.kind: Features}


def targets_of(config) -> Features:
    """Those of config.quantizer."""
    quantizer = quantizer_of(config.quantizer)
    return TARGETS[quantizer.kind](config, quantizer)


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
