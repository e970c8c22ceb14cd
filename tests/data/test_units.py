"""Units beside a manifest: what is written is read, and what does not fit is told."""

import json
import os
import pickle

import numpy as np
import pytest

from w2v_jax.data import units
from w2v_jax.data.audio_files import Files
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.shards import is_shards
from w2v_jax.data.sharing import Ragged
from w2v_jax.errors import UserError

SAMPLES = (16_000, 400, 48_123)
SOURCE = {"centroids": "ab12", "tap": "mfcc"}


@pytest.fixture
def manifest(tmp_path):
    found = Manifest(tmp_path, ["a.wav", "b.wav", "c.wav"], SAMPLES)
    found.write(tmp_path / "train.tsv")
    return Manifest.read(tmp_path / "train.tsv")


def rows(rate=50, classes=9, dtype=np.int64, seed=0):
    """Of every row as many values as it has whole periods, less the two of a window."""
    rng = np.random.default_rng(seed)
    counts = [max(n * rate // 16_000 - 2, 0) for n in SAMPLES]
    return [rng.integers(0, classes, count).astype(dtype) for count in counts]


def written(folder, manifest, name="km9", arrays=None, *, path="train.tsv", **options):
    options = {"rate": 50, "classes": 9, "source": SOURCE} | options
    values = Ragged.of(rows() if arrays is None else arrays)
    return units.write(folder / path, name, manifest, values, **options)


def read(folder, manifest, name="km9"):
    return units.read(str(folder / "train.tsv"), name, manifest)


def test_what_is_written_is_read(tmp_path, manifest):
    where = written(tmp_path, manifest)
    assert os.fspath(where) == f"{tmp_path}/train.km9.units"
    found = read(tmp_path, manifest)
    assert (found.rate, found.classes, found.source) == (50.0, 9, SOURCE)
    assert found.values.values.dtype == np.uint16
    assert len(found.values) == 3
    for i, expected in enumerate(rows()):
        np.testing.assert_array_equal(found.values[i], expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.km9.units", "train.tsv"]
    assert sorted(p.name for p in where.iterdir()) == ["bounds.npy", "units.json", "values.npy"]


def test_the_folder_is_that_of_the_stem(tmp_path):
    assert units.folder("d/train.arrow", "a-1_b").name == "train.a-1_b.units"
    (tmp_path / "data.v2").mkdir()  # shards: their whole name is the stem
    assert units.folder(tmp_path / "data.v2", "km9").name == "data.v2.km9.units"
    for name in ("", "a/b", "..", "a,b", "a b"):
        with pytest.raises(UserError, match="letters, digits"):
            units.folder("train.tsv", name)


def test_many_classes_take_four_bytes(tmp_path, manifest):
    arrays = rows(classes=70_000)
    for classes, kind in ((65_535, np.uint16), (70_000, np.uint32)):
        some = [a % classes for a in arrays]
        written(tmp_path, manifest, "big", some, classes=classes)
        found = read(tmp_path, manifest, "big")
        assert found.values.values.dtype == kind
        np.testing.assert_array_equal(found.values[2], some[2])


def test_pickled_they_are_a_name(tmp_path, manifest):
    written(tmp_path, manifest)
    values = read(tmp_path, manifest).values
    again = pickle.loads(pickle.dumps(values))
    assert len(pickle.dumps(values)) < 500
    assert again.digest == values.digest
    np.testing.assert_array_equal(again[2], values[2])


def test_older_ones_are_replaced_and_a_mapping_keeps_them(tmp_path, manifest):
    written(tmp_path, manifest)
    old = read(tmp_path, manifest)
    before = old.values[0].copy()
    written(tmp_path, manifest, arrays=rows(seed=1))
    new = read(tmp_path, manifest)
    assert old.values.digest != new.values.digest
    np.testing.assert_array_equal(old.values[0], before)
    np.testing.assert_array_equal(new.values[0], rows(seed=1)[0])


def test_what_cannot_be_written_leaves_the_old(tmp_path, manifest):
    written(tmp_path, manifest)
    for arrays in (rows(classes=10, seed=3), [a - 1 for a in rows()]):
        with pytest.raises(UserError, match="of 9 classes 0 to 8"):
            written(tmp_path, manifest, arrays=arrays)
    np.testing.assert_array_equal(read(tmp_path, manifest).values[0], rows()[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.km9.units", "train.tsv"]
    with pytest.raises(UserError, match="no row has a unit"):
        written(tmp_path, manifest, "none", [[], [], []])


def test_missing_names_the_command(tmp_path, manifest):
    with pytest.raises(UserError, match=r"units apply --centroids=.* --name=km9"):
        read(tmp_path, manifest)


def test_of_another_manifest(tmp_path, manifest):
    written(tmp_path, manifest)
    with pytest.raises(UserError, match="another list of utterances"):
        read(tmp_path, manifest.select([0, 2]))


def test_rows_need_values_for_their_audio(tmp_path, manifest):
    arrays = rows()
    short = [*arrays[:2], arrays[2][:-3]]  # 2 + 3 of 50 per second: 0.1 s, and a part of a value
    with pytest.raises(UserError, match=r"1 of 3 rows .* row 2, c.wav: 145 values at 50"):
        written(tmp_path, manifest, arrays=short)
    written(tmp_path, manifest, arrays=[*arrays[:2], arrays[2][:-2]])
    written(tmp_path, manifest, arrays=[[], [], arrays[2]])  # the first could not be read
    assert list(read(tmp_path, manifest).values.sizes) == [0, 0, 148]
    with pytest.raises(UserError, match="has 2 rows, the manifest 3"):
        written(tmp_path, manifest, arrays=arrays[:2])


@pytest.mark.parametrize(
    "damage", ["truncated", "bounds", "json", "key", "digest", "missing", "format"]
)
def test_damage(tmp_path, manifest, damage):
    where = tmp_path / written(tmp_path, manifest).name
    values, bounds, index = (where / n for n in ("values.npy", "bounds.npy", "units.json"))
    content = json.loads(index.read_text())
    if damage == "truncated":
        values.write_bytes(values.read_bytes()[:-10])
    elif damage == "bounds":
        np.save(bounds, np.load(bounds)[::-1])
    elif damage == "json":
        index.write_text(index.read_text()[:40])
    elif damage == "missing":
        values.unlink()
    elif damage == "format":
        index.write_text(json.dumps(content | {"format": "another"}))
    else:
        del content["digest" if damage == "digest" else "rate"]
        index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train.km9.units: .*make them with"):
        read(tmp_path, manifest)


def test_several_manifests_are_one(tmp_path, manifest):
    other = manifest.select([1, 0])
    other.write(tmp_path / "more.tsv")
    a, b = rows(), rows(seed=1)[1::-1]
    written(tmp_path, manifest, arrays=a)
    written(tmp_path, other, arrays=b, path="more.tsv")
    sources = [Files(m, path=f"{tmp_path}/{n}.tsv")
               for m, n in ((manifest, "train"), (other, "more"))]  # fmt: skip
    both = units.joined(sources, "km9")
    assert (both.rate, both.classes, len(both.values)) == (50, 9, 5)
    higher = units.shifted(both.values, 4)
    for values, by in ((both.values, 0), (pickle.loads(pickle.dumps(both.values)), 0), (higher, 4)):
        for i, expected in enumerate(a + b):
            np.testing.assert_array_equal(values[i], expected + by)
        assert list(values.sizes) == [len(x) for x in a + b]
    alone = units.joined(sources[:1], "km9")
    digests = {x.digest for x in (alone.values, both.values, higher)}
    assert len(digests) == 3
    assert units.shifted(alone.values, 0) is alone.values

    for changes, what in (
        ({"source": {"centroids": "other"}}, "centroids"), ({"classes": 12}, "number of classes"),
        ({"rate": 25}, "rate"),
    ):  # fmt: skip
        written(tmp_path, other, arrays=b, path="more.tsv", **changes)
        with pytest.raises(UserError, match=f"differ in their {what}"):
            units.joined(sources, "km9")


def test_sources_know_where_their_units_are(manifests, tmp_path):
    from w2v_jax.data.shards import write_shards
    from w2v_jax.data.sources import open_sources

    (source,) = open_sources(manifests["dev"])
    assert source.path == source.select([0]).path == manifests["dev"]
    write_shards(source.manifest.select([0, 1]), tmp_path / "shards", processes=1)
    (shards,) = open_sources(str(tmp_path / "shards"))
    assert is_shards(shards.path)
    assert units.folder(shards.path, "km9") == tmp_path / "shards.km9.units"
