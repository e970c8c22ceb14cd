"""Tracks and views: what travels with the audio is cut where the audio is.

The samples of the corpus encode their own position, so every frame says where it begins.
"""

import itertools

import numpy as np
import pytest
import soundfile

from w2v_jax.audio.augment import change_speed, to_int16
from w2v_jax.data.audio_files import Files
from w2v_jax.data.augmentation import DEFAULTS, Augmentation
from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus, concatenated, with_joined
from w2v_jax.data.loader import Loader, Track, batch_arrays
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, crop_buckets, pad_buckets
from w2v_jax.data.shards import Shards, write_shards
from w2v_jax.data.sharing import Ragged
from w2v_jax.errors import UserError

GRID = 320
RATES = (50, 100)
STEPS = (0, 1, 2, 3, 9, 40, 41)  # 40 is several passes later
SIZES = tuple(int(n) for n in np.random.default_rng(0).integers(9_000, 30_000, 24))
MISSING = 2  # the last values of a row that its track lacks


def ramp(row: int, size: int) -> np.ndarray:
    """int16 [size], of which the sample at a multiple of 160 is the number of that multiple; all
    are of the row's own range."""
    return (np.arange(size) // 160 + 400 * row - 4_800).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of ramps as files, the first of them beginning within its file, and as shards."""
    folder = tmp_path_factory.mktemp("ramps")
    for row, size in enumerate(SIZES):
        before = np.zeros(777 * (row == 0), np.int16)
        audio = np.concatenate([before, ramp(row, size)])
        soundfile.write(folder / f"{row}.wav", audio, 16_000)
    names = [f"{row}.wav" for row in range(len(SIZES))]
    speakers = [f"s{row % 3}" for row in range(len(SIZES))]
    starts = [777] + [0] * (len(SIZES) - 1)
    manifest = Manifest(folder, names, SIZES, None, speakers, starts=starts)
    manifest.write(folder / "ramps.arrow")
    write_shards(manifest, folder / "shards", processes=1)
    return folder


def open_corpus(folder, kind: str, *, join: bool = False) -> Corpus:
    """Two sources: the even and the odd rows."""
    if kind == "files":
        whole = Files(Manifest.read(folder / "ramps.arrow"))
    else:
        whole = Shards(folder / "shards")
    corpus = Corpus([whole.select(np.arange(first, len(SIZES), 2)) for first in (0, 1)])
    return concatenated(corpus, 60_000, seed=1, grid=GRID) if join else corpus


ORDER = [*range(0, len(SIZES), 2), *range(1, len(SIZES), 2)]  # rows as the corpus counts them


def index_tracks() -> dict[str, Track]:
    """Of every frame its own position in its row, and of which row it is."""
    tracks = {}
    for rate in RATES:
        counts = [SIZES[row] // (16_000 // rate) - MISSING * (row % 2) for row in ORDER]
        own = [np.arange(count, dtype=np.int16) for count in counts]
        tracks[f"index{rate}"] = Track(Ragged.of(own), rate)
        rows = [np.full(count, row) for count, row in zip(counts, ORDER, strict=True)]
        tracks[f"row{rate}"] = Track(Ragged.of(rows), rate)
    return tracks


def augmentation(recordings: Corpus, **probabilities) -> Augmentation:
    settings = {f"{kind}_prob": prob for kind, prob in probabilities.items()}
    return Augmentation(DEFAULTS | settings, 3, recordings, recordings)


def crops(corpus, **fields) -> tuple[BatchPlan, Loader]:
    buckets = crop_buckets(corpus.lengths, [8_000, 16_000, 48_000], 96_000, 2)
    fields = {"grid": GRID, "tracks": index_tracks()} | fields
    return BatchPlan(buckets, seed=3, num_steps=200), Loader(corpus, 3, **fields)


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def check_aligned(batch) -> int:
    """Every value is that of the audio at its place. Returns how many there are."""
    seen = 0
    for rate in RATES:
        period = 16_000 // rate
        index, rows = batch[f"index{rate}"], batch[f"row{rate}"]
        frames = batch["audio"].shape[-1] // period
        assert index.shape == rows.shape == (*batch["id"].shape, frames)
        begins = batch["audio"][..., : frames * period : period].astype(int)
        there = index >= 0
        expected = index * period // 160 + 400 * rows - 4_800
        np.testing.assert_array_equal(begins[there], expected[there])
        inside = np.arange(frames) < batch["length"][..., None] // period
        assert not (there & ~inside).any()
        for missing in np.argwhere(~there & inside):  # only at the end of rows whose track is short
            row, position = divmod(begins[tuple(missing)] + 4_800, 400)
            assert row % 2
            assert position * 160 // period >= SIZES[row] // period - MISSING
        seen += there.sum()
    return seen


@pytest.mark.parametrize("join", [False, True], ids=["rows", "joined"])
@pytest.mark.parametrize("kind", ["files", "shards"])
def test_values_are_those_of_their_frames(folder, kind, join):
    plan, loader = crops(open_corpus(folder, kind, join=join))
    starts, lengths = set(), set()
    for step in STEPS:
        batch = loader(plan[step])
        assert check_aligned(batch) > 100
        starts |= set(batch["index100"][..., 0].ravel().tolist())
        lengths.add(batch["audio"].shape[-1])
    assert len(starts) > 10
    assert len(lengths) > 1


def test_joined_besides_being_alone(folder):
    corpus = open_corpus(folder, "files")
    found = with_joined(corpus, 40_000, 70_000, walks=3)
    items = [found.groups[i].tolist() for i in range(len(found))]
    assert items[: len(SIZES)] == [[row] for row in range(len(SIZES))]
    joined = items[len(SIZES) :]
    assert len({frozenset(item) for item in joined}) > 8, "not the same company in every walk"
    half = len(SIZES) // 2
    for item in joined:
        assert len(item) > 1
        assert len({ORDER[row] % 3 for row in item}) == 1, "of one speaker"
        assert len({row < half for row in item}) == 1, "of one source"
    assert found.lengths[len(SIZES) :].max() <= 70_000
    assert found.lengths[len(SIZES) :].min() < 40_000, "the rest of a speaker"
    labels = Ragged.of([np.full(1 + row % 3, row + 1) for row in range(len(SIZES))])
    longest = max(sum(1 + row % 3 for row in item) + len(item) - 1 for item in items)
    buckets = pad_buckets(found.lengths, [70_000], 700_000, 1)
    loader = Loader(found, 0, crop=False, tracks={"labels": Track(labels, between=99)})
    batch = loader(BatchPlan(buckets, seed=0, num_steps=1)[0])
    assert batch["labels"].shape[-1] == -(-longest // 8) * 8
    for item, length, row in zip(
        batch["id"][0], batch["labels_length"][0], batch["labels"][0], strict=True
    ):
        expected = [x for one in items[item] for x in (99, *[one + 1] * (1 + one % 3))][1:]
        assert row[:length].tolist() == expected
        assert not row[length:].any()


def test_rows_of_joined_items_are_cut_to_the_grid_for_tracks_alone(folder):
    corpus = open_corpus(folder, "files")
    joined, cut = (concatenated(corpus, 60_000, seed=1, grid=grid) for grid in (1, GRID))
    assert joined.lengths.sum() == sum(SIZES)
    assert cut.lengths.sum() == sum(size // GRID * GRID for size in SIZES)
    item = int(cut.groups.sizes.argmax())
    rows = cut.groups[item]
    assert len(rows) > 1
    parts = [ramp(ORDER[row], SIZES[ORDER[row]] // GRID * GRID) for row in rows]
    whole = cut.audio(item, 0, cut.length(item))
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    np.testing.assert_array_equal(cut.audio(item, 12_345, 20_000), whole[12_345:32_345])
    with pytest.raises(UserError, match="joined utterances end"):
        Loader(joined, 0, grid=GRID, tracks=index_tracks())


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_augmentation_and_workers_leave_values_where_they_are(folder, kind):
    corpus = open_corpus(folder, kind, join=True)
    plan, plain = crops(corpus)
    changes = augmentation(open_corpus(folder, "files"), pitch=0.5, noise=0.5, gain=0.5)
    _, loader = crops(corpus, views={"audio": changes})
    expected = [plain(plan[step]) for step in range(6)]
    touched = 0
    for workers, first in ((0, 0), (1, 2)):
        stream = iterate(plan, loader, workers=workers, start=first)
        for step, (batch, _) in zip(range(first, 6), stream, strict=False):
            touched += not np.array_equal(batch["audio"], expected[step]["audio"])
            same(batch | {"audio": expected[step]["audio"]}, expected[step])
        stream.close()
    assert touched >= 8
    assert sum(check_aligned(batch) for batch in expected) > 1000


def test_padded_rows_have_no_values_in_their_padding(folder):
    corpus = open_corpus(folder, "files")
    buckets = pad_buckets(corpus.lengths, [20_000, 32_000], 100_000, 2)
    plan = BatchPlan(buckets, seed=1, num_steps=9)
    loader = Loader(corpus, 0, crop=False, grid=GRID, tracks=index_tracks())
    assert sum(check_aligned(loader(plan[step])) for step in range(4)) > 400


def test_hosts_read_the_rows_of_one(folder):
    corpus = open_corpus(folder, "files")
    views = {"audio": None, "other": augmentation(corpus, gain=1.0)}
    plan, loader = crops(corpus, views=views)
    for step in range(3):
        whole = loader(plan[step])
        hosts = [crops(corpus, views=views, parts=(p,), of=2)[1](plan[step]) for p in (0, 1)]
        same({k: np.concatenate([h[k] for h in hosts], 1) for k in whole}, whole)


def test_tracks_without_a_rate_are_whole(folder):
    values = [np.arange(row % 5, dtype=np.uint8) + 10 * row for row in range(len(SIZES))]
    for join in (False, True):
        corpus = open_corpus(folder, "files", join=join)
        plan, loader = crops(corpus, tracks={"letters": Track(Ragged.of(values))})
        for step in STEPS:
            batch = loader(plan[step])
            for at, item in np.ndenumerate(batch["id"]):
                rows = corpus.groups[item] if join else [item]
                letters = list(itertools.chain(*(values[row] for row in rows)))
                assert batch["letters_length"][at] == len(letters)
                assert batch["letters"][at].tolist()[: len(letters)] == letters
                assert not batch["letters"][at][len(letters) :].any()
            assert batch["letters"].shape[-1] % 8 == 0


def test_arrays_are_described_without_data(folder):
    tracks = index_tracks() | {"letters": Track(Ragged.of([np.arange(11)] * len(SIZES)))}
    plan, loader = crops(
        open_corpus(folder, "files"), tracks=tracks, views={"audio": None, "clean": None}
    )
    batch = loader(plan[0])
    rates = {name: track.rate for name, track in index_tracks().items()}
    arrays = batch_arrays(
        batch["id"].shape, plan[0].samples, widths={"letters": 16}, rates=rates,
        views=("audio", "clean"),
    )  # fmt: skip
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == arrays


def test_tracks_that_do_not_fit_are_explained(folder):
    corpus = open_corpus(folder, "files")
    track = index_tracks()["index100"]
    for grid, rate, words in (
        (GRID, 75, "213.333"), (GRID, 32_000, "0.5 samples"), (GRID, 40, "320"),
        (160, 50, "100 values"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            Loader(corpus, 0, grid=grid, tracks={"units": Track(track.values, rate)})
    with pytest.raises(UserError, match=r"'units' has values of 3 utterances, its corpus has 24"):
        Loader(corpus, 0, grid=GRID, tracks={"units": Track(Ragged.of([np.arange(3)] * 3), 50)})
    faster = {"audio": augmentation(corpus, speed=0.5)}
    with pytest.raises(UserError, match=r"--config\.data\.augment\.speed_prob=0\.5.*'units'"):
        Loader(corpus, 0, grid=GRID, tracks={"units": track}, views=faster)
    Loader(corpus, 0, tracks={"letters": Track(track.values)}, views=faster)
    with pytest.raises(UserError, match="speed_prob"):
        Loader(corpus, 0, crop=False, views={"audio": None} | {"other": faster["audio"]})


def test_other_values_are_another_training(folder):
    """What must be the same when a run continues: steady tracks are no part of the manifest."""
    corpus, tracks = open_corpus(folder, "files"), index_tracks()
    same, whole = (Loader(corpus, 0, grid=GRID, tracks=index_tracks()).meta for _ in range(2))
    assert same == whole
    tracks["index50"].values.values[5] += 1
    other = Loader(corpus, 0, grid=GRID, tracks=tracks).meta
    assert [name for name in whole if whole[name] != other[name]] == ["track 'index50'"]


def test_crops_start_on_the_grid(folder):
    corpus = open_corpus(folder, "files")
    for grid in (1, 160, GRID):
        plan, loader = crops(corpus, grid=grid, tracks={})
        offsets = set()
        for step in range(10):
            # the first sample that differs from the one before is at a multiple of 160
            for row in loader(plan[step])["audio"][0]:
                offsets.add(int(np.flatnonzero(np.diff(row))[0] + 1) % 160)
        assert (offsets == {0}) == (grid > 1), (grid, offsets)


def test_views_are_of_one_crop(folder):
    corpus = open_corpus(folder, "files", join=True)
    changes = augmentation(corpus, gain=1.0)
    plan, alone = crops(corpus, views={"audio": changes})
    _, plain = crops(corpus)
    _, loader = crops(corpus, views={"audio": changes, "other": changes, "clean": None})
    for step in STEPS:
        batch, first, clean = loader(plan[step]), alone(plan[step]), plain(plan[step])
        same({k: v for k, v in batch.items() if k not in ("other", "clean")}, first)
        np.testing.assert_array_equal(batch["clean"], clean["audio"])
        for a, b, c in zip(batch["audio"][0], batch["other"][0], batch["clean"][0], strict=True):
            assert not np.array_equal(a, b), "a stream of its own"
            for changed in (a, b):  # nothing but its own gain lies between
                loud = np.abs(c) > 500
                gain = changed[loud] / c[loud]
                assert gain.std() < 0.01
    same(next(iterate(plan, loader, start=4))[0], loader(plan[4]))
    same(next(iterate(plan, loader, start=4, workers=1))[0], loader(plan[4]))


def test_views_of_different_speed_begin_together(folder, monkeypatch):
    corpus = open_corpus(folder, "files")
    read, asked = corpus.audio, []
    monkeypatch.setattr(corpus, "audio", lambda *part: asked.append(part) or read(*part))
    slow, fast = (
        Augmentation(DEFAULTS | {"speed_prob": 1.0, "speed_factors": (factor,)}, 3)
        for factor in (0.8, 1.25)
    )
    early = 0
    for views in ({"audio": slow, "fast": fast, "clean": None}, {"audio": fast, "slow": slow}):
        plan, alone = crops(corpus, tracks={}, views={"audio": views["audio"]})
        _, loader = crops(corpus, tracks={}, views=views)
        for step in STEPS:
            expected = alone(plan[step])["audio"]
            asked.clear()
            batch = loader(plan[step])
            np.testing.assert_array_equal(batch["audio"], expected)
            parts, samples = list(asked), plan[step].samples
            for at, item in np.ndenumerate(batch["id"]):
                start = parts[0][1]
                counts = {}
                for name, changes in views.items():
                    wanted = round({slow: 0.8, fast: 1.25, None: 1.0}[changes] * samples)
                    counts[name] = min(wanted, corpus.length(item) - start)
                    early += counts[name] < wanted
                    audio = read(item, start, counts[name])
                    if counts[name] != samples:
                        audio = to_int16(change_speed(audio, counts[name] / samples))
                    np.testing.assert_array_equal(batch[name][at], audio)
                for count in dict.fromkeys(counts.values()):
                    assert parts.pop(0) == (item, start, count)
            assert not parts
    assert early > 10, "some items end before a view has all it wants"


def test_noise_that_cannot_be_read_is_counted_for_its_view(folder, tmp_path):
    (tmp_path / "0.wav").write_text("not audio")
    broken = Corpus(Files(Manifest(tmp_path, ["0.wav"], [16_000])))
    corpus = open_corpus(folder, "files")
    changes = augmentation(broken, noise=1.0)
    plan, loader = crops(corpus, views={"audio": None, "noisy": changes, "also": changes})
    batch, problems = loader.load(plan[0])
    np.testing.assert_array_equal(batch["noisy"], batch["audio"])
    assert {(kind, item) for kind, item, _ in problems} == {("noise of noisy", 0)}
    with pytest.raises(UserError, match="1 of 1 audio files"):
        loader.note(problems)
