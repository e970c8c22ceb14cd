"""fairseq's own test of HuBERT, examples/hubert/tests: a recording, and what published checkpoints
make of it."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2v_jax.analysis.extraction import open_extractor
from w2v_jax.errors import UserError, brief

ERROR = 1e-3  # root mean square of the difference, as a share of that of the features
UNITS = 1e-3  # of the share of the variance that units explain
_NAME = re.compile(r"sample\.(\w+)\.L(\d+)\.npy")


class Check(NamedTuple):
    """One comparison."""

    what: str
    found: str
    expected: str
    passed: bool


class Expected(NamedTuple):
    """What the test has for models of one size."""

    recording: Path
    path: Path  # of the features
    layer: int
    features: np.ndarray  # [T, width]

    @property
    def text(self) -> str:
        """What the fine-tuned model of this size recognises. Raises UserError without."""
        size = _NAME.fullmatch(self.path.name)[1]
        path = self.path.with_name(f"sample.{size}.hypo.word")
        try:
            return path.read_text(encoding="utf-8").rpartition("(")[0].strip()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({brief(error)}); fairseq has it of LARGE and XLARGE; of "
                "another size name the pre-trained model"
            ) from None


def expected(folder: str, width: int, blocks: int) -> Expected:
    """Raises UserError where files are missing, or none is of a model of that size."""
    where = Path(folder)
    recordings, shipped = sorted(where.glob("*.flac")), sorted(where.glob("sample.*.npy"))
    if not recordings or not shipped:
        raise UserError(
            f"--folder={folder} has no recording (.flac) and features (sample.base.L9.npy, ...); "
            "name examples/hubert/tests of a clone of github.com/facebookresearch/fairseq"
        )
    for path in shipped:
        name, features = _NAME.fullmatch(path.name), _read(path)
        if name and features.ndim == 2 and features.shape[1] == width and int(name[2]) <= blocks:
            return Expected(recordings[0], path, int(name[2]), features)
    raise UserError(
        f"--folder={folder} has no features of a model of {blocks} blocks of width {width}, but "
        f"{', '.join(path.name for path in shipped)}; name one of the checkpoints that they are of"
    )


def check(checkpoint: str, folder: str) -> list[Check]:
    """Compares what the model makes of the test's recording with the features that stand beside it,
    and its units with them. Raises UserError where files are missing, or none is of such a model.
    """
    extractor = open_extractor(checkpoint, ("hidden_*",))
    of = expected(folder, extractor.taps["hidden_0"], len(extractor.taps) - 1)
    features = extractor(of.recording).arrays[f"hidden_{of.layer}"]
    return _compared(of.path, of.layer, features, of.features)


def check_text(text: str, of: Expected) -> list[Check]:
    """Compares what a fine-tuned model recognises."""
    return [Check("greedy text", text, of.text, text == of.text)]


def _compared(path: Path, layer: int, found: np.ndarray, expected: np.ndarray) -> list[Check]:
    same = found.shape == expected.shape
    checks = [Check("frames, width", str(found.shape), str(expected.shape), same)]
    if not same:
        return checks
    error = float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))
    largest = float(np.abs(found - expected).max() / expected.std())
    checks += [
        Check(f"layer {layer}: error (rms)", f"{error:.2g}", f"<= {ERROR:g}", error <= ERROR),
        Check(f"layer {layer}: largest, in deviations", f"{largest:.2g}", "", True),
        Check(f"layer {layer}: mean, deviation", f"{found.mean():.5f} {found.std():.5f}",
              f"{expected.mean():.5f} {expected.std():.5f}", True),
    ]  # fmt: skip
    for units in sorted(path.parent.glob(f"{path.stem}.km*.km")):
        labels = _units(units, len(expected))
        mine, theirs = (explained(x, labels) for x in (found, expected))
        checks.append(
            Check(f"variance that {units.name} explains", f"{mine:.2%}", f"{theirs:.2%}",
                  abs(mine - theirs) <= UNITS)
        )  # fmt: skip
    return checks


def explained(features: np.ndarray, labels: np.ndarray) -> float:
    """The share of the variance of features [T, D] that the means of the units explain."""
    x = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    _, units = np.unique(labels, return_inverse=True)
    sums = np.zeros((units.max() + 1, x.shape[1]))
    np.add.at(sums, units, x)
    return float((sums**2 / np.bincount(units)[:, None]).sum() / (x**2).sum())


def _read(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({brief(error)}); fetch it again") from None


def _units(path: Path, frames: int) -> np.ndarray:
    try:
        units = np.array(path.read_text(encoding="utf-8").split(), int)
        if len(units) != frames:
            raise ValueError(f"{len(units)} units of {frames} frames")
        return units
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({brief(error)}); fetch it again") from None
