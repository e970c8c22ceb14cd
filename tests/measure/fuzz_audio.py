"""Reads damaged audio files as a training run does.

    python -m tests.measure.fuzz_audio --files=2000

makes that many of each of flac, wav, ogg, mp3 and (with PyAV) m4a: cut off, with flipped bits,
wrong headers, no bytes at all, huge declared lengths. Whatever is in them, a file is either read or
is a counted skip with a reason, and has one length whoever asks; nothing crashes, takes longer than
the time limit, or needs more memory than the limit.
"""

import argparse
import collections
import contextlib
import io
import logging
import multiprocessing
import resource
import signal
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, encode, probe, read
from w2v_jax.data.audio_files import Files
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import pad_buckets, sequential

try:
    import av
except ImportError:
    av = None

SAMPLES = Path(__file__).parents[2] / "w2v_jax" / "samples" / "test-clean"
SECONDS_PER_FILE = 20  # SIGALRM ends the process; a whole file takes milliseconds
MEGABYTES = 400  # by which the process may grow
KINDS = ("flac", "wav", "ogg", "mp3", "m4a")


def encoded(audio: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "mp3":
        soundfile.write(file, audio, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III")
    elif kind == "m4a":
        with av.open(file, "w", format="ipod") as container:
            stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(audio[None], "s16", "mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux([*stream.encode(frame), *stream.encode(None)])
    else:
        return encode(audio, "opus" if kind == "ogg" else kind)
    return file.getvalue()


def damaged(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """(what was done, the bytes)."""
    out = bytearray(data)
    what = str(rng.choice(["cut", "flip", "header", "empty", "long", "swap", "noise"]))
    if what == "cut":
        out = out[: rng.integers(1, len(out))]
    elif what == "flip":
        for place in rng.integers(0, len(out), rng.integers(1, 60)):
            out[place] ^= 1 << rng.integers(8)
    elif what == "header":
        first = int(rng.integers(0, 60))
        out[first : first + 8] = rng.bytes(8)
    elif what == "empty":
        out = bytearray() if rng.random() < 0.5 else bytearray(len(out))
    elif what == "long":
        _declare_long(out, rng)
    elif what == "swap":
        a, b = sorted(rng.integers(0, len(out), 2).tolist())
        out = out[b:] + out[a:b] + out[:a]
    else:
        first = int(rng.integers(0, len(out)))
        out[first:first] = rng.bytes(int(rng.integers(1, 5000)))
    return what, bytes(out)


def _declare_long(out: bytearray, rng: np.random.Generator) -> None:
    """Sizes in the header that the file does not have."""
    if out[:4] == b"RIFF":
        for place in (4, out.find(b"data") + 4):
            out[place : place + 4] = struct.pack("<I", rng.choice([2**31 - 1, 2**32 - 1, 10**9]))
    elif out[:4] == b"fLaC":  # the last 36 bits before the MD5 are the number of samples
        out[21] |= 0x0F
        out[22:26] = struct.pack(">I", rng.choice([2**32 - 1, 2**31]))
    elif out[:4] != b"OggS":
        mark, field = (b"Info", 8) if b"Info" in out else (b"mdhd", 20)
        place = out.find(mark) + field
        out[place : place + 4] = struct.pack(">I", rng.choice([0, 5, 2**31 - 1, 2**32 - 1]))
    else:  # the position of the last page
        last = out.rfind(b"OggS") + 6
        out[last : last + 8] = struct.pack("<q", rng.choice([2**62, 2**40, -5]))


def make_files(folder: Path, kind: str, count: int, seed: int) -> tuple[list[str], list[str], int]:
    """(paths, what was done to each, samples that each should have)."""
    audio = read(sorted(SAMPLES.rglob("*.ogg"))[3])[:100_000]
    data = encoded(audio, kind)
    rng = np.random.default_rng([seed, len(kind), *kind.encode()])
    paths, done = [], []
    for i in range(count):
        what, content = damaged(data, rng)
        paths.append(str(folder / f"{i}.{kind}"))
        Path(paths[-1]).write_bytes(content)
        done.append(what)
    whole = folder / f"whole.{kind}"
    whole.write_bytes(data)
    return paths, done, probe(whole)


def read_all(paths: list[str], samples: int, end) -> None:
    """Reads every file through the loader and with `probe`; the answer is (unreadable, their
    reasons, seconds of the slowest, growth in MB)."""
    logging.disable()  # a line per file
    corpus = Corpus(Files(Manifest("/", paths, [samples] * len(paths))))
    loader = Loader(corpus, 0, crop=False, replace_bad=False, max_bad_share=1.0)
    specs = sequential(pad_buckets(corpus.lengths, [samples], samples, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest, skipped = 0.0, set()
    for spec in specs:
        begin = time.monotonic()
        signal.alarm(SECONDS_PER_FILE)
        batch = loader(spec)
        path, length = paths[spec.items[0]], None
        with contextlib.suppress(AudioError):
            length = probe(path)
        if length is not None:
            assert len(read(path)) == length, f"{path}: one length"
        signal.alarm(0)
        slowest = max(slowest, time.monotonic() - begin)
        if batch["id"].item() < 0:
            skipped.add(int(spec.items[0]))
        else:
            assert batch["length"].item() == samples
    assert skipped == {item for _, item in loader.bad}, "every skip is counted"
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    end.send((len(skipped), sorted(loader.bad.values()), slowest, growth, sorted(skipped)))


def fuzz(kind: str, count: int, seed: int = 0) -> tuple[int, collections.Counter, float, float]:
    """(unreadable files, damage -> unreadable of it, slowest in s, growth in MB) of `count` files.
    Raises AssertionError for a crash, a hang, memory, and a skip that nobody counted."""
    with tempfile.TemporaryDirectory() as folder:
        paths, done, samples = make_files(Path(folder), kind, count, seed)
        context = multiprocessing.get_context("spawn")
        answer, end = context.Pipe(duplex=False)
        process = context.Process(target=read_all, args=(paths, samples, end))
        process.start()
        end.close()
        try:
            unreadable, reasons, slowest, growth, skipped = answer.recv()
        except EOFError:
            process.join()
            message = f"{kind}: the reading process ended with {process.exitcode}"
            raise AssertionError(message) from None
        process.join()
    assert growth < MEGABYTES, f"{kind}: {growth:.0f} MB"
    assert len(reasons) == unreadable
    assert all(reasons)
    return unreadable, collections.Counter(done[i] for i in skipped), slowest, growth


def main(files: int, seed: int, kinds: list[str]) -> None:
    for kind in kinds:
        if kind == "m4a" and av is None:
            print("m4a: PyAV is not installed")
            continue
        begin = time.monotonic()
        unreadable, by_damage, slowest, growth = fuzz(kind, files, seed)
        counts = ", ".join(f"{what} {count}" for what, count in sorted(by_damage.items()))
        print(f"{kind}: {files} damaged files, {unreadable} skipped and counted ({counts}), the "
              f"others read to their whole length; slowest {slowest:.2f} s, {growth:.0f} MB more, "
              f"{time.monotonic() - begin:.0f} s in all", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    main(**vars(parser.parse_args()))
