"""What all programs that recognise speech begin with."""

from typing import Any

import jax

from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.interop.exported import encoder_of
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import load_exported


def open_recognizer(checkpoint: str) -> tuple[Recognizer, Any]:
    """The exported CTC model in the folder `checkpoint`, and its variables on the device.

    Raises UserError where there is none.
    """
    variables, config = load_exported(checkpoint, "ctc")
    alphabet = Alphabet.from_dict(config["alphabet"])
    return Recognizer(encoder_of(config, checkpoint), alphabet), jax.device_put(variables)
