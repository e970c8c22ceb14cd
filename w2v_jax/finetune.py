"""Fine-tunes an encoder with CTC on transcribed audio, pre-trained or from random weights.

python -m w2v_jax.finetune --config=configs/finetune.py:split=10h,size=base \
    --workdir=runs/base-10h --config.init_from=runs/base/export
"""

import logging
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import augmentation, mixing
from w2v_jax.data.batches import check_rows, iterate
from w2v_jax.data.items import Corpus, transcribed
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import BatchPlan, bucket_edges, pad_buckets, sequential
from w2v_jax.data.sources import open_sources
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.decoding.scoring import score
from w2v_jax.errors import UserError
from w2v_jax.interop.exported import encoder_of
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.ctc import CTCModel
from w2v_jax.objectives.ctc import ctc_loss
from w2v_jax.objectives.masking import span_mask, utterance_keys
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import has_checkpoint, load_exported
from w2v_jax.training.loop import check_unchanged, train
from w2v_jax.training.optim import make_optimizer, make_schedule
from w2v_jax.training.sharding import batch_sharding, make_mesh, replicated, shards_of_batch
from w2v_jax.training.state import LossOutput, TrainState, build, make_train_step, on_mesh

log = logging.getLogger(__name__)


def make_loss(config: ConfigDict, vocabulary: int):
    """The CTC loss of one micro-batch, summed over its utterances (fairseq's sentence_avg)."""
    encoder = EncoderConfig.from_dict(config.model)
    model = CTCModel(encoder, vocabulary, config.final_dropout, train=True)
    time, channel = config.time_masking.to_dict(), config.channel_masking.to_dict()

    def loss(params, stats, batch, step, keys):
        step_key, micro_key = keys
        frames = encoder.frames(batch["length"])
        time_keys, channel_keys = (
            utterance_keys(jax.random.fold_in(step_key, i), batch["id"]) for i in range(2)
        )
        rows, samples = batch["audio"].shape
        widths = jnp.full(rows, encoder.width)
        dropout, layerdrop = jax.random.split(micro_key)
        (logits, frames), new = model.apply(
            {"params": params, "stats": stats},
            batch["audio"],
            batch["length"],
            time_mask=span_mask(time_keys, frames, encoder.frames(samples), **time),
            channel_mask=span_mask(channel_keys, widths, encoder.width, **channel),
            rngs={"dropout": dropout, "layerdrop": layerdrop},
            mutable=["stats"],
        )
        present = (batch["id"] >= 0).astype(jnp.float32)
        total, counted = ctc_loss(logits, frames, batch["labels"], batch["label_length"], present)
        count = counted.sum().astype(jnp.float32)
        letters = (batch["label_length"] * counted).sum().astype(jnp.float32)
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

    return loss


def open_transcribed(config: ConfigDict, path: str, alphabet: Alphabet, name: str):
    """(corpus, labels) of the utterances that can be trained on; the rest is reported."""
    sources = open_sources(path)
    low, high = (round(s * SAMPLE_RATE) for s in (config.min_seconds, config.max_seconds))
    fitting = []
    for source in sources:
        samples = source.manifest.samples
        fits = (samples >= low) & (samples <= high)
        if fits.any():
            fitting.append(source.select(fits))
    if not fitting:
        raise UserError(
            f"{path}: no utterance has between {config.min_seconds:g} and "
            f"{config.max_seconds:g} s; change --config.data.min_seconds and max_seconds"
        )
    written, labels = transcribed(fitting, alphabet)
    corpus = Corpus(written, cache_bytes=int(config.cache_gigabytes * 1e9))
    total, fit = (sum(len(source.manifest) for source in some) for some in (sources, fitting))
    print(
        f"{name}: {len(corpus)} utterances, {corpus.hours * 60:.1f} min; left out: "
        f"{total - fit} by length, {fit - len(corpus)} by transcript",
        flush=True,
    )
    return corpus, labels


def initial_variables(path: str, encoder: EncoderConfig) -> dict[str, Any]:
    """{"params", "stats"} of an exported model's encoder; it must have the shape of `encoder`."""
    variables, exported = load_exported(path)
    encoder.check_same(encoder_of(exported, path), path)
    return {kind: tree.get("encoder", {}) for kind, tree in variables.items()}


def with_encoder(state: TrainState, encoder: dict[str, Any], keep_layers: int) -> TrainState:
    """The state with the encoder's arrays replaced, on the devices they were on.

    Only the first `keep_layers` blocks are taken over; those above keep their random weights.
    """

    def put(path, old, new):
        names = [key.key for key in path]
        if "layers" in names:
            kept = jnp.arange(len(old)).reshape(-1, *[1] * (old.ndim - 1)) < keep_layers
            new = jnp.where(kept, new, old)
        return jax.device_put(new, old.sharding)

    put_tree = lambda old, new: jax.tree_util.tree_map_with_path(put, old, new)  # noqa: E731
    params = state.params | {"encoder": put_tree(state.params["encoder"], encoder["params"])}
    stats = state.stats
    if stats:
        stats = stats | {"encoder": put_tree(stats["encoder"], encoder["stats"])}
    return state.replace(params=params, stats=stats)


def main(config: ConfigDict, workdir: str) -> TrainState:
    """Trains as `config` says and returns the last state; continues where WORKDIR stands."""
    command_line.enable_compilation_cache()
    alphabet = Alphabet.from_letters(config.letters) if config.letters else Alphabet.english()
    settings = command_line.run_settings(config, "ctc") | {"alphabet": alphabet.to_dict()}
    mesh = make_mesh(config.mesh)
    data = config.data
    encoder = EncoderConfig.from_dict(config.model)

    corpus, labels = open_transcribed(data, data.train, alphabet, "training")
    edges = bucket_edges(corpus.lengths, data.num_buckets)
    batch = round(data.batch_seconds * SAMPLE_RATE)
    buckets = pad_buckets(corpus.lengths, edges, batch, data.row_multiple)
    check_rows(buckets, shards_of_batch(mesh), data.accumulation)
    buckets = mixing.by_config(
        buckets, corpus, data.mix, weights=data.mix_weights, alpha=data.mix_alpha
    )
    plan = BatchPlan(buckets, seed=config.seed, num_steps=config.num_steps)
    bad = {"max_bad_share": data.max_bad_share}
    loader = Loader(
        corpus, config.seed, data.accumulation, crop=False, labels=labels, **bad,
        augmentation=augmentation.open_augmentation(data.augment, config.seed),
    )  # fmt: skip

    evaluate = None
    if data.valid:
        held_out, held_out_labels = open_transcribed(data, data.valid, alphabet, "validation")
        edges = bucket_edges(held_out.lengths, data.num_buckets)
        shards = shards_of_batch(mesh)
        at_once = batch // data.accumulation  # what fits into memory
        specs = sequential(pad_buckets(held_out.lengths, edges, at_once, shards), shards)
        recognizer = Recognizer(encoder, alphabet, sharding=replicated(mesh))
        recognize = on_mesh(recognizer.batches, mesh)
        held_out_loader = Loader(held_out, 0, crop=False, replace_bad=False, **bad)

        def evaluate(state: TrainState) -> dict[str, float]:
            batches = iterate(specs, held_out_loader, sharding=batch_sharding(mesh))
            texts = recognize({"params": state.params, "stats": state.stats}, batches)
            references = [alphabet.decode(held_out_labels[i]) for i in texts]
            result = score(references, list(texts.values()))
            return {"valid/wer": result.wer, "valid/cer": result.cer}

    newer = {"model": encoder.earlier_keys()}
    newer["data"] = mixing.DEFAULTS | {"augment": augmentation.DEFAULTS}
    check_unchanged(workdir, settings, newer)
    if not config.init_from and (config.freeze_steps or encoder.feature_grad_mult == 0):
        log.warning(
            "a random encoder is frozen (freeze_steps %d, model.feature_grad_mult %g): to train "
            "from scratch set --config.freeze_steps=0 --config.model.feature_grad_mult=1.0",
            config.freeze_steps, encoder.feature_grad_mult,
        )  # fmt: skip
    optimizer = make_optimizer(config.optim, freeze="encoder", freeze_steps=config.freeze_steps)
    schedule = make_schedule(config.optim, config.num_steps)
    step = make_train_step(
        make_loss(config, len(alphabet)), optimizer, schedule, seed=config.seed,
        freeze="encoder", freeze_steps=config.freeze_steps,
    )  # fmt: skip
    model = CTCModel(encoder, len(alphabet))

    def init() -> Any:
        return model.init(jax.random.key(config.seed), jnp.zeros((1, SAMPLE_RATE), jnp.int16))

    state, train_step = build(init, optimizer, step, mesh)
    if config.init_from and not has_checkpoint(workdir):
        kept = encoder.num_layers - config.reinit_layers
        state = with_encoder(state, initial_variables(config.init_from, encoder), kept)
    return train(
        state,
        train_step,
        lambda start: iterate(
            plan,
            loader,
            start=start,
            threads=data.threads,
            workers=data.workers,
            sharding=batch_sharding(mesh),
        ),
        workdir=workdir,
        num_steps=config.num_steps,
        log_steps=config.log_steps,
        save_steps=config.save_steps,
        eval_steps=config.eval_steps,
        evaluate=evaluate,
        data_metrics=loader.metrics,
        meta={"training manifest": corpus.digest},
    )


if __name__ == "__main__":
    command_line.run_training(main)
