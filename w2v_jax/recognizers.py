"""What all programs that recognise speech begin with."""

import os
from typing import Any

import jax

from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.interop import checkpoints
from w2v_jax.interop.exported import encoder_of
from w2v_jax.text.alphabet import Alphabet

# of the flag --checkpoint
HELP = "a CTC model: an export, a run, a directory of transformers or a .pt file of fairseq"


def open_recognizer(checkpoint: str | os.PathLike) -> tuple[Recognizer, Any]:
    """The CTC model in `checkpoint`, and its variables on the device.

    checkpoint: whatever `interop.checkpoints.load` takes. Raises UserError where there is none.
    """
    variables, config = checkpoints.load(checkpoint, "ctc")
    alphabet = Alphabet.from_dict(config["alphabet"])
    return Recognizer(encoder_of(config, checkpoint), alphabet), jax.device_put(variables)
