"""Model directories of transformers whose weights a formula draws, so that what its classes make of
them is a few numbers in a test."""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from w2v_jax.interop import huggingface
from w2v_jax.interop.huggingface_tensors import restore, slots
from w2v_jax.interop.safetensors import WHOLE
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.heads.ctc import CTCModel

ONE = ("norm.weight", "running_var", "original0")  # tensors of this end are around 1


def theirs_of(variables, encoder, kind) -> dict[str, np.ndarray]:
    """Arrays of shapes as in `variables` under the names of transformers, without its prefix."""
    found = {}
    for name, slot in slots(encoder, kind).items():
        x = variables
        for key in slot.path:
            x = x[key]
        found[name] = restore(np.zeros(x.shape[1:] if slot.layer is not None else x.shape,
                                       np.float32), slot.axes)  # fmt: skip
    return found


def drawn(names: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor, in the order of the names, from a sine."""
    found = {}
    for i, name in enumerate(sorted(names)):
        x = 0.05 * np.sin(0.7 * np.arange(names[name].size) + 0.3 * i)
        found[name] = (x + name.endswith(ONE)).reshape(names[name].shape)
    return {name: x.astype(np.float32) for name, x in found.items()}


def write_directory(
    folder: Path, config: dict[str, Any], prefix: str, samples: int, **files
) -> tuple[Path, dict[str, np.ndarray]]:
    """(folder, the tensors without their prefix). samples: of an input that the model takes; files:
    further ones of JSON, by name."""
    encoder, kind = huggingface.encoder_config(config), huggingface.model_kind(config)
    make = CTCModel(encoder, config["vocab_size"]) if kind == "ctc" else Encoder(encoder)
    shapes = jax.eval_shape(
        lambda: nn.meta.unbox(make.init(jax.random.key(0), jnp.zeros((1, samples), jnp.int16)))
    )
    if kind == "encoder":
        shapes = {name: {"encoder": tree} for name, tree in shapes.items()}
    tensors = drawn(theirs_of(shapes, encoder, kind))
    folder.mkdir()
    heads = ("lm_head",)
    save_file(
        {name if name.startswith(heads) else prefix + name: x for name, x in tensors.items()},
        folder / WHOLE,
    )
    for name, content in ({"config": config} | files).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder, tensors
