"""The language model: it sees the past alone and learns a grammar."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.promises import contract
from w2v_jax.configs import lm
from w2v_jax.errors import UserError
from w2v_jax.export import export
from w2v_jax.interop.exported import expected_shapes
from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.models.settings import Execution
from w2v_jax.objectives.language import next_token_loss
from w2v_jax.run import run
from w2v_jax.training.checkpoint import load_exported
from w2v_jax.training.writer import read_lines

CONFIG = LanguageConfig(width=16, num_layers=2, num_heads=2, feed_forward=32)
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 12)).astype(np.int32)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(LanguageModel(CONFIG, 11).init)(jax.random.key(0), TOKENS)


def logits(variables, tokens, **changes):
    rngs = {"dropout": jax.random.key(1)}
    execution = {key: changes.pop(key) for key in ("layers", "remat") if key in changes}
    config = dataclasses.replace(CONFIG, execution=Execution(**execution), **changes)
    model = LanguageModel(config, 11, train=bool(changes))
    return jax.jit(lambda v, x: model.apply(v, x, rngs=rngs))(variables, tokens)


@pytest.mark.parametrize("changes", [{}, dict(dropout=0.0, attention_dropout=0.2)], ids=str)
def test_a_token_depends_on_those_before_and_on_nothing_else(variables, changes):
    """Also where the attention's weights are dropped, which is another program."""
    before = logits(variables, TOKENS, **changes)
    for place in (5, 11):
        tokens = TOKENS.copy()
        tokens[1, place] = (tokens[1, place] + 1) % 11
        after = logits(variables, tokens, **changes)
        changed = np.abs(after - before).max(-1) > 0
        assert not changed[[0, 2]].any()
        assert not changed[1, :place].any()
        assert changed[1, place:].all()


def test_padding_changes_nothing(variables):
    """Neither what is in it nor how much of it there is."""
    length = np.array([12, 7, 0], np.int32)

    def loss(params, tokens):
        return next_token_loss(LanguageModel(CONFIG, 11).apply(params, tokens), tokens, length)[0]

    gradient = jax.jit(jax.value_and_grad(loss))
    tokens = np.where(np.arange(12) < length[:, None], TOKENS, 0)
    longer = np.pad(TOKENS, ((0, 0), (0, 4)), constant_values=10)
    expected = gradient(variables, tokens)
    for other in (TOKENS, longer):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5),
            gradient(variables, other), expected,
        )  # fmt: skip


def test_the_loss_is_the_cross_entropy_of_valid_tokens():
    x = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)
    tokens, length = np.array([[0, 3, 2, 1], [0, 1, 4, 4]], np.int32), np.array([4, 2], np.int32)
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    expected = -np.log([p[0, 0, 3], p[0, 1, 2], p[0, 2, 1], p[1, 0, 1]]).sum()
    total, count = next_token_loss(jnp.array(x), tokens, length)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert count == 4


@pytest.mark.parametrize("changes", [dict(layers="unroll"), dict(remat="full"), dict(remat="dots")])
def test_switches_of_the_execution_change_no_number(variables, changes):
    expected = logits(variables, TOKENS, dropout=0.0, attention_dropout=0.0)
    found = logits(variables, TOKENS, dropout=0.0, attention_dropout=0.0, **changes)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_configs_are_checked():
    with pytest.raises(UserError, match=r"no key model\.depth"):
        LanguageConfig.from_dict({"depth": 3})
    with pytest.raises(UserError, match=r"model\.width 16 is not divisible by 3"):
        dataclasses.replace(CONFIG, num_heads=3)
    assert LanguageConfig.from_dict(CONFIG.to_dict()) == CONFIG


WORDS = ["ab", "ba", "c", "ca", "bc", "cab"]


def grammar(count, seed):
    """Sentences in which the first word decides all others: they follow each other in a circle."""
    rng = np.random.default_rng(seed)
    firsts, sizes = rng.integers(0, 6, count), rng.integers(4, 11, count)
    return [
        " ".join(WORDS[(first + i) % 6] for i in range(size))
        for first, size in zip(firsts, sizes, strict=True)
    ]


@pytest.fixture(scope="module")
def one_device():
    """Eight of them that share two cores may wait for each other for too long."""
    with contract.one_device():
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory, one_device):
    folder = tmp_path_factory.mktemp("text")
    for name, seed in (("train", 0), ("valid", 1)):
        (folder / f"{name}.txt").write_text("\n".join(grammar(200, seed)))
    config = lm.get_config("letters_tiny")
    config.update(unit="words", num_words=6, letters="abc")
    config.model.update(width=32, num_layers=2, num_heads=2, feed_forward=64, max_tokens=16)
    config.data.update(
        train=str(folder / "train.txt"), valid=str(folder / "valid.txt"), batch_tokens=512,
        num_buckets=1, row_multiple=8,
    )  # fmt: skip
    config.run.update(threads=1)  # fmt: skip
    config.optim.update(peak_lr=1e-2, warmup_steps=10)
    config.num_steps = 60
    config.run.update(log_steps=20, save_steps=25, eval_steps=60, hang_seconds=0.0)
    return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    workdir = str(tmp_path_factory.mktemp("run"))
    return workdir, run(config, workdir)


def test_it_learns_a_grammar(trained):
    """Far below the entropy of its words: only the first and the end of a sentence can surprise."""
    lines = read_lines(Path(trained[0]) / "metrics.jsonl")
    valid = [line for line in lines if "valid/loss" in line][-1]
    words = " ".join(f"{sentence} ." for sentence in grammar(200, 1)).split()
    shares = np.array([words.count(word) for word in set(words)]) / len(words)
    entropy = -(shares * np.log(shares)).sum()
    assert entropy > 1.9
    assert valid["valid/loss"] < 0.5 * entropy
    assert valid["valid/perplexity"] == pytest.approx(math.exp(valid["valid/loss"]))
    assert valid["valid/word_perplexity"] == pytest.approx(valid["valid/perplexity"])
    train = [line for line in lines if "train/loss" in line]
    assert 60 * 256 < train[-1]["time/tokens_read"] < 60 * 512
    assert train[-1]["time/tokens_per_second"] > 0


def test_another_text_is_refused(config, trained, tmp_path):
    """Be it the same sentences in another order."""
    other = config.copy_and_resolve_references()
    other.data.train = str(tmp_path / "text")
    Path(other.data.train).write_text("\n".join(grammar(200, 0)[::-1]))
    with pytest.raises(UserError, match="the training text has changed"):
        run(other, trained[0])


def test_export_and_load(trained, tmp_path):
    export(trained[0], str(tmp_path / "model"))
    variables, config = load_exported(tmp_path / "model")
    assert config["vocabulary"] == {"unit": "words", "words": [*config["vocabulary"]["words"]]}
    assert sorted(config["vocabulary"]["words"]) == sorted(WORDS)
    assert config["alphabet"]["symbols"][1:] == [*"|abc"]
    shapes = jax.tree.map(lambda x: x.shape, expected_shapes(config)["params"])
    assert jax.tree.map(lambda x: x.shape, variables["params"]) == shapes
    jax.tree.map(np.testing.assert_array_equal, variables["params"], trained[1].params)
    with pytest.raises(UserError, match="language model"):
        export(trained[0], str(tmp_path / "other"), form="huggingface")
