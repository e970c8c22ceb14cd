"""Prints the text of audio files, of any format, sample rate, channel count and length.

python -m w2v_jax.transcribe --checkpoint=runs/base-10h/export speech.wav more.flac
"""

import sys

from absl import flags

from w2v_jax import command_line
from w2v_jax.audio.waveform import AudioError, read
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.errors import UserError
from w2v_jax.interop.exported import encoder_of
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import load_exported


def transcribe(checkpoint: str, files: list[str]) -> dict[str, str]:
    """{file: text}; a file that cannot be read is reported on stderr and left out."""
    variables, config = load_exported(checkpoint, "ctc")
    alphabet = Alphabet.from_dict(config["alphabet"])
    recognizer = Recognizer(encoder_of(config, checkpoint), alphabet)
    texts = {}
    for file in files:
        try:
            texts[file] = recognizer.text(variables, read(file))
        except AudioError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        print(texts[file] if len(files) == 1 else f"{file}\t{texts[file]}", flush=True)
    return texts


def main(argv: list[str]) -> None:
    files = argv[1:]
    if not files:
        raise UserError("no audio file given; name one or more after the flags")
    if len(transcribe(flags.FLAGS.checkpoint, files)) < len(files):
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "folder of an exported CTC model", required=True)
    command_line.run(main)
