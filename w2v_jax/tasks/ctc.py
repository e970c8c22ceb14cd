"""CTC fine-tuning of an encoder (wav2vec 2.0, arXiv 2006.11477, section 3.3), or its training from
random weights.

Configs of the kind "ctc": configs/finetune.py.
"""

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.batches import iterate
from w2v_jax.data.loader import batch_arrays
from w2v_jax.data.plan import pad_buckets, sequential
from w2v_jax.data.transcripts import LETTERS_PER_SECOND
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.errors import UserError
from w2v_jax.evaluation.scoring import score
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.models.kernels import form
from w2v_jax.objectives.ctc import ctc_loss
from w2v_jax.objectives.masking import span_mask, utterance_keys
from w2v_jax.objectives.specaugment import spec_augment
from w2v_jax.tasks.encoding import EncodingTask
from w2v_jax.tasks.task import PATIENCE, SKIPPED, Data, Shape
from w2v_jax.text.alphabet import BOUNDARY, Alphabet
from w2v_jax.training.health import Alarm
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.sharding import batch_sharding, replicated, shards_of_batch
from w2v_jax.training.state import TrainState, on_mesh
from w2v_jax.training.task import Context, LossOutput, Variables

log = logging.getLogger(__name__)

SPOKEN_LETTERS = 14  # per second, of the transcripts of LibriSpeech


class CTC(EncodingTask):
    """Whole utterances, padded to a few lengths -> letters per frame."""

    command = "finetune"
    recipe = "finetune.py:split=10h,size=tiny"
    best_by = "valid/wer"
    loss_scalar = "train/ctc_loss"
    freeze = "encoder"
    # what else may be done where the model to begin with writes another alphabet
    instead = ", or --config.run.init_head=False, with which the layer of letters begins anew"
    keys = (
        *EncodingTask.keys, "data.num_buckets", "data.min_seconds", "data.max_seconds",
        "data.concatenate_seconds", "letters", "language", "reinit_layers", "final_dropout",
        "freeze_steps", "time_masking", "channel_masking", "spec_augment",
    )  # fmt: skip

    def __init__(self, config):
        self.alphabet = Alphabet.from_letters(config.letters, config.language)
        self.time, self.channel = config.time_masking.to_dict(), config.channel_masking.to_dict()
        self.spec_augment = config.spec_augment.to_dict() if "spec_augment" in config else {}
        self.freeze_steps = config.freeze_steps
        super().__init__(config)
        self.alarms = alarms(
            freeze_steps=config.freeze_steps,
            warmup_steps=warmup_steps(config.optim, config.num_steps),
            waveform=self.waveform,
        )

    # data: whole utterances with their letters

    def open(self, path: str, mesh: Mesh, *, held_out: bool = False) -> Data:
        return self.open_transcribed(path, mesh, self.alphabet, held_out=held_out)

    def shapes(self) -> list[Shape]:
        """The edges of the buckets depend on the corpus; the longest stands for them."""
        return self.sized([round(self.config.data.max_seconds * SAMPLE_RATE)], pad_buckets)

    def arrays(self, shape: tuple[int, int], length: int) -> dict[str, tuple[tuple, type]]:
        width = round(LETTERS_PER_SECOND * length / SAMPLE_RATE)  # without data, an estimate
        return batch_arrays(shape, length, widths={"labels": width})

    def example(self, shape: tuple[int, int], length: int) -> dict[str, np.ndarray]:
        batch = super().example(shape, length)
        count = max(1, round(SPOKEN_LETTERS * length / SAMPLE_RATE))
        letters = np.array(list(self.alphabet.ids.values()))
        batch["labels"] = np.zeros((*shape, -(-count // 8) * 8), np.int32)
        batch["labels"][:, :, :count] = np.random.default_rng(0).choice(letters, (*shape, count))
        batch["labels_length"][:] = count
        return batch

    # model and loss

    def init(self) -> Variables:
        model = CTCModel(self.encoder, len(self.alphabet))
        return model.init(jax.random.key(self.seed), jnp.zeros((1, SAMPLE_RATE), jnp.int16))

    def begin(self, state: TrainState) -> TrainState:
        """With the encoder of an exported model, but for config.reinit_layers blocks at the top;
        with config.run.init_head the whole of a CTC model."""
        frozen = self.encoder.frontend.frozen
        if not self.config.run.init_from and (self.freeze_steps or frozen):
            what = "a random front end is frozen for good" if frozen else (
                f"a random encoder is frozen for {self.freeze_steps} updates"
            )  # fmt: skip
            also = " --config.model.frontend.grad_mult=1.0" * self.waveform
            log.warning("%s: to train from scratch set --config.freeze_steps=0%s", what, also)
        if self.config.run.get("init_head"):
            return super().begin(state)
        return self.with_encoder(state, self.encoder.num_layers - self.config.reinit_layers)

    def check_head(self, exported: Mapping[str, Any], path: str) -> None:
        theirs = Alphabet.from_dict(exported["alphabet"])
        if theirs.symbols != self.alphabet.symbols:
            letters = "".join(x for x in theirs.ids if x != BOUNDARY)
            raise UserError(
                f"{path} writes another alphabet, {letters}; set --config.letters="
                f"{shlex.quote(letters)}{self.instead}"
            )

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """Summed over the utterances (fairseq's sentence_avg)."""
        cfg = self.encoder
        model = CTCModel(cfg, len(self.alphabet), self.config.final_dropout, train=True)
        frames = cfg.frontend.frames(batch["length"])
        time_keys, channel_keys, augment_keys = (
            utterance_keys(jax.random.fold_in(context.key, i), batch["id"]) for i in range(3)
        )

        def augment(spectrum, frames):
            return spec_augment(augment_keys, spectrum, frames, **self.spec_augment)

        rows, samples = batch["audio"].shape
        widths = jnp.full(rows, cfg.width)
        dropout, layerdrop = jax.random.split(context.micro_key)
        (logits, frames), new = model.apply(
            variables,
            batch["audio"],
            batch["length"],
            time_mask=span_mask(time_keys, frames, cfg.frontend.frames(samples), **self.time),
            channel_mask=span_mask(channel_keys, widths, cfg.width, **self.channel),
            edit=augment if self.spec_augment else None,
            rngs={"dropout": dropout, "layerdrop": layerdrop},
            mutable=["stats"],
        )
        present = (batch["id"] >= 0).astype(jnp.float32)
        fused = form("ctc", cfg.execution.ctc) == "fused"
        total, counted = ctc_loss(
            logits, frames, batch["labels"], batch["labels_length"], present, fused=fused
        )
        count = counted.sum().astype(jnp.float32)
        letters = (batch["labels_length"] * counted).sum().astype(jnp.float32)
        metrics = {
            "train/ctc_loss": (total, count),
            "train/ctc_loss_per_letter": (total, letters),
            "train/infeasible": (present.sum() - count, present.sum()),
            "train/padding_share": (
                (batch["audio"].size - batch["length"].sum()).astype(jnp.float32),
                jnp.float32(batch["audio"].size),
            ),
        }
        return total, LossOutput(count, metrics, new.get("stats", {}))

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """Error rates of the greedy texts."""
        shards = shards_of_batch(mesh)
        specs = sequential(data.buckets, shards)
        recognizer = Recognizer(self.encoder, self.alphabet, sharding=replicated(mesh))
        recognize = on_mesh(recognizer.texts, mesh)
        labels = data.loader.tracks["labels"].values

        def evaluate(variables: Variables) -> dict[str, float]:
            batches = iterate(specs, data.loader, sharding=batch_sharding(mesh))
            texts = recognize(variables, batches)
            references = [self.alphabet.decode(labels[i]) for i in texts]
            result = score(references, list(texts.values()))
            empty = sum(not text for text in texts.values()) / len(texts)
            return {"valid/wer": result.wer, "valid/cer": result.cer, "valid/empty_share": empty}

        return evaluate

    def described(self) -> dict[str, Any]:
        head = {"alphabet": self.alphabet.to_dict(), "final_dropout": self.config.final_dropout}
        return super().described() | head

    # what it costs

    def inference(self, variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
        """ln p of the letters, float32 [B, T, L]."""
        model = CTCModel(self.encoder, len(self.alphabet))
        logits, _ = model.apply(variables, batch["audio"], batch["length"])
        return jax.nn.log_softmax(logits)

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        yield from super().parts(state, batch, mesh, noise)
        count, samples = batch["audio"].shape
        t = self.encoder.context_frames(self.encoder.frontend.frames(samples))
        x = noise(count, t, len(self.alphabet), dtype=jnp.float32)
        frames = jnp.full_like(batch["length"], t)
        fixed = frames, batch["labels"], batch["labels_length"], jnp.ones(count)
        yield Part("loss", lambda x, fixed, key: ctc_loss(x, *fixed)[0], x, fixed)


def alarms(
    *, freeze_steps: int, warmup_steps: int, waveform: bool = True
) -> tuple[Alarm, ...]:
    """What can be wrong with a training with CTC.

    freeze_steps: config.freeze_steps; warmup_steps: until the learning rate has its peak;
    waveform: whether the front end hears samples, and has the keys of one that does.
    """
    settled = max(freeze_steps, warmup_steps) + PATIENCE
    also = (
        ", --config.model.frontend.grad_mult=1 and --config.model.frontend.smoothing=0" * waveform
    )
    return (
        SKIPPED,
        Alarm(
            "infeasible",
            ("train/infeasible",),
            lambda step, s: s["train/infeasible"] > 0.05,
            "{train/infeasible:.1%} of the utterances have more letters than frames and teach "
            "nothing. Look whether their transcripts belong to them and --config.letters to their "
            "language; a model of fewer frames per second (--config.model.output.kind=strided) "
            "cannot take quick speech",
        ),
        Alarm(
            "blank",
            ("valid/empty_share",),
            lambda step, s: step >= settled and s["valid/empty_share"] > 0.9,
            "the model writes nothing but blanks for {valid/empty_share:.0%} of the validation "
            "set. Every CTC training begins so, but by now it should be over: raise "
            "--config.optim.peak_lr or --config.num_steps, start from a pre-trained model with "
            f"--config.run.init_from, or, from random weights, set --config.freeze_steps=0{also}; "
            "look whether the transcripts belong to the audio",
        ),
    )
