"""HuBERT pre-training: which cluster a masked frame belongs to (arXiv 2106.07447).

Configs of the kind "hubert": configs/hubert.py. The clusters are units (data/units.py), which
stand beside the manifests: of MFCC in the first iteration, of a layer of the model before in later
ones.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import units
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Track, batch_arrays
from w2v_jax.errors import UserError
from w2v_jax.keys.check import flag
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.config import PredictionConfig, check_part
from w2v_jax.models.heads.hubert import Hubert as HubertModel
from w2v_jax.models.heads.hubert import PredictionOutput
from w2v_jax.objectives.cluster_scores import Score, cluster_score, nearest_known, perplexity
from w2v_jax.objectives.masked_prediction import class_logits, label_index
from w2v_jax.objectives.masking import (
    expected_share,
    masked_frames,
    max_masked,
    span_mask,
    utterance_keys,
)
from w2v_jax.tasks.crops import CropTask
from w2v_jax.tasks.masked_prediction import valid_scalars
from w2v_jax.tasks.task import BITS, PATIENCE, SKIPPED, Data
from w2v_jax.training.health import Alarm
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.state import TrainState
from w2v_jax.training.task import Context, LossOutput, Variables

SPECIAL = 4  # rows of fairseq's heads before those of the clusters: <s>, <pad>, </s>, <unk>


class Hubert(CropTask):
    """Crops without padding -> masked frames -> their clusters, in one or several sets of units.

    The head has a row per cluster. With 4 rows more (prediction.classes) it has those of fairseq's:
    cluster i is row i + 4. A label belongs to the frame that begins with it (label_index); crops
    begin where a frame does. Frames beyond a recording's last unit do not count.
    """

    recipe = "hubert.py:tiny"
    best_by = "valid/prediction_bits"
    loss_scalar = "train/prediction_bits"
    keys = (
        *CropTask.keys, "data.units", "masking", "prediction", "loss.temperature",
        "loss.masked_weight", "loss.unmasked_weight", "loss.penalty_weight",
    )  # fmt: skip
    over_micro_batch = ("loss.penalty_weight",)

    def __init__(self, config):
        self.prediction = PredictionConfig.from_dict(config.prediction)
        self.masking = config.masking.to_dict()
        self.everywhere = config.loss.unmasked_weight > 0
        self.opened: dict[str, tuple[str, units.Units]] = {}  # units by name, and of what
        super().__init__(config)
        self.alarms = alarms(
            classes=self.prediction.classes, names=config.data.units,
            warmup_steps=warmup_steps(config.optim, config.num_steps),
        )  # fmt: skip

    def check(self, values: Mapping[str, Any]) -> None:
        super().check(values)
        names, classes = self.config.data.units, self.prediction.classes
        if len(names) != len(classes) or len(set(names)) != len(names):
            raise UserError(
                f"{flag('data.units', tuple(names))} and {flag('prediction.classes', classes)} "
                "must be equally many, a name of its own and a number of classes per set of labels"
            )
        settings = self.config.loss
        if not settings.masked_weight + settings.unmasked_weight:
            raise UserError(
                "--config.loss.masked_weight=0 and --config.loss.unmasked_weight=0 leave nothing "
                "to learn; set --config.loss.masked_weight=1"
            )

    # data

    @property
    def rates(self) -> dict[str, float]:
        """{name in a batch: labels per second}."""
        return {f"units_{name}": self.prediction.label_rate for name in self.config.data.units}

    def tracks(self, corpus: Corpus) -> Mapping[str, Track]:
        """The units as rows of the head. Raises UserError where they do not fit the head, or mean
        another thing than those that were opened before."""
        where = ",".join(source.path for source in corpus.sources)
        found = {}
        for i, (name, track) in enumerate(zip(self.config.data.units, self.rates, strict=True)):
            of = units.joined(corpus.sources, name)
            first = self.opened.setdefault(name, (where, of))
            units.check_alike(name, dict([first, (where, of)]))
            self._check_units(i, name, of)
            by = self.prediction.classes[i] - of.classes
            found[track] = Track(units.shifted(of.values, by), of.rate)
            bare = int((of.values.sizes == 0).sum())
            print(
                f"units {name}: {of.classes} classes, {of.rate:g} per second"
                + f", in rows {by} to {by + of.classes - 1} of the head as in fairseq" * bool(by)
                + f"; {bare} of {len(of.values)} utterances have none" * bool(bare),
                flush=True,
            )
        return found

    def _check_units(self, i: int, name: str, of: units.Units) -> None:
        classes, rate = self.prediction.classes, self.prediction.label_rate
        if classes[i] not in (of.classes, of.classes + SPECIAL):
            fitting = (*classes[:i], of.classes, *classes[i + 1 :])
            raise UserError(
                f"the units {name!r} have {of.classes} classes, "
                f"{flag('prediction.classes', classes)} says {classes[i]}; set "
                f"{flag('prediction.classes', fitting)}, or {of.classes + SPECIAL} in its place "
                "for a head in fairseq's layout"
            )
        if of.rate != rate:
            raise UserError(
                f"the units {name!r} are {of.rate:g} per second, "
                f"{flag('prediction.label_rate', rate)}; set --config.prediction.label_rate="
                f"{of.rate:g}; all sets of labels have one rate"
            )

    def arrays(self, shape: tuple[int, int], length: int) -> dict[str, tuple[tuple, type]]:
        return batch_arrays(shape, length, views=self.views, rates=self.rates)

    def example(self, shape: tuple[int, int], length: int) -> dict[str, np.ndarray]:
        batch = super().example(shape, length)
        rng = np.random.default_rng(0)
        for name, classes in zip(self.rates, self.prediction.classes, strict=True):
            batch[name][:] = rng.integers(0, classes, batch[name].shape)
        return batch

    # model and loss

    def init(self) -> Variables:
        return HubertModel(self.encoder, self.prediction).init(
            jax.random.key(self.seed), jnp.zeros((1, SAMPLE_RATE), jnp.int16)
        )

    def check_head(self, exported: Mapping[str, Any], path: str) -> None:
        old = PredictionConfig.from_dict(exported["prediction"])
        more = ""
        if old.classes == tuple(n + SPECIAL for n in self.prediction.classes):
            more = f" (its {SPECIAL} more are fairseq's: labels are then the rows after them)"
        check_part(self.prediction, old, "head", path, more)

    def labels(self, batch: Mapping[str, jax.Array]) -> list[jax.Array]:
        """Of every set int32 [B, T], -1 of frames that do not count."""
        frontend = self.encoder.frontend
        at = label_index(
            frontend.frames(batch["audio"].shape[1]), self.prediction.label_rate,
            SAMPLE_RATE / frontend.stride,
        )  # fmt: skip
        present = batch["id"][:, None] >= 0
        found = (jnp.take(batch[x], at, 1, mode="fill", fill_value=-1) for x in self.rates)
        return [jnp.where(present, labels, -1) for labels in found]

    def forward(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context, *, train: bool,
        **kwargs,
    ) -> tuple[Any, jax.Array]:  # fmt: skip
        """(model output, bool [B, T]: masked frames): one pass over full crops, with the mask keyed
        by utterance."""
        rows, samples = batch["audio"].shape
        frames = self.encoder.frontend.frames(samples)
        keys = utterance_keys(jax.random.fold_in(context.key, 0), batch["id"])
        time_mask = span_mask(keys, jnp.full(rows, frames), frames, **self.masking)
        dropout, layerdrop = jax.random.split(context.micro_key)
        out = HubertModel(self.encoder, self.prediction, train).apply(
            variables, batch["audio"], None, time_mask,
            rngs={"dropout": dropout, "layerdrop": layerdrop}, **kwargs,
        )  # fmt: skip
        return out, time_mask

    def scores(
        self, out: PredictionOutput, time_mask: jax.Array, labels: Sequence[jax.Array]
    ) -> tuple[list[Score], list[Score]]:
        """Of every set of labels: of the masked frames, and of the others where these have a
        weight. Without one the logits of the masked frames alone are computed."""
        temperature = self.config.loss.temperature
        sets = list(zip(out.context, out.embeddings, labels, strict=True))
        if self.everywhere:
            scored = [(class_logits(x, e, temperature), own) for x, e, own in sets]
            return tuple(
                [cluster_score(*arrays, counted) for arrays in scored]
                for counted in (time_mask, ~time_mask)
            )
        index, valid = masked_frames(time_mask, max_masked(time_mask.shape[1], **self.masking))
        found = []
        for context, embeddings, own in sets:
            context = jnp.take_along_axis(context, index[:, :, None], 1)  # [B, M, P]
            own = jnp.take_along_axis(own, index, 1)
            logits = class_logits(context, embeddings, temperature)
            found.append(cluster_score(logits, own, valid))
        return found, []

    def total(
        self, masked: Sequence[Score], unmasked: Sequence[Score], penalty: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(the loss, by how many frames it is divided), as fairseq's hubert_criterion.py: the cross
        entropies of all sets of labels add up, the frames are those of the first set, and the
        penalty of the features weighs per frame."""
        settings = self.config.loss
        total, count = 0.0, 0.0
        for scores, weight in (
            (masked, settings.masked_weight), (unmasked, settings.unmasked_weight),
        ):  # fmt: skip
            if weight:
                total = total + weight * sum(score.loss for score in scores)
                count = count + scores[0].count
        return total + settings.penalty_weight * penalty * count, count

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        (out, new), time_mask = self.forward(
            variables, batch, context, train=True, mutable=["stats"]
        )
        masked, unmasked = self.scores(out, time_mask, self.labels(batch))
        total, count = self.total(masked, unmasked, out.penalty)
        asked = sum(score.count for score in masked)
        any_asked = (asked > 0).astype(jnp.float32)
        metrics = {
            "train/prediction_bits": (sum(x.loss for x in masked) * BITS, asked),
            "train/accuracy": (sum(x.won for x in masked), asked),
            "train/label_perplexity": (any_asked * perplexity(masked, "labels"), any_asked),
            "train/answer_perplexity": (any_asked * perplexity(masked, "answers"), any_asked),
            "train/feature_penalty": (out.penalty, jnp.float32(1)),
        }
        if unmasked:
            others = sum(score.count for score in unmasked)
            metrics |= {
                "train/unmasked_bits": (sum(x.loss for x in unmasked) * BITS, others),
                "train/unmasked_accuracy": (sum(x.won for x in unmasked), others),
            }
        return total, LossOutput(count, metrics, new.get("stats", {}))

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """The same masks each time, no dropout."""
        context = self.of_validation()

        def sums(variables: Variables, batch):
            out, time_mask = self.forward(variables, batch, context, train=False)
            labels = self.labels(batch)
            masked, _ = self.scores(out, time_mask, labels)
            copied = []
            for own in labels:
                copy = nearest_known(own, ~time_mask & (own >= 0))
                copied.append((time_mask & (own >= 0) & (copy == own)).sum())
            return masked, copied

        total = self.summed(sums, data, mesh)

        def evaluate(variables: Variables) -> dict[str, float]:
            masked, copied = total(variables)
            if not min(score.count for score in masked):
                raise UserError(
                    f"--config.data.valid={self.config.data.valid} has no masked frame with a "
                    "unit; give it more audio, or make its units anew"
                )
            found = [valid_scalars(*x) for x in zip(masked, copied, strict=True)]
            means = {key: float(np.mean([x[key] for x in found])) for key in found[0]}
            if len(found) > 1:
                for name, scalars in zip(self.config.data.units, found, strict=True):
                    means |= {f"{key}_{name}": value for key, value in scalars.items()}
            return means | {"valid/masked_frames": float(masked[0].count)}

        return evaluate

    def described(self) -> dict[str, Any]:
        return super().described() | {"prediction": self.prediction.to_dict()}

    # what it costs

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        head, frames = self.prediction, self.encoder.frontend.frames(length)
        masked = expected_share(self.masking["prob"], self.masking["span"])
        asked = frames * (1.0 if self.everywhere else masked)
        projections = 1 if head.tied else len(head.classes)
        return super().forward_flops(length, layerdrop=layerdrop) | {
            "context projection": 2.0 * frames * self.encoder.width * head.projection * projections,
            "answers": 2.0 * asked * head.projection * sum(head.classes),
        }

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        yield from super().parts(state, batch, mesh, noise)
        out, time_mask, _ = self.passed(state, batch, mesh)

        def loss(moving, fixed, key):
            out, time_mask, batch = fixed
            out = out.replace(context=moving[0], embeddings=moving[1])
            return self.total(*self.scores(out, time_mask, self.labels(batch)), out.penalty)[0]

        yield Part("loss", loss, (out.context, out.embeddings), (out, time_mask, batch))


def alarms(*, classes: Sequence[int], names: Sequence[str], warmup_steps: int) -> tuple[Alarm, ...]:
    """What can be wrong with the pre-training on sets of units, by name, of so many classes.

    warmup_steps: of the schedule.
    """
    chance = sum(map(math.log2, classes)) / len(classes)
    settled = max(warmup_steps, PATIENCE)
    units = f"the units {' and '.join(names)}"
    return (
        SKIPPED,
        Alarm(
            "few_labels",
            ("train/label_perplexity",),
            lambda step, s: s["train/label_perplexity"] < 1.5,
            f"{units} are one class nearly everywhere: their perplexity is "
            "{train/label_perplexity:.2f}. They do not change, so that this will not mend itself: "
            "look at them with python -m w2v_jax.units quality, and learn them anew",
        ),
        Alarm(
            "constant",
            ("train/answer_perplexity",),
            lambda step, s: step >= settled and s["train/answer_perplexity"] < 1.5,
            "the model answers with one class nearly everywhere, whatever it hears (perplexity "
            "{train/answer_perplexity:.2f}), though the warm-up is over. Start again in another "
            "--workdir with a lower --config.optim.peak_lr, a longer --config.optim.warmup_steps "
            "or --config.optim.clip_norm=1",
        ),
        Alarm(
            "chance",
            ("train/prediction_bits",),
            lambda step, s: step >= settled and s["train/prediction_bits"] > chance - 0.02,
            "the loss of masked frames, {train/prediction_bits:.3f} bits, is not below chance, "
            f"log2 of the classes = {chance:.3f}, though the warm-up is over. With little audio "
            "per update raise --config.data.batch_seconds (--config.run.accumulation makes it fit) "
            f"or lower --config.optim.peak_lr; look whether {units} belong to this audio",
        ),
    )  # fmt: skip
