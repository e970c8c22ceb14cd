import os
import resource
import threading
import time

import numpy as np
import pytest
import soundfile

from w2v_jax.audio.waveform import AudioError
from w2v_jax.data import audio_files
from w2v_jax.data.audio_files import Files
from w2v_jax.data.manifest import Manifest


@pytest.fixture
def source(tmp_path):
    audio = np.arange(1000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", audio, 16_000)
    (tmp_path / "b.wav").write_text("not audio")
    return Files(Manifest(tmp_path, ["a.wav", "b.wav", "c.wav"], [900, 10, 10], starts=[100, 0, 0]))


def test_a_segment_begins_within_its_file(source):
    assert source.audio(0, 50, 3).tolist() == [150, 151, 152]
    assert source.select(np.array([2, 0])).audio(1, 0, 2).tolist() == [100, 101]


def test_a_busy_system_is_waited_for(source, monkeypatch):
    """No file can be opened for a while: all descriptors of the process are in use."""
    monkeypatch.setattr(audio_files, "WAITS", (0.0, 0.05, 0.2, 0.8, 1.6))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    release = threading.Timer(0.4, resource.setrlimit, (resource.RLIMIT_NOFILE, (soft, hard)))
    release.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    begin = time.monotonic()
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        assert source.audio(0, 0, 2).tolist() == [100, 101]
    finally:
        release.join()
    assert time.monotonic() - begin > 0.3


def test_what_stays_broken_is_not_waited_for(source):
    begin = time.monotonic()
    for row, reason in ((1, "not audio"), (2, "no such file")):
        with pytest.raises(AudioError, match=reason):
            source.audio(row, 0, 5)
    assert time.monotonic() - begin < 0.4
