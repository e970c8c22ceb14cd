"""Small configs and batches shared by the tests."""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from w2v_jax.configs import best_rq as best_rq_configs
from w2v_jax.configs import c_siam as c_siam_configs
from w2v_jax.configs import common, lm
from w2v_jax.configs import data2vec as data2vec_configs
from w2v_jax.configs import discrete_bert as discrete_bert_configs
from w2v_jax.configs import hubert as hubert_configs
from w2v_jax.configs import slim_ipl as slim_ipl_configs
from w2v_jax.data import units
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sharing import Ragged
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.settings import Execution, member
from w2v_jax.tasks import TASKS
from w2v_jax.tasks.task import Task
from w2v_jax.text.alphabet import BOUNDARY, Alphabet
from w2v_jax.training.state import first_state, jitted_step, on_mesh

ROOT = Path(__file__).parent.parent

# dotted keys of a model that compiles in seconds
MODEL = {
    # the frame rate of the published models with four convolutions: a fifth less to compile
    "frontend.conv_layers": ((16, 10, 5), (16, 8, 4), (16, 4, 4), (24, 4, 4)),
    "width": 32, "num_layers": 2, "num_heads": 4, "feed_forward": 64,
}  # fmt: skip
POSITIONS = {"kind": "conv", "kernel": 16, "groups": 4}
NO_DROPOUT = dict(
    dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, dropout_input=0.0, layerdrop=0.0
)
EXECUTION = [field.name for field in dataclasses.fields(Execution)]


def changed(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """The config with dotted keys of its model, and of its execution, changed in place. A union's
    key takes a kind, or a dict with one."""
    for key, value in values.items():
        if key in EXECUTION:
            config.execution[key] = value
            continue
        *parents, leaf = key.split(".")
        node = config.model
        for parent in parents:
            node = node[parent]
        if isinstance(node[leaf], ConfigDict):
            union = EncoderConfig.__dataclass_fields__[leaf].metadata["union"]
            value = ConfigDict(member(union, value, leaf).to_dict())
            with config.unlocked():
                del node[leaf]
                node[leaf] = value
        else:
            node[leaf] = value
    if values.get("dropout") == 0.0 and "dropout" in config.model.block:
        config.model.block.dropout = 0.0
    if "quantizer" in config and values.get("dropout_input") == 0.0:
        config.quantizer.dropout = 0.0
    return config


def encoder(**values) -> EncoderConfig:
    """The encoder of a small model; values as in `changed`, with __ for dots."""
    config = pretraining(**values)
    return EncoderConfig.from_dict(config.model, config.execution)


def shrunk(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """A config of a tiny recipe as one that compiles in seconds."""
    waveform = config.model.frontend.kind == "waveform"
    changed(config, {key: x for key, x in MODEL.items() if waveform or "." not in key})
    changed(config, {"positions": POSITIONS})
    changed(config, {key.replace("__", "."): value for key, value in values.items()})
    config.data.update(batch_seconds=8.0, row_multiple=1)
    config.run.update(threads=1, log_steps=2, save_steps=3, eval_steps=4)
    config.num_steps = 8
    if "crop_seconds" in config.data:
        config.data.crop_seconds = (1.0, 2.0)
    if "max_seconds" in config.data:
        config.data.update(num_buckets=2, max_seconds=3.0)
    if "warmup_steps" in config.optim:
        config.optim.update(warmup_steps=2, peak_lr=1e-3)
    return config


def pretraining(**values) -> ConfigDict:
    """A pre-training config of a model that compiles in seconds; values as in `changed`, with __
    for dots."""
    config = common.pretraining("tiny")
    config.quantizer.update(groups=2, codes=8, width=16, projection=16)
    config.loss.negatives = 10
    return shrunk(config, values)


def best_rq(**values) -> ConfigDict:
    """A config of BEST-RQ of a model that compiles in seconds; values as in `pretraining`. Without
    batch norm: that of the published sizes depends on the micro-batch."""
    config = best_rq_configs.get_config("tiny")
    config.random_quantizer.update(codes=8, width=4)
    config.mel_masking.update(prob=0.04, span=20)
    frontend = {"frontend__channels": 8, "frontend__projection": 24}
    return shrunk(config, frontend | {"block__norm": "layer", "block__kernel": 5} | values)


def c_siam(kinds: str = "", **values) -> ConfigDict:
    """A config of c-siam of a model that compiles in seconds; values as in `pretraining`. kinds: of
    the parts of its model, "frontend=logmel" say."""
    config = c_siam_configs.get_config(f"tiny,{kinds}".rstrip(","))
    config.loss.negatives = 10
    frontend = {"frontend__channels": 8, "frontend__projection": 24} if "logmel" in kinds else {}
    return shrunk(config, frontend | values)


def discrete_bert(**values) -> ConfigDict:
    """A config of Discrete BERT of a model that compiles in seconds; values as in `pretraining`.
    With tokens that need no file."""
    config = discrete_bert_configs.get_config("tiny")
    frontend = {"tokenizer": "random", "classes": 8, "width": 32}
    return shrunk(config, {f"frontend__{key}": value for key, value in frontend.items()} | values)


def data2vec(**values) -> ConfigDict:
    """A config of data2vec of a model that compiles in seconds; values as in `pretraining`."""
    stack = {"kind": "conv_stack", "layers": 2, "kernel": 5, "groups": 4}
    config = shrunk(data2vec_configs.get_config("tiny"), {"positions": stack} | values)
    config.teacher.update(start=0.5, end=0.9, steps=4, layers=2)
    return config


def hubert(**values) -> ConfigDict:
    """A config of HuBERT of a model that compiles in seconds, with one set of units, `eight`, of
    100 per second; values as in `pretraining`."""
    config = hubert_configs.get_config("tiny")
    config.prediction.update(classes=(8,), projection=16)
    config.data.units = ("eight",)
    config.masking.update(prob=0.5, span=5)
    return shrunk(config, values)


def write_units(path: str, name: str = "eight", classes: int = 8, rate: int = 100, **source):
    """Random units beside a manifest, in runs as speech has them; their rows."""
    rng = np.random.default_rng(classes + rate)
    counts = (Manifest.read(path).samples * rate // 16_000).tolist()
    rows = [np.repeat(rng.integers(0, classes, n // 5 + 1), 5)[:n] for n in counts]
    write_rows(path, name, rows, classes=classes, rate=rate, source=source)
    return rows


def write_rows(path: str, name: str, rows, *, source=(), **options) -> None:
    """Units beside a manifest."""
    manifest, values = Manifest.read(path), Ragged.of(rows)
    units.write(path, name, manifest, values, source=dict(source), **options)


def finetuning(**values) -> ConfigDict:
    """A fine-tuning config of a model that compiles in seconds; values as in `pretraining`."""
    config = common.finetuning("tiny")
    config.freeze_steps = 0
    return shrunk(config, values)


def slim_ipl(**values) -> ConfigDict:
    """A config of slimIPL of a model that compiles in seconds; values as in `pretraining`."""
    config = slim_ipl_configs.get_config("tiny")
    config.freeze_steps = 0
    config.pseudo.update(start=1, cache=1, ratio=(1, 1), replace=0.5, num_buckets=1)
    return shrunk(config, values)


def language(**values) -> ConfigDict:
    """A config of a language model of letters that compiles in seconds."""
    config = lm.get_config("letters_tiny")
    config.model.update(width=32, num_layers=2, num_heads=2, feed_forward=64, max_tokens=48)
    config.model.update(values)
    config.data.update(batch_tokens=768, num_buckets=2, row_multiple=1)
    config.optim.update(peak_lr=1e-3, warmup_steps=2)
    config.num_steps = 8
    config.run.update(threads=1, log_steps=2, save_steps=3, eval_steps=4)
    return config


def recipe(kind: str) -> ConfigDict:
    """The smallest recipe of a registered kind of training, as one that compiles in seconds."""
    known = {
        "wav2vec2": pretraining, "best_rq": best_rq, "hubert": hubert,
        "discrete_bert": discrete_bert, "c_siam": c_siam, "data2vec": data2vec,
        "ctc": finetuning, "slim_ipl": slim_ipl, "language": language,
    }  # fmt: skip
    if kind in known:
        return known[kind]()
    file, _, argument = TASKS[kind].recipe.partition(":")
    module = importlib.import_module(f"w2v_jax.configs.{file.removesuffix('.py')}")
    return shrunk(module.get_config(argument), {})


def transcripts(folder: Path, split: str) -> str:
    """A file with the transcripts of the speech in the repository, a sentence per line."""
    path = folder / f"{split}.txt"
    source = {"train": "train", "valid": "dev"}[split]
    files = sorted((ROOT / "w2v_jax" / "samples" / f"{source}-clean").rglob("*.trans.txt"))
    lines = [line.partition(" ")[2] for file in files for line in file.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def build(task, mesh):
    """The first state on the mesh, and the step for it."""
    return first_state(task, mesh), on_mesh(jitted_step(task, mesh), mesh)


def noise_batch(rows: int, samples: int, *, seed: int = 0) -> dict:
    """A pre-training batch of noise, arrays [1, B, ...]."""
    rng = np.random.default_rng(seed)
    return {
        "audio": (rng.normal(size=(1, rows, samples)) * 3000).astype(np.int16),
        "length": np.full((1, rows), samples, np.int32),
        "id": np.arange(rows, dtype=np.int32)[None],
    }


def labelled_batch(rows: int, samples: int, *, lengths=None, seed: int = 0) -> dict:
    """A fine-tuning batch of noise with random labels, arrays [1, B, ...]."""
    rng = np.random.default_rng(seed)
    batch = noise_batch(rows, samples, seed=seed)
    if lengths is not None:
        batch["length"] = np.array([lengths], np.int32)
    return batch | {
        "labels": rng.integers(5, 32, (1, rows, 8)).astype(np.int32),
        "labels_length": rng.integers(1, 6, (1, rows)).astype(np.int32),
    }


def spoken(alphabet: Alphabet, text: str, *, seed: int = 0, pause: int = 6) -> np.ndarray:
    """ln p [T, V] of a model that hears the text: a letter takes a frame or two and up to two
    blanks after it, a word boundary one frame among `pause` blanks."""
    rng = np.random.default_rng(seed)
    ids = [0] * pause
    for letter in text:
        if letter == " ":
            before = int(rng.integers(pause + 1))
            ids += [0] * before + [alphabet.ids[BOUNDARY]] + [0] * (pause - before)
        else:
            ids += [alphabet.ids[letter]] * int(rng.integers(1, 3)) + [0] * int(rng.integers(1, 3))
    logits = rng.normal(size=(len(ids), len(alphabet))) + 9.0 * np.eye(len(alphabet))[ids]
    return (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).astype(np.float32)


def check_alarms(task: Task, fine: Mapping[str, float], spoiled: Mapping[str, tuple]) -> None:
    """None rings at what is fine; each of `spoiled`, name -> (scalar, its value), does once the
    warm-up is over, few labels at once."""
    alarms = {alarm.name: alarm for alarm in task.alarms}
    fine = fine | {"train/skipped": 0.0}
    assert not any(alarm.condition(1000, fine) for alarm in alarms.values())
    for name, (scalar, value) in spoiled.items():
        scalars = fine | {scalar: value}
        assert alarms[name].condition(1000, scalars), name
        assert alarms[name].condition(10, scalars) == (name == "few_labels")
        assert alarms[name].words.format(step=1, **scalars)
        assert "--config." in alarms[name].words or name == "few_labels"
