"""Transcripts of a corpus as letters."""

import logging
from collections.abc import Sequence

import numpy as np

from w2v_jax.data.sharing import Ragged
from w2v_jax.data.sources import Source
from w2v_jax.errors import UserError, warn_left_out
from w2v_jax.text.alphabet import Alphabet, TextError

log = logging.getLogger(__name__)
LETTERS_PER_SECOND = 20  # of the longest transcripts
MAX_NAMED = 20  # transcripts left out that are named one by one


def transcribed(sources: Sequence[Source], alphabet: Alphabet) -> tuple[list[Source], Ragged]:
    """The rows whose transcript the alphabet can write, and their labels, row by row.

    The others are counted and named in the log, the first with the reason. Raises UserError where
    none is left.
    """
    kept, labels, bad = [], [], []
    total = 0
    for source in sources:
        rows = []
        for row, text in enumerate(source.manifest.texts):
            try:
                labels.append(alphabet.encode(text))
                rows.append(row)
            except TextError as error:
                bad.append(f"{source.manifest.path(row)}: {error}")
        total += len(source.manifest)
        if rows:
            kept.append(source.select(np.array(rows)))
    warn_left_out(log, f"{len(bad)} of {total} transcripts", bad[:MAX_NAMED], len(bad))
    if not labels:
        reason = f"; first: {bad[0]}" if bad else ""
        raise UserError(f"none of {total} utterances has a usable transcript{reason}")
    return kept, Ragged.of(labels)
