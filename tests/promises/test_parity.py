"""The numbers of the reference: every output, loss and gradient of the golden files.

Errors are relative to the largest value of the array; `pytest tests/promises/test_parity.py -rP |
grep outputs` prints the largest of every case. `W2V_GOLDEN_DIR` names another directory of the
same layout to run over.
"""

import dataclasses

import jax
import pytest
from safetensors.numpy import load_file

from tests.promises import parity_fairseq, parity_transformers
from tests.reference import (
    FORWARD,
    GOLDEN,
    GRADIENT,
    TOLERANCE,
    close,
    golden_cases,
    is_fairseq,
    load,
    reached,
)
from w2v_jax.errors import UserError
from w2v_jax.interop import huggingface, huggingface_tensors


@pytest.fixture(autouse=True)
def _exact_products(request):
    """Accelerators round float32 products otherwise."""
    reached.clear()
    with jax.default_matmul_precision("highest"):
        yield
    if reached:
        errors = ", ".join(f"{key} {reached[key]:.1e}" for key in TOLERANCE if key in reached)
        print(f"{request.node.callspec.id}: {errors}")


@pytest.mark.parametrize("path", golden_cases())
def test_case(path):
    check = parity_fairseq.check if is_fairseq(path.parent) else parity_transformers.check
    check(path)


def executed(encoder, **changes):
    """The encoder computed in another way."""
    execution = dataclasses.replace(encoder.execution, **changes)
    return dataclasses.replace(encoder, execution=execution)


@pytest.mark.parametrize("method", ["conv", "fft"])
def test_positional_convolution(method):
    path = GOLDEN / "w2v2_base_g2" / "padded.npz"
    encoder = executed(load(path.parent)[1], positional_conv=method)
    parity_transformers.check_pretraining(path, encoder)


TRAIN = GOLDEN / "conformer_relative" / "train.npz"


@pytest.fixture(scope="module")
def plain():
    with jax.default_matmul_precision("highest"):
        return parity_transformers.compute(TRAIN, load(TRAIN.parent)[1])


@pytest.mark.parametrize(
    "change",
    [
        {"layers": "unroll"},
        {"first_conv": "folded"},
        {"remat": "full"},
        {"remat": "dots"},
        {"remat_features": True},
        {"attention": "whole"},
        {"depthwise_conv": "conv"},
    ],
    ids=lambda x: str(*x.items()),
)
def test_execution_changes_no_number(change, plain):
    changed = parity_transformers.compute(TRAIN, executed(load(TRAIN.parent)[1], **change))
    leaves, structure = jax.tree_util.tree_flatten_with_path(plain)
    assert structure == jax.tree.structure(changed)
    for (key, x), y in zip(leaves, jax.tree.leaves(changed), strict=True):
        name = jax.tree_util.keystr(key)
        if "grads" not in name:
            close(name, y, x, FORWARD)
        elif not name.endswith("['attention']['key']['bias']"):
            close(name, y, x, GRADIENT)


def test_tensors_without_a_place_are_named():
    encoder = load(GOLDEN / "w2v2_base_g2")[1]
    tensors = load_file(GOLDEN / "w2v2_base_g2" / "model.safetensors")
    tensors["surplus.weight"] = tensors.pop("project_q.bias")
    with pytest.raises(UserError, match=r"missing: project_q\.bias; .*: surplus\.weight"):
        huggingface_tensors.parameters(tensors, encoder, "wav2vec2")


@pytest.mark.parametrize(
    ("key", "value"),
    [("adapter_kernel_size", 5), ("hidden_act", "quick_gelu"), ("model_type", "wavlm")],
)
def test_what_cannot_be_expressed_is_named(key, value):
    config, *_ = load(GOLDEN / "w2v2_base_g2")
    with pytest.raises(UserError, match=f"{key} is {value!r}"):
        huggingface.encoder_config(config | {key: value})
