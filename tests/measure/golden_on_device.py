"""The golden cases on whatever device JAX computes on, as lines of JSON.

    python -m tests.measure.golden_on_device --output=cases.jsonl

First, on a GPU, its kernels against their plain forms (kernels_on_device.py). Then all of a case as
tests/promises/test_parity.py checks it, with products in float32; and after all of them the output
of every encoder in bfloat16. --part and --of share all of it among processes: compiling is most of
the work.
"""

import argparse
import dataclasses
import json
import time
import traceback
from pathlib import Path

import jax
import numpy as np

from tests import reference
from tests.measure import kernels_on_device
from tests.promises import parity_fairseq, parity_transformers
from tests.reference import GOLDEN, TOLERANCE, case_arrays, is_fairseq, reached, waveforms
from w2v_jax.command_line import enable_compilation_cache
from w2v_jax.models.encoder import Encoder

# of the largest value of an output that has 8 bits. On a CPU the worst case reaches 0.035, most
# 0.01; a mistake in the program makes it the order of 1
ROUNDED, BFLOAT16 = "bfloat16 outputs", 0.08
KERNELS = "kernels", "exact kernels"  # those that compute in bfloat16, in float32
LIMITS = kernels_on_device.TOLERANCE, kernels_on_device.EXACT


def float32(path: Path) -> None:
    """Raises AssertionError where an error is too large; `reached` has the largest."""
    with jax.default_matmul_precision("highest"):
        (parity_fairseq if is_fairseq(path.parent) else parity_transformers).check(path)


def bfloat16(path: Path) -> None:
    """The same of the encoder's output alone, all of it computed in bfloat16."""
    arrays = case_arrays(path)
    audio, length = waveforms(path)
    if is_fairseq(path.parent):
        _, encoder, kind, variables = parity_fairseq.load(path.parent)
        mask, expected = arrays["in/mask_indices"], arrays["out/encoder_out"]
        if kind == "hubert":
            length = (~arrays["in/padding_mask"]).sum(1).astype(np.int32)
    else:
        config, encoder, kind, variables = reference.load(path.parent)
        mask, expected = arrays.get("in/mask_time_indices"), arrays["out/last_hidden_state"]
        if kind == "wav2vec2":
            mask = mask & config["apply_spec_augment"]
    execution = dataclasses.replace(encoder.execution, dtype="bfloat16")
    model = Encoder(dataclasses.replace(encoder, execution=execution), "in/gumbel" in arrays)
    variables = {name: tree["encoder"] for name, tree in variables.items() if "encoder" in tree}

    def forward(variables, audio, length, mask):
        out, _ = model.apply(variables, audio, length, time_mask=mask, mutable=["stats"])
        return out.context

    found = np.asarray(jax.jit(forward)(variables, audio, length, mask), np.float32)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    reached[ROUNDED] = error
    if not error <= BFLOAT16:
        raise AssertionError(f"encoder in bfloat16: relative error {error:.1e} > {BFLOAT16:g}")


def kernel(name: str) -> None:
    """Raises AssertionError where a kernel computes something else than its plain form."""
    errors, problem = kernels_on_device.check(name)
    exact = kernels_on_device.CHECKS[name][1] == kernels_on_device.EXACT
    reached[KERNELS[exact]] = max(errors.values())
    assert not problem, problem


def main(options: argparse.Namespace) -> None:
    enable_compilation_cache()
    paths = sorted(GOLDEN.glob("*/*.npz"))
    wanted = tuple(filter(None, options.cases.split(",")))
    paths = [path for path in paths if not wanted or path.parent.name.startswith(wanted)]
    with open(options.output, "w") as file:

        def say(**values) -> None:
            print(json.dumps(values), file=file, flush=True)

        kernels = list(kernels_on_device.CHECKS) if jax.default_backend() == "gpu" else []
        tolerance = TOLERANCE | {ROUNDED: BFLOAT16} | dict(zip(KERNELS, LIMITS, strict=True))
        say(tolerance=tolerance, of=len(paths), kernels=len(kernels))
        for kind, things in ((kernel, kernels), (float32, paths), (bfloat16, paths)):
            for thing in things[options.part :: options.of]:
                begin, problem = time.perf_counter(), ""
                reached.clear()
                try:
                    kind(thing)
                except AssertionError as error:
                    problem = str(error).strip()
                except Exception as error:  # the others are still of interest
                    problem = f"{type(error).__name__}: {error}"
                    traceback.print_exc()
                case = thing if kind is kernel else f"{thing.parent.name}-{thing.stem}"
                say(
                    case=case, dtype=kind.__name__, errors=reached, problem=problem[:400],
                    seconds=time.perf_counter() - begin,
                )  # fmt: skip
        say(end=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--cases", default="", help="beginnings of their names; all by default")
    main(parser.parse_args())
