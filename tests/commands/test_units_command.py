"""Units from audio to files and numbers: resumed, refused, told apart."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from tests.tools import said
from w2v_jax import units as command
from w2v_jax.analysis import quantization, training_frames
from w2v_jax.analysis.centroids import Centroids, Nearest
from w2v_jax.analysis.extraction import open_extractor
from w2v_jax.analysis.store import FeatureStore
from w2v_jax.data import units
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sources import Row, open_sources
from w2v_jax.decoding import alignment_files
from w2v_jax.decoding.alignment import Alignment, Interval
from w2v_jax.errors import UserError
from w2v_jax.features import extract_all
from w2v_jax.interop import checkpoints
from w2v_jax.training.checkpoint import export_model

ROOT = Path(__file__).parents[2]


run = functools.partial(said, "units")


@pytest.fixture(scope="module")
def train(manifests, tmp_path_factory):
    """A manifest of some speech, in a folder of its own."""
    path = str(tmp_path_factory.mktemp("units") / "train.tsv")
    Manifest.read(manifests["train"]).select(np.arange(40)).write(path)
    return path


@pytest.fixture(scope="module")
def centroids(train):
    """The file of centroids of MFCC, of a half of the recordings."""
    path = os.path.join(os.path.dirname(train), "mfcc20.npz")
    command.learn("mfcc", train, path, clusters=20, share=0.5, seed=7)
    return path


@pytest.fixture(scope="module")
def of_layer(train, checkpoint):
    path = os.path.join(os.path.dirname(train), "layer2.npz")
    command.learn(checkpoint, train, path, tap="hidden_2", clusters=10, share=0.2)
    return path


@pytest.fixture
def copy(train, tmp_path):
    """The same manifest where nothing is beside it."""
    path = str(tmp_path / "train.tsv")
    Manifest.read(train).write(path)
    return path


@pytest.fixture
def few(train, tmp_path):
    """Some of its rows, for models."""
    path = str(tmp_path / "few.tsv")
    Manifest.read(train).select(np.arange(6)).write(path)
    return path


def export(checkpoint, folder, change):
    """Where another model is: a weight of the last block is changed."""
    variables, config = checkpoints.load(checkpoint)
    block = variables["params"]["encoder"]["context"]["layers"]["block"]
    block["feed_forward"] = jax.tree.map(change, block["feed_forward"])
    export_model(folder, variables, config)
    return str(folder)


def read(path, name):
    return units.read(path, name, Manifest.read(path))


def by_hand(path, values, extractor, tap):
    """The nearest centroid of every frame, all distances in float64."""
    (source,) = open_sources(path)
    rows = (Row(source, row) for row in range(len(source.manifest)))
    for found in extractor.many(rows):
        x = found.arrays[tap].astype(np.float64)
        yield np.square(x[:, None] - values.astype(np.float64)).sum(-1).argmin(1)


def test_what_centroids_say_of_themselves(train, centroids, of_layer, checkpoint):
    found = Centroids.read(centroids)
    assert (found.name, found.tap, found.rate, found.middle) == ("mfcc20", "mfcc", 100.0, 0.0125)
    assert found.values.shape == (20, 39)
    assert found.seed == 7
    assert found.settings["recordings"] == 20
    assert found.extractor == open_extractor("mfcc").description
    layer = Centroids.read(of_layer)
    stride = 320
    assert (layer.tap, layer.rate, layer.extractor["source"]) == (
        "hidden_2", 16_000 / stride, checkpoint,
    )  # fmt: skip
    assert len({found.digest, layer.digest}) == 2


def test_the_same_seed_learns_the_same(train, centroids, tmp_path):
    again = command.learn("mfcc", train, str(tmp_path / "a.npz"), clusters=20, share=0.5, seed=7)
    assert again.digest == Centroids.read(centroids).digest
    other = command.learn("mfcc", train, str(tmp_path / "b.npz"), clusters=20, share=0.5, seed=8)
    assert other.digest != again.digest


def test_units_are_the_nearest_centroids(few, centroids, of_layer, capsys):
    for file, name, tap, rate in ((centroids, "mfcc", "mfcc", 100), (of_layer, "", "hidden_2", 50)):
        command.apply(file, few, name=name)
        assert "6 recordings, 0 unreadable" in capsys.readouterr().out
        found, of = read(few, name or "layer2"), Centroids.read(file)
        assert (found.rate, found.classes) == (rate, len(of.values))
        assert found.source["centroids"] == of.digest
        extractor = open_extractor(of.extractor["source"], (tap,))
        wanted = list(by_hand(few, of.values, extractor, tap))
        assert found.values.sizes.tolist() == [len(x) for x in wanted]
        same = np.concatenate(wanted) == found.values.values
        assert same.mean() > 0.995  # a frame in the middle of two may fall to either
    assert not list(Path(few).parent.glob("*.partial"))
    command.apply(centroids, few, name="mfcc")  # once more: nothing to do
    assert "there already, of these centroids" in capsys.readouterr().out


def test_nearest_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(30, 6)) + 1000).astype(np.float32)
    x = (rng.normal(size=(9001, 6)) + 1000).astype(np.float32)
    nearest = Nearest(values)
    wanted = np.square(x[:, None].astype(np.float64) - values).sum(-1).argmin(1)
    assert (nearest(x) == wanted).mean() > 0.999
    assert nearest(x[:0]).shape == (0,)
    np.testing.assert_array_equal(nearest(x[:77]), nearest(x)[:77])
    tie = np.zeros((4, 6), np.float32)
    assert Nearest(tie)(x[:5]).tolist() == [0] * 5


def test_features_from_a_folder(train, centroids, tmp_path, caplog):
    """Give the same centroids as those that are computed."""
    folder = str(tmp_path / "features")
    extract_all(open_extractor("mfcc"), train, [], folder, "float32")
    found = command.learn(folder, train, str(tmp_path / "a.npz"), clusters=20, share=0.5, seed=7)
    assert found.digest == Centroids.read(centroids).digest
    assert (found.rate, found.middle) == (100.0, 0.0125)
    with pytest.raises(UserError, match=r"has no hidden_3; name one with --layer or --tap: mfcc"):
        command.learn(folder, train, str(tmp_path / "b.npz"), tap="hidden_3")
    Manifest.read(train).select([0, 1]).write(tmp_path / "two.tsv")
    with pytest.raises(UserError, match="is of other recordings than --data"):
        command.learn(folder, str(tmp_path / "two.tsv"), str(tmp_path / "b.npz"))
    row, failed = 17, np.load(f"{folder}/failed.npy", mmap_mode="r+")
    failed[row] = True
    failed.flush()
    assert training_frames.read(folder, "", train, 1.0, 0, 20).recordings == 39
    assert "1 of 40 recordings are left out" in caplog.text
    failed[row] = False
    failed.flush()
    array = np.load(f"{folder}/mfcc.npy", mmap_mode="r+")
    array[FeatureStore(folder).bounds[row] + 3, 5] = np.inf
    array.flush()
    name = Manifest.read(train).paths[row]
    with pytest.raises(UserError, match=rf"{name}: mfcc of mfcc .* is not finite"):
        command.learn(folder, train, str(tmp_path / "b.npz"))


def test_other_models_are_refused(few, of_layer, checkpoint, tmp_path):
    """The message names both."""
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    command.apply(of_layer, few, features=str(moved))
    first = read(few, "layer2").values.values.copy()
    other = export(checkpoint, tmp_path / "other", lambda x: 1.01 * x)
    with pytest.raises(UserError) as raised:
        command.apply(of_layer, few, features=other, name="other")
    said = str(raised.value)
    assert f"hidden_2 of {checkpoint} (digest " in said
    assert f"{other} (digest " in said
    assert "learn --features=" in said
    assert not units.folder(few, "other").exists()
    with pytest.raises(UserError, match=r"mfcc has no hidden_2"):
        command.apply(of_layer, few, features="mfcc", name="other")
    gone = Centroids.read(of_layer)
    gone.extractor["source"] = str(tmp_path / "gone")
    gone.write(tmp_path / "gone.npz")
    with pytest.raises(UserError, match="where that has moved to, set --features"):
        command.apply(str(tmp_path / "gone.npz"), few, name="other")
    assert np.array_equal(read(few, "layer2").values.values, first)


def test_random_weights_are_opened_again(few, checkpoint, tmp_path):
    extractor = open_extractor(checkpoint, ("hidden_1",), random_weights=3)
    values = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    of = Centroids(values, "floor", "hidden_1", 50.0, 0.0125, extractor.description)
    of.write(tmp_path / "floor.npz")
    command.apply(str(tmp_path / "floor.npz"), few)
    assert read(few, "floor").source["extractor"]["random"] == 3


def test_units_that_are_there(copy, train, centroids, tmp_path):
    command.apply(centroids, copy)
    other = str(tmp_path / "mfcc20.npz")
    command.learn("mfcc", train, other, clusters=20, seed=1)
    before = read(copy, "mfcc20")
    with pytest.raises(UserError, match=r"mfcc20.units is there already, of other centroids"):
        command.apply(other, copy)
    assert read(copy, "mfcc20").source == before.source
    command.apply(other, copy, overwrite=True)
    assert read(copy, "mfcc20").source["centroids"] == Centroids.read(other).digest
    Manifest.read(train).select(np.arange(1, 5)).write(copy)
    with pytest.raises(UserError, match=r"mfcc20.units is there already, of another manifest"):
        command.apply(other, copy)
    command.apply(other, copy, overwrite=True)
    assert len(read(copy, "mfcc20").values) == 4
    with pytest.raises(UserError, match=r"--output: .*train.tsv exists, and nothing shows"):
        command.learn("mfcc", train, copy)


def test_killed_it_goes_on(copy, centroids, monkeypatch, capsys):
    """To the same units; what was done is not done again."""
    command.apply(centroids, copy)
    whole = read(copy, "mfcc20").values.values.copy()
    folder = units.folder(copy, "mfcc20")
    folder.rmtree()
    add, done = quantization._Run.add, []

    def dies(self, row, first, found):
        if len(done) == 25:
            self.keep()
            raise KeyboardInterrupt
        done.append(row)
        return add(self, row, first, found)

    with monkeypatch.context() as patch:
        patch.setattr(quantization._Run, "add", dies)
        with pytest.raises(KeyboardInterrupt):
            command.apply(centroids, copy)
    assert not folder.exists()
    other = Centroids.read(centroids)
    other = dataclasses.replace(other, values=other.values + 1)
    other.write(Path(copy).parent / "other.npz")
    with pytest.raises(UserError, match=r"units.partial is there already, of other centroids"):
        command.apply(str(Path(copy).parent / "other.npz"), copy, name="mfcc20")
    capsys.readouterr()
    command.apply(centroids, copy, overwrite=True)
    assert "40 recordings, 25 of them done before, 0 unreadable" in capsys.readouterr().out
    np.testing.assert_array_equal(read(copy, "mfcc20").values.values, whole)


def test_killed_for_real(copy, centroids):
    """SIGKILL at some moment; the same command then ends as if nothing had been."""
    arguments = [f"--centroids={centroids}", f"--data={copy}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "w2v_jax.units", "apply", *arguments], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    partial = Path(f"{units.folder(copy, 'mfcc20')}.partial", "run.json")
    end = time.monotonic() + 120
    while not partial.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    command.apply(centroids, copy)
    assert len(read(copy, "mfcc20").values) == 40


def test_recordings_that_cannot_be_read(copy, centroids, tmp_path, capsys):
    """Are counted and have no units; of too many nothing is written."""
    manifest = Manifest.read(copy)
    paths = [manifest.path(row) for row in range(12)]
    paths[4] = str(tmp_path / "gone.wav")
    Manifest("/", paths, manifest.samples[:12]).write(copy)
    with pytest.raises(UserError, match=r"1 of 12 recordings of .* cannot be read; repair them"):
        command.apply(centroids, copy, max_bad_share=0.05)
    command.apply(centroids, copy)
    assert "11 of them done before, 1 unreadable" in capsys.readouterr().out
    sizes = read(copy, "mfcc20").values.sizes
    assert np.flatnonzero(sizes == 0).tolist() == [4]
    found = command.learn("mfcc", copy, str(tmp_path / "b.npz"), clusters=20)
    assert found.settings["recordings"] == 11


def test_too_few_frames_and_what_is_no_number(few, tmp_path, checkpoint):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600, np.int16), 16_000)
    Manifest(tmp_path, ["a.wav"], [1600]).write(tmp_path / "short.tsv")
    with pytest.raises(UserError, match=r"--clusters=100 of 8 frames \(--share=1 of --data="):
        command.learn("mfcc", str(tmp_path / "short.tsv"), str(tmp_path / "a.npz"))
    with pytest.raises(UserError, match=r"3 clusters, but there are 1 different frames among 8"):
        command.learn("mfcc", str(tmp_path / "short.tsv"), str(tmp_path / "a.npz"), clusters=3)
    with pytest.raises(UserError, match=r"has several layers; name one with --layer or --tap"):
        command.learn(checkpoint, few, str(tmp_path / "a.npz"))
    with pytest.raises(UserError, match=r"has no hidden_9; it has .*hidden_0 to hidden_2"):
        command.learn(checkpoint, few, str(tmp_path / "a.npz"), tap="hidden_9")
    assert not (tmp_path / "a.npz").exists()
    broken = export(checkpoint, tmp_path / "broken", lambda x: np.nan * x)
    first = Manifest.read(few).path(0)
    with pytest.raises(UserError, match=rf"{first[-18:]}: hidden_2 of {broken} .* is not finite"):
        command.learn(broken, few, str(tmp_path / "a.npz"), tap="hidden_2", clusters=3)
    of = Centroids(
        np.eye(3, 32, dtype=np.float32), "nan", "hidden_2", 50.0, 0.0125,
        open_extractor(broken, ("hidden_2",)).description,
    )  # fmt: skip
    of.write(tmp_path / "nan.npz")
    with pytest.raises(UserError, match=rf"hidden_2 of {broken} .* is not finite"):
        command.apply(str(tmp_path / "nan.npz"), few)


def test_what_is_no_file_of_centroids(copy, centroids, tmp_path):
    data = Path(centroids).read_bytes()
    np.savez(tmp_path / "other.npz", centroids=np.zeros((2, 3)))
    (tmp_path / "cut.npz").write_bytes(data[:3000])
    changed = bytearray(data)
    changed[-700] ^= 1
    (tmp_path / "changed.npz").write_bytes(changed)
    (tmp_path / "text.npz").write_text("centroids")
    for name in ("other", "cut", "changed", "text", "gone"):
        why = r"it is no .npz\)" if name in ("cut", "text") else ""
        with pytest.raises(UserError, match=rf"--centroids=.*{name}.npz holds no centr\w+ \({why}"):
            command.apply(str(tmp_path / f"{name}.npz"), copy)


def test_where_centroids_cannot_be_written(tmp_path):
    """It is said before anything is computed, and leaves nothing."""
    (tmp_path / "file").touch()
    for output, match in (
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "file" / "a.npz", r"file/a.npz cannot be written: (not a dir|file exists)"),
        (tmp_path / "my units.npz", "the units 'my units': .* as --output, or by --name"),
    ):
        with pytest.raises(UserError, match=match):
            command.learn("mfcc", "is/not/read.tsv", str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_quality_with_letters(copy, centroids, tmp_path, capsys):
    command.apply(centroids, copy)
    found, manifest = read(copy, "mfcc20"), Manifest.read(copy)
    for row in range(len(manifest)):
        # labels that follow the units: they say all of them
        values = found.values[row] // 2
        edges = np.flatnonzero(np.diff(values, prepend=-1, append=-1))
        parts = [
            Interval(f"L{values[a]}", 0.01 * a + 0.0075, 0.01 * b + 0.0075, 0.0)
            for a, b in itertools.pairwise(edges)
        ]
        of = Alignment(parts, parts, 0.0)
        seconds = manifest.samples[row] / 16_000
        path = tmp_path / "aligned" / Path(manifest.paths[row]).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(alignment_files.json_text(of, seconds))
    capsys.readouterr()
    numbers = command.quality(copy, "mfcc20", str(tmp_path / "aligned"))
    said = capsys.readouterr().out
    assert json.loads(said.splitlines()[-1]) == json.loads(json.dumps(numbers))
    assert "letter NMI" in said
    assert "PNMI" not in said
    of = numbers["agreement"]
    assert of["label_purity"] == 1
    assert of["normalized"] == pytest.approx(1)
    assert of["frames"] == numbers["frames"]
    assert numbers["perplexity"] < 20
    assert 1 < numbers["mean_run"] < 10


def test_labels_of_fairseq(copy, tmp_path, capsys):
    manifest = Manifest.read(copy)
    rng = np.random.default_rng(0)
    sizes = manifest.samples // 320
    lines = [" ".join(map(str, rng.integers(0, 50, n))) for n in sizes]
    file = tmp_path / "train.km"
    file.write_text("\n".join(lines) + "\n")
    command.import_labels(str(file), copy, "km50", 50)
    assert "40 recordings" in capsys.readouterr().out
    found = read(copy, "km50")
    assert (found.rate, found.classes) == (50.0, 50)
    assert [" ".join(map(str, found.values[row])) for row in range(40)] == lines
    command.quality(copy, "km50")
    with pytest.raises(UserError, match=r"km50.units is there already"):
        command.import_labels(str(file), copy, "km50", 50)
    command.import_labels(str(file), copy, "km50", 50, clusters=500, overwrite=True)
    assert read(copy, "km50").classes == 500

    def wrong(text, match, rate=50, **options):
        file.write_text(text)
        with pytest.raises(UserError, match=match):
            command.import_labels(str(file), copy, "other", rate, **options)
        assert not units.folder(copy, "other").exists()

    wrong("\n".join(lines), "--rate=30: labels per second must divide 16,000", 30)
    wrong("\n".join(lines[:-1]), r"has 39 lines, .* has 40 rows")
    wrong("\n".join([*lines[:2], "3 x", *lines[3:]]), "line 3, '3 x', must be integers from 0 on")
    wrong("\n".join(["-1 2", *lines[1:]]), "line 1, '-1 2', must be integers")
    wrong("\n".join([*lines[:2], "", *lines[3:]]), "1 lines are empty, first line 3, .*ogg, of ")
    wrong("\n".join(lines), "40 of 40 rows have fewer values than audio", 100)
    wrong("\n".join(lines), "40 lines have more labels than audio, first line 1, ", 25)
    wrong("\n".join(lines), "a unit is 4[0-9]; of 7 classes 0 to 6 are ones", clusters=7)


def test_the_command(few, tmp_path):
    output = tmp_path / "mfcc10.npz"
    said = run("learn", "--features=mfcc", f"--data={few}", "--clusters=10", f"--output={output}",
               "--iterations=5")  # fmt: skip
    assert "10 clusters, 5 iterations: inertia " in said
    assert "0.00 GB of memory" in said
    said = run("apply", f"--centroids={output}", f"--data={few}")
    assert "6 recordings" in said
    assert " h/h" in said
    said = run("quality", f"--data={few}", status=2)
    assert "error: units quality needs --name, of the units" in said
