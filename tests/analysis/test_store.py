"""Features on disk: any order, only what is whole counts, nothing of another kind is mixed in."""

import errno
import json
import os

import numpy as np
import pytest

from w2v_jax.analysis.store import FeatureStore, FeatureWriter, written
from w2v_jax.errors import UserError

FRAMES = np.array([3, 0, 5, 2])
TAPS = {"hidden_1": 4, "conv_1": 2}
DESCRIPTION = {"extractor": "model", "digest": "abc", "source": "runs/base"}


def arguments(folder, **changes):
    values = {
        "folder": folder, "taps": TAPS, "description": DESCRIPTION, "frames": FRAMES,
        "times": np.array([0.0125, 0.0325]), "manifest": "0123456789abcdef", "dtype": "float32",
    }  # fmt: skip
    return values | changes


def values(row, tap, first=0, count=None):
    count = int(FRAMES[row]) - first if count is None else count
    x = np.arange(first, first + count)[:, None] * 10 + np.arange(TAPS[tap]) + 100 * row
    return x.astype(np.float32) + (tap == "conv_1") * 0.5


def both(row, *part):
    return {tap: values(row, tap, *part) for tap in TAPS}


def test_rows_in_any_order(tmp_path):
    folder = tmp_path / "deep" / "features"
    with written(**arguments(folder)) as writer:
        assert writer.write(3, 0, both(3))
        assert not writer.write(2, 2, both(2, 2))
        assert not writer.done.any()  # only what is on the disk
        writer.flush()
        assert writer.done.tolist() == [False, False, False, True]
        assert writer.write(2, 0, both(2, 0, 2))
        assert writer.write(1, 0, both(1))
        assert not FeatureStore(folder).complete
        writer.write(0, 0, both(0))
    store = FeatureStore(folder)
    assert store.complete
    assert len(store) == 4
    assert store.bounds.tolist() == [0, 3, 3, 8, 10]
    assert (store.taps, store.dtype) == (TAPS, "float32")
    assert (store.description, store.manifest_digest) == (DESCRIPTION, "0123456789abcdef")
    for tap in TAPS:
        assert isinstance(store[tap], np.memmap)
        assert store[tap].shape == (10, TAPS[tap])
        for row in range(4):
            np.testing.assert_array_equal(store.of(tap, row), values(row, tap))
        np.testing.assert_array_equal(np.load(folder / f"{tap}.npy"), store[tap])
    np.testing.assert_allclose(store.times(2), 0.0125 + 0.02 * np.arange(5))
    assert len(store.times(1)) == 0
    with pytest.raises(UserError, match="has no hidden_2; it has hidden_1, conv_1"):
        store["hidden_2"]


def test_going_on(tmp_path):
    with written(**arguments(tmp_path)) as writer:
        writer.write(0, 0, both(0))
        writer.flush()
        writer.write(3, 0, both(3, 0, 1))
        inode = os.stat(tmp_path / "conv_1.npy").st_ino
    with written(**arguments(tmp_path)) as writer:
        assert writer.done.tolist() == [True, False, False, False]
        for row in (1, 2, 3):
            assert writer.write(row, 0, both(row))
    store = FeatureStore(tmp_path)
    assert store.complete
    np.testing.assert_array_equal(store.of("hidden_1", 3), values(3, "hidden_1"))
    assert os.stat(tmp_path / "conv_1.npy").st_ino == inode
    moved = DESCRIPTION | {"source": "elsewhere/base"}  # the same weights
    with written(**arguments(tmp_path, description=moved)) as writer:
        assert writer.done.all()


def test_what_cannot_be_read_is_zeros_and_marked(tmp_path):
    with written(**arguments(tmp_path)) as writer:
        writer.write(2, 3, both(2, 3, 2))  # and then the run is killed
    with written(**arguments(tmp_path)) as writer:
        writer.write(2, 1, both(2, 1, 2))
        writer.fail(2)
        writer.fail(0)
        writer.write(1, 0, both(1))
        writer.write(3, 0, both(3))
    store = FeatureStore(tmp_path)
    assert store.complete
    assert store.failed.tolist() == [True, False, True, False]
    assert store.done.tolist() == [False, True, False, True]
    assert not store.of("conv_1", 2).any()
    with written(**arguments(tmp_path)) as writer:  # the disk is there again
        writer.write(2, 0, both(2))
    store = FeatureStore(tmp_path)
    assert store.failed.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(store.of("conv_1", 2), values(2, "conv_1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"description": DESCRIPTION | {"digest": "abd", "source": "runs/large"}},
         r"another --checkpoint \(runs/base there, runs/large here\)"),
        ({"description": DESCRIPTION | {"digest": "abd"}},
         r"another --checkpoint \(runs/base there, runs/base with other weights here\)"),
        ({"taps": {"hidden_1": 4}}, r"another --layers or --taps \(hidden_1, conv_1 there, hid"),
        ({"dtype": "float16"}, r"another --dtype \(float32 there, float16 here\)"),
        ({"manifest": "f" * 64}, r"another --data \(the manifest 0123456789ab there, the m"),
    ],
)  # fmt: skip
def test_others_are_refused(tmp_path, changes, message):
    with written(**arguments(tmp_path)) as writer:
        writer.write(0, 0, both(0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message + ".*; name another folder, or remove that one"):
        FeatureWriter(**arguments(tmp_path, **changes))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds something else \(config.json\); name a new folder"):
        FeatureWriter(**arguments(tmp_path))
    with pytest.raises(UserError, match="is a file; name a folder"):
        FeatureWriter(**arguments(tmp_path / "config.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(UserError, match=r"holds no features .*w2v_jax\.features"):
        FeatureStore(tmp_path)
    (tmp_path / "features.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="not of the format 'w2v_jax features 1'"):
        FeatureWriter(**arguments(tmp_path))
    with pytest.raises(UserError, match="gs://bucket/x: features are written in any order, to a"):
        FeatureWriter(**arguments("gs://bucket/x"))


@pytest.mark.parametrize("damage", ["cut", "gone", "other", "json"])
def test_damage_is_told(tmp_path, damage):
    with written(**arguments(tmp_path)):
        pass
    if damage == "cut":
        os.truncate(tmp_path / "conv_1.npy", 150)
    elif damage == "gone":
        (tmp_path / "done.npy").unlink()
    elif damage == "other":
        np.save(tmp_path / "conv_1.npy", np.zeros((9, 2), np.float32))
    else:
        content = json.loads((tmp_path / "features.json").read_text())
        (tmp_path / "features.json").write_text(json.dumps(content | {"taps": 3}))
    if damage != "json":
        with pytest.raises(UserError, match="holds damaged features"):
            FeatureWriter(**arguments(tmp_path))
    with pytest.raises(UserError, match=r"holds damaged features .*remove it and"):
        FeatureStore(tmp_path)


def test_beyond_float16(tmp_path):
    with written(**arguments(tmp_path, dtype="float16")) as writer:
        arrays = both(0)
        arrays["conv_1"][1, 1] = -7e4
        with pytest.raises(UserError, match=r"conv_1 reaches 7e.04, which is beyond float16; set"):
            writer.write(0, 0, arrays)
        arrays["conv_1"][1, 1] = np.inf  # of a model that is broken, not of the format
        assert writer.write(0, 0, arrays)
    assert FeatureStore(tmp_path).of("hidden_1", 0).dtype == np.float16


def test_a_disk_without_room(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"[\d,]+ MB are to be written, and the disk has [\d,]+ MB"):
        FeatureWriter(**arguments(tmp_path / "huge", frames=np.array([10**12])))
    with written(**arguments(tmp_path / "full")) as writer:

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match="full cannot be written: no space left on device"):
            writer.write(0, 0, both(0))
        monkeypatch.undo()
    assert not FeatureStore(tmp_path / "full").done.any()


def test_one_at_a_time(tmp_path):
    with (
        written(**arguments(tmp_path)),
        pytest.raises(UserError, match="is being written by another run"),
    ):
        FeatureWriter(**arguments(tmp_path))
    with written(**arguments(tmp_path)):
        pass


def test_no_frames_at_all(tmp_path):
    with written(**arguments(tmp_path, frames=np.array([0, 0]))) as writer:
        for row in (0, 1):
            assert writer.write(row, 0, {t: np.zeros((0, n), np.float32) for t, n in TAPS.items()})
    store = FeatureStore(tmp_path)
    assert store.complete
    assert store["conv_1"].shape == (0, 2)
