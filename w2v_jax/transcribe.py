"""Writes down what is said in audio files of any sample rate, channel count and length.

Formats are wav, flac, mp3, ogg, opus, aiff, au, caf, sph, w64 and, with pip install 'w2v_jax[av]',
m4a, mp4, mov, mkv, webm, avi, aac, amr, wma, 3gp.

python -m w2v_jax.transcribe --checkpoint=runs/base-10h/export speech.wav more.flac
python -m w2v_jax.transcribe --checkpoint=runs/base-10h/export --lm=4-gram.arpa.gz talk.mp3
python -m w2v_jax.transcribe --checkpoint=runs/base-10h/export --format=srt --output=subs *.mp3
curl https://... | python -m w2v_jax.transcribe --checkpoint=runs/base-10h/export --format=json -

A file called - is the standard input. Without --output the texts are printed. In Python:

    transcriber = w2v_jax.transcribe.load("runs/base-10h/export")
    print(transcriber("talk.mp3"))
"""

import dataclasses
import json
import math
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import flags

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, Recording, samples_of
from w2v_jax.decoding.alignment import Interval
from w2v_jax.decoding.decoder import Decoder
from w2v_jax.decoding.recognition import WINDOW_SECONDS, Recognizer
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.decoding.subtitles import cues, srt, vtt
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.keys.table import SEARCH
from w2v_jax.places import Place, check_replaceable, file_names, place, write_whole
from w2v_jax.recognizers import HELP as CHECKPOINT
from w2v_jax.recognizers import open_recognizer

Audio = str | os.PathLike | np.ndarray  # a file, or samples at 16 kHz: int16, or float in -1..1


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What is said in a recording; printed it is the text."""

    text: str
    words: list[Interval]  # those of the text, and when they are spoken
    duration: float  # seconds

    def __str__(self) -> str:
        return self.text


class Transcriber:
    """An exported CTC model with the search that decodes it; see `load`."""

    def __init__(self, variables, recognizer: Recognizer, decoder: Decoder, rows: int = 1):
        """rows: windows of WINDOW_SECONDS that are computed together."""
        self._variables = variables
        self._recognizer, self._decoder, self._rows = recognizer, decoder, rows

    def __call__(self, audio: Audio) -> Transcript:
        """The transcript of a file of any length, or of samples at 16 kHz: int16, or float in
        -1..1. Raises UserError for what is neither, AudioError for a file that cannot be read."""
        (found,) = self.many([audio])
        if isinstance(found, AudioError):
            raise found
        return found

    def many(
        self, audios: Iterable[Audio], *, times: bool = True
    ) -> Iterator[Transcript | AudioError]:
        """For each recording in turn its transcript, or why it could not be read.

        No more of them are looked at, and held in memory, than are computed together. times=False
        leaves `words` empty, which saves time where there is a search. Raises UserError for what is
        neither a path nor samples.
        """
        pending: deque[Recording | np.ndarray] = deque()

        def opened() -> Iterator[Recording | np.ndarray]:
            for audio in audios:
                is_path = isinstance(audio, str | os.PathLike)
                pending.append(Recording(audio) if is_path else samples_of(audio))
                yield pending[-1]

        for found in self._recognizer.recordings(self._variables, opened(), self._rows):
            recording = pending.popleft()
            if isinstance(found, AudioError):
                yield found
                continue
            duration = len(recording) / SAMPLE_RATE
            if times:
                seconds = self._recognizer.seconds_per_frame
                yield Transcript(*self._decoder.words(found, seconds), duration)
            else:
                yield Transcript(self._decoder.text(found), [], duration)


def load(
    checkpoint: str | os.PathLike,
    options: SearchOptions | None = None,
    *,
    batch_seconds: float = WINDOW_SECONDS,
) -> Transcriber:
    """A transcriber with the CTC model in `checkpoint`: an export, a run (its newest checkpoint), a
    directory of transformers or a .pt file of fairseq.

    options: the search and its language models; by default the best path. batch_seconds: audio
    that is computed together; more than one window, 30 s, pays on accelerators. Raises UserError.
    """
    options = options or SearchOptions()
    if not WINDOW_SECONDS <= batch_seconds < math.inf:
        raise UserError(
            f"--batch_seconds={batch_seconds:g} must be finite, and at least {WINDOW_SECONDS:g}, "
            "the length of a window"
        )
    recognizer, variables = open_recognizer(checkpoint)
    language = None
    if options.transformer_lm:
        language = checkpoints.load(options.transformer_lm, "language")
    decoder = Decoder(recognizer.alphabet, options, language)
    return Transcriber(variables, recognizer, decoder, int(batch_seconds // WINDOW_SECONDS))


def json_line(file: str, transcript: Transcript) -> str:
    """An object in a line: file, duration, text, words with text, start, end and score, the mean
    ln p of their frames (null for a word without a path)."""
    words = [
        {
            "text": word.text, "start": round(word.start, 3), "end": round(word.end, 3),
            "score": round(word.score, 4) if math.isfinite(word.score) else None,
        }
        for word in transcript.words
    ]  # fmt: skip
    duration = round(transcript.duration, 3)
    values = {"file": file, "duration": duration, "text": transcript.text, "words": words}
    return json.dumps(values, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[str, Transcript], str]] = {
    "txt": lambda _, transcript: f"{transcript}\n",
    "json": json_line,
    "srt": lambda _, transcript: srt(cues(transcript.words)),
    "vtt": lambda _, transcript: vtt(cues(transcript.words)),
}
STANDARD_INPUT = "-"


def check_files(files: list[str], kind: str, output: str = "", overwrite: bool = False) -> None:
    """Raises UserError where transcripts of `files` cannot go to `output`: files are there already
    and may not be replaced, or there is no folder where one is needed."""
    if not output and kind in ("srt", "vtt") and len(files) > 1:
        raise UserError(f"--format={kind} of {len(files)} files needs a folder: set --output")
    if files.count(STANDARD_INPUT) > 1:
        raise UserError("- is the standard input, which can be read only once; name it once")
    if output:
        for path in transcript_files(files, kind, output):
            check_replaceable(path, "--output", overwrite=overwrite)


def transcript_files(files: list[str], kind: str, output: str) -> list[Place]:
    """Where the transcripts of `files` go, in the folder `output`."""
    names = file_names(["stdin" if file == STANDARD_INPUT else file for file in files])
    return [place(output) / f"{name}.{kind}" for name in names]


def transcribe(transcriber: Transcriber, files: list[str], kind: str, output: str = "") -> int:
    """Writes the transcripts of files to the folder `output`, or prints them, as FORMATS[kind].

    Returns how many files could not be read: these are named on stderr and left out. Raises
    UserError where a file cannot be written.
    """
    targets = transcript_files(files, kind, output) if output else [None] * len(files)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        spool = Path(temporary, "stdin")
        paths = (_spooled(spool) if file == STANDARD_INPUT else file for file in files)
        transcripts = transcriber.many(paths, times=kind != "txt")
        for file, target, found in zip(files, targets, transcripts, strict=True):
            if isinstance(found, AudioError):
                message = str(found).replace(f"{spool}: ", f"{STANDARD_INPUT}: ", 1)
                print(f"error: {message}", file=sys.stderr, flush=True)
                failed += 1
                continue
            written = FORMATS[kind](file, found)
            if target:
                write_whole(target, written)
            else:
                several = kind == "txt" and len(files) > 1
                print(f"{file}\t{written}" if several else written, end="", flush=True)
    if output:
        print(f"{len(files) - failed} of {len(files)} files transcribed: {place(output)}")
    return failed


def _spooled(path: Path) -> Path:
    """The standard input as a file, which can be read in windows."""
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return path


def main(argv: list[str]) -> None:
    files, values = argv[1:], flags.FLAGS
    if not files:
        raise UserError("no audio file given; name one or more after the flags")
    check_files(files, values.format, values.output, values.overwrite)
    command_line.enable_compilation_cache()
    names = [field.name for field in dataclasses.fields(SearchOptions)]
    options = SearchOptions(**{name: getattr(values, name) for name in names})
    transcriber = load(values.checkpoint, options, batch_seconds=values.batch_seconds)
    if transcribe(transcriber, files, values.format, values.output):
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, CHECKPOINT, required=True)
    flags.DEFINE_enum("format", "txt", list(FORMATS), "of the transcripts")
    flags.DEFINE_string("output", "", "folder with a file per recording (default: print)")
    command_line.define_number(
        "batch_seconds", WINDOW_SECONDS, "audio that is computed together", WINDOW_SECONDS, 1e6
    )
    define = {
        str: flags.DEFINE_string, bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer, float: flags.DEFINE_float,
    }  # fmt: skip
    for field in dataclasses.fields(SearchOptions):
        define[type(field.default)](field.name, field.default, SEARCH[field.name].meaning)
    command_line.define_overwrite()
    command_line.run(main)
