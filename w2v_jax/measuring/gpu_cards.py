"""GPUs one does not hold: what a card can do, and how XLA is told of it.

Numbers are those of NVIDIA's data sheets and white papers (H100 and H200: SXM; A100: SXM4; RTX
4090: the Ada white paper); the memory is what CUDA reports of the card.
"""

import dataclasses
import glob
import importlib.util
import os
import shutil
import sys
from typing import Any

from jax.experimental import topologies

from w2v_jax.errors import UserError

GIB = 2**30
SHARE = 0.9  # of the memory: what launch/env.sh lets JAX take; CUDA, cuDNN and NCCL need the rest
INSTALL = (
    "pip install 'w2v_jax[compile_check_gpu]' (jax[cuda13-local], whose plugin matches JAX, and "
    "nvidia-cuda-nvcc; no GPU, driver or CUDA is needed)"
)
# Nothing can be timed where no GPU is, so nothing is tuned, and Triton's products would need that.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


@dataclasses.dataclass(frozen=True)
class Card:
    """One GPU."""

    name: str
    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    ghz: float  # boost
    bandwidth: float  # bytes per second of its memory
    memory: int  # bytes
    l2: int  # bytes
    shared: int  # bytes of shared memory of a multiprocessor
    flops: float  # bfloat16 products per second, dense, summed in float32
    link: float  # bytes per second to the other cards of the host, one way

    @property
    def usable(self) -> int:
        """Bytes that a training gets."""
        return int(SHARE * self.memory)

    @property
    def speed(self) -> float:
        """Instructions per second of all multiprocessors, in no unit: to compare cards."""
        return self.cores * self.ghz


def _gib(number: float) -> int:
    return int(number * GIB)


NVLINK4, NVLINK3, PCIE4 = 450e9, 300e9, 32e9
CARDS = {
    "h200": Card("NVIDIA H200", (9, 0), 132, 1.98, 4.8e12, _gib(139.8), 50 << 20, 233472, 989e12,
                 NVLINK4),
    "h100": Card("NVIDIA H100", (9, 0), 132, 1.98, 3.35e12, _gib(79.1), 50 << 20, 233472, 989e12,
                 NVLINK4),
    "a100": Card("NVIDIA A100", (8, 0), 108, 1.41, 2.039e12, _gib(79.1), 40 << 20, 167936, 312e12,
                 NVLINK3),
    "a100-40gb": Card("NVIDIA A100", (8, 0), 108, 1.41, 1.555e12, _gib(39.4), 40 << 20, 167936,
                      312e12, NVLINK3),
    "a10": Card("NVIDIA A10", (8, 6), 72, 1.695, 600e9, _gib(22.1), 6 << 20, 102400, 125e12, PCIE4),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52, 1.008e12, _gib(23.6), 72 << 20,
                    102400, 165.2e12, PCIE4),
}  # fmt: skip


def target(card: Card) -> str:
    """The card as XLA wants to be told of it: a GpuTargetConfigProto in text."""
    major, minor = card.capability
    hopper = major >= 9  # whose own instructions go by a name with an a
    model = f"{major}.{minor}{'a' if hopper else ''}"
    return f"""
    platform_name: "CUDA" device_description_str: "{card.name}"
    dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
    gpu_device_info {{
      name: "{card.name}" model_str: "sm_{model}" device_vendor: "NVIDIA Corporation"
      platform_version: "Compute Capability {model}"
      cuda_compute_capability {{ major: {major} minor: {minor}
        {"feature_extension: ACCELERATED_FEATURES" if hopper else ""} }}
      driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
      dnn_version: "9.10.0" core_count: {card.cores} clock_rate_ghz: {card.ghz}
      fpus_per_core: {64 if card.capability == (8, 0) else 128}
      memory_bandwidth: {card.bandwidth:.0f} device_memory_size: {card.memory}
      l2_cache_size: {card.l2} shared_memory_per_core: {card.shared}
      shared_memory_per_block: 49152 shared_memory_per_block_optin: {card.shared - 1024}
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      threads_per_warp: 32 threads_per_block_limit: 1024
      threads_per_core_limit: {2048 if minor == 0 else 1536} device_address_bits: 64
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
    }}"""


def open_gpus(name: str, card: Card, count: int) -> list[Any]:
    """So many cards of one host. Raises UserError where the compiler for GPUs is not installed."""
    plugins = [f"jax_cuda{version}_plugin" for version in (13, 12)]
    if not any(map(importlib.util.find_spec, plugins)):
        raise UserError(f"--topology={name} needs JAX's plugin for CUDA; {INSTALL}")
    # XLA looks for ptxas on the path; the package puts it elsewhere
    packaged = [f for site in sys.path for f in glob.glob(f"{site}/nvidia/*/bin")]
    if not shutil.which("ptxas", path=os.pathsep.join([*packaged, os.environ.get("PATH", "")])):
        raise UserError(f"--topology={name} needs ptxas, CUDA's assembler; {INSTALL}")
    here = os.environ.get("PATH", "").split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([*(f for f in packaged if f not in here), *here])
    try:
        found = topologies.get_topology_desc(
            name, "cuda", topology=f"1x1x{count}", target_config=target(card)
        )
    except RuntimeError as error:  # of another version than JAX, for one
        raise UserError(
            f"--topology={name}: JAX's plugin for CUDA does not open ({error}); {INSTALL}"
        ) from None
    return list(found.devices)
