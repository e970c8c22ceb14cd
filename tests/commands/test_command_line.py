"""The entry points as a user meets them: the whole way once, and everything that can go wrong."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from tests.tools import said as run
from w2v_jax import command_line
from w2v_jax.training.writer import read_lines

ROOT = Path(__file__).parents[2]
SMALL = """
from tests import small

def get_config(stage):
    config = getattr(small, stage)()
    config.data.update(  # one shape to compile
        {"crop_seconds": (1.0,)} if stage == "pretraining" else {"num_buckets": 1}
    )
    return config
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory, manifests):
    """A folder with a trained, exported pre-training run and fine-tuning run."""
    folder = tmp_path_factory.mktemp("work")
    config = folder / "config.py"
    config.write_text(SMALL)
    data = [f"--config.data.train={manifests['train']}", f"--config.data.valid={manifests['dev']}"]
    steps = ["--config.num_steps=4", "--config.run.eval_steps=4"]
    run("pretrain", f"--config={config}:pretraining", f"--workdir={folder}/pre", *data, *steps)
    run("export", f"--workdir={folder}/pre", f"--output={folder}/pre-export")
    run(
        "finetune", f"--config={config}:finetuning", f"--workdir={folder}/ctc", *data, *steps,
        f"--config.run.init_from={folder}/pre-export",
    )  # fmt: skip
    run("export", f"--workdir={folder}/ctc", f"--output={folder}/ctc-export")
    return folder


def test_whole_way(work, manifests):
    lines = read_lines(work / "pre" / "metrics.jsonl")
    assert {"train/contrastive_bits", "train/accuracy", "time/audio_hours_per_hour"} <= set(
        lines[0]
    )
    assert {"valid/accuracy", "valid/code_perplexity_1"} <= set(lines[-1])
    assert list((work / "pre" / "tensorboard").iterdir())
    exported = json.loads((work / "ctc-export" / "config.json").read_text())
    assert (exported["kind"], exported["step"]) == ("ctc", 4)

    table = work / "out" / "pairs.tsv"
    output = run(
        "evaluate", f"--checkpoint={work}/ctc-export", f"--data={manifests['dev']}",
        f"--output={table}",
    )  # fmt: skip
    assert "WER" in output
    assert "insertions" in output
    rows = table.read_text().splitlines()
    assert rows[0].split("\t") == ["path", "reference", "hypothesis"]
    assert len(rows) == 56


def test_fine_tuning_starts_from_the_exported_encoder(work):
    from w2v_jax.training.checkpoint import load_exported

    pre, _ = load_exported(work / "pre-export")
    ctc, _ = load_exported(work / "ctc-export")
    # the feature encoder does not move in fine-tuning
    for name, layer in pre["params"]["encoder"]["feature_encoder"].items():
        for key, value in layer.items():
            np.testing.assert_array_equal(
                value, ctc["params"]["encoder"]["feature_encoder"][name][key]
            )


def test_transcribe_any_audio(work, tmp_path):
    rng = np.random.default_rng(0)
    noise = lambda rate, channels: rng.normal(size=(rate, channels)) * 0.1  # noqa: E731
    soundfile.write(tmp_path / "8k.wav", noise(8000, 1), 8000, "PCM_U8")
    soundfile.write(tmp_path / "stereo.flac", noise(44100, 2), 44100)
    soundfile.write(tmp_path / "short.wav", np.zeros(160), 16000)
    (tmp_path / "text.wav").write_text("this is not audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, "FLOAT")
    good = [tmp_path / name for name in ("8k.wav", "stereo.flac", "short.wav")]
    bad = [tmp_path / name for name in ("text.wav", "empty.wav", "nan.wav", "missing.wav")]
    output = run("transcribe", f"--checkpoint={work}/ctc-export", *good)
    assert all(f"{path}\t" in output for path in good)
    # of a run the newest checkpoint
    output = run("transcribe", f"--checkpoint={work}/ctc", good[0], *bad, status=1)
    assert all(f"error: {path}" in output for path in bad)
    assert f"{good[0]}\t" in output


def test_long_audio_equals_its_windows():
    """The text of a recording longer than a window, from windows that overlap."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from tests import small
    from w2v_jax.decoding import recognition
    from w2v_jax.decoding.greedy import best_path
    from w2v_jax.models.heads.ctc import CTCModel
    from w2v_jax.text.alphabet import Alphabet

    # no attention and no group norm across the cut: windows must then agree with the whole exactly
    config = small.encoder(frontend__norm="layer", num_layers=1)
    model = CTCModel(config, 32)
    variables = nn.meta.unbox(model.init(jax.random.key(0), jnp.zeros((1, 16000), jnp.int16)))
    block = variables["params"]["encoder"]["context"]["layers"]["block"]
    block["attention"]["output"] = jax.tree.map(jnp.zeros_like, block["attention"]["output"])
    audio = small.noise_batch(1, 16000 * 75 + 77)["audio"][0, 0]
    recognizer = recognition.Recognizer(config, Alphabet.english())
    ids = jax.jit(model.apply)(variables, audio[None])[0].argmax(-1)[0]
    whole = recognizer.alphabet.decode(best_path(np.asarray(ids), len(ids)))
    assert len(whole) > 100
    assert recognizer.text(variables, audio) == whole


def error(entry, *arguments):
    output = run(entry, *arguments, status=2)
    assert output.strip().splitlines()[-1], output
    assert "error: " in output
    return output


def test_errors_name_value_key_and_remedy(work, manifests, tmp_path):
    config = f"--config={work}/config.py:pretraining"
    train = f"--config.data.train={manifests['train']}"
    output = error("pretrain", config, f"--workdir={tmp_path}", "--config.modle.width=3", train)
    assert "no key 'modle.width'; did you mean --config.model.width" in output
    output = error(
        "pretrain", f"--config={work}/config.py:finetuning", f"--workdir={tmp_path}", train
    )
    assert "kind ctc, which python -m w2v_jax.finetune trains" in output
    lstm = "--config.model.block.kind=lstm"
    output = error("pretrain", config, f"--workdir={tmp_path}", lstm, train)
    assert "--config.model.block.kind=lstm must be one of transformer, conformer" in output
    missing = tmp_path / "missing.tsv"
    output = error("pretrain", config, f"--workdir={tmp_path}", f"--config.data.train={missing}")
    assert str(missing) in output
    assert "w2v_jax.prepare" in output
    output = error("pretrain", config, train)
    assert "workdir" in output
    output = error("pretrain", "--config=nothing.py", f"--workdir={tmp_path}")
    assert "nothing.py" in output
    output = error("pretrain", config, f"--workdir={tmp_path}")
    assert "--config.data.train" in output
    output = error("finetune", "--config=configs/finetune.py:split=5h", f"--workdir={tmp_path}")
    assert "10m, 1h" in output


def test_another_config_or_data_is_refused(work, manifests):
    config = f"--config={work}/config.py:pretraining"
    train = f"--config.data.train={manifests['train']}"
    where = f"--workdir={work}/pre"
    output = error(
        "pretrain", config, where, train, "--config.num_steps=4", "--config.model.width=64"
    )
    assert "model.width: 32 -> 64" in output
    output = error(
        "pretrain", config, where, "--config.num_steps=4",
        f"--config.data.train={manifests['dev']}", f"--config.data.valid={manifests['dev']}",
    )  # fmt: skip
    assert "training manifest has changed" in output
    output = error(
        "finetune", f"--config={work}/config.py:finetuning", f"--workdir={work}/other", train,
        f"--config.run.init_from={work}/pre-export", "--config.model.num_layers=1",
    )  # fmt: skip
    assert "num_layers: 2 there, 1 here" in output


def test_models_of_the_wrong_kind(work, manifests, tmp_path):
    data = f"--data={manifests['dev']}"
    said = error("evaluate", f"--checkpoint={work}/pre-export", data)
    assert "holds a model of the kind wav2vec2" in said
    for said in (
        error("evaluate", f"--checkpoint={tmp_path}", data),
        error("export", f"--workdir={tmp_path}", f"--output={tmp_path}/x"),
    ):
        assert "the folder is empty; a checkpoint is an export, the --workdir of a run" in said
    assert "no audio file" in error("transcribe", f"--checkpoint={work}/ctc-export")


def test_a_reader_that_has_seen_enough_is_no_error():
    """`evaluate ... | head` ends without a trace."""
    code = "from w2v_jax import command_line as c; c.run(lambda _: print('line\\n' * 100_000))"
    tool = subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert tool.stdout.readline() == "line\n"
    tool.stdout.close()
    assert tool.stderr.read() == ""
    assert tool.wait(timeout=60) == 1


@pytest.mark.parametrize(
    ("tool", "flag", "value"),
    [
        ("evaluate", "max_bad_share", "-1"), ("transcribe", "batch_seconds", "inf"),
        ("prepare", "min_seconds", "nan"), ("benchmark", "seconds", "0"),
    ],
)  # fmt: skip
def test_numbers_of_tools_have_ranges(tool, flag, value, tmp_path):
    needed = {
        "evaluate": [f"--checkpoint={tmp_path}", "--data=x"],
        "transcribe": [f"--checkpoint={tmp_path}", "x.wav"],
        "prepare": ["--output=x.tsv"], "benchmark": ["data"],
    }  # fmt: skip
    said = error(tool, *needed[tool], f"--{flag}={value}")
    assert f"--{flag}={float(value)}: it must be a number" in said


def test_an_empty_path_is_not_this_folder():
    for tool, words, flag in (
        ("pretrain", ["--config=wav2vec2:tiny", "--workdir="], "workdir"),
        ("export", ["--workdir=x", "--output="], "output"),
        ("transcribe", ["--checkpoint=", "x.wav"], "checkpoint"),
        ("report", ["--workdir=x", "--workdir="], "workdir"),
    ):
        assert f"--{flag} is empty; name a folder" in error(tool, *words)


@pytest.mark.parametrize(
    ("platform", "workdir", "set_to", "folder"),
    [
        ("cpu", "/runs/a", None, "/home/u/.cache/w2v_jax"),
        ("gpu", "/runs/a/", None, "/runs/a/compiled"),
        ("gpu", "", None, "/home/u/.cache/w2v_jax"),  # a tool, a dry run
        ("gpu", "gs://b/a", None, "/home/u/.cache/w2v_jax"),
        ("tpu", "gs://b/a", None, "gs://b/a/compiled"),
        ("tpu", "gs://b/a", "/c", "/c"),
    ],
)
def test_where_compiled_programs_are_kept(platform, workdir, set_to, folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    if set_to:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", set_to)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    found = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    command_line.enable_compilation_cache(workdir)
    assert found["jax_compilation_cache_dir"] == folder
