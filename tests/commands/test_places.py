"""Runs that write to a bucket; the storage is in memory. Checkpoints there were tried by hand."""

import pytest

from w2v_jax import export
from w2v_jax.errors import UserError
from w2v_jax.places import file_names, place, several, write_whole
from w2v_jax.training import writer
from w2v_jax.training.settings import check_unchanged, write_settings
from w2v_jax.training.watchdog import Watchdog


def test_paths(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(place("runs/a")) == str(tmp_path / "runs" / "a")
    assert str(place("gs://bucket/run") / "config.json") == "gs://bucket/run/config.json"
    for folder in ("runs/a", "gs://bucket/run"):
        path = place(folder) / "b" / "c.txt"
        for text in ("first", "second"):
            write_whole(path, text)
            assert path.read_text() == text
        assert [found.name for found in path.parent.iterdir()] == ["c.txt"]


def test_commas_in_the_names_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.tsv", "a", "c, d.tsv", "e"):
        (tmp_path / name).touch()
    assert several("a,b.tsv") == ["a,b.tsv"]
    assert several("a, a,b.tsv ,c, d.tsv,e,") == ["a", "a,b.tsv", "c, d.tsv", "e"]
    assert several("a,c,e") == ["a", "c", "e"]  # what does not exist is named later
    assert several("a,b.*,e") == ["a,b.*", "e"]
    assert several("gs://b/x,gs://b/y") == ["gs://b/x", "gs://b/y"]
    assert several(",") == []


def test_file_names_differ():
    paths = ["a/x.wav", "/data/y.flac", "gs://bucket/z.ogg", "../w.wav", "a/b.c.wav"]
    assert file_names(paths) == ["a/x", "data/y", "bucket/z", "w", "a/b.c"]
    assert file_names(["t.mp3", "t.mp3", "t.wav"]) == ["t.mp3-0", "t.mp3-1", "t.wav-2"]


def test_a_missing_package_is_named(monkeypatch):
    def missing(path):
        raise ImportError("Install gcsfs to access GCS")

    monkeypatch.setattr("etils.epath.gpath._GPath.exists", missing)
    with pytest.raises(UserError, match=r"gs://b/run needs another package .*pip install gcsfs"):
        place("gs://b/run")


def test_metrics_read_like_one_run(bucket, monkeypatch):
    class Events:  # to a bucket tensorboardX writes with google-cloud-storage
        def __init__(self, folder, first_step):
            assert (folder, first_step) == ("gs://bucket/run/tensorboard", self.step + 1)

        def write(self, *_):
            pass

        def close(self):
            pass

    monkeypatch.setattr(writer, "_Events", Events)
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # killed after the checkpoint of step 2
        Events.step = start
        one = writer.Writer("gs://bucket/run", start)
        for step in steps:
            one.write(step, {"x": float(10 * start + step)})
        one.close()
    found = writer.read_lines("gs://bucket/run/metrics.jsonl")
    assert [(line["step"], line["x"]) for line in found] == [(1, 1), (2, 2), (3, 23), (4, 24)]


def test_settings(bucket):
    write_settings("gs://bucket/run", {"seed": 0}, {})
    check_unchanged("gs://bucket/run", {"seed": 1}, {})  # nothing was trained with them
    (place("gs://bucket/run") / "checkpoints" / "3").mkdir(parents=True)
    (place("gs://bucket/run") / "checkpoints" / "3" / "commit_success.txt").write_text("")
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        check_unchanged("gs://bucket/run", {"seed": 1}, {})


def test_stacks_of_a_run_in_a_bucket_go_to_stderr(bucket, caplog):
    dog = Watchdog(1.0, "gs://bucket/run")
    dog._report(7, 2.0)
    assert "the last was step 7" in caplog.text
    assert "every thread stands: stderr" in caplog.text
    assert not place("gs://bucket/run").exists()


def test_transformers_models_are_written_to_local_folders():
    with pytest.raises(UserError, match="local folders only"):
        export.export("run", "gs://bucket/model", form="huggingface")
