"""Devices one does not hold: TPU slices and GPUs by name, for ahead-of-time compilation, and fake
CPUs.

What a chip can do is from the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of
cloud.google.com/tpu/docs (read in 2026); the links of v4 from arXiv 2304.01433, table 4.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
from typing import Any

import jax
from jax.experimental import topologies

from w2v_jax.errors import UserError
from w2v_jax.measuring.gpu_cards import CARDS, GIB, SHARE, Card, open_gpus


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip; what it shares with others is meant per chip."""

    hbm: int  # bytes of memory
    flops: float  # bfloat16 operations per second, dense, at best
    link: float  # bytes per second of one link between chips, one way
    wraps: int  # an axis of the slice that is a multiple of this long is closed to a ring


# The pages give the links of a chip together and both ways: v5e 400, v6e 800 GB/s over 4 links;
# v5p 1200 GB/s over 6.
CHIPS = {
    "v4": Chip(32 * GIB, 275e12, 50e9, 4),
    "v5e": Chip(16 * GIB, 197e12, 50e9, 16),
    "v5p": Chip(95 * GIB, 459e12, 100e9, 4),
    "v6e": Chip(32 * GIB, 918e12, 100e9, 16),
}


# What JAX calls the chips (device_kind).
TPU_KINDS = {
    "TPU v6 lite": "v6e", "TPU v6e": "v6e", "TPU v5 lite": "v5e", "TPU v5e": "v5e",
    "TPU v5p": "v5p", "TPU v5": "v5p", "TPU v4": "v4",
}  # fmt: skip
# Dense bfloat16 products (V100: float16) per second, from NVIDIA's data sheets. H100, H200: SXM;
# the PCIe card of the H100 has 756e12.
GPU_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "V100": 125e12}


def peak_flops(device_kind: str) -> float | None:
    """bfloat16 operations per second of a device at best; None where we do not know it."""
    if device_kind in TPU_KINDS:
        return CHIPS[TPU_KINDS[device_kind]].flops
    return next((peak for name, peak in GPU_FLOPS.items() if name in device_kind), None)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for: TPUs have `chip` and `shape`, GPUs `card`, fake ones neither."""

    name: str
    devices: list[Any]
    chip: Chip | None = None
    shape: tuple[int, ...] = ()
    card: Card | None = None

    @property
    def per_chip(self) -> int:
        """Devices that share a chip: two on v4, whose cores are devices of their own here."""
        return len(self.devices) // math.prod(self.shape) if self.shape else 1

    @property
    def hbm(self) -> int | None:
        """Bytes of memory of a device; of a GPU those that a training gets."""
        if self.card is not None:
            return self.card.usable
        return None if self.chip is None else self.chip.hbm // self.per_chip

    @property
    def hbm_text(self) -> str:
        """The same in words."""
        gib = f"{self.hbm / GIB:.0f} GiB"
        return gib if self.card is None else f"{gib}, {SHARE:.0%} of the card's,"

    @property
    def flops(self) -> float | None:
        """Operations per second of a device."""
        if self.card is not None:
            return self.card.flops
        return None if self.chip is None else self.chip.flops / self.per_chip

    @property
    def outgoing(self) -> float | None:
        """Bytes per second that every device can send at once, all links in use: two links per
        axis of a ring, one at the ends of an open axis."""
        if self.card is not None:
            return self.card.link
        if self.chip is None:
            return None
        sides = [size for size in self.shape if size > 1]
        # v4 and v5p close their axes in whole cubes, v5e and v6e each axis by itself
        cubes = self.chip.wraps == 4 and any(size % 4 for size in self.shape)
        rings = [not cubes and size % self.chip.wraps == 0 for size in sides]
        return self.chip.link * sum(2 if ring else 1 for ring in rings) / self.per_chip


def open_topology(name: str) -> Topology:
    """The devices of `v5e:4x4`, `v5p:2x2x4`, ..., `h100:8` or `cpu:8`; call it before JAX is used.

    TPU slices need the package libtpu, GPUs (of one host) JAX's plugin for CUDA; neither needs a
    device. Raises UserError for a name that is no topology.
    """
    kind, _, size = name.partition(":")
    counted = size.isdecimal() and int(size) > 0
    if kind == "cpu" and counted:
        return Topology(name, _fake_devices(int(size)))
    if kind in CARDS and counted:
        card = CARDS[kind]
        return Topology(name, open_gpus(name, card, int(size)), card=card)
    sides = size.split("x")
    if kind not in CHIPS or not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(
            f"--topology={name} is unknown; write cpu:N, one of {', '.join(CHIPS)} with the shape "
            f"of the slice (v5e:2x4, v5p:2x2x4), or one of {', '.join(CARDS)} with the number of "
            "GPUs in a host (h100:8)"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={name} needs the compiler for TPUs; pip install libtpu (no TPU is "
            "needed), or take fake devices: --topology=cpu:8"
        )
    # libtpu asks a server of Google Cloud which TPU it is on: this saves the attempt and its
    # warnings, and changes nothing of what is compiled
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    # nothing here holds a TPU, so several processes may compile at once
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology={name} is no slice that libtpu knows: {error}") from None
    return Topology(name, list(devices), CHIPS[kind], tuple(int(side) for side in sides))


def _fake_devices(count: int) -> list[Any]:
    with contextlib.suppress(RuntimeError):  # JAX runs already, with as many as it has
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"--topology=cpu:{count}: this process has {len(devices)} CPU devices only")
    return devices[:count]
