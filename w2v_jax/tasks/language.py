"""Training of a language model of letters or words to predict the next token.

Configs of the kind "language": configs/lm.py.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2v_jax.data.plan import bucket_edges, pad_buckets
from w2v_jax.data.text import BLOCK, TextLoader, open_text, text_arrays, word_counts
from w2v_jax.errors import UserError
from w2v_jax.measuring.flops import language_flops
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.language import LanguageConfig, LanguageModel, block_stack
from w2v_jax.objectives.language import next_token_loss
from w2v_jax.tasks.task import Data, Shape, Task
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.text.vocabulary import Vocabulary
from w2v_jax.training.metrics import TOKENS
from w2v_jax.training.sharding import shards_of_batch
from w2v_jax.training.state import TrainState
from w2v_jax.training.task import Context, LossOutput, Variables


class Language(Task):
    """Sentences, padded to a few lengths -> the next token at every token; lengths are tokens."""

    command = "train_lm"
    recipe = "lm.py:letters_tiny"
    best_by = "valid/perplexity"
    loss_scalar = "train/loss"
    reads = "text"
    measure = TOKENS
    keys = (
        *Task.keys, "data.batch_tokens", "data.num_buckets", "unit", "letters", "language",
        "num_words",
    )  # fmt: skip

    def __init__(self, config):
        self.model = LanguageConfig.from_dict(config.model, config.execution)
        self.letters = Vocabulary(Alphabet.from_letters(config.letters, config.language))
        super().__init__(config)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Letters, or the most frequent words of the training text."""
        if self.config.unit == "letters":
            return self.letters
        counts = word_counts(self.config.data.train, self.letters)
        return Vocabulary.most_frequent(self.letters.alphabet, counts, self.config.num_words)

    @property
    def outputs(self) -> int:
        """The number of tokens; without a training text the most that there may be."""
        if self.config.unit == "words" and not self.config.data.train:
            return Vocabulary.most(self.config.num_words)
        return len(self.vocabulary)

    # data: sentences as rows of tokens

    def _buckets(self, lengths: np.ndarray, tokens: int, multiple: int):
        edges = bucket_edges(lengths, self.config.data.num_buckets, BLOCK)
        return pad_buckets(lengths, edges, tokens, multiple)

    def open(self, path: str, mesh: Mesh, *, held_out: bool = False) -> Data:
        tokens, multiple = self.config.data.batch_tokens, self.config.data.row_multiple
        accumulation = self.config.run.accumulation
        if held_out:  # as much at a time as fits into memory at once
            tokens, multiple, accumulation = tokens // accumulation, shards_of_batch(mesh), 1
        else:
            print(f"{len(self.vocabulary)} tokens ({self.vocabulary.unit})")
        corpus = open_text(path, self.vocabulary, self.model.max_tokens)
        print(f"{'validation' if held_out else 'training'}: {corpus}", flush=True)
        buckets = self._buckets(corpus.lengths, tokens, multiple)
        return Data(buckets, TextLoader(corpus, accumulation, **self.reading(mesh)))

    def shapes(self) -> list[Shape]:
        """The edges of the buckets depend on the text; the longest stands for them."""
        data = self.config.data
        longest = np.array([self.model.max_tokens])
        found = self._buckets(longest, data.batch_tokens, data.row_multiple)
        return [Shape(bucket.rows, bucket.samples) for bucket in found]

    def arrays(self, shape: tuple[int, int], length: int) -> dict[str, tuple[tuple, type]]:
        return text_arrays(shape, length)

    def example(self, shape: tuple[int, int], length: int) -> dict[str, np.ndarray]:
        """Rows of tokens that are drawn evenly: what they are costs nothing."""
        if length > self.model.max_tokens:
            raise UserError(
                f"rows of {length} tokens are longer than --config.model.max_tokens="
                f"{self.model.max_tokens}"
            )
        batch = {name: np.zeros(*array) for name, array in self.arrays(shape, length).items()}
        drawn = np.random.default_rng(0).integers(self.outputs, size=batch["tokens"].shape)
        batch["tokens"][:] = drawn
        batch["length"][:] = length
        batch["id"][:] = np.arange(shape[0] * shape[1]).reshape(shape)
        return batch

    # model and loss

    def init(self) -> Variables:
        model = LanguageModel(self.model, self.outputs)
        return model.init(jax.random.key(self.seed), jnp.zeros((1, 8), jnp.int32))

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """The cross entropy, summed over tokens.

        Metrics: train/loss in nats per token; train/perplexity is the mean over micro-batches, a
        little above e^loss.
        """
        model = LanguageModel(self.model, self.outputs, train=True)
        tokens, length = batch["tokens"], batch["length"]
        params = {"params": variables["params"]}
        logits = model.apply(params, tokens, rngs={"dropout": context.micro_key})
        total, count = next_token_loss(logits, tokens, length)
        size = jnp.float32(tokens.size)
        metrics = {
            "train/loss": (total, count),
            "train/perplexity": (jnp.exp(total / count.clip(1)), jnp.float32(1)),
            "train/padding_share": (size - length.sum(), size),
        }
        return total, LossOutput(count, metrics, variables["stats"])

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """Perplexities per token and per word, ends of sentences included."""
        model, corpus = LanguageModel(self.model, self.outputs), data.loader.corpus

        def sums(variables: Variables, batch):
            logits = model.apply({"params": variables["params"]}, batch["tokens"])
            return next_token_loss(logits, batch["tokens"], batch["length"])

        total = self.summed(sums, data, mesh)

        def evaluate(variables: Variables) -> dict[str, float]:
            loss, count = total(variables)
            return {
                "valid/loss": loss / count,
                "valid/perplexity": math.exp(loss / count),
                "valid/word_perplexity": math.exp(loss / (corpus.words + corpus.sentences)),
            }

        return evaluate

    def described(self) -> dict[str, Any]:
        return {
            "kind": self.config.kind, "model": self.model.to_dict(),
            "alphabet": self.letters.alphabet.to_dict(), "vocabulary": self.vocabulary.to_dict(),
            "tokens": self.outputs, "execution": {"dtype": self.model.execution.dtype},
        }  # fmt: skip

    # what it costs

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        return language_flops(self.model, self.outputs, length)

    def training_flops(self, length: int, *, layerdrop: bool = False) -> float:
        return 3 * sum(self.forward_flops(length).values())

    def inference(self, variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
        """Logits of the next token, float32 [B, L, V]."""
        params = {"params": variables["params"]}
        return LanguageModel(self.model, self.outputs).apply(params, batch["tokens"])

    def inference_flops(self, length: int) -> float:
        return sum(self.forward_flops(length).values())

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        cfg, table = self.model, state.params["embedding"]
        count, length = batch["tokens"].shape
        x = noise(count, length, cfg.width, dtype=cfg.compute_dtype)
        blocks = block_stack(cfg, train=True)

        def stack(moving, fixed, key):
            params = {"params": moving[0]}
            return blocks.apply(params, moving[1], None, rngs={"dropout": key})[0]

        yield Part("blocks", stack, (state.params["layers"], x), None)

        def loss(moving, batch, key):
            table, x = moving
            logits = jnp.einsum(
                "bld,vd->blv", x, table.astype(x.dtype), preferred_element_type=jnp.float32
            )
            return next_token_loss(logits, batch["tokens"], batch["length"])[0]

        yield Part("softmax and loss", loss, (table, x), batch)
