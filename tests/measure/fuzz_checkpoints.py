"""Opens damaged checkpoints and manifests as the programs do.

    python -m tests.measure.fuzz_checkpoints --files=200

makes that many of each kind: a directory of transformers and an export with another config.json,
vocab.json or tokenizer file, tensor files with damaged headers, a run with another config.json,
manifests (.tsv, .arrow), data folders of Kaldi and tables of ids. Each must be read, or end in one
UserError of one paragraph; no other exception, no hang, no end of the process.
"""

import argparse
import collections
import contextlib
import copy
import json
import logging
import multiprocessing
import os
import shutil
import signal
import string
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests import small
from w2v_jax.corpora import find as corpora
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints, huggingface
from w2v_jax.interop.exported import encoder_of
from w2v_jax.models.catalogue import rates
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import Checkpoints, export_model
from w2v_jax.training.settings import settings_of, write_settings

SECONDS = 20  # for one of them; SIGALRM ends the process
LONGEST = 1000  # letters of a message
ODD = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1e9, -1e9, 10**12, 10**30, 0.5, float("nan"),
    float("inf"),
    "", "x", "é\u2028\x00", "|", "gelu", "9" * 500, [], {}, [[]], [1, 2], ["a", None], {"a": 1},
    {"kind": "conv"}, [10**7] * 7, "\ud800",
)  # fmt: skip


# ---- mutations


def mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Other values, keys away, keys that do not belong, or damaged text."""
    if rng.random() < 0.25:
        return mutate_bytes(data, rng)
    content = json.loads(data)
    for _ in range(rng.integers(1, 4)):
        nodes = [(None, None, content)]
        for _, _, node in nodes:  # all of them: the list grows
            inside = enumerate(node) if isinstance(node, list) else ()
            inside = node.items() if isinstance(node, dict) else inside
            nodes += [(node, key, child) for key, child in inside]
        parent, key, node = nodes[rng.integers(len(nodes))]
        odd = copy.deepcopy(ODD[rng.integers(len(ODD))])
        if parent is None:
            if rng.random() < 0.1:
                content = odd
            continue
        what = rng.choice(["odd", "odd", "away", "add", "number", "swap"])
        if what == "away":
            del parent[key]
        elif what == "add" and isinstance(parent, dict):
            parent["".join(rng.choice(list(string.ascii_letters), 3))] = odd
        elif what == "number" and isinstance(node, int | float) and not isinstance(node, bool):
            parent[key] = node * int(rng.choice([-1, 2, 10, 1000])) + int(rng.integers(-2, 3))
        elif what == "swap":
            parent[key] = copy.deepcopy(nodes[rng.integers(1, len(nodes))][2])
        else:
            parent[key] = odd
        if not isinstance(content, dict | list):
            break
    return json.dumps(content).encode("utf-8", "surrogatepass")


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, with flipped bits, with other bytes in it, or empty."""
    out = bytearray(data)
    kinds = ["cut", "flip", "noise", "twice", "empty", "zeros"]
    what = rng.choice(kinds, p=[0.22, 0.22, 0.22, 0.22, 0.06, 0.06])
    if what == "cut":
        out = out[: rng.integers(1, max(len(out), 2))]
    elif what == "flip":
        for place in rng.integers(0, min(len(out), 4000), rng.integers(1, 20)):
            out[place] ^= 1 << rng.integers(8)
    elif what == "noise":
        first = int(rng.integers(0, min(len(out), 4000)))
        out[first : first + int(rng.integers(0, 8))] = rng.bytes(int(rng.integers(1, 40)))
    elif what == "twice":
        a, b = sorted(rng.integers(0, len(out), 2).tolist())
        out = out[:b] + out[a:]
    else:
        out = bytearray() if what == "empty" else bytearray(len(out))
    return bytes(out)


def mutate_tensors(data: bytes, rng: np.random.Generator) -> bytes:
    """The header of safetensors: its length, or its JSON."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    (size,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.15:
        other = [0, 1, size - 1, size + 1, 2**40, 2**63][rng.integers(6)]
        return struct.pack("<Q", other) + data[8:]
    header = mutate_json(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def mutate_lines(data: bytes, rng: np.random.Generator) -> bytes:
    """Lines away, twice, in another order; columns that lack or are other ones."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    lines = data.split(b"\n")
    for _ in range(rng.integers(1, 4)):
        i = int(rng.integers(len(lines)))
        what = rng.choice(["away", "twice", "swap", "column", "odd", "return"])
        if what == "away" and len(lines) > 1:
            del lines[i]
        elif what == "twice":
            lines.insert(i, lines[i])
        elif what == "swap":
            rng.shuffle(lines)
        elif what == "return":
            lines[i] += b"\r"
        else:
            blank = b"\t" if b"\t" in lines[i] else b" "
            columns = lines[i].split(blank)
            column = int(rng.integers(len(columns)))
            if what == "column":
                del columns[column]
            else:
                odd = str(ODD[rng.integers(len(ODD))]).encode("utf-8", "surrogatepass")
                columns[column] = odd
            lines[i] = blank.join(columns)
    return b"\n".join(lines)


# ---- what is opened


def open_checkpoint(path: Path) -> None:
    variables, config = checkpoints.load(path, "ctc")
    Alphabet.from_dict(config["alphabet"]).decode([0, 1])
    encoder = encoder_of(config, path)
    model = CTCModel(encoder, len(config["alphabet"]["symbols"]))
    samples = 2 * encoder.frontend.receptive_field
    jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((1, samples), jnp.int16))


def open_manifest(path: Path) -> None:
    """Every value, as a reader of rows sees them."""
    manifest = Manifest.read(path)
    for column in (manifest.paths, manifest.texts, manifest.speakers, manifest.languages,
                   manifest.corpora):  # fmt: skip
        column.tolist()
    manifest.samples.sum()
    for labels in (manifest.speakers, manifest.languages, manifest.corpora):
        labels.counts(manifest.samples)


def open_corpus(path: Path) -> None:
    corpora.find(path)


def make_templates(folder: Path) -> None:
    """The whole ones, each in a folder of its own."""
    encoder, alphabet = small.encoder(), Alphabet.english()
    config = {"kind": "ctc", "model": encoder.to_dict(), "alphabet": alphabet.to_dict()}
    module = CTCModel(encoder, len(alphabet))
    variables = nn.meta.unbox(
        jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 16000), jnp.int16))
    )
    variables = jax.tree.map(np.asarray, dict(variables))
    variables.setdefault("stats", {})
    huggingface.write(folder / "hub", variables, config)
    added = {"added_tokens_decoder": {"32": {"content": "<x>", "special": True}}}
    tokenizer = folder / "hub" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | added))
    (folder / "hub" / "added_tokens.json").write_text('{"<x>": 32}')
    (folder / "hub" / "special_tokens_map.json").write_text('{"pad_token": {"content": "<pad>"}}')
    export_model(folder / "export", variables, config | rates(config) | {"w2v_jax": "0"})
    write_settings(str(folder / "run"), settings_of(small.finetuning()), config)
    manager = Checkpoints(folder / "run")
    manager.save(1, variables, {})
    manager.close()
    rows = 40
    manifest = Manifest(
        folder / "manifest", [f"a/{i}.flac" for i in range(rows)], range(1, rows + 1),
        [f"text {i}" for i in range(rows)], [f"s{i % 3}" for i in range(rows)], ["en"] * rows,
        starts=range(rows), corpora=["c"] * rows,
    )  # fmt: skip
    (folder / "manifest").mkdir()
    manifest.write(folder / "manifest" / "m.tsv")
    manifest.write(folder / "manifest" / "m.arrow")
    for name in ("kaldi", "ids", "jsonl"):
        (folder / name).mkdir()
        for i in range(4):
            (folder / name / f"{i}.wav").write_bytes(b"")
    for name, line in (
        ("wav.scp", "{i} {i}.wav"), ("segments", "u{i} {i} 0.5 1.25"), ("text", "u{i} go on"),
        ("utt2spk", "u{i} s"),
    ):  # fmt: skip
        text = "".join(line.format(i=i) + "\n" for i in range(4))
        (folder / "kaldi" / name).write_text(text)
    (folder / "ids" / "t.tsv").write_text("".join(f"{i}\tgo on\n" for i in range(4)))
    row = '{{"audio": "{i}.wav", "text": "go", "offset": 0.5, "duration": 1.0}}\n'
    (folder / "jsonl" / "t.jsonl").write_text("".join(row.format(i=i) for i in range(4)))


# kind -> (template, file that is damaged, how, what then is opened, None: the folder)
KINDS: dict[str, tuple[str, str, Callable, Callable, str]] = {
    "hub config.json": ("hub", "config.json", mutate_json, open_checkpoint, ""),
    "hub vocab.json": ("hub", "vocab.json", mutate_json, open_checkpoint, ""),
    "hub tokenizer_config.json":
        ("hub", "tokenizer_config.json", mutate_json, open_checkpoint, ""),
    "hub added_tokens.json": ("hub", "added_tokens.json", mutate_json, open_checkpoint, ""),
    "hub special_tokens_map.json":
        ("hub", "special_tokens_map.json", mutate_json, open_checkpoint, ""),
    "hub preprocessor_config.json":
        ("hub", "preprocessor_config.json", mutate_json, open_checkpoint, ""),
    "hub model.safetensors": ("hub", "model.safetensors", mutate_tensors, open_checkpoint, ""),
    "export config.json": ("export", "config.json", mutate_json, open_checkpoint, ""),
    "export arrays": ("export", "params", mutate_bytes, open_checkpoint, ""),
    "run config.json": ("run", "config.json", mutate_json, open_checkpoint, ""),
    "manifest .tsv": ("manifest", "m.tsv", mutate_lines, open_manifest, "m.tsv"),
    "manifest .arrow": ("manifest", "m.arrow", mutate_bytes, open_manifest, "m.arrow"),
    "kaldi": ("kaldi", "", mutate_lines, open_corpus, ""),
    "ids": ("ids", "t.tsv", mutate_lines, open_corpus, "t.tsv"),
    "jsonl": ("jsonl", "t.jsonl", mutate_lines, open_corpus, "t.jsonl"),
}  # fmt: skip


def damaged_file(folder: Path, name: str, rng: np.random.Generator) -> Path:
    """The file `name`, or any below a folder of that name."""
    if (folder / name).is_file():
        return folder / name
    files = sorted(path for path in (folder / name).rglob("*") if path.is_file() and
                   path.suffix != ".wav")  # fmt: skip
    return files[rng.integers(len(files))]


def outcome(opens: Callable, path: Path) -> tuple[str, str]:
    """("read" | "refused" | "trace", what was said)."""
    try:
        opens(path)
    except UserError as error:
        message = str(error)
        good = message and len(message) < LONGEST and "\n\n" not in message
        return ("refused" if good else "trace"), message
    except Exception as error:
        return "trace", f"{type(error).__name__}: {error}"
    return "read", ""


def try_all(kind: str, templates: Path, first: int, count: int, seed: int, tell: Callable) -> None:
    """Calls tell((number, outcome, message, seconds)) for each from `first` on."""
    logging.disable()
    template, name, mutate, opens, opened = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, count):
            work = Path(folder, str(number))
            shutil.copytree(templates / template, work)
            rng = np.random.default_rng([seed, number, *kind.encode()])
            file = damaged_file(work, name, rng)
            file.write_bytes(mutate(file.read_bytes(), rng))
            begin = time.monotonic()
            signal.alarm(SECONDS)
            found = outcome(opens, work / opened)
            signal.alarm(0)
            tell((number, *found, time.monotonic() - begin))
            shutil.rmtree(work)
    logging.disable(logging.NOTSET)


def _process(kind: str, templates: Path, first: int, count: int, seed: int, end) -> None:
    try_all(kind, templates, first, count, seed, end.send)
    end.close()


def fuzz(kind: str, templates: Path, count: int, seed: int = 0, *, apart: bool = True):
    """(Counter of outcomes, [(number, what was said) of those that must not be], slowest in s).

    apart: in a process of its own, of which an end is an outcome too, and counts as one.
    """
    counts: collections.Counter = collections.Counter()
    wrong: list[tuple[int, str]] = []
    slowest, done = 0.0, 0

    def take(number: int, what: str, message: str, seconds: float) -> None:
        nonlocal slowest, done
        counts[what] += 1
        slowest, done = max(slowest, seconds), number + 1
        if what == "trace":
            wrong.append((number, message))

    if not apart:
        try_all(kind, templates, 0, count, seed, lambda found: take(*found))
        return counts, wrong, slowest
    context = multiprocessing.get_context("spawn")
    while done < count:
        answer, end = context.Pipe(duplex=False)
        process = context.Process(target=_process, args=(kind, templates, done, count, seed, end))
        process.start()
        end.close()
        with contextlib.suppress(EOFError):
            while True:
                take(*answer.recv())
        process.join()
        if done < count:
            hang = process.exitcode == -signal.SIGALRM
            counts["hang" if hang else "crash"] += 1
            wrong.append((done, f"the process ended with {process.exitcode}"))
            done += 1
    return counts, wrong, slowest


def main(files: int, seed: int, only: str) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        make_templates(Path(folder))
        for kind in (kind for kind in KINDS if only in kind):
            begin = time.monotonic()
            counts, wrong, slowest = fuzz(kind, Path(folder), files, seed)
            said = ", ".join(f"{counts[what]} {what}" for what in ("read", "refused"))
            bad = ", ".join(f"{what} {counts[what]}" for what in ("trace", "hang", "crash"))
            print(f"{kind}: {files} damaged, {said}; {bad}; slowest {slowest:.2f} s, "
                  f"{time.monotonic() - begin:.0f} s in all", flush=True)  # fmt: skip
            for number, message in wrong[:8]:
                print(f"  {number}: {message[:400]!r}", flush=True)
            failed += len(wrong)
    print(f"{failed} that must not be")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose name has this")
    main(**vars(parser.parse_args()))
