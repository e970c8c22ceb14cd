"""What the pre-trainings on random crops of unlabelled audio have in common."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.corpus import Corpus, concatenated
from w2v_jax.data.loader import Track
from w2v_jax.data.plan import crop_buckets
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError
from w2v_jax.objectives.masking import span_mask, utterance_keys
from w2v_jax.tasks.encoding import EncodingTask
from w2v_jax.tasks.task import Data, Shape
from w2v_jax.training.state import TrainState, on_mesh
from w2v_jax.training.task import Context, Variables

VALIDATION_KEY = 0  # what is random on the validation set is the same at every evaluation


class CropTask(EncodingTask):
    """Random crops of a few lengths, each batch of one: no padding. config.data.crop_seconds; short
    utterances of a speaker are joined up to config.data.concatenate_seconds."""

    command = "pretrain"
    pads = False
    keys = (*EncodingTask.keys, "data.crop_seconds", "data.concatenate_seconds")

    def check(self, values: Mapping[str, Any]) -> None:
        super().check(values)
        self.encoder.refuse_output_layers("pre-training")

    def tracks(self, corpus: Corpus) -> Mapping[str, Track]:
        """What travels with the audio of its rows."""
        return {}

    def open(self, path: str, mesh: Mesh, *, held_out: bool = False) -> Data:
        data, name = self.config.data, "validation" if held_out else "training"
        corpus = Corpus(
            open_sources(path), cache_bytes=int(self.config.run.cache_gigabytes * 1e9)
        )
        tracks = self.tracks(corpus)
        if data.concatenate_seconds:
            target = round(data.concatenate_seconds * SAMPLE_RATE)
            corpus = concatenated(corpus, target, seed=0, grid=self.grid(tracks))
        crops = [round(seconds * SAMPLE_RATE) for seconds in data.crop_seconds]
        buckets = crop_buckets(corpus.lengths, crops, *self.rows(mesh, held_out))
        used = sum(len(bucket.items) for bucket in buckets)
        shortest = min(data.crop_seconds)
        if not used:
            raise UserError(
                f"{name}: no item of {len(corpus)} is as long as {shortest:g} s; lower --config."
                "data.crop_seconds, or join short ones with --config.data.concatenate_seconds"
            )
        kept = sum(len(bucket.items) * bucket.samples for bucket in buckets)
        print(
            f"{name}: {corpus.hours:.2f} h, {len(corpus)} items, {len(corpus) - used} shorter "
            f"than {shortest:g} s left out; a pass hears {kept / 3600 / SAMPLE_RATE:.2f} h; "
            + ", ".join(f"{len(b.items)} x {b.samples / SAMPLE_RATE:g} s" for b in buckets),
            flush=True,
        )
        if not held_out:
            buckets = self.mixed(buckets, corpus)
        return Data(buckets, self.loader(corpus, mesh, held_out=held_out, tracks=tracks))

    def shapes(self) -> list[Shape]:
        lengths = [round(s * SAMPLE_RATE) for s in sorted(self.config.data.crop_seconds)]
        return self.sized(lengths, crop_buckets)

    def masked(
        self, model: Callable[..., Any], variables: Variables, batch: dict[str, jax.Array],
        context: Context, **kwargs,
    ) -> tuple[Any, jax.Array]:  # fmt: skip
        """(model output, bool [B, T]: the masked frames): one pass over full crops of a model that
        is called with audio, length, mask; config.masking, keyed by utterance."""
        audio, frontend = batch["audio"], self.encoder.frontend
        frames = frontend.frames(audio.shape[1])
        keys = utterance_keys(context.key, batch["id"])
        masking = self.config.masking.to_dict()
        mask = span_mask(keys, jnp.full(len(audio), frames), frames, **masking)
        dropout, layerdrop = jax.random.split(context.micro_key)
        out = model.apply(
            variables, audio, None, mask, rngs={"dropout": dropout, "layerdrop": layerdrop},
            **kwargs,
        )  # fmt: skip
        return out, mask & (batch["id"] >= 0)[:, None]

    def passed(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh
    ) -> tuple[Any, Any, Context]:
        """(model output, what `forward` says besides, the context of it): one pass of an update,
        for the parts behind it that are timed."""
        context = Context(state.step, jax.random.key(3), jax.random.key(4))

        def run(variables: Variables, batch: dict[str, jax.Array]):
            return self.forward(variables, batch, context, train=True, mutable=["stats"])

        variables = {"params": state.params, "stats": state.stats}
        (out, _), asked = on_mesh(jax.jit(run), mesh)(variables, batch)
        return out, asked, context

    def of_validation(self) -> Context:
        """The context of every evaluation."""
        key = jax.random.key(VALIDATION_KEY)
        return Context(jnp.int32(0), key, key)
