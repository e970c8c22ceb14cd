"""Scores of layers as they are kept and drawn, vectors of words, fairseq's test of HuBERT."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from w2v_jax.analysis import curves
from w2v_jax.analysis.layer_scores import LayerScores
from w2v_jax.analysis.points import (
    Point,
    Scores,
    check_name,
    position,
    published,
    read_scores,
    table,
    write_scores,
)
from w2v_jax.analysis.reference import check, explained
from w2v_jax.analysis.vectors import read_vectors
from w2v_jax.errors import UserError
from w2v_jax.evaluation import figures
from w2v_jax.interop import checkpoints
from w2v_jax.interop.exported import encoder_of
from w2v_jax.models.encoder import Encoder
from w2v_jax.places import place


def scores(name="a", measure="cca_mel", digest="1", layers=("conv_1", "hidden_0")):
    points = [Point(layer, "pwcca", [0.5, 0.7], [0.8], 0.01, 100, 32) for layer in layers]
    return Scores(name, measure, {"digest": digest, "source": "x"}, {"seed": 0}, points)


def test_scores_are_kept(tmp_path):
    folder = place(tmp_path)
    one = scores("my model, random weights")
    write_scores(one, folder)
    assert read_scores(one.path(folder)) == one
    assert one.path(folder).name == "my_model_random_weights.cca_mel.json"
    there = check_name(one, folder, overwrite=False)
    assert there.covers(one, ["conv_1"])
    assert not there.covers(one, ["conv_1", "hidden_1"])
    assert not there.covers(one._replace(settings={"seed": 1}), ["conv_1"])
    other = scores("my model, random weights", digest="2")
    with pytest.raises(UserError, match=r"scores of another model .* --names"):
        check_name(other, folder, overwrite=False)
    assert check_name(other, folder, overwrite=True) is None
    with pytest.raises(UserError, match=r"has scores of 'my model, random weights' in my_model_ra"):
        check_name(scores("my model: random weights"), folder, overwrite=False)
    assert scores("größer").path(folder) != scores("kleiner, öl").path(folder)
    assert scores("模型").path(folder) != scores("別の").path(folder)
    one.path(folder).write_text('{"format": "w2v_jax layer scores 1", "name": 3}')
    with pytest.raises(UserError, match="holds no scores of layers"):
        read_scores(one.path(folder))


def test_other_layers_are_added(tmp_path, capsys):
    """Of the same speech and settings; of others they take the place."""
    kept = LayerScores(None, {}, str(tmp_path))
    for layer in ("hidden_2", "hidden_1", "hidden_2"):
        one = scores(layers=[layer])
        kept.keep(one, one.points)
    path = one.path(place(tmp_path))
    assert [point.layer for point in read_scores(path).points] == ["hidden_1", "hidden_2"]
    assert not kept.missing(one, ["hidden_1", "hidden_2"])
    assert capsys.readouterr().out == ""
    other = one._replace(settings={"seed": 1})
    assert kept.missing(other, ["hidden_2"])
    assert "a.cca_mel.json: of other data or settings, is replaced" in capsys.readouterr().out
    kept.keep(other, other.points)
    assert read_scores(path) == other


def test_table():
    (row,) = csv.DictReader(table([scores(layers=["hidden_0"])]).splitlines())
    assert row == {
        "model": "a", "layer": "hidden_0", "measure": "cca_mel", "score": "pwcca", "value": "0.6",
        "lowest": "0.5", "highest": "0.7", "in_sample": "0.8", "floor": "0.01", "repeats": "2",
        "frames": "100", "width": "32",
    }  # fmt: skip


def test_places_of_layers():
    layers = ["conv_1", "conv_7", "hidden_0", "hidden_12", "mfcc"]
    assert [position(x, layers) for x in layers[:4]] == [-7, -1, 0, 12]
    assert np.isnan(position("mfcc", layers))
    assert np.isnan(position("feed_forward_3", layers))


def test_curves_of_all_that_is_there(tmp_path, capsys, monkeypatch):
    drawn = []
    layers = figures.layers
    monkeypatch.setattr(figures, "layers", lambda panels: drawn.append(panels) or layers(panels))
    with pytest.raises(UserError, match="no scores of layers"):
        curves.draw(str(tmp_path))
    folder = place(tmp_path)
    write_scores(scores("old")._replace(settings={"seed": 7}), folder)
    for one in (scores("b", layers=("hidden_10", "hidden_9")), scores("b, random weights"),
                scores("mfcc", layers=["mfcc"])):  # fmt: skip
        write_scores(one, folder)
    points = [Point(f"hidden_{i}", "pnmi", [0.1 * i], [], 0.0, 9, 9) for i in range(3)]
    write_scores(scores("b", "clusters_phones")._replace(points=points), folder)
    curves.draw(str(tmp_path), with_published=True)
    said = capsys.readouterr().out
    assert "left out, as of other data or settings: old" in said
    assert "hidden_2" in said
    cca, clusters = drawn
    (panel,) = cca.values()
    assert {curve.name for curve in panel} == {"b", "b, random weights", "mfcc"}
    assert {curve.name: list(curve.places) for curve in panel}["b"] == [9, 10]
    assert [curve.dashed for curve in panel if "random" in curve.name] == [True]
    (panel,) = clusters.values()
    assert len(panel) == 2
    assert panel[1].values[6] == 0.637
    assert (tmp_path / "cca.png").read_bytes()[:4] == b"\x89PNG"
    assert "old" not in (tmp_path / "cca.csv").read_text()
    (tmp_path / "cca.csv").write_text("mine")
    with pytest.raises(UserError, match="nothing shows that it was written by this command"):
        curves.draw(str(tmp_path))


def test_nothing_to_compare_with_what_was_published(tmp_path, capsys):
    write_scores(scores(), place(tmp_path))
    curves.draw(str(tmp_path), with_published=True)
    assert "nothing here is what was published: pnmi" in capsys.readouterr().out


def test_published_table():
    """Peaks of HuBERT BASE: phones at 7 and 11, words at 10 (facebookresearch/spidr)."""
    found = published()
    assert len(found) == 108
    assert {row.layer for row in found} == set(range(1, 13))

    def best(measure, data="dev", sign=1):
        rows = [row for row in found if row.measure == measure and data in row.data]
        return max(rows, key=lambda row: sign * row.value)[2:4]

    assert best("pnmi") == (7, 0.637)
    assert best("phone_purity") == (7, 0.669)
    assert best("word_map", "dev-clean") == (10, 58.89)
    assert best("abx_within", "dev-clean", -1) == (11, 3.38)
    assert best("abx_across", "dev-other", -1) == (10, 6.36)
    assert all("spidr" in row.source for row in found)


def test_word_vectors(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("2 3\nthe 1 2 3\n. . . 4 5 6\nHE 7 8 9\nhe 0 0 0\nother 1 1 1\n")
    found = read_vectors(str(path), ["THE", "HE", "SHE", ". . ."])
    assert {word: x.tolist() for word, x in found.items()} == {
        "THE": [1, 2, 3], "HE": [7, 8, 9], ". . .": [4, 5, 6]
    }  # fmt: skip
    with pytest.raises(UserError, match="none of the words"):
        read_vectors(str(path), ["NOWHERE"])
    path.write_text("the 1 2 3\nhe 1 2\n")
    with pytest.raises(UserError, match="line 2 has"):
        read_vectors(str(path), ["THE"])
    with pytest.raises(UserError, match="no such file"):
        read_vectors(str(tmp_path / "gone.txt"), ["THE"])


@pytest.fixture
def fairseq_test(tmp_path, checkpoint):
    """A folder like examples/hubert/tests, with features of a small model by its own module."""
    random = np.random.default_rng(0)
    audio = (3000 * random.standard_normal(32000)).astype(np.int16)
    soundfile.write(tmp_path / "1-2-3.flac", audio, 16000)
    variables, config = checkpoints.load(checkpoint)
    encoder = encoder_of(config, checkpoint)
    weights = {kind: tree["encoder"] for kind, tree in variables.items()}
    found = Encoder(encoder).apply(weights, jnp.asarray(audio[None]), taps=("hidden_1",))
    features = np.asarray(found.taps["hidden_1"])[0]
    np.save(tmp_path / "sample.small.L1.npy", features)
    np.save(tmp_path / "sample.large.L20.npy", np.zeros((99, 1024), np.float32))
    units = (features[:, 0] > np.median(features[:, 0])).astype(int)
    (tmp_path / "sample.small.L1.km2.km").write_text(" ".join(map(str, units)) + "\n")
    return tmp_path, features, units


def test_fairseqs_test_of_hubert(fairseq_test, checkpoint):
    folder, features, units = fairseq_test
    found = check(checkpoint, str(folder))
    assert all(one.passed for one in found)
    assert len(found) == 5
    means = np.stack([features[units == i].mean(0) for i in (0, 1)])[units]
    share = 1 - ((features - means) ** 2).sum() / ((features - features.mean(0)) ** 2).sum()
    assert explained(features, units) == pytest.approx(share, rel=1e-4)
    other = features + 0.05 * features.std() * np.random.default_rng(1).standard_normal(
        features.shape
    )
    np.save(folder / "sample.small.L1.npy", other.astype(np.float32))
    failed = [one.what for one in check(checkpoint, str(folder)) if not one.passed]
    assert failed == ["layer 1: error (rms)"]
    np.save(folder / "sample.small.L1.npy", features[:-1])
    assert [one.passed for one in check(checkpoint, str(folder))] == [False]
    (folder / "sample.small.L1.npy").unlink()
    with pytest.raises(UserError, match="no features of a model of 2 blocks of width 32"):
        check(checkpoint, str(folder))
    with pytest.raises(UserError, match="has no recording"):
        check(checkpoint, str(folder / "none"))
