"""Batches of transcribed speech beside those of a pre-training: config.data.labelled and
config.labelled."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.augmentation import open_augmentation
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Track
from w2v_jax.data.plan import bucket_edges, pad_buckets
from w2v_jax.data.sources import open_sources
from w2v_jax.data.transcripts import transcribed
from w2v_jax.errors import UserError
from w2v_jax.objectives.ctc import ctc_loss
from w2v_jax.tasks.encoding import EncodingTask
from w2v_jax.tasks.task import Data
from w2v_jax.text.alphabet import BOUNDARY, Alphabet
from w2v_jax.training.task import Metrics

LABELLED = "labelled_"  # before the names of their arrays


def open_labelled(task: EncodingTask, alphabet: Alphabet, mesh: Mesh) -> Data:
    """Whole utterances, padded to a few lengths, with their letters as the track `labels`. Raises
    UserError where none fits config.labelled, or has a transcript that the alphabet can write."""
    config = task.config
    path, settings = config.data.labelled, config.labelled
    longest, fitting = round(settings.max_seconds * SAMPLE_RATE), []
    for source in open_sources(path):
        samples = source.manifest.samples
        fits = (samples >= task.encoder.frontend.receptive_field) & (samples <= longest)
        if fits.any():
            fitting.append(source.select(fits))
    if not fitting:
        raise UserError(
            f"--config.data.labelled={path} has no utterance of at most "
            f"{settings.max_seconds:g} s; raise --config.labelled.max_seconds, or name a manifest "
            "with other speech"
        )
    written, labels = transcribed(fitting, alphabet)
    corpus = Corpus(written, cache_bytes=int(config.run.cache_gigabytes * 1e9))
    print(f"labelled: {len(corpus)} utterances, {corpus.hours * 60:.1f} min", flush=True)
    edges = bucket_edges(corpus.lengths, settings.num_buckets)
    batch = round(settings.batch_seconds * SAMPLE_RATE)
    buckets = pad_buckets(corpus.lengths, edges, batch, config.data.row_multiple)
    loader = task.loader(
        corpus, mesh, held_out=False, crop=False,
        views={"audio": open_augmentation(config.data.augment, task.seed)},
        tracks={"labels": Track(labels, between=alphabet.ids[BOUNDARY])},
    )  # fmt: skip
    return Data(buckets, loader)


def letters_loss(
    logits: jax.Array, frames: jax.Array, batch: dict[str, jax.Array], *, fused: bool
) -> tuple[jax.Array, Metrics]:
    """(CTC loss in nats, summed over the letters; metrics) of a labelled batch, its arrays without
    their prefix. fused: as of `ctc_loss`."""
    present = (batch["id"] >= 0).astype(jnp.float32)
    nats, counted = ctc_loss(
        logits, frames, batch["labels"], batch["labels_length"], present, fused=fused
    )
    letters = (batch["labels_length"] * counted).sum().astype(jnp.float32)
    return nats, {
        "train/ctc_loss_per_letter": (nats, letters),
        "train/infeasible": (present.sum() - counted.sum(), present.sum()),
    }
