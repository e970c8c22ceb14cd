"""Runs damaged configs up to the first update.

    python -m tests.measure.fuzz_configs --configs=500

makes that many from the three kinds of training: values that are nan, infinite, negative, huge, of
another type, empty; keys that are missing, misspelt or of another kind; flags, arguments and files
that are damaged. Each takes the way of a run: the check, the data, the plan of the batches, the
parameters, and the update, whose shapes are traced, not compiled. Either all of that works, or it
ends in a UserError of less than 1,000 letters; nothing ends in a trace or takes longer than the
limit.
"""

import argparse
import collections
import contextlib
import io
import logging
import math
import random
import signal
import string
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from tests import small
from w2v_jax import config_flag, run
from w2v_jax.corpora.preparation import prepare
from w2v_jax.errors import UserError, brief
from w2v_jax.keys.check import flat
from w2v_jax.keys.table import KEYS
from w2v_jax.training.sharding import batch_sharding
from w2v_jax.training.state import abstract_state, jitted_step, on_mesh

ROOT = Path(__file__).parents[2]
SECONDS = 60  # of a config
LETTERS = 1000  # of a message
HEARD = 50_000_000  # bytes of a batch that is read; a larger one is traced alone
BAD = (
    math.nan, math.inf, -math.inf, -1, 0, 1, -1.0, 0.0, 1.5, 1e-300, 1e30, 10**30, 2**31, 2**63,
    "", "ten", "nan", "gs://", "a" * 20_000, "\0", "√", True, False, None, (), (0,), ("a",), (1, 2),
    [3], {}, {"a": 1}, ((),), (math.nan,), b"x",
)  # fmt: skip
ARGUMENTS = (
    "wav2vec2.py:tiny", "wav2vec2.py:tiny,block=conformer,positions=relative",
    "best_rq.py:tiny", "c_siam.py:tiny", "conformer.py:tiny,ablation=no_macaron",
    "finetune.py:split=10h,size=tiny", "finetune.py:split=10h,size=tiny,output=strided",
    "lm.py:letters_tiny", "lm.py:words_tiny", "quickstart.py:pretrain", "quickstart.py:finetune",
    "evaluate.py",
)  # fmt: skip


def rehearse(task, mesh, plan, data, _step) -> None:
    """In the place of run.rehearse: the shapes of the first update, of the first batch itself where
    that is small."""
    rows, length = plan[0].shape
    accumulation = task.config.run.accumulation
    arrays = task.arrays((accumulation, rows // accumulation), length)
    if sum(math.prod(shape) * 4 for shape, _ in arrays.values()) < HEARD:
        (batch, _), *_ = run.iterate([plan[0]], data.loader)
        arrays = {name: (x.shape, x.dtype) for name, x in batch.items()}
    batch = {
        name: jax.ShapeDtypeStruct(*array, sharding=batch_sharding(mesh))
        for name, array in arrays.items()
    }
    state, step = abstract_state(task, mesh), jitted_step(task, mesh)
    after, metrics = on_mesh(lambda: jax.eval_shape(step, state, batch), mesh)()
    assert all(x.shape == () for x in jax.tree.leaves(metrics))
    jax.tree.map(lambda a, b: assert_same(a.shape, b.shape), state, after)


def assert_same(a, b) -> None:
    assert a == b, (a, b)


def attempt(make, workdir: Path) -> str:
    """What becomes of the config that make() gives: "runs", or "refused: ..."; raises what a user
    would see as a trace."""

    def late(*_):
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch.object(run, "rehearse", rehearse),
            mock.patch.object(run, "first_state", return_value=None),
        ):
            config = make()
            if isinstance(config.get("run"), ConfigDict) and config.run.get("dry_run") is False:
                config.run.dry_run = True
            run.run(config, str(workdir))
        return "runs"
    except UserError as error:
        if not 20 < len(str(error)) < LETTERS:
            raise AssertionError(f"{len(str(error))} letters") from error
        return f"refused: {error}"
    finally:
        signal.alarm(0)


def node_of(config, key: str):
    """(the group that a dotted key stands in, its last part)."""
    *parents, leaf = key.split(".")
    for parent in parents:
        config = config[parent]
    return config, leaf


def changed(config: ConfigDict, rng: random.Random) -> list[str]:
    """Damages a config in place; what was done."""
    done = []
    with config.ignore_type(), config.unlocked():
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            values = dict(flat(config))
            key = rng.choice(sorted(values))
            node, leaf = node_of(config, key)
            how = rng.choice(
                ("outside", "bad", "inside", "inside", "inside", "inside", "scaled", "lost", "new")
            )
            row = KEYS.get(key)
            if how == "outside" and row is not None:
                value = rng.choice(list(row.range.outside()))
            elif how == "inside" and row is not None:
                value = rng.choice(inside(row.range, values[key]))
            elif how == "scaled" and isinstance(values[key], (int, float)):
                value = values[key] * rng.choice((-1, 2, 10, 1000, 0.1))
            elif how == "lost":
                group, _, _ = key.rpartition(".")
                if group and rng.random() < 0.3:
                    node, leaf = node_of(config, group)
                del node[leaf]
                done.append(f"lost {key}")
                continue
            elif how == "new":
                node[leaf + rng.choice(string.ascii_lowercase)] = values[key]
                done.append(f"new {key}")
                continue
            else:
                value = rng.choice(BAD)
            node[leaf] = ConfigDict(value) if isinstance(value, dict) else value
            done.append(f"{key}={str(value)[:40]}")
    return done


def inside(allowed, value) -> list:
    """Values of a range, its ends among them."""
    if hasattr(allowed, "words") and not isinstance(allowed.words, str):
        return list(allowed.words)
    if hasattr(allowed, "low"):
        ends = [allowed.low, allowed.high, allowed.other, value]
        ends += [e + s for e in (allowed.low, allowed.high) for s in (1e-9, -1e-9, 1, -1)]
        ends += [1, 2, 3, 7, 100, 0.5, 0.1]
        found = [x for x in ends if isinstance(x, (int, float))]
        found += [int(x) for x in found if math.isfinite(x)]
        return [x for x in found if allowed.takes(x)] or [value]
    if isinstance(value, tuple) and value:
        return [value, value[:1], value[:1] * 2, value + value[-1:]]
    return [value, *(x for x in ("x", "[", "a,b", "5:6", "nothing.tsv") if allowed.takes(x))]


def of_kind(rng: random.Random, data: dict[str, str]):
    """(what was done, function that makes the config): a small config with damaged values."""
    kind = rng.choice(("pretraining", "finetuning", "language"))
    config = getattr(small, kind)()
    for name in ("train", "valid"):
        config.data[name] = data[f"text_{name}" if kind == "language" else name]
    if "augment" in config.data:
        config.data.augment.update(noise_manifest=data["train"], reverb_manifest=data["train"])
    done = changed(config, rng)
    return f"{kind}: {'; '.join(done)}", lambda: config


def of_flags(rng: random.Random, data: dict[str, str]):
    """The same by flags, as a command line is read."""
    name = rng.choice(ARGUMENTS[:-1])
    config = config_flag.load(f"configs/{name}")
    keys = rng.choices(sorted(dict(flat(config))), k=rng.choice((1, 2)))
    values = [rng.choice([x for x in BAD if not isinstance(x, bytes)]) for _ in keys]
    argv = ["pretrain", f"--config=configs/{name}"]
    for key, value in zip(keys, values, strict=True):
        argv.append(f"--config.{spoilt(key, rng)}={value}")
    argv.append(f"--config.data.train={data['text_train' if name[:2] == 'lm' else 'train']}")
    return " ".join(word[:60] for word in argv), lambda: parsed(argv)


def of_argument(rng: random.Random, data: dict[str, str]):
    """A damaged argument of a file of configs/."""
    file, colon, argument = rng.choice(ARGUMENTS).partition(":")
    name = f"configs/{file}{colon}{spoilt(argument, rng)}"
    text = data["text_train" if file == "lm.py" else "train"]
    return name, lambda: parsed(["pretrain", f"--config={name}", f"--config.data.train={text}"])


def of_file(rng: random.Random, data: dict[str, str]):
    """A damaged file."""
    name, _, argument = rng.choice(ARGUMENTS[:-1]).partition(":")
    file = Path(data["folder"]) / f"damaged{rng.random()}.py"
    whole = (ROOT / "configs" / name).read_text()
    start = whole.index('"""', 3)  # a damaged docstring is whole
    file.write_text(whole[:start] + spoilt(whole[start:], rng, most=30))
    text = data["text_train" if name == "lm.py" else "train"]
    argv = ["pretrain", f"--config={file}:{argument}", f"--config.data.train={text}"]
    return f"a damaged {name}, {file.name}:{argument}", lambda: parsed(argv)


def spoilt(text: str, rng: random.Random, most: int = 2) -> str:
    """Some letters of a text lost, doubled or replaced; often none."""
    for _ in range(rng.choice((0, 1, 1, most))):
        at = rng.randrange(len(text) + 1)
        middle = rng.choice(("", "", text[at : at + 1] * 2, rng.choice(string.printable)))
        text = text[:at] + middle + text[at + 1 :]
    return text


def parsed(argv: list[str]) -> ConfigDict:
    """The config of a command line, read as command_line.run reads it."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except Exception as error:
        raise UserError(config_flag.complaint(argv) or f"error: {brief(error)}") from None
    with mock.patch.object(flags, "FLAGS", values):
        return config_flag.given_config()


WAYS = (of_kind, of_kind, of_kind, of_kind, of_flags, of_argument, of_file)


def fuzz(count: int, seed: int, data: dict[str, str], show=lambda text: None):
    """(what became of the configs: counts, [(what was done, trace)] of those that failed)."""
    counts, failed = collections.Counter(), []
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        done, make = rng.choice(WAYS)(rng, data)
        begin = time.monotonic()
        try:
            result = attempt(make, Path(data["folder"]) / f"run{number}")
        except Exception:
            result = "failed"
            failed.append((done, traceback.format_exc()))
        counts[result.partition(":")[0]] += 1
        show(f"{number} {time.monotonic() - begin:.1f} s, {done!a} -> {result[:400]!a}")
        if result == "failed":
            show(failed[-1][1])
    return counts, failed


def corpora(folder: Path) -> dict[str, str]:
    """The data of all configs, in `folder`."""
    found = {"folder": str(folder)}
    for name, source in (("train", "train"), ("valid", "dev")):
        found[name] = str(folder / f"{name}.tsv")
        folder_of = ROOT / "w2v_jax" / "samples" / f"{source}-clean"
        prepare([str(folder_of)], found[name], decode=False)
        found[f"text_{name}"] = small.transcripts(folder, name)
    return found


def main(configs: int, seed: int) -> None:
    logging.disable()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = corpora(Path(folder))
        counts, failed = fuzz(configs, seed, data, lambda text: print(text, flush=True))
    print(f"{configs} damaged configs: {counts['runs']} run, {counts['refused']} refused with key, "
          f"value and remedy, {len(failed)} ended otherwise; {time.monotonic() - begin:.0f} s in "
          "all", flush=True)  # fmt: skip
    for done, trace in failed:
        print(f"\n{done}\n{trace}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
