"""Pre-trains wav2vec 2.0 on unlabelled audio.

python -m w2v_jax.pretrain --config=configs/wav2vec2.py:base --workdir=runs/base
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import augmentation, mixing
from w2v_jax.data.batches import check_rows, iterate
from w2v_jax.data.items import Corpus, concatenated
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import BatchPlan, Bucket, crop_buckets, sequential
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError
from w2v_jax.interop.exported import encoder_of
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.wav2vec2 import PretrainingOutput, Wav2Vec2
from w2v_jax.objectives.contrastive import (
    across_batch,
    average_usage,
    code_perplexity,
    contrastive_loss,
    diversity_loss,
    gumbel_noise,
    gumbel_temperature,
    perplexity,
    sample_cross_negatives,
    sample_negatives,
)
from w2v_jax.objectives.masking import masked_frames, max_masked, span_mask, utterance_keys
from w2v_jax.training.checkpoint import has_checkpoint, load_exported
from w2v_jax.training.loop import check_unchanged, train
from w2v_jax.training.optim import make_optimizer, make_schedule
from w2v_jax.training.sharding import batch_sharding, make_mesh, replicated, shards_of_batch
from w2v_jax.training.state import LossOutput, TrainState, build, make_train_step, on_mesh

BITS = 1 / math.log(2)
# loss keys that runs of an earlier version lack
NEGATIVES = {"negatives_from": "masked", "cross_negatives": 0}
VALIDATION_KEY = 0  # masks and negatives of the validation set are the same at every evaluation


def masked_prediction(config: ConfigDict, *, train: bool):
    """`forward(variables, batch, step, keys) -> (model output, Task)`: one pass over the masked
    frames of a batch of full crops, with everything random keyed by utterance.
    """
    encoder = EncoderConfig.from_dict(config.model)
    quantizer = QuantizerConfig.from_dict(config.quantizer)
    settings = config.loss
    if settings.negatives_from not in ("masked", "everywhere"):
        raise UserError(
            f"loss.negatives_from is {settings.negatives_from!r}; it must be masked or everywhere"
        )
    everywhere = settings.negatives_from == "everywhere"
    model = Wav2Vec2(encoder, quantizer, train, everywhere)
    masking = config.masking.to_dict()

    def forward(variables, batch, step, keys, **kwargs):
        step_key, micro_key = keys
        rows, samples = batch["audio"].shape
        frames = encoder.frames(samples)
        mask_keys, negative_keys, gumbel_keys, cross_keys = (
            utterance_keys(jax.random.fold_in(step_key, i), batch["id"]) for i in range(4)
        )
        time_mask = span_mask(mask_keys, jnp.full(rows, frames), frames, **masking)
        size = max_masked(frames, **masking)
        index, valid = masked_frames(time_mask, size)
        present = batch["id"][:, None] >= 0
        valid &= present
        if everywhere:
            own, usable = index, jnp.broadcast_to(present, (rows, frames))
        else:
            own, usable = jnp.broadcast_to(jnp.arange(size), (rows, size)), valid
        gumbel = config.gumbel
        temperature = gumbel_temperature(step, gumbel.start, gumbel.end, gumbel.decay)
        noise = None
        if train:
            noise = gumbel_noise(gumbel_keys, (usable.shape[1], quantizer.groups, quantizer.codes))
        dropout, layerdrop = jax.random.split(micro_key)
        out = model.apply(
            variables, batch["audio"], None, time_mask, index, noise=noise, temperature=temperature,
            rngs={"dropout": dropout, "layerdrop": layerdrop}, **kwargs,
        )  # fmt: skip
        negatives = sample_negatives(negative_keys, usable.sum(1), size, settings.negatives, own)
        if settings.cross_negatives:
            cross = sample_cross_negatives(cross_keys, usable, own, settings.cross_negatives)
            offset = usable.shape[1] * jnp.arange(rows)[:, None, None]
            negatives = jnp.concatenate([negatives + offset, cross], -1)
        return out, Task(valid, usable, own, negatives, temperature)

    return forward


class Task(NamedTuple):
    """What is asked of the model's output; see `contrastive_loss`."""

    valid: jax.Array  # bool [B, M]: masked frames
    usable: jax.Array  # bool [B, K]: candidates, whose codes count
    own: jax.Array  # int32 [B, M]: the candidate that is the frame itself
    negatives: jax.Array  # int32 [B, M, N]; with cross_negatives into all B * K candidates
    temperature: jax.Array  # of the Gumbel softmax


def score_task(settings: ConfigDict, out: PretrainingOutput, task: Task):
    """The contrastive loss, won frames and frame count of a batch."""
    arrays = dict(
        context=out.context, targets=out.targets, codes=out.codes, negatives=task.negatives,
        valid=task.valid, own=task.own, usable=task.usable,
    )  # fmt: skip
    if settings.cross_negatives:
        arrays = across_batch(**arrays)
    elif settings.negatives_from == "masked":
        arrays["own"] = None  # frame i is candidate i: no gather
    return contrastive_loss(**arrays, temperature=settings.temperature)


def make_loss(config: ConfigDict):
    """The pre-training loss of one micro-batch, summed over its masked frames.

    contrastive + diversity_weight * diversity * frames + penalty_weight * penalty * frames
    (fairseq wav2vec_criterion.py): both extra terms weigh per masked frame.
    """
    forward = masked_prediction(config, train=True)
    settings = config.loss

    def loss(params, stats, batch, step, keys):
        variables = {"params": params, "stats": stats}
        (out, new), task = forward(variables, batch, step, keys, mutable=["stats"])
        contrastive, won, count = score_task(settings, out, task)
        diversity, soft = diversity_loss(out.code_logits, task.usable)
        count = count.astype(jnp.float32)
        extra = settings.diversity_weight * diversity + settings.penalty_weight * out.penalty
        hard = code_perplexity(out.codes, task.usable, out.code_logits.shape[-1])
        one = jnp.float32(1)
        metrics = {
            "train/contrastive_bits": (contrastive * BITS, count),
            "train/accuracy": (won.astype(jnp.float32), count),
            "train/code_perplexity": (hard, one),
            "train/prob_perplexity": (soft, one),
            "train/feature_penalty": (out.penalty, one),
            "train/temperature": (task.temperature, one),
        }
        return contrastive + extra * count, LossOutput(count, metrics, new.get("stats", {}))

    return loss


def make_evaluation(config: ConfigDict, mesh, specs, loader: Loader):
    """`evaluate(state) -> scalars` over the whole validation set, hard codes, no dropout."""
    forward = masked_prediction(config, train=False)

    def sums(state: TrainState, batch):
        batch = jax.tree.map(lambda x: x[0], batch)
        keys = (jax.random.key(VALIDATION_KEY),) * 2
        variables = {"params": state.params, "stats": state.stats}
        out, task = forward(variables, batch, state.step, keys)
        loss, won, count = score_task(config.loss, out, task)
        one_hot = jax.nn.one_hot(out.codes, config.quantizer.codes)
        return loss, won, count, average_usage(one_hot, task.usable) * count

    compiled = on_mesh(jax.jit(sums, out_shardings=replicated(mesh)), mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        total = None
        for batch, _ in iterate(specs, loader, sharding=batch_sharding(mesh)):
            part = jax.device_get(compiled(state, batch))
            total = part if total is None else jax.tree.map(lambda a, b: a + b, total, part)
        loss, won, count, usage = total
        groups = {
            f"valid/code_perplexity_{g}": float(perplexity(usage[g : g + 1] / count))
            for g in range(len(usage))
        }
        return {
            "valid/contrastive_bits": float(loss * BITS / count),
            "valid/accuracy": float(won / count),
            "valid/code_perplexity": sum(groups.values()),
            **groups,
        }

    return evaluate


def open_corpus(config: ConfigDict, path: str) -> Corpus:
    """The corpus of manifests, short utterances joined if the config says so."""
    corpus = Corpus(open_sources(path), cache_bytes=int(config.cache_gigabytes * 1e9))
    if config.concatenate_seconds:
        target = round(config.concatenate_seconds * SAMPLE_RATE)
        return concatenated(corpus, target, seed=0)
    return corpus


def make_buckets(config: ConfigDict, corpus: Corpus, name: str, multiple: int) -> list[Bucket]:
    """Crop buckets of a corpus; what is too short is reported."""
    crops = [round(seconds * SAMPLE_RATE) for seconds in config.crop_seconds]
    batch = round(config.batch_seconds * SAMPLE_RATE)
    if name == "validation":
        batch //= config.accumulation  # what fits into memory at once
    buckets = crop_buckets(corpus.lengths, crops, batch, multiple)
    used = sum(len(b.items) for b in buckets)
    if not used:
        raise UserError(
            f"{name}: no item of {len(corpus)} is as long as {min(config.crop_seconds):g} s; lower "
            "--config.data.crop_seconds, or join short ones with --config.data.concatenate_seconds"
        )
    kept = sum(len(b.items) * b.samples for b in buckets)
    print(
        f"{name}: {corpus.hours:.2f} h, {len(corpus)} items, {len(corpus) - used} shorter "
        f"than {min(config.crop_seconds):g} s left out; a pass hears "
        f"{kept / 3600 / SAMPLE_RATE:.2f} h; "
        + ", ".join(f"{len(b.items)} x {b.samples / SAMPLE_RATE:g} s" for b in buckets),
        flush=True,
    )
    return buckets


def with_exported(
    state: TrainState, path: str, encoder: EncoderConfig, quantizer: QuantizerConfig
) -> TrainState:
    """The state with the arrays of an exported pre-trained model, on the devices they were on.

    The optimizer starts anew. Raises UserError for a model of another shape.
    """
    variables, exported = load_exported(path, "pretrained")
    encoder.check_same(encoder_of(exported, path), path)
    old = QuantizerConfig.from_dict(exported["quantizer"])
    if old != quantizer:
        raise UserError(f"the quantizer in {path} is another one: {old} there, {quantizer} here")
    put = lambda old, new: jax.device_put(new, old.sharding)  # noqa: E731
    return state.replace(
        params=jax.tree.map(put, state.params, variables["params"]),
        stats=jax.tree.map(put, state.stats, variables["stats"]),
    )


def main(config: ConfigDict, workdir: str) -> TrainState:
    """Trains as `config` says and returns the last state; continues where WORKDIR stands."""
    command_line.enable_compilation_cache()
    settings = command_line.run_settings(config, "pretrained")
    encoder = EncoderConfig.from_dict(config.model)
    quantizer = QuantizerConfig.from_dict(config.quantizer)
    model = Wav2Vec2(encoder, quantizer)
    mesh = make_mesh(config.mesh)
    data = config.data
    corpus = open_corpus(data, data.train)
    buckets = make_buckets(data, corpus, "training", data.row_multiple)
    check_rows(buckets, shards_of_batch(mesh), data.accumulation)
    buckets = mixing.by_config(
        buckets, corpus, data.mix, weights=data.mix_weights, alpha=data.mix_alpha
    )
    plan = BatchPlan(buckets, seed=config.seed, num_steps=config.num_steps)
    loader = Loader(
        corpus, config.seed, data.accumulation, max_bad_share=data.max_bad_share,
        augmentation=augmentation.open_augmentation(data.augment, config.seed),
    )  # fmt: skip
    evaluate = None
    if data.valid:
        held_out = open_corpus(data, data.valid)
        shards = shards_of_batch(mesh)
        specs = sequential(make_buckets(data, held_out, "validation", shards), shards)
        evaluation_loader = Loader(held_out, 0, replace_bad=False, max_bad_share=data.max_bad_share)
        evaluate = make_evaluation(config, mesh, specs, evaluation_loader)

    newer = {"model": encoder.earlier_keys(), "loss": NEGATIVES}
    newer["data"] = mixing.DEFAULTS | {"augment": augmentation.DEFAULTS}
    check_unchanged(workdir, settings, newer)
    optimizer = make_optimizer(config.optim)
    schedule = make_schedule(config.optim, config.num_steps)

    def init() -> Any:
        frames = encoder.frames(SAMPLE_RATE)
        return model.init(
            jax.random.key(config.seed),
            jnp.zeros((1, SAMPLE_RATE), jnp.int16),
            None,
            jnp.zeros((1, frames), bool),
            jnp.zeros((1, 2), jnp.int32),
        )

    step = make_train_step(make_loss(config), optimizer, schedule, seed=config.seed)
    state, train_step = build(init, optimizer, step, mesh)
    if config.init_from and not has_checkpoint(workdir):
        state = with_exported(state, config.init_from, encoder, quantizer)
    count = sum(x.size for x in jax.tree.leaves(state.params))
    print(f"{count:,} parameters, mesh {dict(mesh.shape)}", flush=True)
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
