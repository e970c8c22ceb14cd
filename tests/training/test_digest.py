"""Digests of arrays: those of a slow twin on every sharding, others for every changed bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.training.test_checkpoint import mesh_of
from w2v_jax.training.digest import digests, seal, unseal


def digest_twin(x: np.ndarray) -> int:
    """The digest of one array, in plain NumPy."""
    words = x.reshape(-1).view(f"u{min(x.dtype.itemsize, 4)}").astype(np.uint64)
    mask = np.uint64(2**32 - 1)
    index = np.arange(words.size, dtype=np.uint64)
    h = words ^ (index * np.uint64(0x9E3779B1) & mask)
    h = (h ^ h >> np.uint64(16)) * np.uint64(0x85EBCA6B) & mask
    h = (h ^ h >> np.uint64(13)) * np.uint64(0xC2B2AE35) & mask
    return int((h ^ h >> np.uint64(16)).sum() & mask)


@pytest.mark.parametrize(
    "dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.int8, np.uint8, np.int32, bool]
)
@pytest.mark.parametrize("shape", [(), (7,), (0, 3), (16, 5, 3)])
def test_digest_is_that_of_the_twin_on_every_sharding(dtype, shape):
    x = (np.random.default_rng(0).normal(size=shape) * 50).astype(dtype)
    expected = digest_twin(np.array(x))
    assert digests({"x": x}) == {"x": expected}
    axis = PartitionSpec("fsdp") if shape and shape[0] % 8 == 0 else PartitionSpec()
    for devices in (8, 2):
        sharded = jax.device_put(x, NamedSharding(mesh_of(devices), axis))
        assert digests({"x": sharded}) == {"x": expected}


def test_digest_of_eight_byte_elements():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(5, 3))
        assert digests({"x": x}) == {"x": digest_twin(x)}


def test_digest_changes_with_every_bit_and_with_the_signs_of_a_pair():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    seen = {digests({"x": x})["x"]}
    for element in range(x.size):
        for bit in range(0, 32, 5):
            words = x.copy().view(np.uint32)
            words.flat[element] ^= np.uint32(1 << bit)
            seen.add(digests({"x": words.view(np.float32)})["x"])
    assert len(seen) == 1 + x.size * 7
    pair = x.copy()
    pair[0, :2] *= -1
    seen |= {digests({"x": other})["x"] for other in (pair, x[::-1], np.zeros_like(x))}
    assert len(seen) == 4 + x.size * 7


def test_what_changes_after_the_call_is_not_saved():
    """The writing goes on while the loop adds to its sums: slow storage wrote later ones."""
    meta = {"window": {"loss": [3.0, 1]}}
    sealed = seal(meta, {"w": jnp.arange(40.0)})
    meta["window"]["loss"][0] += 1
    assert unseal(sealed)[0] == {"window": {"loss": [3.0, 1]}}
