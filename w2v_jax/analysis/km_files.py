"""Labels as fairseq writes them (train.km): a line of integers for every row of a manifest."""

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import units
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sharing import Ragged
from w2v_jax.errors import UserError
from w2v_jax.text.files import every_line


def read(file: str, path: str, manifest: Manifest, rate: int) -> Ragged:
    """int32, row by row of the manifest at `path`; rate: of them, per second.

    Raises UserError for what are no labels, and where they are not of these rows. (Of too few in a
    row `data.units.write` tells.)
    """
    found = Ragged.of([_integers(file, i, line) for i, line in enumerate(every_line(file), 1)])
    _check_lines(found, file, path, manifest, rate)
    return found


def _integers(file: str, number: int, line: str) -> np.ndarray:
    try:
        found = np.array(line.split(), np.int64)
        if found.size and not 0 <= found.min() <= found.max() < 2**31:
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(
            f"--labels={file}: line {number}, {line[:40]!r}, must be integers from 0 on, with "
            "spaces between them"
        ) from None
    return found.astype(np.int32)


def _check_lines(found: Ragged, file: str, path: str, manifest: Manifest, rate: int) -> None:
    """Raises UserError where labels are not of these rows."""
    if len(found) != len(manifest):
        raise UserError(
            f"--labels={file} has {len(found):,} lines, {path} has {len(manifest):,} rows; line i "
            "must be of row i: prepare the manifest from the .tsv of the same labels"
        )
    empty = np.flatnonzero((found.sizes == 0) & (manifest.samples > units.SLACK * SAMPLE_RATE))
    if empty.size:
        row = int(empty[0])
        raise UserError(
            f"--labels={file}: {empty.size:,} lines are empty, first line {row + 1}, "
            f"{manifest.paths[row]}, of {manifest.samples[row] / SAMPLE_RATE:.2f} s; label it, or "
            "leave it out of both"
        )
    longer = np.flatnonzero(found.sizes > (manifest.samples / SAMPLE_RATE + units.SLACK) * rate)
    if longer.size:
        row = int(longer[0])
        raise UserError(
            f"--labels={file}: {longer.size:,} lines have more labels than audio, first line "
            f"{row + 1}, {manifest.paths[row]}: {found.sizes[row]:,} labels at {rate} per second "
            f"for {manifest.samples[row] / SAMPLE_RATE:.2f} s; they are of other recordings, in "
            "another order or of another --rate"
        )
