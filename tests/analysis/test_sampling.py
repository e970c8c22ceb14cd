"""What is drawn of speech, and what of an extractor's frames goes where."""

from pathlib import Path

import numpy as np
import pytest

from w2v_jax.analysis.extraction import open_extractor
from w2v_jax.analysis.labels import Intervals, Labels
from w2v_jax.analysis.sampling import (
    Frames,
    Nearest,
    Segments,
    Utterances,
    averaged,
    collect,
    draw_rows,
    draw_segments,
)
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError


@pytest.fixture(scope="module")
def utterances(manifests):
    return Utterances(open_sources(f"{manifests['dev']},{manifests['test']}"))


def intervals(*said):
    labels, starts, ends = zip(*said, strict=True)
    return Intervals(np.array(labels, np.int32), np.array(starts), np.array(ends))


LABELS = Labels(
    "phones", ["A", "B", "C"],
    [intervals((0, 0.0, 0.1), (1, 0.1, 0.2), (0, 0.2, 0.2)), None, intervals((1, 0.0, 0.5),)],
    1.0, [], [],
)  # fmt: skip


def test_central_thirds():
    """Frames of the reference's get_segment_idx, for segments of 1 to 7 frames."""
    ends = np.arange(1, 8) * 0.02 + 0.001
    starts = np.full(7, 0.021)
    every = Segments(np.zeros(7, int), np.arange(7), starts, ends + 0.02, False)
    spans, labels = every.take(0, np.arange(100) * 0.02, 50)
    assert spans.tolist() == [[1, 3], [1, 4], [1, 5], [1, 6], [1, 7], [1, 8], [1, 9]]
    assert labels.tolist() == list(range(7))
    spans, _ = every._replace(central=True).take(0, np.arange(100) * 0.02, 50)
    assert spans.tolist() == [[2, 3], [2, 3], [2, 4], [3, 4], [3, 5], [3, 6], [4, 6]]
    spans, _ = every.take(0, np.arange(2) * 0.02, 50)  # beyond the last frame
    assert spans.tolist() == [[1, 2]] * 7


def test_averages():
    values = np.arange(20.0).reshape(10, 2)
    found = averaged(values, np.array([[0, 1], [2, 5]]))
    assert found.dtype == np.float32
    assert found.tolist() == [[0, 1], [6, 7]]


def test_segments_are_drawn_of_every_label():
    every = draw_segments(LABELS, 10, seed=0)
    assert every.of.tolist() == [0, 0, 2]  # without the one that lasts no time
    assert every.labels.tolist() == [0, 1, 1]
    assert draw_segments(LABELS, 10, seed=0, kinds=1).labels.tolist() == [1, 1]
    drawn = {tuple(draw_segments(LABELS, 1, seed=seed).of.tolist()) for seed in range(20)}
    assert drawn == {(0, 0), (0, 2)}


def test_rows_are_drawn():
    assert draw_rows(5, 0, seed=0).tolist() == [0, 1, 2, 3, 4]
    drawn = draw_rows(np.arange(100, 200), 10, seed=1)
    assert len(set(drawn.tolist())) == 10
    assert (np.diff(drawn) > 0).all()
    assert (drawn == draw_rows(np.arange(100, 200), 10, seed=1)).all()


def test_frames_that_have_labels():
    def said(row, times):
        return np.where(times < 0.1, -1, row)

    spans, what = Frames(np.array([4]), said).take(4, np.arange(10) * 0.02, 50)
    assert spans[:, 0].tolist() == [5, 6, 7, 8, 9]
    assert (spans[:, 1] - spans[:, 0] == 1).all()
    assert what.tolist() == [4] * 5
    some, _ = Frames(np.array([4]), said, most=3).take(4, np.arange(10) * 0.02, 50)
    assert len(some) == 3
    assert set(some[:, 0]) < {5, 6, 7, 8, 9}


def test_nearest_frames():
    times = {0: np.array([0.0125, 0.0325, 9.0])}
    spans, _ = Nearest(np.array([0]), times).take(0, np.arange(5) * 0.01, 100)
    assert spans[:, 0].tolist() == [1, 3, 4]


def test_features_go_where_they_belong(utterances, tmp_path, checkpoint):
    """Of several selections at once, each the same as by its own; frames of mel are those at the
    times of the frames of the model."""
    model = open_extractor(checkpoint, ("hidden_0", "conv_2"))
    rows = np.array([3, 60])  # of both manifests
    segments = Segments(np.array([60, 3, 3]), np.array([7, 8, 9]), np.array([0.1, 0.2, 0.4]),
                        np.array([0.3, 0.3, 0.41]), False)  # fmt: skip
    taken = collect(model, utterances, {"frames": Frames(rows), "pieces": segments}, tmp_path)
    alone = [model(utterances[row][:]) for row in rows.tolist()]
    for tap, width in model.taps.items():
        expected = np.concatenate([features.arrays[tap] for features in alone])
        np.testing.assert_allclose(taken["frames"].arrays[tap], expected, atol=1e-4)
        assert taken["pieces"].arrays[tap].shape == (3, width)
        mean = alone[1].arrays[tap][5:15].mean(0)
        np.testing.assert_allclose(taken["pieces"].arrays[tap][2], mean, atol=1e-4)
    assert taken["frames"].what.tolist() == np.repeat(rows, [len(x.times) for x in alone]).tolist()
    assert taken["pieces"].what.tolist() == [8, 9, 7]  # in the order of rows
    mel = open_extractor("mel")
    times = taken["frames"].times
    same = collect(mel, utterances, {"mel": Nearest(rows, times)}, tmp_path)["mel"]
    assert len(same.what) == len(taken["frames"].what)
    for row, features in zip(rows.tolist(), alone, strict=True):
        np.testing.assert_allclose(times[row], features.times)
    spectrum = mel(utterances[3][:])
    at = np.abs(spectrum.times[:, None] - alone[0].times).argmin(0)
    np.testing.assert_allclose(same.arrays["mel"][: len(at)], spectrum.arrays["mel"][at], atol=1e-5)


def test_files_that_cannot_be_read_are_left_out(manifests, tmp_path, caplog):
    text = Path(manifests["dev"]).read_text().splitlines()
    text[0] = f"{text[0].split('root=')[0]}root={open_sources(manifests['dev'])[0].manifest.root}"
    text[2] = "\t".join(["gone.ogg", *text[2].split("\t")[1:]])
    (tmp_path / "dev.tsv").write_text("\n".join(text[:5]) + "\n")
    utterances = Utterances(open_sources(str(tmp_path / "dev.tsv")))
    found = collect(open_extractor("mfcc"), utterances, {"x": Frames(np.arange(3))}, tmp_path)
    assert set(found["x"].what) == {1, 2}
    assert "gone.ogg" in caplog.text
    with pytest.raises(UserError, match="no frame is left for x"):
        collect(open_extractor("mfcc"), utterances, {"x": Frames(np.arange(1))}, tmp_path)
