"""A file of torch.save as plain values, without running anything that the file names.

It is a pickle: torch rebuilds the tensors, and objects of every other class become inert records,
so that no package of the writer is needed.
"""

import argparse
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2v_jax.errors import UserError, brief

SAFE = {
    ("collections", "OrderedDict"): OrderedDict,
    ("argparse", "Namespace"): argparse.Namespace,
}
REBUILD = (
    "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state",
)  # fmt: skip


def load(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The entries `keys` of the dict in a .pt file, as far as it has them.

    Tensors become arrays, floats float32; namespaces, omegaconf's containers and objects become
    dicts, enums their value. Raises UserError where torch is missing, the file cannot be read or
    holds no dict.
    """
    try:
        import torch
    except ImportError:
        raise UserError(f"{path} needs torch (pip install torch)") from None
    try:
        if _is_program(path):  # torch.load would run it, whatever it is told about pickles
            raise ValueError("it holds a TorchScript program, not a checkpoint")
        content = torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a dict")
        return {key: _plain(content[key]) for key in keys if key in content}
    except Exception as error:  # pickle and zip raise many kinds
        raise UserError(f"{path} cannot be read: {brief(error)}") from None


def _is_program(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        parts = [name.split("/") for name in archive.namelist()]
    return any(part[-1] == "constants.pkl" or "code" in part[:-1] for part in parts)


class _Record:
    """An object of a class that is not there: its constructor's arguments and its state."""

    def __init__(self, *args, **kwargs):
        self.arguments, self.content = args, None

    def __setstate__(self, state):
        self.content = state


class _Unpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers; anything else becomes a _Record."""

    def find_class(self, module, name):
        import torch

        if module == "torch":
            # element types, in old files one class of storage for each
            found = getattr(torch, name, None)
            known = isinstance(found, torch.dtype) or name in ("Size", "device")
            if known or name.endswith("Storage"):
                return found
        if module == "torch._utils" and name in REBUILD:
            return super().find_class(module, name)
        return SAFE.get((module, name)) or type(name, (_Record,), {})


# what torch.load asks of a pickle module
_PICKLE = types.SimpleNamespace(
    Unpickler=_Unpickler,
    load=lambda file, **kwargs: _Unpickler(file, **kwargs).load(),
    __name__=__name__,
)


def _plain(x: Any) -> Any:
    import torch

    if isinstance(x, torch.Tensor):
        return (x.float() if x.is_floating_point() else x).detach().numpy()
    if isinstance(x, argparse.Namespace):
        return _plain(vars(x))
    if isinstance(x, _Record):
        if x.content is None:  # an enum
            return _plain(x.arguments[0]) if x.arguments else None
        state = x.content
        for key in ("_content", "_val"):  # of omegaconf's containers and leaves
            if isinstance(state, dict) and key in state:
                return _plain(state[key])
        return _plain(state)
    if isinstance(x, Mapping):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    return x
