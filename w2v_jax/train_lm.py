"""Trains a Transformer language model of letters or words, to rescore what a recognizer found.

python -m w2v_jax.train_lm --config=configs/lm.py:letters_base --workdir=runs/lm \
    --config.data.train=librispeech-lm-norm.txt.gz --config.data.valid=dev.txt
python -m w2v_jax.export --workdir=runs/lm --output=runs/lm/export
"""

import math

import jax
import numpy as np
from ml_collections import ConfigDict

from w2v_jax import command_line
from w2v_jax.data.batches import check_rows, iterate
from w2v_jax.data.plan import BatchPlan, bucket_edges, pad_buckets, sequential
from w2v_jax.data.text import BLOCK, TextCorpus, TextLoader, open_text, word_counts
from w2v_jax.errors import UserError
from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.objectives.language import next_token_loss
from w2v_jax.run import parts, run
from w2v_jax.tasks.alarms import SKIPPED
from w2v_jax.tasks.language import language_task
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.text.vocabulary import UNITS, Vocabulary
from w2v_jax.training.loop import TOKENS
from w2v_jax.training.sharding import batch_sharding, make_mesh, replicated, shards_of_batch
from w2v_jax.training.state import TrainState, on_mesh


def open_vocabulary(config: ConfigDict) -> Vocabulary:
    """The tokens that config.unit, num_words and letters ask for; words come from the text."""
    letters = Vocabulary(Alphabet.from_letters(config.letters))
    if config.unit not in UNITS:
        raise UserError(f"--config.unit={config.unit!r} must be one of {', '.join(UNITS)}")
    if config.unit == "letters":
        return letters
    counts = word_counts(config.data.train, letters)
    return Vocabulary.most_frequent(letters.alphabet, counts, config.num_words)


def buckets_of(config: ConfigDict, corpus: TextCorpus, tokens: int, multiple: int):
    """Buckets with batches of about `tokens`, and rows a multiple of `multiple`."""
    edges = bucket_edges(corpus.lengths, config.data.num_buckets, BLOCK)
    return pad_buckets(corpus.lengths, edges, tokens, multiple)


def evaluation(config: ConfigDict, vocabulary: Vocabulary, corpus: TextCorpus, mesh):
    """`evaluate(state)`: perplexities per token and per word, ends of sentences included."""
    shards = shards_of_batch(mesh)
    at_once = config.data.batch_tokens // config.data.accumulation  # what fits into memory
    specs = sequential(buckets_of(config, corpus, at_once, shards), shards)
    loader = TextLoader(corpus, **parts(mesh))
    model = LanguageModel(LanguageConfig.from_dict(config.model), len(vocabulary))

    def batch_loss(variables, tokens, length):
        return next_token_loss(model.apply(variables, tokens), tokens, length)

    batch_loss = on_mesh(jax.jit(batch_loss, out_shardings=replicated(mesh)), mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        total = np.zeros(2)
        params = {"params": state.variables["params"]}
        for batch, _ in iterate(specs, loader, sharding=batch_sharding(mesh)):
            total += jax.device_get(batch_loss(params, batch["tokens"][0], batch["length"][0]))
        loss, count = total
        return {
            "valid/loss": loss / count,
            "valid/perplexity": math.exp(loss / count),
            "valid/word_perplexity": math.exp(loss / (corpus.words + corpus.sentences)),
        }

    return evaluate


def main(config: ConfigDict, workdir: str) -> TrainState | None:
    """Trains as `config` says and returns the last state; continues where WORKDIR stands."""
    command_line.enable_compilation_cache()
    settings = command_line.run_settings(config, "language")
    mesh = make_mesh(config.mesh)
    data = config.data
    vocabulary = open_vocabulary(config)
    settings |= {"alphabet": vocabulary.alphabet.to_dict(), "vocabulary": vocabulary.to_dict()}

    longest = LanguageConfig.from_dict(config.model).max_tokens
    corpus = open_text(data.train, vocabulary, longest)
    print(f"{len(vocabulary)} tokens ({vocabulary.unit})\ntraining: {corpus}", flush=True)
    buckets = buckets_of(config, corpus, data.batch_tokens, data.row_multiple)
    check_rows(buckets, shards_of_batch(mesh), data.accumulation)
    evaluate = None
    if data.valid:
        held_out = open_text(data.valid, vocabulary, longest)
        print(f"validation: {held_out}", flush=True)
        evaluate = evaluation(config, vocabulary, held_out, mesh)

    return run(
        config, workdir, settings, {},
        task=language_task(config, len(vocabulary)), mesh=mesh,
        plan=BatchPlan(buckets, seed=config.seed, num_steps=config.num_steps),
        loader=TextLoader(corpus, data.accumulation, **parts(mesh)),
        evaluate=evaluate, alarms=(SKIPPED,), begin=lambda state: state, measure=TOKENS,
    )  # fmt: skip


if __name__ == "__main__":
    command_line.run_training(main)
