"""Fine-tunes an encoder with CTC on transcribed audio, pre-trained or from random weights.

python -m w2v_jax.finetune --config=configs/finetune.py:split=10h,size=base \
    --workdir=runs/base-10h --config.init_from=runs/base/export
"""

import logging

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus, transcribed
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import bucket_edges, pad_buckets, sequential
from w2v_jax.data.sources import open_sources
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.errors import UserError
from w2v_jax.evaluation.scoring import score
from w2v_jax.interop.exported import encoder_of
from w2v_jax.models.config import EncoderConfig
from w2v_jax.run import parts, run, training_data
from w2v_jax.tasks.alarms import ctc_alarms
from w2v_jax.tasks.finetuning import finetuning_task
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import load_exported
from w2v_jax.training.initial import take_over
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.sharding import batch_sharding, make_mesh, replicated, shards_of_batch
from w2v_jax.training.state import TrainState, on_mesh

log = logging.getLogger(__name__)


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


def with_encoder(
    state: TrainState, path: str, config: EncoderConfig, keep_layers: int, *, partial: bool = False
) -> TrainState:
    """The state with the encoder of an exported model, on the devices it was on.

    Only the first `keep_layers` blocks are taken over; those above keep their random weights.
    Raises UserError for an encoder of another shape; with `partial` what fits is taken over.
    """
    variables, exported = load_exported(path)
    if not partial:
        config.check_same(encoder_of(exported, path), path)
    trees = {"params": state.params, "stats": state.stats}
    current = {kind: tree["encoder"] for kind, tree in trees.items() if "encoder" in tree}
    given = {kind: variables[kind].get("encoder", {}) for kind in current}
    taken = take_over(current, given, path, partial=partial)

    def above(path, old, new):
        if "layers" not in [key.key for key in path] or keep_layers >= config.num_layers:
            return new
        kept = jnp.arange(len(old)).reshape(-1, *[1] * (old.ndim - 1)) < keep_layers
        return jax.device_put(jnp.where(kept, new, old), old.sharding)

    taken = jax.tree_util.tree_map_with_path(above, current, taken)
    return state.starting_from(
        **{k: tree | ({"encoder": taken[k]} if k in taken else {}) for k, tree in trees.items()}
    )


def main(config: ConfigDict, workdir: str) -> TrainState | None:
    """Trains as `config` says and returns the last state; continues where WORKDIR stands."""
    command_line.enable_compilation_cache()
    alphabet = Alphabet.from_letters(config.letters)
    settings = command_line.run_settings(config, "ctc") | {"alphabet": alphabet.to_dict()}
    mesh = make_mesh(config.mesh)
    data = config.data
    encoder = EncoderConfig.from_dict(config.model)

    corpus, labels = open_transcribed(data, data.train, alphabet, "training")
    edges = bucket_edges(corpus.lengths, data.num_buckets)
    batch = round(data.batch_seconds * SAMPLE_RATE)
    buckets = pad_buckets(corpus.lengths, edges, batch, data.row_multiple)
    plan, loader = training_data(config, corpus, buckets, mesh, crop=False, labels=labels)

    evaluate = None
    if data.valid:
        held_out, held_out_labels = open_transcribed(data, data.valid, alphabet, "validation")
        edges = bucket_edges(held_out.lengths, data.num_buckets)
        shards = shards_of_batch(mesh)
        at_once = batch // data.accumulation  # what fits into memory
        specs = sequential(pad_buckets(held_out.lengths, edges, at_once, shards), shards)
        recognizer = Recognizer(encoder, alphabet, sharding=replicated(mesh))
        recognize = on_mesh(recognizer.texts, mesh)
        held_out_loader = Loader(
            held_out, 0, crop=False, replace_bad=False, max_bad_share=data.max_bad_share,
            **parts(mesh),
        )  # fmt: skip

        def evaluate(state: TrainState) -> dict[str, float]:
            batches = iterate(specs, held_out_loader, sharding=batch_sharding(mesh))
            texts = recognize(state.variables, batches)
            references = [alphabet.decode(held_out_labels[i]) for i in texts]
            result = score(references, list(texts.values()))
            empty = sum(not text for text in texts.values()) / len(texts)
            return {"valid/wer": result.wer, "valid/cer": result.cer, "valid/empty_share": empty}

    if not config.init_from and (config.freeze_steps or encoder.feature_grad_mult == 0):
        log.warning(
            "a random encoder is frozen (freeze_steps %d, model.feature_grad_mult %g): to train "
            "from scratch set --config.freeze_steps=0 --config.model.feature_grad_mult=1.0",
            config.freeze_steps, encoder.feature_grad_mult,
        )  # fmt: skip

    def begin(state: TrainState) -> TrainState:
        if not config.init_from:
            return state
        kept = encoder.num_layers - config.reinit_layers
        return with_encoder(state, config.init_from, encoder, kept, partial=config.partial_init)

    return run(
        config, workdir, settings, {"model": encoder.earlier_keys()},
        task=finetuning_task(config, len(alphabet)), mesh=mesh, plan=plan, loader=loader,
        evaluate=evaluate, begin=begin,
        alarms=ctc_alarms(
            freeze_steps=config.freeze_steps,
            warmup_steps=warmup_steps(config.optim, config.num_steps),
        ),
    )  # fmt: skip


if __name__ == "__main__":
    command_line.run_training(main)
