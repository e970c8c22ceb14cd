"""c-siam: a contrastive siamese network (arXiv 2205.14054).

Configs of the kind "c_siam": configs/c_siam.py, which says what of this is known of the paper and
what is our choice.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.augmentation import KINDS
from w2v_jax.errors import UserError
from w2v_jax.keys.check import flag
from w2v_jax.measuring.flops import encoder_flops, training_flops
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.config import check_part
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.frontends.waveform import scale_waveform
from w2v_jax.models.heads.c_siam import CSiamModel
from w2v_jax.models.heads.predictor import Predictor, predictor_of
from w2v_jax.models.kernels import form
from w2v_jax.models.layers import frame_mask
from w2v_jax.objectives import time_warp
from w2v_jax.objectives.contrastive import (
    contrastive_loss,
    direction_moments,
    direction_std,
    sample_negatives,
    target_similarity,
)
from w2v_jax.objectives.masking import (
    expected_share,
    masked_frames,
    max_masked,
    span_mask,
    utterance_keys,
)
from w2v_jax.tasks import ctc
from w2v_jax.tasks.crops import CropTask
from w2v_jax.tasks.labelled import LABELLED, letters_loss, open_labelled
from w2v_jax.tasks.slim_ipl import stream
from w2v_jax.tasks.targets import chance_alarm
from w2v_jax.tasks.task import BITS, PATIENCE, SKIPPED, Data
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.health import Alarm
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.state import TrainState, on_mesh
from w2v_jax.training.task import Context, LossOutput, Metrics, Variables


class View(NamedTuple):
    """What the augmented branch is given of a batch."""

    warp: time_warp.Warp | None  # None: it hears the time of the target branch
    left: jax.Array  # int32 [B]: frames before it has heard the end
    time_mask: jax.Array  # bool [B, T]
    index: jax.Array  # int32 [B, M]: the masked frames
    valid: jax.Array  # bool [B, M]: which of them are real
    candidates: jax.Array | None  # int32 [B, K]: frames of its targets, None for all
    usable: jax.Array  # bool [B, K]: which of them count
    negatives: jax.Array  # int32 [B, M, N]: of the candidates


class CSiam(CropTask):
    """Crops without padding -> two branches of one encoder -> which target is that of the frame.
    With loss.ctc_weight also whole utterances, padded to a few lengths -> letters per frame.

    The target branch hears the crop as it is, without mask, dropout and gradient. The augmented
    one hears it in another time and masked, and predicts the targets, moved to its time, of the
    masked frames. A row of it ends where it has heard the end of the crop; what is beyond is
    padding.

    A labelled batch accompanies an update in labelled.ratio of them, its arrays have the prefix
    `labelled_`: masked like the crops, not warped, since a letter that is heard slower would need
    more frames than its batch has. Timed and measured is an update without one.
    """

    recipe = "c_siam.py:tiny"
    best_by = "valid/contrastive_bits"
    loss_scalar = "train/contrastive_bits"
    keys = (
        *CropTask.keys, "masking", "warp", "predictor", "loss.negatives", "loss.negatives_from",
        "loss.temperature", "loss.ctc_weight", "data.labelled", "labelled", "letters", "language",
    )  # fmt: skip

    def __init__(self, config):
        self.predictor = predictor_of(config.predictor)
        self.alphabet = None
        if config.loss.ctc_weight:
            self.alphabet = Alphabet.from_letters(config.letters, config.language)
        self.masking = config.masking.to_dict()
        self.everywhere = config.loss.negatives_from == "everywhere"
        augment = config.data.augment
        if any(augment[f"{kind}_prob"] for kind in KINDS):
            self.views = ("audio", "clean")
        super().__init__(config)
        # whose rows are shorter than the batch, so that the rule must not depend on others
        alone = self.encoder.frontend.alone()
        self.augmented = dataclasses.replace(self.encoder, frontend=alone)
        warmup = warmup_steps(config.optim, config.num_steps)
        self.alarms = alarms(
            negatives=config.loss.negatives, waveform=self.waveform, warmup_steps=warmup
        )
        if self.alphabet is not None:
            of_ctc = ctc.alarms(freeze_steps=0, warmup_steps=warmup, waveform=self.waveform)
            self.alarms += tuple(alarm for alarm in of_ctc if alarm.name == "infeasible")

    @property
    def warps(self) -> bool:
        warp = self.config.warp
        still = tuple(warp.stretch) == tuple(warp.rate) == (1.0, 1.0) and not warp.offset_seconds
        return warp.enabled and not still

    def check(self, values: Mapping[str, Any]) -> None:
        super().check(values)
        offset, shortest = self.config.warp.offset_seconds, min(self.config.data.crop_seconds)
        if self.warps and offset > shortest / 2:
            raise UserError(
                f"{flag('warp.offset_seconds', offset)} may cut off more than half of the shortest "
                f"crop, {shortest:g} s; set --config.warp.offset_seconds={shortest / 4:g} or less, "
                f"or raise the shortest of {flag('data.crop_seconds', values['data.crop_seconds'])}"
            )
        for key in ("stretch", "rate"):
            low, high = self.config.warp[key]
            if low > high:
                raise UserError(
                    f"{flag(f'warp.{key}', (low, high))} is from a greater number to a smaller one;"
                    f" set --config.warp.{key}='({high:g},{low:g})'"
                )
        if prob := self.config.data.augment.speed_prob:
            raise UserError(
                f"{flag('data.augment.speed_prob', prob)} moves what is said to other frames than "
                "in the clean wave, of which the targets are; set speed_prob=0, and have "
                "--config.warp.stretch do it, which moves the targets too"
            )

    # data: crops, and whole utterances with their letters

    def open(self, path: str, mesh: Mesh, *, held_out: bool = False) -> Data:
        data = super().open(path, mesh, held_out=held_out)
        if held_out or self.alphabet is None:
            return data
        return data.accompanied(
            open_labelled(self, self.alphabet, mesh), LABELLED, self.config.labelled.ratio
        )

    # model and loss

    def model(self, train: bool = False) -> CSiamModel:
        """The augmented branch."""
        letters = 0 if self.alphabet is None else len(self.alphabet)
        return CSiamModel(self.augmented, self.predictor, letters, train)

    def init(self) -> Variables:
        return self.model().init(jax.random.key(self.seed), jnp.zeros((1, SAMPLE_RATE), jnp.int16))

    def check_head(self, exported: Mapping[str, Any], path: str) -> None:
        check_part(self.predictor, predictor_of(exported["predictor"]), "predictor", path)
        letters, there = self.described().get("alphabet"), exported.get("alphabet")
        if letters != there:
            raise UserError(
                f"the model in {path} writes {_written(there)}, here {_written(letters)}; set "
                "--config.loss.ctc_weight and --config.letters as there, or take over what fits "
                "with --config.run.partial_init=True"
            )

    def warp(self, keys: jax.Array, samples: int) -> time_warp.Warp | None:
        """Of rows of `samples`, one per key."""
        if not self.warps:
            return None
        settings = self.config.warp
        return time_warp.drawn_warp(
            keys, samples, stretch=tuple(settings.stretch), rate=tuple(settings.rate),
            knot=SAMPLE_RATE * settings.knot_seconds, offset=SAMPLE_RATE * settings.offset_seconds,
        )  # fmt: skip

    def view(self, batch: dict[str, jax.Array], context: Context) -> View:
        """Everything random is keyed by utterance."""
        rows, samples = batch["audio"].shape
        frontend, masking = self.encoder.frontend, self.masking
        frames = frontend.frames(samples)
        mask_keys, negative_keys, warp_keys = (
            utterance_keys(jax.random.fold_in(context.key, i), batch["id"]) for i in range(3)
        )
        warp, left = self.warp(warp_keys, samples), jnp.full(rows, frames)
        if warp is not None:
            left = time_warp.frames_left(warp, frames, frontend.stride)
        time_mask = span_mask(mask_keys, left, frames, **masking)
        size = max_masked(frames, **masking)
        index, valid = masked_frames(time_mask, size)
        present = batch["id"][:, None] >= 0
        valid &= present
        if self.everywhere:
            candidates, own, usable = None, index, frame_mask(left, frames) & present
        else:
            candidates, own, usable = index, None, valid
        negatives = sample_negatives(
            negative_keys, usable.sum(1), size, self.config.loss.negatives, own
        )
        return View(warp, left, time_mask, index, valid, candidates, usable, negatives)

    def heard(self, audio: jax.Array, view: View) -> dict[str, Any]:
        """What the augmented branch is called with: waves warped before the front end, a spectrum
        inside of it."""
        if view.warp is None:
            return {"audio": audio}
        frontend = self.encoder.frontend
        if not frontend.bins:
            wave = scale_waveform(audio, None, normalize=False)
            length = frontend.receptive_field + (view.left - 1) * frontend.stride
            wave = time_warp.warped_audio(view.warp, wave, frontend.middle)
            return {"audio": wave, "length": length}
        hop = frontend.stride // frontend.reduction
        first = frontend.definition.middle - frontend.middle

        def edit(spectrum, frames):
            return time_warp.warped_frames(view.warp, spectrum, hop, first)

        return {"audio": audio, "edit": edit, "kept": view.left}

    def targets(self, variables: Variables, audio: jax.Array) -> jax.Array:
        """Outputs of the target branch, float32 [B, T, D], without a gradient."""
        inner = {name: tree["encoder"] for name, tree in variables.items() if "encoder" in tree}
        inner = jax.lax.stop_gradient(inner)
        return Encoder(self.encoder).apply(inner, audio).context.astype(jnp.float32)

    def aligned(self, targets: jax.Array, view: View) -> jax.Array:
        """Of the candidates, in the time of the augmented branch, [B, K, D]."""
        if view.warp is not None:
            stride = self.encoder.frontend.stride
            return time_warp.aligned(view.warp, targets, stride, view.candidates)
        if view.candidates is None:
            return targets
        return jnp.take_along_axis(targets, view.candidates[:, :, None], axis=1)

    def forward(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context, *, train: bool,
        **kwargs,
    ) -> tuple[Any, tuple[View, jax.Array]]:  # fmt: skip
        """(model output, what is asked of it and the aligned targets): both branches over full
        crops. With augmentation a batch has the same speech without it besides, which the target
        branch hears."""
        view = self.view(batch, context)
        targets = self.targets(variables, batch.get("clean", batch["audio"]))
        dropout, layerdrop = jax.random.split(context.micro_key)
        out = self.model(train).apply(
            variables, **self.heard(batch["audio"], view), time_mask=view.time_mask,
            masked_frames=view.index, rngs={"dropout": dropout, "layerdrop": layerdrop}, **kwargs,
        )  # fmt: skip
        return out, (view, self.aligned(targets, view))

    def score(
        self, prediction: jax.Array, targets: jax.Array, view: View
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The contrastive loss in nats, won frames and frame count of a batch."""
        return contrastive_loss(
            prediction, targets, None, view.negatives, view.valid, self.config.loss.temperature,
            own=view.index if self.everywhere else None, usable=view.usable,
        )  # fmt: skip

    def shares(self, view: View, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(frames before the augmented branch has heard the end, all frames)."""
        present = batch["id"] >= 0
        frames = present.sum() * view.time_mask.shape[1]
        return (view.left * present).sum().astype(jnp.float32), frames.astype(jnp.float32)

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """Summed over masked frames, and with labelled utterances over their letters; divided by
        the number of masked frames."""
        (out, new), (view, targets) = self.forward(
            variables, batch, context, train=True, mutable=["stats"]
        )
        loss, won, count = self.score(out.prediction, targets, view)
        count = count.astype(jnp.float32)
        any_masked = (count > 0).astype(jnp.float32)
        std = direction_std(*direction_moments(targets, view.usable))
        metrics = {
            "train/contrastive_bits": (loss * BITS, count),
            "train/accuracy": (won.astype(jnp.float32), count),
            "train/target_similarity": target_similarity(targets, view.usable),
            "train/target_std": (any_masked * std, any_masked),
            "train/heard_share": self.shares(view, batch),
        }
        stats = new.get("stats", {})
        if f"{LABELLED}audio" in batch:
            variables = variables | {"stats": stats}
            nats, more, stats = self.spelt(variables, stream(batch, LABELLED), context)
            loss += self.config.loss.ctc_weight * nats
            metrics |= more
        return loss, LossOutput(count, metrics, stats)

    def spelt(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, Metrics, Any]:
        """(CTC loss in nats, metrics, running statistics after it) of a labelled batch."""
        frontend = self.augmented.frontend
        frames = frontend.frames(batch["length"])
        keys = utterance_keys(jax.random.fold_in(context.key, 3), batch["id"])
        dropout, layerdrop = jax.random.split(jax.random.fold_in(context.micro_key, 1))
        size = frontend.frames(batch["audio"].shape[1])
        out, new = self.model(train=True).apply(
            variables, batch["audio"], batch["length"],
            span_mask(keys, frames, size, **self.masking), spell=True,
            rngs={"dropout": dropout, "layerdrop": layerdrop}, mutable=["stats"],
        )  # fmt: skip
        fused = form("ctc", self.encoder.execution.ctc) == "fused"
        nats, metrics = letters_loss(out.logits, out.length, batch, fused=fused)
        return nats, metrics, new.get("stats", {})

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """The same masks and warps each time, no dropout."""
        context = self.of_validation()

        def sums(variables: Variables, batch):
            out, (view, targets) = self.forward(variables, batch, context, train=False)
            return {
                "scores": self.score(out.prediction, targets, view),
                "similarity": target_similarity(targets, view.usable),
                "moments": direction_moments(targets, view.usable),
                "shares": self.shares(view, batch),
            }

        total = self.summed(sums, data, mesh)

        def evaluate(variables: Variables) -> dict[str, float]:
            found = total(variables)
            loss, won, count = found["scores"]
            similarity, pairs = found["similarity"]
            heard, frames = found["shares"]
            return {
                "valid/contrastive_bits": float(loss * BITS / count),
                "valid/accuracy": float(won / count),
                "valid/target_similarity": float(similarity / max(pairs, 1)),
                "valid/target_std": float(direction_std(*found["moments"])),
                "valid/heard_share": float(heard / frames),
                "valid/masked_frames": float(count),
            }

        return evaluate

    def described(self) -> dict[str, Any]:
        found = super().described() | {"predictor": self.predictor.to_dict()}
        return found | ({} if self.alphabet is None else {"alphabet": self.alphabet.to_dict()})

    # what it costs

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        """Every frame counts, as if the augmented branch heard all of the crop. What both branches
        make of the same samples, a spectrum, counts once."""
        frames, width = self.encoder.frontend.frames(length), self.encoder.width
        masked = frames * expected_share(self.masking["prob"], self.masking["span"])
        target = encoder_flops(self.encoder, length)
        if len(self.views) == 1:
            target.pop("spectrum", None)
        found = super().forward_flops(length, layerdrop=layerdrop)
        found["target branch"] = sum(target.values())
        if self.predictor.kind == "mlp":
            layers, factor = self.predictor.layers, self.predictor.factor
            products = 1 if layers == 1 else factor * (2 + (layers - 2) * factor)
            found["predictor"] = 2.0 * masked * products * width**2
        if self.predictor.kind == "transformer":
            feed_forward = self.encoder.feed_forward
            block = 8.0 * width**2 + 4.0 * frames * width + 4.0 * width * feed_forward
            found["predictor"] = self.predictor.layers * frames * block
        found["comparisons"] = 2.0 * masked * (self.config.loss.negatives + 1) * width
        return found

    def training_flops(self, length: int, *, layerdrop: bool = False) -> float:
        forward = self.forward_flops(length, layerdrop=layerdrop)
        target = forward.pop("target branch")  # which has no backward pass
        return target + training_flops(self.encoder, forward, length)

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        """Those of the encoder are of the augmented branch; the target branch is the whole encoder
        forward, and nothing moves in it."""
        yield from super().parts(state, batch, mesh, noise)
        variables = {"params": state.params, "stats": state.stats}
        audio = batch.get("clean", batch["audio"])
        yield Part(
            "target branch", lambda _, fixed, key: self.targets(*fixed), (), (variables, audio)
        )
        out, (view, _), _ = self.passed(state, batch, mesh)
        targets = on_mesh(jax.jit(self.targets), mesh)(variables, audio)
        if self.predictor.kind != "none":
            predictor = Predictor(self.augmented, self.predictor, train=True)
            frames = targets.shape[1] if self.predictor.kind == "transformer" else None
            rows, size = view.index.shape
            x = noise(rows, frames or size, self.encoder.width, dtype=self.encoder.compute_dtype)

            def predict(moving, fixed, key):
                params, x = moving
                return predictor.apply({"params": params}, x, None, rngs={"dropout": key})

            yield Part("predictor", predict, (state.params["predictor"], x), ())

        def loss(prediction, fixed, key):
            targets, view = fixed
            return self.score(prediction, self.aligned(targets, view), view)[0]

        yield Part("loss", loss, out.prediction, (targets, view))


def _written(alphabet: Mapping[str, Any] | None) -> str:
    """What a model with this alphabet writes, for a message."""
    return "".join(alphabet["symbols"]) if alphabet else "no letters"


def alarms(*, negatives: int, warmup_steps: int, waveform: bool = True) -> tuple[Alarm, ...]:
    """What can be wrong with the training; arguments as of `targets.alarms`."""
    settled = max(warmup_steps, PATIENCE)
    return (
        SKIPPED,
        Alarm(
            "collapse",
            ("train/target_std", "train/contrastive_bits"),
            lambda step, s: step >= settled and s["train/target_std"] < 0.1,
            "the encoder is collapsing: the spread of the targets' directions is "
            "{train/target_std:.4f} (1: in all directions, 0: one for every frame), so that "
            "nothing tells the frames apart; the loss is {train/contrastive_bits:.3f} bits. Start "
            "again in another --workdir with a lower --config.optim.peak_lr or a longer "
            "--config.optim.warmup_steps",
        ),
        chance_alarm(negatives, settled, waveform=waveform),
    )  # fmt: skip
