"""The table of keys: it knows every key of every config that is shipped, and refuses what lies
outside of its ranges."""

import dataclasses
import functools
from pathlib import Path

import pytest

from tests import small
from w2v_jax.configs import (
    best_rq,
    c_siam,
    common,
    conformer,
    continued,
    data2vec,
    discrete_bert,
    evaluate,
    finetune,
    hubert,
    lm,
    quickstart,
    slim_ipl,
    wav2vec2,
    wav2vec_aug,
    wav2vec_conformer,
)
from w2v_jax.data import augmentation, mixing
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.errors import UserError
from w2v_jax.keys.__main__ import text
from w2v_jax.keys.check import check_values, flat, lines, must, shown
from w2v_jax.keys.table import DEFAULTED, KEYS, SEARCH
from w2v_jax.models.config import (
    BLOCKS,
    OUTPUTS,
    QUANTIZERS,
    EncoderConfig,
    PredictionConfig,
    QuantizerConfig,
)
from w2v_jax.models.frontends import FRONTENDS, WaveformConfig
from w2v_jax.models.heads.predictor import PREDICTORS
from w2v_jax.models.kernels import FORMS
from w2v_jax.models.kernels.norm_activation import ACTIVATIONS
from w2v_jax.models.language import LanguageConfig
from w2v_jax.models.positions import POSITIONS
from w2v_jax.tasks import TASKS, make_task
from w2v_jax.training.loop import LoopOptions
from w2v_jax.training.optim import OPTIMIZERS

KINDS = (
    "block=conformer,positions=relative", "block=conformer,positions=rotary",
    "block=conformer,positions=shaw", "block=conformer,positions=none", "positions=sinusoidal",
    "positions=conv_stack",
    "frontend=logmel", "frontend=units", "output=strided", "output=attentive", "quantizer=linear",
)  # fmt: skip


@functools.cache
def shipped():
    """Every config that the files of configs/ make for a training."""
    found = [wav2vec2.get_config(size) for size in ("tiny", "base", *wav2vec2.STEPS)]
    found += [wav2vec2.get_config(f"tiny,{kinds}") for kinds in KINDS if "output" not in kinds]
    found += [best_rq.get_config(size) for size in best_rq.SIZES]
    found += [c_siam.get_config(size) for size in c_siam.SIZES]
    found += [c_siam.get_config(f"tiny,predictor={kind}") for kind in PREDICTORS]
    found += [continued.get_config(size) for size in ("base", "large_lv60k", "quickstart")]
    found += [hubert.get_config(size) for size in (*hubert.SMALL, *hubert.PUBLISHED)]
    found += [hubert.get_config(f"{size},iteration=2") for size in ("tiny", "quickstart", "base")]
    found += [discrete_bert.get_config(size) for size in discrete_bert.SIZES]
    found += [data2vec.get_config(size) for size in (*data2vec.SMALL, *data2vec.PUBLISHED)]
    found += [data2vec.get_config("quickstart,frontend=logmel")]
    for size, splits in finetune.RECIPES.items():
        found += [finetune.get_config(f"split={split},size={size}") for split in splits]
    found += [slim_ipl.get_config(argument) for argument in ("tiny", "quickstart")]
    found += [slim_ipl.get_config(f"split={split},size=base") for split in finetune.RECIPES["base"]]
    encoders = [kinds for kinds in KINDS if "quantizer" not in kinds]
    found += [finetune.get_config(f"split=10h,size=tiny,{kinds}") for kinds in encoders]
    found += [conformer.get_config(size) for size in conformer.SIZES]
    found += [conformer.get_config(f"tiny,ablation={name}") for name in conformer.ABLATIONS]
    found += [wav2vec_conformer.get_config(size) for size in wav2vec_conformer.SIZES]
    found += [wav2vec_conformer.get_config("xl,quantizer=gumbel")]
    found += [wav2vec_aug.get_config(size) for size in wav2vec_aug.SIZES]
    found += [lm.get_config(size) for size in lm.SIZES]
    return [*found, *map(quickstart.get_config, ("pretrain", "finetune"))]


def nested(values):
    """Plain dicts of a config: they take values of any type."""
    return {k: nested(v) if hasattr(v, "keys") else v for k, v in values.items()}


def put(config, key, value):
    *parents, leaf = key.split(".")
    for parent in parents:
        config = config[parent]
    config[leaf] = value


def test_every_key_of_every_shipped_config_is_in_the_table():
    for config in shipped():
        task = make_task(config)
        assert check_values(config, task.keys) == dict(flat(config))
    for argument in ("", "split=10h,size=base"):
        SearchOptions.from_config(evaluate.get_config(argument))


def test_every_row_of_the_table_is_a_key_of_some_config():
    used = {key for config in shipped() for key in dict(flat(config))}
    assert set(KEYS) == used
    assert set(SEARCH) == set(evaluate.get_config()) == {
        field.name for field in dataclasses.fields(SearchOptions)
    }  # fmt: skip
    assert all(row.meaning for row in (*KEYS.values(), *SEARCH.values()))


@pytest.mark.parametrize("key", KEYS)
def test_what_lies_outside_of_a_range_is_refused(key):
    """By an error that names key, value and what it must be, and is short."""
    config = next(config for config in shipped() if key in dict(flat(config)))
    keys, row = TASKS[config.kind].keys, KEYS[key]
    for value in row.range.outside():
        changed = nested(config)
        put(changed, key, value)
        assert not row.range.takes(value), value
        with pytest.raises(UserError) as raised:
            make_task(changed) if key == "kind" else check_values(changed, keys)
        words = str(raised.value)
        assert len(words) < 1000
        assert key in words
        if key != "kind" and "it is a group" not in words:
            assert f"--config.{key}=" in words
            assert must(row) in words


@pytest.mark.parametrize("key", SEARCH)
def test_what_lies_outside_of_a_range_of_a_search_is_refused(key):
    for value in SEARCH[key].range.outside():
        with pytest.raises(UserError, match=f"^{key} is .*; it must be "):
            SearchOptions(**{key: value})
        config = nested(evaluate.get_config()) | {key: value}
        with pytest.raises(UserError, match=f"^--config.{key}="):
            SearchOptions.from_config(config)


def test_settings_that_are_made_directly_are_checked():
    rows = {key: row for key, row in KEYS.items() if key.startswith("prediction.")}
    for key, row in rows.items():
        for value in row.range.outside():
            with pytest.raises(UserError, match=key):
                PredictionConfig(**{key.rpartition(".")[2]: value})
    for make, words in (
        (lambda: QuantizerConfig(codes=1), "quantizer.codes is 1; it must be a whole number"),
        (lambda: EncoderConfig(num_layers=0), "model.num_layers is 0; it must be"),
        (lambda: LanguageConfig(max_tokens=1), "model.max_tokens is 1; it must be"),
        (lambda: WaveformConfig(conv_layers=(5,)), r"model.frontend.conv_layers is \(5,\); it"),
        (lambda: LoopOptions(0, 1, 1, 1), "num_steps is 0; it must be"),
        (lambda: LoopOptions(1, 1, 1, 1, keep_last=0), "run.keep_last is 0; it must be"),
    ):
        with pytest.raises(UserError, match=words):
            make()


def test_the_choices_are_those_of_the_code():
    def words(key):
        return set(KEYS[key].range.words)

    unions = {"frontend": FRONTENDS, "block": BLOCKS, "positions": POSITIONS, "output": OUTPUTS}
    for name, members in unions.items():
        assert words(f"model.{name}.kind") == set(members)
    assert set(common.KINDS) == set(unions)
    assert words("quantizer.kind") == set(QUANTIZERS)
    assert words("optim.kind") == set(OPTIMIZERS)
    assert words("model.activation") == set(ACTIVATIONS)
    for operation, forms in FORMS.items():
        assert words(f"execution.{operation}") == {"auto", *forms.values()}
    assert {f"data.{key}" for key in mixing.DEFAULTS} <= set(KEYS)
    assert {f"data.augment.{key}" for key in augmentation.DEFAULTS} <= set(KEYS)


@pytest.mark.parametrize(
    ("kind", "key", "value", "words"),
    [
        ("pretraining", "data.batch_seconds", 1e9, "above 0, at most 1,000,000 (s)"),
        ("pretraining", "loss.negatives", 0, "leave nothing to tell a frame from"),
        ("pretraining", "masking", {"prob": 0.0, "span": 3, "minimum": 0}, "mask no frame"),
        ("pretraining", "masking.span", 60, "as long as the shortest crop, 49 frames"),
        ("pretraining", "data.crop_seconds", (0.001, 1.0), "crops of 0.001 s have 0 frames"),
        ("pretraining", "data.crop_seconds", (2.0, 1.0), "='(2.0,1.0)' must be 1 to 64 values in"),
        ("pretraining", "data.crop_seconds", (1.0, "a"), """='(1.0,"a")' must be"""),
        ("pretraining", "data.concatenate_seconds", 0.5, "set --config.data.concatenate_seconds=1"),
        ("pretraining", "quantizer.kind", "linear", "which belongs to quantizer.kind=gumbel"),
        ("pretraining", "gumbel.end", 5.0, "--config.gumbel.end=5.0 is above --config.gumbel.star"),
        ("pretraining", "optim.warmup_steps", 9, "more than --config.num_steps=8"),
        ("pretraining", "optim.schedule", "tri_stage", "needs optim.phases, which this config la"),
        ("pretraining", "model.num_heads", 5, "not divisible by model.num_heads 5; set --config.m"),
        ("pretraining", "model.block.kind", "lstm", "=lstm must be one of transformer, conformer"),
        ("pretraining", "model.block.kind", "conformer", "model.block.adapter_dim, which belongs"),
        ("pretraining", "run", 3, "config.run is 3; it is a group of keys, run."),
        ("pretraining", "run.keep_best", 1, "keep_best=1 keeps what scores best on --config.data"),
        ("pretraining", "data.mix", "weights", "needs a number above 0 in --config.data.mix_weig"),
        ("pretraining", "data.augment.noise_prob", 0.5, "set --config.data.augment.noise_manifest"),
        ("pretraining", "model.frontend.conv_layers", ((9, 9, 9),) * 40, "...' must be 1 to 32"),
        ("pretraining", "new", 3, "the config has new, which nothing reads; remove it"),
        ("pretraining", "loss.negative", 3, "remove it; did you mean --config.loss.negatives "),
        ("pretraining", "reinit_layers", 3, "a training of the kind wav2vec2 does not read"),
        ("finetuning", "reinit_layers", 9, "more than the model's --config.model.num_layers=2"),
        ("finetuning", "freeze_steps", 9, "--config.freeze_steps=9 is more than --config.num_ste"),
        ("finetuning", "optim.phases", (0.6, 0.5, 2.0), "(0.6,0.5,2.0)' add up to 3.1, not to 1"),
        ("finetuning", "optim.phases", (0.1, 0.4, 0.4), "='(0.1,0.4,0.4)' add up to 0.9, not to 1"),
        ("finetuning", "data.min_seconds", 3.0, "is not below --config.data.max_seconds=3.0"),
        ("language", "letters", "aab", "'a' given more than once"),
    ],
)  # fmt: skip
def test_values_that_do_not_go_together(kind, key, value, words):
    config = nested(getattr(small, kind)())
    put(config, key, value)
    config = small.ConfigDict(config, convert_dict=True)
    with pytest.raises(UserError) as raised:
        make_task(config)
    assert words in str(raised.value), str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "keys", [("data", "crop_seconds"), ("run",), ("execution",), ("loss", "negatives"), ("seed",)]
)
def test_a_config_that_lacks_keys_is_told_which(keys):
    config = nested(small.pretraining())
    node = config
    for key in keys[:-1]:
        node = node[key]
    del node[keys[-1]]
    with pytest.raises(UserError, match=rf"the config lacks {'.'.join(keys)}.*configs/common"):
        make_task(small.ConfigDict(config))


def test_many_values_are_named_at_once_and_the_rest_counted():
    config = nested(small.pretraining())
    for key in config["run"]["mesh"]:
        put(config, f"run.mesh.{key}", 0)
    for key in ("log_steps", "save_steps", "eval_steps", "keep_last"):
        put(config, f"run.{key}", -1)
    with pytest.raises(UserError, match=r"(?s)run\.mesh\.data=0 must be .* and 2 more$"):
        make_task(small.ConfigDict(config))


def test_a_line_for_every_key():
    found = lines(small.pretraining())
    assert len(found) == len(dict(flat(small.pretraining())))
    assert any(line.startswith("masking.span = 10 ") and "a whole number" in line for line in found)
    assert any("hypotheses kept" in line for line in lines(evaluate.get_config()))
    assert set(DEFAULTED) >= {"model", "execution", "quantizer"}
    assert len(shown("x" * 10_000)) < 100


def test_the_page_is_fresh():
    """python -m w2v_jax.keys > docs/keys.md"""
    assert text() == (Path(__file__).parents[2] / "docs" / "keys.md").read_text()


def test_numbers_of_any_length_are_told_their_range():
    for key in ("num_steps", "seed"):
        assert not KEYS[key].range.takes(10**400)


@pytest.mark.parametrize("config", [
    *(wav2vec2.get_config(size) for size in ("base", *wav2vec2.STEPS)), best_rq.get_config("base"),
    discrete_bert.get_config("base"), data2vec.get_config("base"),
    wav2vec_conformer.get_config("xl"),
])  # fmt: skip
def test_crops_are_a_multiple_of_16_frames(config):
    """Products of other numbers of rows are padded by the libraries of accelerators."""
    frontend = make_task(config).encoder.frontend
    samples = [round(seconds * 16_000) for seconds in config.data.crop_seconds]
    assert [n for n in samples if frontend.frames(n) % 16] == []
    if frontend.kind == "waveform":  # a log-mel frame has room for 3 more of the spectrum
        assert [n for n in samples if frontend.frames(n - 1) == frontend.frames(n)] == []
