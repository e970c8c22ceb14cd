"""Prints what long recordings cost to transcribe, and what cutting them into windows changes.

python -m tests.measure.long_audio --checkpoint=runs/base-10h/export [--minutes=10,60]
"""

import argparse
import difflib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from w2v_jax.audio.waveform import SAMPLE_RATE, Recording, read
from w2v_jax.decoding import recognition
from w2v_jax.interop.exported import encoder_of
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import load_exported

SPEECH = Path(recognition.__file__).parent.parent / "samples" / "test-clean"
NEAR = 2.0  # seconds from a cut


def joined(path: Path, seconds: float) -> Path:
    """A FLAC file of so many seconds, recordings of the package one after the other."""
    files = itertools.cycle(sorted(SPEECH.rglob("*.ogg")))
    rest = round(seconds * SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as sound:
        while rest:
            audio = read(next(files))[:rest]
            sound.write(audio)
            rest -= len(audio)
    return path


def cost(checkpoint: str, path: Path, minutes: float, *flags: str) -> str:
    """Peak memory and time of the command, compiling included."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "w2v_jax.transcribe", f"--checkpoint={checkpoint}", *flags, path],
        stdout=subprocess.PIPE,
    )
    with process.stdout as output:
        printed = len(output.read())
    _, status, usage = os.wait4(process.pid, 0)  # of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the command ended with {process.returncode}")
    seconds = time.perf_counter() - start
    cpu = usage.ru_utime + usage.ru_stime
    return (
        f"{' '.join([f'{minutes:g} min', *flags])}: {seconds:.1f} s ({cpu:.1f} s of CPU), peak "
        f"memory {usage.ru_maxrss / 2**20:.2f} GiB, {printed} bytes printed"
    )


def letters_of(log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids, first frames) of the letters and boundaries of the best path."""
    ids = log_probs.argmax(-1)
    first = np.flatnonzero((ids != 0) & (np.diff(ids, prepend=-1) != 0))
    return ids[first], first


def differences(checkpoint: str, path: Path, seconds: float) -> str:
    """Letters of the best path that windows change, near their cuts and elsewhere."""
    variables, config = load_exported(checkpoint)
    alphabet = Alphabet.from_dict(config["alphabet"])
    recognizer = recognition.Recognizer(encoder_of(config, checkpoint), alphabet)
    windows = recognizer.log_probs(variables, Recording(path))
    step = recognition.WINDOW_SECONDS - 2 * recognition.CONTEXT_SECONDS
    cuts = np.arange(recognition.WINDOW_SECONDS - recognition.CONTEXT_SECONDS, seconds, step)
    recognition.WINDOW_SECONDS = seconds + 60
    whole = recognizer.log_probs(variables, Recording(path))
    assert whole.shape == windows.shape
    (ours, our_frames), (expected, frames) = letters_of(windows), letters_of(whole)
    matcher = difflib.SequenceMatcher(None, ours.tolist(), expected.tolist(), autojunk=False)
    near, far = 0, 0
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            continue
        places = our_frames[a:b] if b - a >= d - c else frames[c:d]
        away = np.abs(places[:, None] * recognizer.seconds_per_frame - cuts).min(1)
        near += int((away <= NEAR).sum())
        far += int((away > NEAR).sum())
    seconds_near = 2 * NEAR * len(cuts)
    largest = np.abs(np.exp(windows) - np.exp(whole)).max(-1)
    return (
        f"{seconds:g} s in windows and in one piece, {len(cuts)} cuts: of {len(expected)} letters "
        f"{near} differ in the {seconds_near:g} s around the cuts, {far} in the "
        f"{seconds - seconds_near:g} s elsewhere; p of a letter differs by {largest.mean():.4f} on "
        f"average, at most {largest.max():.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--minutes", default="10,60", help="lengths whose cost is measured")
    parser.add_argument("--seconds", type=float, default=120, help="cut and in one piece; 0: not")
    parser.add_argument("flags", nargs="*", help="of transcribe, such as -- --format=srt")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # first: a child's peak begins with the memory of the process that started it
        for minutes in map(float, filter(None, given.minutes.split(","))):
            path = joined(Path(folder, f"{minutes:g}.flac"), 60 * minutes)
            print(cost(given.checkpoint, path, minutes, *given.flags), flush=True)
        if given.seconds:
            path = joined(Path(folder, "short.flac"), given.seconds)
            print(differences(given.checkpoint, path, given.seconds), flush=True)


if __name__ == "__main__":
    main()
