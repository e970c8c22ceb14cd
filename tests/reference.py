"""The golden files: models and outputs of the reference, and how ours are compared with them."""

import functools
import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from w2v_jax.interop import huggingface, huggingface_tensors
from w2v_jax.models.encoder import Encoder, tap_names
from w2v_jax.models.frontends.waveform import FeatureEncoder
from w2v_jax.models.heads.quantizer import Quantizer

GOLDEN = Path(__file__).parent / "golden"
ZERO = ("k_proj.bias", "linear_k.bias")  # gradient 0 but for rounding: softmax ignores a shift
FORWARD, LOSS, GRADIENT = "outputs", "losses", "gradients"
TOLERANCE = {FORWARD: 1e-5, LOSS: 1e-5, GRADIENT: 2e-4}  # of the largest value of an array
SEEN = (Encoder, FeatureEncoder, Quantizer)  # modules whose outputs are captured

reached: dict[str, float] = {}  # quantity -> largest error of the running test


def golden_cases() -> list:
    import pytest  # the cases are also run where there is none

    roots = [GOLDEN]
    if os.environ.get("W2V_GOLDEN_DIR"):
        roots.append(Path(os.environ["W2V_GOLDEN_DIR"]))
    for root in roots:
        assert root.is_dir(), root
    paths = [path for root in roots for path in sorted(root.glob("*/*.npz"))]
    return [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in paths]


def is_fairseq(directory: Path) -> bool:
    return "fairseq" in json.loads((directory / "config.json").read_text())


@functools.cache
def load(directory: Path):
    config = json.loads((directory / "config.json").read_text())
    encoder, kind = huggingface.encoder_config(config), huggingface.model_kind(config)
    variables = huggingface_tensors.parameters(
        load_file(directory / "model.safetensors"), encoder, kind
    )
    return config, encoder, kind, variables


def waveforms(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Audio of a case and, where it is padded, the samples of every row."""
    audio, name = np.load(path.parent.parent / "audio.npz"), str(case_arrays(path)["in/audio"])
    length = audio[f"{name}_mask"].sum(1).astype(np.int32) if f"{name}_mask" in audio else None
    return audio[name], length


@functools.cache
def case_arrays(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path))


def close(name: str, ours, theirs, quantity: str) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, name
    error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    reached[quantity] = max(reached.get(quantity, 0), float(error))
    tolerance = TOLERANCE[quantity]
    assert error <= tolerance, f"{name}: relative error {error:.1e} > {tolerance:.0e}"


def hidden_states(config) -> tuple[str, ...]:
    """The taps of all hidden states of an encoder."""
    return tuple(name for name in tap_names(config) if name.startswith("hidden"))


def collect(call, args, kwargs, context):
    """Asks the encoder inside a model for its hidden states."""
    if isinstance(context.module, Encoder) and context.method_name == "__call__":
        kwargs = kwargs | {"taps": hidden_states(context.module.config)}
    return call(*args, **kwargs)


def ours_at(tree: dict, slot: huggingface_tensors.Slot) -> np.ndarray:
    for key in slot.path[1:]:
        tree = tree[key]
    return tree if slot.layer is None else tree[slot.layer]


def check_gradients(path: Path, grads: dict, table: dict) -> None:
    """Gradient norms are given for all parameters, the arrays of some of them for size alone."""
    bare = huggingface_tensors.bare_name
    case = json.loads((path.parent / "meta.json").read_text())["cases"][path.stem]
    none = {bare(name) for name in case["no_grad"]} & set(table)
    norms = {bare(name): norm for name, norm in case["grad_norms"].items() if norm is not None}
    norms = {name: norm for name, norm in norms.items() if name in table}
    arrays = {bare(key.rsplit("/", 1)[-1]): x for key, x in case_arrays(path).items()
              if key.startswith("grad/")}  # fmt: skip
    assert norms.keys() | none == {n for n, slot in table.items() if slot.path[0] == "params"}
    assert arrays
    assert arrays.keys() <= norms.keys()
    for name in none:
        assert not np.any(ours_at(grads, table[name])), name
    for name, norm in norms.items():
        if name.endswith(ZERO):
            continue
        grad = np.asarray(ours_at(grads, table[name]))
        close(name, np.linalg.norm(grad), norm, GRADIENT)
        if name in arrays:
            expected = huggingface_tensors.rearrange(arrays[name], table[name].axes)
            close(name, grad.reshape(expected.shape), expected, GRADIENT)
