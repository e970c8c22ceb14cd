import jax
import numpy as np
import pytest

from w2v_jax.audio.waveform import read
from w2v_jax.data.audio_files import Files
from w2v_jax.data.batches import check_rows, iterate
from w2v_jax.data.corpus import Corpus, concatenated
from w2v_jax.data.loader import Loader, Track
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, crop_buckets, pad_buckets, sequential
from w2v_jax.data.transcripts import transcribed
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.sharding import batch_sharding, make_mesh


@pytest.fixture
def manifest(manifests):
    return Manifest.read(manifests["dev"])


def crops(corpus, **kwargs):
    buckets = crop_buckets(corpus.lengths, [16_000, 32_000], 64_000, 2)
    return BatchPlan(buckets, seed=3, num_steps=50), Loader(corpus, 3, **kwargs)


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_stream_from_any_step(manifest, threads):
    plan, loader = crops(Corpus(Files(manifest)))
    whole = [loader(plan[step]) for step in range(8)]
    for start in (0, 5):
        stream = iterate(plan, loader, start=start, threads=threads)
        for step in range(start, 8):
            batch, seconds = next(stream)
            same(batch, whole[step])
            assert seconds == pytest.approx(4)
    assert not np.array_equal(whole[0]["audio"], whole[1]["audio"])


def test_pre_training_batches_have_no_padding(manifest):
    plan, loader = crops(Corpus(Files(manifest)))
    for step in range(10):
        batch = loader(plan[step])
        assert (batch["length"] == batch["audio"].shape[-1]).all()
        assert (np.abs(batch["audio"].astype(int)).max(-1) > 0).all()


def test_crop_is_part_of_the_file(manifest):
    plan, loader = crops(Corpus(Files(manifest)))
    batch = loader(plan[0])
    item, row = int(batch["id"][0, 0]), batch["audio"][0, 0]
    whole = read(manifest.path(item))
    starts = np.flatnonzero(whole[: len(whole) - len(row) + 1] == row[0])
    assert any(np.array_equal(whole[s : s + len(row)], row) for s in starts)


def test_cache_changes_nothing(manifest):
    plan, loader = crops(Corpus(Files(manifest)))
    _, cached = crops(Corpus(Files(manifest), cache_bytes=10**8))
    _, little = crops(Corpus(Files(manifest), cache_bytes=10**5))
    for step in range(6):
        same(loader(plan[step]), cached(plan[step]))
        same(loader(plan[step]), little(plan[step]))


def test_accumulation_and_processes_cut_the_same_rows(manifest):
    plan, loader = crops(Corpus(Files(manifest)))
    spec = next(s for s in map(plan.__getitem__, range(9)) if len(s.items) == 4)
    whole = loader(spec)["audio"].reshape(4, -1)
    cut = Loader(loader.corpus, 3, accumulation=2)(spec)["audio"]
    assert cut.shape[:2] == (2, 2)
    np.testing.assert_array_equal(cut.reshape(4, -1), whole)
    hosts = [Loader(loader.corpus, 3, 2, parts=(p,), of=2)(spec)["audio"] for p in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(hosts, 1), cut)


def test_concatenated_items(manifest):
    corpus = concatenated(Corpus(Files(manifest)), 64_000, seed=0)
    item = int(np.argmax(corpus.lengths))
    rows = corpus.groups[item]
    assert len(rows) > 1
    whole = np.concatenate([read(manifest.path(row)) for row in rows])
    np.testing.assert_array_equal(corpus.audio(item, 0, len(whole)), whole)
    np.testing.assert_array_equal(corpus.audio(item, 12_345, 40_000), whole[12_345:52_345])


def test_padded_batches_carry_labels(manifest):
    alphabet = Alphabet.english()
    kept, labels = transcribed([Files(manifest)], alphabet)
    corpus = Corpus(kept)
    specs = sequential(pad_buckets(corpus.lengths, [48_000, int(corpus.lengths.max())], 400_000, 3))
    loader = Loader(corpus, 0, crop=False, tracks={"labels": Track(labels)})
    seen = []
    for batch, _ in iterate(specs, loader):
        for row, item in enumerate(batch["id"][0]):
            if item < 0:
                assert batch["length"][0, row] == 0
                continue
            seen.append(item)
            n = batch["length"][0, row]
            assert n == manifest.samples[item]
            assert not batch["audio"][0, row, n:].any()
            text = alphabet.decode(batch["labels"][0, row, : batch["labels_length"][0, row]])
            assert text == kept[0].manifest.texts[item]
    assert sorted(seen) == list(range(len(corpus)))


def broken(manifest, tmp_path, count):
    """A copy of the manifest in which the first `count` files hold text."""
    paths = [manifest.path(i) for i in range(len(manifest))]
    for i in range(count):
        paths[i] = str(tmp_path / f"{i}.wav")
        (tmp_path / f"{i}.wav").write_text("not audio")
    columns = manifest.samples, manifest.texts, manifest.speakers, manifest.languages
    return Manifest(str(tmp_path), paths, *columns)


def test_unreadable_files_are_replaced_and_named(manifest, tmp_path, caplog):
    corpus = Corpus(Files(broken(manifest, tmp_path, 2)))
    plan, loader = crops(corpus, max_bad_share=0.1)
    first = [loader(plan[step]) for step in range(20)]
    assert set(loader.bad) <= {("audio", 0), ("audio", 1)}
    assert loader.bad
    assert caplog.text.count("0.wav") + caplog.text.count("1.wav") == len(loader.bad)
    _, again = crops(corpus, max_bad_share=0.1)
    for step in reversed(range(20)):
        same(again(plan[step]), first[step])


def test_worker_processes_report_what_they_cannot_read(manifest, tmp_path, caplog):
    plan, loader = crops(Corpus(Files(broken(manifest, tmp_path, 3))), max_bad_share=0.1)
    seen = {}
    for workers in (0, 2):
        loader.bad.clear()
        caplog.clear()
        stream = iterate(plan, loader, workers=workers, threads=1)
        for _ in range(12):
            next(stream)
        stream.close()
        seen[workers] = dict(loader.bad)
        assert caplog.text.count("replaced: ") == len(loader.bad)
    assert seen[0] == seen[2]
    assert len(seen[0]) > 1


def test_unreadable_files_are_left_out_of_an_evaluation(manifest, tmp_path):
    corpus = Corpus(Files(broken(manifest, tmp_path, 2)))
    specs = sequential(pad_buckets(corpus.lengths, [int(corpus.lengths.max())], 10**6, 1))
    loader = Loader(corpus, 0, crop=False, replace_bad=False, max_bad_share=0.1)
    ids = np.concatenate([batch["id"].ravel() for batch, _ in iterate(specs, loader)])
    assert sorted(ids[ids >= 0]) == list(range(2, len(corpus)))
    assert set(loader.bad) == {("audio", 0), ("audio", 1)}


def test_too_many_unreadable_files_stop_the_run(manifest, tmp_path):
    plan, loader = crops(Corpus(Files(broken(manifest, tmp_path, 20))), max_bad_share=0.1)
    with pytest.raises(UserError, match="max_bad_share"):
        for _ in iterate(plan, loader):
            pass


def test_foreign_transcripts_are_left_out(manifest, caplog):
    texts = manifest.texts.tolist()
    texts[0], texts[1], texts[2] = "ROOM 101", "ŽLUŤOUČKÝ KŮŇ", ""
    columns = manifest.samples, texts, manifest.speakers, manifest.languages
    (kept,), labels = transcribed(
        [Files(Manifest(manifest.root, manifest.paths, *columns))], Alphabet.english()
    )
    assert len(kept.manifest) == len(labels) == len(manifest) - 3
    assert "3 of 55" in caplog.text
    nothing = Manifest(manifest.root, manifest.paths[:1], manifest.samples[:1], ["42"], [""], [""])
    with pytest.raises(UserError, match="'4'"):
        transcribed([Files(nothing)], Alphabet.english())


def test_global_arrays(manifest):
    mesh = make_mesh({"data": 2, "fsdp": 1, "tensor": 1}, jax.devices()[:2])
    plan, loader = crops(Corpus(Files(manifest)))
    batch, _ = next(iterate(plan, loader, sharding=batch_sharding(mesh)))
    assert (
        batch["audio"].sharding.shard_shape(batch["audio"].shape)[1] * 2 == batch["audio"].shape[1]
    )
    np.testing.assert_array_equal(batch["audio"], loader(plan[0])["audio"])


def test_indivisible_rows_are_explained(manifest):
    buckets = crop_buckets(Corpus(Files(manifest)).lengths, [16_000], 48_000, 1)
    with pytest.raises(UserError, match="row_multiple=8"):
        check_rows([b.rows for b in buckets], parts=4, accumulation=2)
