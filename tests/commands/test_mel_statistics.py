"""The program that takes the statistics of mel bins, and what a training makes of its file."""

import dataclasses
import functools
import json
import shutil
from collections import Counter
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
import soundfile

from tests import small
from tests.tools import said
from w2v_jax.audio import mel_statistics
from w2v_jax.audio.logmel import GOOGLE, KALDI, log_mel
from w2v_jax.configs import common
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sources import open_sources
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.interop.exported import encoder_of
from w2v_jax.mel_statistics import rows_of, spectra_of
from w2v_jax.models.catalogue import rates
from w2v_jax.tasks import make_task
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import export_model
from w2v_jax.training.settings import settings_of

ROOT = Path(__file__).parents[2]
FLAG = "--config.model.frontend.statistics="


command = functools.partial(said, "mel_statistics", environment={"PATH": "/nowhere"})


@pytest.fixture(scope="module")
def stats(manifests, tmp_path_factory):
    path = tmp_path_factory.mktemp("stats") / "mel.json"
    said = command(f"--manifest={manifests['dev']}", f"--output={path}", "--threads=2")
    assert "0 unreadable" in said
    return path


def config_with(path, **frontend):
    config = common.finetuning("tiny", {"frontend": "logmel"})
    config.freeze_steps = 0
    frontend = {"channels": 8, "projection": 24, "normalization": "global"} | frontend
    small.shrunk(config, {f"frontend__{key}": value for key, value in frontend.items()})
    config.model.frontend.statistics = str(path)
    return config


def test_it_is_the_mean_of_all_frames(stats, manifests):
    (source,) = open_sources(manifests["dev"])
    lengths = source.manifest.samples
    spectra = [log_mel(source.audio(i, 0, int(n)), GOOGLE) for i, n in enumerate(lengths)]
    frames = np.concatenate(spectra).astype(np.float64)
    found = mel_statistics.read(stats, GOOGLE)
    assert found.frames == len(frames)
    np.testing.assert_allclose(found.mean, frames.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.std, frames.std(0), rtol=1e-7)


def test_parts_of_a_corpus_and_what_cannot_be_used(manifests, tmp_path):
    output = tmp_path / "some.json"
    few = (f"--output={output}", "--preset=kaldi", "--mels=40", "--utterances=3", "--threads=1")
    assert "3 utterances" in command(f"--manifest={manifests['dev']}", *few)
    assert len(mel_statistics.read(output, dataclasses.replace(KALDI, mels=40)).mean) == 40
    command(f"--manifest={manifests['dev']}", *few)  # its own file is replaced
    own = tmp_path / "own.txt"
    own.write_text("letters")
    assert "nothing shows that it was written by this command" in command(
        f"--manifest={manifests['dev']}", f"--output={own}", status=2
    )


def test_what_is_left_out_is_counted(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(16_000, np.int16), 16_000)
    soundfile.write(tmp_path / "b.wav", np.ones(300, np.int16), 16_000)
    names, samples = ["a.wav", "b.wav", "gone.wav"], [16_000, 300, 16_000]
    Manifest(tmp_path, names, samples, ["", "", ""]).write(tmp_path / "all.tsv")
    counts = Counter()
    rows = rows_of(open_sources(str(tmp_path / "all.tsv")), 0)
    (found,) = spectra_of(rows, KALDI, 2, counts)
    assert counts == {"used": 1, "short": 1, "unreadable": 1}
    assert found.shape == (98, 80)


def test_a_corpus_without_sound():
    with pytest.raises(UserError, match="bin 0 of 80 is 0 in all 98 frames and cannot be"):
        mel_statistics.collect([log_mel(np.zeros(16_000, np.int16), GOOGLE)], GOOGLE)
    with pytest.raises(UserError, match="no two frames"):
        mel_statistics.collect([], GOOGLE)


def test_a_training_holds_the_numbers_and_not_the_name(stats, tmp_path):
    """The file may move, and may go; other numbers are another model."""
    config = config_with(stats)
    task = make_task(config)
    found = mel_statistics.read(stats, GOOGLE)
    assert task.encoder.frontend.mean == found.mean
    assert task.described()["model"]["frontend"]["std"] == found.std
    assert task.encoder.frontend.statistics == ""
    assert config.model.frontend.statistics == str(stats)  # the caller's config stays as it was
    assert str(stats) not in json.dumps([settings_of(task.config), task.described()])
    moved = shutil.copy(stats, tmp_path / "moved.json")
    again = make_task(config_with(moved))
    assert settings_of(again.config) == settings_of(task.config)
    content = json.loads(moved.read_text())
    moved.write_text(json.dumps(content | {"mean": [0.0] * 80}))
    other = make_task(config_with(moved))
    assert settings_of(other.config) != settings_of(task.config)


def test_an_export_carries_them(stats, tmp_path, manifests):
    """It loads, recognises, and lends them to what is trained after it."""
    task = make_task(config_with(stats))
    alphabet = Alphabet.english()
    variables = jax.device_get(nn.meta.unbox(jax.jit(task.init)()))
    described = task.described()
    export_model(tmp_path / "export", variables, described | rates(described))
    loaded, config = checkpoints.load(tmp_path / "export", "ctc")
    encoder = encoder_of(config, tmp_path)
    assert encoder.frontend == task.encoder.frontend
    assert config["frame_rate"] == 25.0
    (source,) = open_sources(manifests["dev"])
    audio = [source.audio(row, 0, 12_000 + 997 * row) for row in range(3)]
    recognizer = Recognizer(encoder, alphabet)
    together = recognizer.recordings(loaded, audio, rows=3)
    for x, found in zip(audio, together, strict=True):
        assert len(found) == encoder.frontend.frames(len(x))
        np.testing.assert_allclose(found, recognizer.log_probs(loaded, x), atol=1e-4)
    lent = make_task(config_with(tmp_path / "export"))
    assert lent.encoder.frontend == task.encoder.frontend
    plain = make_task(config_with("", normalization="utterance")).encoder
    with pytest.raises(UserError, match=r"argument|statistics=there|normalization"):
        plain.check_same(encoder, "there")
    numbers = dict(mean=(0.0,) * 80, std=(1.0,) * 80)
    frontend = dataclasses.replace(encoder.frontend, **numbers)
    with pytest.raises(UserError, match=f"{FLAG}there, or take over"):
        dataclasses.replace(encoder, frontend=frontend).check_same(encoder, "there")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"std": [-1.0] * 80}, "std does not consist of finite numbers above 0"),
        ({"std": [0.0] * 80}, "std does not consist of finite numbers above 0"),
        ({"mean": [float("nan")] * 80}, "mean does not consist of finite numbers"),
        ({"mean": ["a"] * 80}, "mean does not consist of finite numbers"),
        ({"mean": [1.0] * 79}, "mean is not a list of 80 numbers"),
        ({"std": None}, "std is not a list of 80 numbers"),
        ({"preset": "whisper"}, "of the preset whisper with 80 mels, the model has google with 80"),
        ({"mels": 128}, "of the preset google with 128 mels, the model has google with 80"),
        ({"digest": "0"}, "of another definition of google than this version's"),
        ({"format": ""}, "it holds no statistics of log-mel spectra"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_file_is_told_what_is_wrong(stats, tmp_path, change, words):
    """Naming the file, what is wrong, and the command that writes the right one."""
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(json.loads(stats.read_text()) | change))
    with pytest.raises(UserError) as raised:
        make_task(config_with(path))
    said = str(raised.value)
    assert said.startswith(f"{FLAG}{path}: ")
    assert words in said
    assert "python -m w2v_jax.mel_statistics --preset=google --mels=80 --output=FILE" in said
    assert len(said) < 500


def test_a_number_that_no_float_holds(stats, tmp_path):
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(json.loads(stats.read_text()) | {"mean": [10**400] * 80}))
    with pytest.raises(UserError, match="mean does not consist of finite numbers"):
        mel_statistics.read(path, GOOGLE)


def test_what_is_no_file_of_statistics(stats, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"kind": "ctc", "model": {"width": 3}}')
    (tmp_path / "text").write_text("{")
    (tmp_path / "list").write_text("[1]")
    for name in ("model", "text", "list", "nothing"):
        with pytest.raises(UserError) as raised:
            make_task(config_with(tmp_path / name))
        assert f"{FLAG}{tmp_path / name}" in str(raised.value)
    with pytest.raises(UserError, match="is of normalization=global alone; set"):
        make_task(config_with(stats, normalization="utterance"))
    with pytest.raises(UserError, match=r"normalization=global needs mean .*mel_statistics wrote"):
        make_task(config_with(""))
