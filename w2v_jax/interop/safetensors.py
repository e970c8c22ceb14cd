"""The tensors of a model directory: safetensors, whole or in shards, or torch's own file."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.flax import load_file
from safetensors.numpy import save_file

from w2v_jax.errors import UserError, brief, some

WHOLE, INDEX, TORCH = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
TORCH_INDEX = f"{TORCH}.index.json"


def read(folder: Path, name: str = "") -> dict[str, np.ndarray]:
    """The tensors of model.safetensors or pytorch_model.bin, whole or in shards, or of the file
    `name`, floats as float32.

    Raises UserError where there is none of them, one is damaged, or torch is needed and missing.
    """
    if name or (folder / WHOLE).exists():
        return _read_file(folder / (name or WHOLE))
    for index, read_part in ((folder / INDEX, _read_file), (folder / TORCH_INDEX, _read_torch)):
        if index.exists():
            return {k: x for part in _parts(index) for k, x in read_part(folder / part).items()}
    if (folder / TORCH).exists():
        return _read_torch(folder / TORCH)
    there = some(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise UserError(
        f"{folder} holds neither {WHOLE} nor {INDEX} nor {TORCH} but {there}; "
        "save_pretrained of the model writes the first"
    )


def _parts(index: Path) -> list[str]:
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(os.path.basename(part) for part in parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} cannot be read: {brief(error)}") from None


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        # the jax reader knows bfloat16, which the numpy one does not
        return {name: _float32(np.asarray(x)) for name, x in load_file(path).items()}
    except FileNotFoundError:
        raise UserError(f"{path} cannot be read: there is no such file") from None
    except Exception as error:  # of damaged headers many kinds
        raise UserError(f"{path} cannot be read: {brief(error)}") from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} needs torch (pip install torch); a {WHOLE} beside it would not"
        ) from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip raise many kinds
        raise UserError(f"{path} cannot be read: {brief(error)}") from None
    return {
        name: (x.float() if x.is_floating_point() else x).numpy() for name, x in tensors.items()
    }


def _float32(x: np.ndarray) -> np.ndarray:
    return x if np.issubdtype(x.dtype, np.integer) else x.astype(np.float32)


def write(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes FOLDER/model.safetensors. Raises OSError."""
    contiguous = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    try:
        save_file(contiguous, folder / WHOLE, metadata={"format": "pt"})
    except SafetensorError as error:
        (folder / WHOLE).unlink(missing_ok=True)  # half of it
        raise OSError(str(error)) from None
