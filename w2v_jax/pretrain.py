"""Pre-trains wav2vec 2.0 on unlabelled audio.

python -m w2v_jax.pretrain --config=configs/wav2vec2.py:base --workdir=runs/base
"""

import jax
from ml_collections import ConfigDict

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus, concatenated
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import Bucket, crop_buckets, sequential
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError
from w2v_jax.interop.exported import encoder_of
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.objectives.contrastive import average_usage, dead_codes, perplexity
from w2v_jax.run import parts, run, training_data
from w2v_jax.tasks.alarms import pretraining_alarms
from w2v_jax.tasks.pretraining import (
    BITS,
    masked_prediction,
    pretraining_task,
    score_candidates,
)
from w2v_jax.training.checkpoint import load_exported
from w2v_jax.training.initial import take_over
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.sharding import batch_sharding, make_mesh, replicated, shards_of_batch
from w2v_jax.training.state import TrainState, on_mesh

# loss keys that runs of an earlier version lack
NEGATIVES = {"negatives_from": "masked", "cross_negatives": 0}
VALIDATION_KEY = 0  # masks and negatives of the validation set are the same at every evaluation


def make_evaluation(config: ConfigDict, mesh, specs, loader: Loader):
    """`evaluate(state) -> scalars` over the whole validation set, hard codes, no dropout."""
    forward = masked_prediction(config, train=False)

    def sums(state: TrainState, batch):
        batch = jax.tree.map(lambda x: x[0], batch)
        keys = (jax.random.key(VALIDATION_KEY),) * 2
        out, candidates = forward(state.variables, batch, state.step, keys)
        loss, won, count = score_candidates(config.loss, out, candidates)
        one_hot = jax.nn.one_hot(out.codes, config.quantizer.codes)
        return loss, won, count, average_usage(one_hot, candidates.usable) * count

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
            "valid/dead_codes": float(dead_codes(usage)),
            "valid/masked_frames": float(count),
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
    state: TrainState,
    path: str,
    encoder: EncoderConfig,
    quantizer: QuantizerConfig,
    *,
    partial: bool = False,
) -> TrainState:
    """The state with the arrays of an exported pre-trained model, on the devices they were on.

    The optimizer starts anew. Raises UserError for a model of another shape; with `partial` what
    fits is taken over.
    """
    variables, exported = load_exported(path, "pretrained")
    if not partial:
        encoder.check_same(encoder_of(exported, path), path)
        old = QuantizerConfig.from_dict(exported["quantizer"])
        if old != quantizer:
            raise UserError(
                f"the quantizer in {path} is another one: {old} there, {quantizer} here; use the "
                "same, or take over what fits with --config.partial_init=True"
            )
    current = {"params": state.params, "stats": state.stats}
    return state.starting_from(**take_over(current, variables, path, partial=partial))


def main(config: ConfigDict, workdir: str) -> TrainState | None:
    """Trains as `config` says and returns the last state; continues where WORKDIR stands."""
    command_line.enable_compilation_cache()
    settings = command_line.run_settings(config, "pretrained")
    encoder = EncoderConfig.from_dict(config.model)
    quantizer = QuantizerConfig.from_dict(config.quantizer)
    mesh = make_mesh(config.mesh)
    data = config.data
    corpus = open_corpus(data, data.train)
    buckets = make_buckets(data, corpus, "training", data.row_multiple)
    plan, loader = training_data(config, corpus, buckets, mesh)
    evaluate = None
    if data.valid:
        held_out = open_corpus(data, data.valid)
        shards = shards_of_batch(mesh)
        specs = sequential(make_buckets(data, held_out, "validation", shards), shards)
        evaluation_loader = Loader(
            held_out, 0, replace_bad=False, max_bad_share=data.max_bad_share, **parts(mesh)
        )
        evaluate = make_evaluation(config, mesh, specs, evaluation_loader)

    def begin(state: TrainState) -> TrainState:
        if not config.init_from:
            return state
        return with_exported(
            state, config.init_from, encoder, quantizer, partial=config.partial_init
        )

    return run(
        config, workdir, settings, {"model": encoder.earlier_keys(), "loss": NEGATIVES},
        task=pretraining_task(config), mesh=mesh, plan=plan, loader=loader, evaluate=evaluate,
        begin=begin,
        alarms=pretraining_alarms(
            groups=quantizer.groups, codes=quantizer.codes,
            negatives=config.loss.negatives + config.loss.cross_negatives,
            warmup_steps=warmup_steps(config.optim, config.num_steps),
        ),
    )  # fmt: skip


if __name__ == "__main__":
    command_line.run_training(main)
