"""What the trainings of an encoder of audio have in common."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import augmentation, mixing
from w2v_jax.data.corpus import Corpus, with_joined
from w2v_jax.data.loader import Loader, Track, batch_arrays
from w2v_jax.data.plan import Bucket, bucket_edges, pad_buckets
from w2v_jax.data.sources import Source, open_sources
from w2v_jax.data.transcripts import transcribed
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.interop.exported import encoder_of
from w2v_jax.measuring import speech
from w2v_jax.measuring.flops import OF_BLOCKS, encoder_flops, training_flops
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder, block_stack, convolution_of_positions, feature_encoder
from w2v_jax.tasks.centroids import given_centroids, with_centroids
from w2v_jax.tasks.rules import check_rules
from w2v_jax.tasks.statistics import with_statistics
from w2v_jax.tasks.task import Data, Shape, Task
from w2v_jax.text.alphabet import BOUNDARY, Alphabet
from w2v_jax.training.initial import take_over
from w2v_jax.training.sharding import shards_of_batch
from w2v_jax.training.state import TrainState
from w2v_jax.training.task import Variables

SEEN = 1_000  # utterances of which is seen whether a manifest has transcripts
WALKS = 3  # in which an utterance with a transcript is joined to others


class EncodingTask(Task):
    """A training of an encoder: lengths are samples, `self.encoder` is the encoder's config.

    views: the waves that a row of a training batch has; the first is augmented, others are not.
    """

    views: tuple[str, ...] = ("audio",)
    keys = (
        *Task.keys, "data.batch_seconds", "data.mix", "data.mix_weights", "data.mix_alpha",
        "data.augment",
    )  # fmt: skip

    def __init__(self, config):
        config = with_statistics(config)
        config, self.centroids = with_centroids(config)
        self.encoder = EncoderConfig.from_dict(config.model, config.execution)
        super().__init__(config)

    @property
    def waveform(self) -> bool:
        """Whether the front end hears samples: for messages that name its keys."""
        return self.encoder.frontend.kind == "waveform"

    def check(self, values: Mapping[str, Any]) -> None:
        check_rules(values, self.encoder.frontend.frames)

    def rows(self, mesh: Mesh, held_out: bool) -> tuple[int, int]:
        """(samples of a batch, what its rows are a multiple of). What is held out is read as much
        at a time as fits into memory at once."""
        batch = round(self.config.data.batch_seconds * SAMPLE_RATE)
        if held_out:
            return batch // self.config.run.accumulation, shards_of_batch(mesh)
        return batch, self.config.data.row_multiple

    def grid(self, tracks: Mapping[str, Track]) -> int:
        """At multiples of how many samples crops start and joined utterances end: where a frame
        does if some track has a rate, so that a value belongs to one frame of one utterance.
        Anywhere without: a crop that begins within a frame is another view of the same speech."""
        steady = any(track.rate is not None for track in tracks.values())
        return self.encoder.frontend.stride if steady else 1

    def loader(
        self, corpus: Corpus, mesh: Mesh, *, held_out: bool, kind: type[Loader] = Loader, **options
    ) -> Loader:
        """The loader of a corpus; options: more of its fields."""
        options |= dict(
            grid=self.grid(options.get("tracks", {})),
            max_bad_share=self.config.run.max_bad_share, **self.reading(mesh),
        )  # fmt: skip
        if held_out:
            return kind(corpus, 0, replace_bad=False, **options)
        augment = augmentation.open_augmentation(self.config.data.augment, self.seed)
        first, *others = self.views
        options = {"views": {first: augment} | dict.fromkeys(others)} | options
        return kind(corpus, self.seed, self.config.run.accumulation, **options)

    def open_transcribed(
        self, path: str, mesh: Mesh, alphabet: Alphabet, *, held_out: bool = False, **options
    ) -> Data:
        """Whole utterances, padded to a few lengths, with what the alphabet makes of their
        transcripts as the track `labels`. config.data.min_seconds, max_seconds, num_buckets; with
        config.data.concatenate_seconds training hears every utterance alone and joined.

        options: more fields of the loader.
        """
        data, name = self.config.data, "validation" if held_out else "training"
        fitting, total = self.of_length(path)
        written, labels = transcribed(fitting, alphabet)
        corpus = Corpus(written, cache_bytes=int(self.config.run.cache_gigabytes * 1e9))
        fit = sum(len(source.manifest) for source in fitting)
        print(
            f"{name}: {len(corpus)} utterances, {corpus.hours * 60:.1f} min; left out: "
            f"{total - fit} by length, {fit - len(corpus)} by transcript",
            flush=True,
        )
        if not held_out:
            corpus = self.joined(corpus, name)
        edges = bucket_edges(corpus.lengths, data.num_buckets)
        buckets = pad_buckets(corpus.lengths, edges, *self.rows(mesh, held_out))
        if not held_out:
            buckets = self.mixed(buckets, corpus)
        track = Track(labels, between=alphabet.ids[BOUNDARY])
        options = {"crop": False, "tracks": {"labels": track}} | options
        return Data(buckets, self.loader(corpus, mesh, held_out=held_out, **options))

    def open_unlabelled(self, path: str, mesh: Mesh, count: int) -> tuple[Corpus, list[Bucket]]:
        """(whole utterances, their buckets of `count` lengths), chosen and joined as those of
        `open_transcribed`; their transcripts are not used."""
        fitting, total = self.of_length(path)
        corpus = Corpus(fitting, cache_bytes=int(self.config.run.cache_gigabytes * 1e9))
        texts = sum(any(source.manifest.texts[:SEEN]) for source in fitting)
        print(
            f"unlabelled: {len(corpus)} utterances, {corpus.hours * 60:.1f} min; left out: "
            f"{total - len(corpus)} by length"
            + "; it has transcripts, which are not used" * bool(texts),
            flush=True,
        )
        corpus = self.joined(corpus, "unlabelled")
        edges = bucket_edges(corpus.lengths, count)
        return corpus, pad_buckets(corpus.lengths, edges, *self.rows(mesh, held_out=False))

    def of_length(self, path: str) -> tuple[list[Source], int]:
        """(the sources in `path` with the utterances that config.data.min_seconds and max_seconds
        leave, how many there were). Raises UserError where none is left."""
        data, fitting = self.config.data, []
        low, high = (round(s * SAMPLE_RATE) for s in (data.min_seconds, data.max_seconds))
        sources = open_sources(path)
        for source in sources:
            samples = source.manifest.samples
            fits = (samples >= low) & (samples <= high)
            if fits.any():
                fitting.append(source.select(fits))
        if not fitting:
            raise UserError(
                f"{path}: no utterance has between {data.min_seconds:g} and {data.max_seconds:g} "
                "s; change --config.data.min_seconds and max_seconds"
            )
        return fitting, sum(len(source.manifest) for source in sources)

    def joined(self, corpus: Corpus, name: str) -> Corpus:
        """With items of several utterances too, where config.data.concatenate_seconds says so."""
        data = self.config.data
        if not data.concatenate_seconds:
            return corpus
        target, high = (
            round(s * SAMPLE_RATE) for s in (data.concatenate_seconds, data.max_seconds)
        )
        both = with_joined(corpus, target, high, walks=WALKS)
        print(f"{name}: and {len(both) - len(corpus)} items of several joined", flush=True)
        return both

    def mixed(self, buckets: list[Bucket], corpus: Corpus) -> list[Bucket]:
        """The buckets mixed as config.data says."""
        data = self.config.data
        return mixing.by_config(
            buckets, corpus, data.mix, weights=data.mix_weights, alpha=data.mix_alpha
        )

    def sized(self, lengths: list[int], make: Callable[..., list[Bucket]]) -> list[Shape]:
        """The shapes of batches of rows of these lengths, as `make`, which buckets them, says."""
        batch = round(self.config.data.batch_seconds * SAMPLE_RATE)
        found = make(np.array(lengths), lengths, batch, self.config.data.row_multiple)
        return [Shape(bucket.rows, bucket.samples) for bucket in found]

    def begin(self, state: TrainState) -> TrainState:
        """With the arrays of another model of the same kind; the optimizer starts anew. Raises
        UserError for one of another shape; with config.run.partial_init what fits is taken over.
        With the centroids of the config's file where the front end has some."""
        path, partial = self.config.run.init_from, self.config.run.partial_init
        if not path:
            return given_centroids(state, self.encoder, self.centroids)
        variables, exported = checkpoints.load(path, self.config.kind)
        if not partial:
            self.encoder.check_same(encoder_of(exported, path), path)
            self.check_head(exported, path)
        current = {"params": state.params, "stats": state.stats}
        state = state.starting_from(**take_over(current, variables, path, partial=partial))
        return given_centroids(state, self.encoder, self.centroids)

    def check_initial(self) -> None:
        if self.config.run.init_from:
            checkpoints.form_of(self.config.run.init_from)

    def check_head(self, exported: Mapping[str, Any], path: str) -> None:
        """Raises UserError where the exported model in `path` has another head."""

    def with_encoder(self, state: TrainState, keep_layers: int) -> TrainState:
        """The state with the encoder of the exported model of any kind in config.run.init_from, but
        for the blocks from `keep_layers` on. Raises UserError as `begin`."""
        cfg, path, partial = self.encoder, self.config.run.init_from, self.config.run.partial_init
        if not path:
            return given_centroids(state, cfg, self.centroids)
        variables, exported = checkpoints.load(path)
        if not partial:
            cfg.check_same(encoder_of(exported, path), path)
        trees = {"params": state.params, "stats": state.stats}
        current = {kind: tree["encoder"] for kind, tree in trees.items() if "encoder" in tree}
        given = {kind: variables[kind].get("encoder", {}) for kind in current}
        taken = take_over(current, given, path, partial=partial)

        def above(path, old, new):
            if "layers" not in [key.key for key in path] or keep_layers >= cfg.num_layers:
                return new
            kept = jnp.arange(len(old)).reshape(-1, *[1] * (old.ndim - 1)) < keep_layers
            return jax.device_put(jnp.where(kept, new, old), old.sharding)

        taken = jax.tree_util.tree_map_with_path(above, current, taken)
        state = state.starting_from(
            **{k: tree | ({"encoder": taken[k]} if k in taken else {}) for k, tree in trees.items()}
        )
        return given_centroids(state, cfg, self.centroids)

    def arrays(self, shape: tuple[int, int], length: int) -> dict[str, tuple[tuple, type]]:
        return batch_arrays(shape, length, views=self.views)

    def example(self, shape: tuple[int, int], length: int) -> dict[str, np.ndarray]:
        frontend = self.encoder.frontend
        if frontend.frames(length) < 2:
            raise UserError(
                f"rows of {length / SAMPLE_RATE:g} s have {frontend.frames(length)} frames; the "
                f"model needs 2, {frontend.receptive_field + frontend.stride} samples"
            )
        batch = {name: np.zeros(*array) for name, array in self.arrays(shape, length).items()}
        for view in self.views:
            batch[view][:] = speech.speech(shape[0] * shape[1] * length).reshape(*shape, length)
        batch["length"][:] = length
        batch["id"][:] = np.arange(shape[0] * shape[1]).reshape(shape)
        return batch

    def described(self) -> dict[str, Any]:
        model = {"kind": self.config.kind, "model": self.encoder.to_dict()}
        execution = {"execution": {"dtype": self.encoder.execution.dtype}}
        return model | execution

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        forward = encoder_flops(self.encoder, length)
        if layerdrop:
            share = 1 - self.encoder.layerdrop
            forward |= {part: forward[part] * share for part in OF_BLOCKS if part in forward}
        return forward

    def training_flops(self, length: int, *, layerdrop: bool = False) -> float:
        forward = self.forward_flops(length, layerdrop=layerdrop)
        return training_flops(self.encoder, forward, length)

    def inference(self, variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
        """The context of full rows, [B, T', D']."""
        inner = {name: tree["encoder"] for name, tree in variables.items() if "encoder" in tree}
        return Encoder(self.encoder).apply(inner, batch["audio"]).context

    def inference_flops(self, length: int) -> float:
        return sum(encoder_flops(self.encoder, length).values())

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        """Those of the encoder; rows are full."""
        cfg, params = self.encoder, state.params["encoder"]
        stats = state.stats.get("encoder", {})
        frozen, stats = stats.get("feature_encoder", {}), stats.get("context", {})
        count, samples = batch["audio"].shape
        features = feature_encoder(cfg)

        def frames(moving, fixed, key):
            audio, frozen = fixed
            return features.apply({"params": moving, "stats": frozen}, audio, None)

        fixed = noise(count, samples, dtype=jnp.float32), frozen
        yield Part("feature encoder", frames, params.get("feature_encoder", {}), fixed)
        x = noise(count, cfg.frontend.frames(samples), cfg.width, dtype=cfg.compute_dtype)
        context = params["context"]
        if "positions" in context:
            positions = convolution_of_positions(cfg)

            def convolution(moving, stats, key):
                variables = {"params": moving[0], "stats": stats}
                return positions.apply(variables, moving[1], None, True, mutable=["stats"])[0]

            moving = context["positions"], x
            yield Part("positional convolution", convolution, moving, stats.get("positions", {}))
        blocks = block_stack(cfg, train=True)

        def stack(moving, stats, key):
            dropout, layerdrop = jax.random.split(key)
            (((y, _), _), _) = blocks.apply(
                {"params": moving[0], "stats": stats}, (moving[1], {}), None,
                rngs={"dropout": dropout, "layerdrop": layerdrop}, mutable=["stats"],
            )  # fmt: skip
            return y

        yield Part("blocks", stack, (context["layers"], x), stats.get("layers", {}))
