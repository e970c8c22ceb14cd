"""A workdir has one run at a time; a lock that a killed run has left holds nobody up."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from w2v_jax.errors import UserError
from w2v_jax.places import place
from w2v_jax.training import lock
from w2v_jax.training.lock import Lock

ROOT = Path(__file__).parents[2]
HOLDS = """
import sys, time
from w2v_jax.training.lock import Lock

with Lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def quick(monkeypatch):
    for name, value in (("BEAT", 0.05), ("SILENCE", 0.4), ("SETTLES", 0.05)):
        monkeypatch.setattr(lock, name, value)


def test_the_second_is_refused_and_the_first_named(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "run")], cwd=ROOT, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    said = json.loads((tmp_path / "run/run.lock").read_text())
    words = f"process {process.pid} on host {said['host']}, which started at {said['since']}"
    with pytest.raises(UserError, match=words.replace("+", r"\+")):
        Lock(tmp_path / "run").__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "run/run.lock").exists()
    begin = time.monotonic()
    with Lock(tmp_path / "run"):
        assert time.monotonic() - begin < 5, "what a killed run has left holds nobody up"
        with pytest.raises(UserError, match=f"process {os.getpid()} on"):  # in one process, too
            Lock(tmp_path / "run").__enter__()
    assert not (tmp_path / "run" / "run.lock").exists()
    with Lock(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists(), "it was made for the lock, and nothing came into it"


def left_by(path, **changes):
    content = {"host": "elsewhere", "process": 7, "since": "then", "beats": 3} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_signs_of_life_of_another_host(where, tmp_path, bucket, quick, capsys):
    folder = place(tmp_path / "run" if where == "disk" else "gs://bucket/run")
    left_by(folder / "run.lock")
    begin = time.monotonic()
    with Lock(folder) as mine:  # silent for as long: it is dead
        assert time.monotonic() - begin >= 0.4
        assert "left by process 7 on host elsewhere" in capsys.readouterr().out
        first = mine._read()["beats"]
        time.sleep(0.3)
        assert mine._read()["beats"] > first
    assert not (folder / "run.lock").exists()

    left_by(folder / "run.lock")
    beat = threading.Timer(0.1, lambda: left_by(folder / "run.lock", beats=4))
    beat.start()
    with pytest.raises(UserError, match="in use by process 7 on host elsewhere"):
        Lock(folder).__enter__()
    beat.join()
    assert (folder / "run.lock").exists(), "it is another's"


def test_in_a_bucket_the_last_to_write_has_it(bucket, quick, monkeypatch):
    folder = place("gs://bucket/run")
    monkeypatch.setattr(lock.time, "sleep", lambda _: left_by(folder / "run.lock"))
    with pytest.raises(UserError, match="in use by process 7"):
        Lock(folder).__enter__()


def test_in_a_bucket_a_process_of_this_host_that_is_gone_is_not_waited_for(bucket, quick):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    folder = place("gs://bucket/run")
    left_by(folder / "run.lock", host=lock.socket.gethostname(), process=process.pid)
    begin = time.monotonic()
    with Lock(folder):
        assert time.monotonic() - begin < 0.3


def test_a_file_system_without_locks(tmp_path, quick, monkeypatch):
    def refuse(*_):
        raise OSError(lock.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with Lock(tmp_path) as mine:
        mine._mine["process"] = 1  # as another process would see it
        mine._write()
        with pytest.raises(UserError, match="is in use by"):
            Lock(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--workdir=\S+/file is a file; name a folder"):
        Lock(tmp_path / "file").__enter__()
    with pytest.raises(UserError, match=r"--workdir=\S+/run cannot be written: .*; choose another"):
        Lock(tmp_path / "file" / "run").__enter__()
