"""Remote files, over a storage in memory that fails as often as it is told."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from etils import epath

from tests.audio.test_lengths import m4a
from tests.bucket import Bucket
from w2v_jax.audio import files
from w2v_jax.audio.waveform import AudioError, probe, read
from w2v_jax.data.manifest import Manifest, ManifestError


def speech(tmp_path: Path, bucket: str, suffix: str, rate: int = 16_000) -> tuple[str, str]:
    """The same audio (local, remote)."""
    local = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).normal(size=5 * rate) * 0.1
    soundfile.write(local, noise.clip(-1, 1), rate)
    remote = f"{bucket}/a.{suffix}"
    epath.Path(remote).parent.mkdir(parents=True, exist_ok=True)
    epath.Path(remote).write_bytes(local.read_bytes())
    return str(local), remote


def doubled(data: bytes) -> bytes:
    return data + data


def unsized(data: bytes) -> bytes:
    return data[:40] + bytes(4) + data[44:]


def half_sized(data: bytes) -> bytes:
    return data[:40] + (80_000).to_bytes(4, "little") + data[44:]


@pytest.mark.parametrize(
    ("suffix", "change"),
    [("ogg", bytes), ("ogg", doubled), ("mp3", bytes), ("mp3", doubled), ("wav", unsized),
     ("wav", half_sized)],
)  # fmt: skip
def test_remote_audio_is_read_to_its_end(tmp_path, bucket, suffix, change):
    local, remote = speech(tmp_path, bucket, suffix)
    for path in (local, remote):
        epath.Path(path).write_bytes(change(epath.Path(path).read_bytes()))
    Bucket.failures = 2
    assert probe(remote, decode=False) == probe(local) == len(read(remote))
    np.testing.assert_array_equal(read(remote), read(local))
    np.testing.assert_array_equal(read(remote, 30_000, 9000), read(local, 30_000, 9000))


def test_remote_containers(tmp_path, bucket):
    local, remote = speech(tmp_path, bucket, "wav")
    data = m4a(np.sin(np.arange(30_000) / 9) / 2)
    for path in (local, remote):
        epath.Path(path).write_bytes(data)
    Bucket.failures = 2
    np.testing.assert_array_equal(read(remote), read(local))
    epath.Path(remote).write_bytes(data + data)  # another length: another file
    Bucket.failures = 10**6
    with pytest.raises(AudioError, match="connection was reset"):
        read(remote)


@pytest.mark.parametrize(
    ("suffix", "rate"), [("flac", 16_000), ("wav", 44_100), ("ogg", 16_000), ("mp3", 16_000)]
)
def test_remote_audio_is_local_audio(tmp_path, bucket, suffix, rate):
    local, remote = speech(tmp_path, bucket, suffix, rate)
    assert probe(remote) == probe(local)
    np.testing.assert_array_equal(read(remote), read(local))
    Bucket.failures, Bucket.reads = 3, 0
    np.testing.assert_array_equal(read(remote, 20_000, 16_000), read(local, 20_000, 16_000))
    assert Bucket.failures == 0, "the storage failed and was asked again"
    assert Bucket.reads <= 3 + 5, "a request of its own for each 8 kB would take for ever"


def test_a_storage_that_stays_away_is_no_end_of_the_file(tmp_path, bucket):
    _, remote = speech(tmp_path, bucket, "wav")
    Bucket.failures = 10**6
    with pytest.raises(AudioError, match=r"gs://bucket/corpus/a\.wav: .*connection was reset"):
        read(remote)
    Bucket.failures = 0
    with pytest.raises(AudioError, match=r"no\.wav: no such file"):
        read(f"{bucket}/no.wav")
    epath.Path(f"{bucket}/empty.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"empty\.wav: the file is empty"):
        read(f"{bucket}/empty.wav")
    epath.Path(f"{bucket}/text.wav").write_bytes(b"no audio at all" * 99)
    with pytest.raises(AudioError, match=r"text\.wav: is not audio"):
        read(f"{bucket}/text.wav")


def test_what_will_not_change_is_not_tried_again():
    attempts = []

    def missing():
        attempts.append(1)
        raise FileNotFoundError("x")

    with pytest.raises(FileNotFoundError):
        files.retried(missing)
    assert len(attempts) == 1


@pytest.mark.parametrize("suffix", ["tsv", "arrow"])
def test_remote_manifests(tmp_path, bucket, suffix):
    path = f"{bucket}/m.{suffix}"
    manifest = Manifest(bucket, ["a.flac", "/local/b.flac", "gs://other/c.flac"], [1, 2, 3])
    manifest.write(path)
    Bucket.failures = 2
    back = Manifest.read(path)
    assert back.digest == manifest.digest
    assert [back.path(i) for i in range(3)] == [
        "gs://bucket/corpus/a.flac", "/local/b.flac", "gs://other/c.flac"
    ]  # fmt: skip
    again = pickle.loads(pickle.dumps(back.select([2, 0])))
    assert again.paths.tolist() == ["gs://other/c.flac", "a.flac"]
    for _ in range(2):
        Manifest.read(path)
    assert len(list((tmp_path / "cache/files").iterdir())) == 1, "it is fetched once"
    with pytest.raises(ManifestError, match=r"none\.tsv: no such file.*w2v_jax\.prepare"):
        Manifest.read(f"{bucket}/none.tsv")


def test_roots_of_remote_manifests(tmp_path, bucket):
    for root in (bucket, f"{bucket}/audio", "gs://bucket", "/local"):
        Manifest(root, ["a"], [1]).write(f"{bucket}/m.tsv")
        assert Manifest.read(f"{bucket}/m.tsv").root == root
        text = epath.Path(f"{bucket}/m.tsv").read_text()
        epath.Path("gs://moved").mkdir(exist_ok=True)
        epath.Path("gs://moved/m.tsv").write_text(text)
        moved = root.replace(bucket, "gs://moved")
        assert Manifest.read("gs://moved/m.tsv").root == moved
    Manifest(bucket, ["a"], [1]).write(tmp_path / "m.tsv")
    assert Manifest.read(tmp_path / "m.tsv").root == bucket
