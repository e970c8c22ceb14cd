"""Features of manifests and of files, by the command: killed it goes on, what is wrong is told."""

import functools
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import small
from tests.tools import tool
from w2v_jax import features
from w2v_jax.analysis.store import FeatureStore
from w2v_jax.audio.waveform import AudioError, read
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError

ROOT = Path(__file__).parents[2]
AUDIO = small.noise_batch(1, 40_000)["audio"][0, 0]


@pytest.fixture(scope="module")
def extract(checkpoint):
    return features.load(checkpoint, layers=(0, 2))


@pytest.fixture
def files(tmp_path):
    """A recording, one that is no audio, a short one, and one that is not there."""
    soundfile.write(tmp_path / "a.wav", AUDIO, 16_000)
    (tmp_path / "b.wav").write_text("no audio")
    soundfile.write(tmp_path / "c.flac", AUDIO[:5_000], 16_000)
    return [str(tmp_path / name) for name in ("a.wav", "b.wav", "c.flac", "gone.wav")]


run = functools.partial(tool, "features")


def test_from_python(checkpoint, extract, files):
    found = extract(files[0])
    assert list(found.arrays) == ["hidden_0", "hidden_2"]
    assert found.arrays["hidden_2"].shape == (124, 32)
    np.testing.assert_allclose(np.diff(found.times), 0.02)
    np.testing.assert_array_equal(extract(read(files[0])).arrays["hidden_2"],
                                  found.arrays["hidden_2"])  # fmt: skip
    every = [f"hidden_{i}" for i in range(3)]
    for layers, taps, expected in (
        ("all", (), every), ("", (), every), ("2", (), ["hidden_2"]), (" 2,0", (), every[::2]),
        ("", ("features",), ["features"]),
        (1, "conv_4", ["hidden_1", "conv_4"]), ([1], ("conv_4",), ["hidden_1", "conv_4"]),
    ):  # fmt: skip
        assert list(features.load(checkpoint, layers, taps).taps) == expected
    assert features.load("mfcc", "all").taps == {"mfcc": 39}
    with pytest.raises(UserError, match="--layers=2,top: 'top' is no number of a layer, nor all"):
        features.load(checkpoint, "2,top")
    with pytest.raises(UserError, match=r"has no hidden_3; it has .* hidden_0 to hidden_2"):
        features.load(checkpoint, "3")


def test_many_from_python(extract, files):
    """As each alone: files, and samples of any type. What is no audio is not taken for silence."""
    whole = read(files[0])
    floats = whole.astype(np.float32) / 32768
    expected = extract(files[0]).arrays["hidden_2"]
    given = [files[0], Path(files[0]), whole, floats, floats.tolist(), files[3], floats + np.nan]
    found = list(extract.many(given))
    for one in found[:5]:
        np.testing.assert_allclose(one.arrays["hidden_2"], expected, atol=1e-3)
    assert all(isinstance(one, AudioError) for one in found[5:])
    for wrong, match in ((whole[None], r"the shape \(1, "), (whole.astype(int), "dtype int64")):
        with pytest.raises(UserError, match=match):
            list(extract.many([wrong]))


def test_files(extract, files, tmp_path, capsys):
    """What cannot be read is named, counted, and keeps its place."""
    output = str(tmp_path / "out")
    assert features.extract_all(extract, "", files, output, "float32") == 2
    printed = capsys.readouterr()
    assert re.findall(r"error: (\S+): ", printed.err) == [files[1], files[3]]
    assert printed.out.endswith(
        f"2 of 4 rows, 139 frames of hidden_0, hidden_2, float32: {output}\n"
    )
    store = FeatureStore(output)
    assert store.failed.tolist() == [False, True, False, True]
    assert store.complete
    assert np.diff(store.bounds).tolist() == [124, 0, 15, 0]
    assert store.description == extract.description
    for row in (0, 2):
        expected = extract(files[row])
        np.testing.assert_allclose(store.times(row), expected.times)
        for tap in extract.taps:
            np.testing.assert_allclose(store.of(tap, row), expected.arrays[tap], atol=1e-5)
    manifest = Manifest.read(f"{output}/manifest.arrow")
    assert [manifest.path(i) for i in range(4)] == files
    assert manifest.digest == store.manifest_digest
    soundfile.write(files[1], AUDIO[:9_000], 16_000)  # another length: another list of rows
    with pytest.raises(UserError, match="features of another --data"):
        features.extract_all(extract, "", files, output, "float32")


def test_several_manifests_and_an_unreadable_row(extract, manifests, tmp_path, capsys):
    manifest = Manifest.read(manifests["dev"]).select(np.arange(5))
    paths = [manifest.path(i) for i in range(5)]
    paths[3] = str(tmp_path / "gone.wav")
    Manifest("/", paths, manifest.samples).write(tmp_path / "one.tsv")
    manifest.select([4, 0]).write(tmp_path / "two.arrow")
    data = f"{tmp_path}/one.tsv,{tmp_path}/two.arrow"
    output = str(tmp_path / "out")
    assert features.extract_all(extract, data, [], output) == 1
    assert capsys.readouterr().err.startswith(f"error: {paths[3]}: no such file")
    store = FeatureStore(output)
    assert len(store) == 7
    assert np.diff(store.bounds).tolist() == [
        extract.frames(int(n)) for n in (*manifest.samples, *manifest.samples[[4, 0]])
    ]
    assert np.flatnonzero(store.failed).tolist() == [3]
    assert not store.of("hidden_2", 3).any()
    np.testing.assert_array_equal(store.of("hidden_2", 6), store.of("hidden_2", 0))
    expected = extract(paths[4]).arrays["hidden_2"]
    np.testing.assert_allclose(store.of("hidden_2", 5), expected, atol=2e-3)
    assert store["hidden_2"].dtype == np.float16
    # the file is there again: that row alone is computed
    soundfile.write(paths[3], AUDIO[: int(manifest.samples[3])], 16_000)
    assert features.extract_all(extract, data, [], output) == 0
    assert "6 of 7 rows are there already\n1/1  " in capsys.readouterr().out
    assert FeatureStore(output).of("hidden_2", 3).any()


def test_bad_input(extract, manifests, files, tmp_path):
    Manifest(tmp_path, [], []).write(tmp_path / "empty.tsv")
    with pytest.raises(UserError, match=r"--data=\S+empty.tsv has no rows"):
        features.extract_all(extract, f"{tmp_path}/empty.tsv", [], f"{tmp_path}/out")
    for data, given in (("", []), (manifests["dev"], files)):
        with pytest.raises(UserError, match="name manifests with --data, or audio files after"):
            features.extract_all(extract, data, given, f"{tmp_path}/out")
    with pytest.raises(UserError, match="holds something else"):
        features.extract_all(extract, manifests["dev"], [], str(tmp_path))
    with pytest.raises(UserError, match="to a local disk"):
        features.extract_all(extract, manifests["dev"], [], "gs://bucket/out")
    assert not (tmp_path / "out").exists()


def test_killed_it_goes_on(manifests, tmp_path):
    """By SIGKILL, in the middle of some rows, which are those of a run that nobody stopped."""
    output, whole = str(tmp_path / "out"), str(tmp_path / "whole")
    data = str(tmp_path / "some.tsv")
    Manifest.read(manifests["train"]).select(np.arange(100)).write(data)
    program = (
        "from w2v_jax import features; from w2v_jax.analysis import progress\n"
        "progress.EVERY = 0.0\n"
        f"features.extract_all(features.load('mfcc'), {data!r}, [], {output!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    marks = Path(output, "done.npy")
    while not marks.exists() or np.load(marks).sum() < 10:
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = np.array(FeatureStore(output).done)
    assert 10 <= done.sum() < len(done)
    extract = features.load("mfcc")
    assert features.extract_all(extract, data, [], output) == 0
    assert features.extract_all(extract, data, [], whole) == 0
    stores = [FeatureStore(folder) for folder in (output, whole)]
    assert stores[0].complete
    assert stores[0]["mfcc"].tobytes() == stores[1]["mfcc"].tobytes()
    assert stores[0]["mfcc"].any(1).all()


def test_frames_that_are_counted(tmp_path, capsys):
    """Those of a recording that was listed with its length and cannot be read are not there."""
    soundfile.write(tmp_path / "a.wav", np.ones(1600, np.int16), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(1600, np.nan), 16_000, subtype="FLOAT")
    Manifest(tmp_path, ["a.wav", "nan.wav"], [1600, 1600]).write(tmp_path / "data.tsv")
    mfcc = features.load("mfcc")
    assert features.extract_all(mfcc, str(tmp_path / "data.tsv"), [], str(tmp_path / "out")) == 1
    assert "\n1 of 2 rows, 8 frames of mfcc, " in capsys.readouterr().out


def test_the_command(checkpoint, files, tmp_path):
    output = tmp_path / "out"
    arguments = f"--checkpoint={checkpoint}", f"--output={output}", *files
    found = run(*arguments, "--layers=1", "--taps=conv_1", status=1)
    assert found.stderr.count("error: ") == 2
    assert re.match(
        r"2/2  0\.00 of 0\.00 h  left 0:00:00  [\d.,]+ h/h\n"
        r"2 of 4 rows, 139 frames of hidden_1, conv_1, float16: ", found.stdout,
    )  # fmt: skip
    assert FeatureStore(output).taps == {"hidden_1": 32, "conv_1": 16}
    found = run(*arguments, "--layers=2", status=2)
    assert found.stderr.startswith(f"error: --output={output} holds features of another --layers")
    assert len(found.stderr.splitlines()) == 1
