"""Operations whose cheapest form is not the obvious one, one file each. Where an operation has
several forms they are equal but for rounding, and each is fastest somewhere.

The form follows the platform that a program is compiled for, which is that of the mesh in force
(`jax.set_mesh`): a program for a TPU that is compiled on a machine with CPUs alone gets the TPU's
forms. `jax.lax.platform_dependent` would decide later, when a program is lowered; but the backward
pass of its branches would hold what any of them keeps.
"""

import functools
import re

import jax

from w2v_jax.models.settings import ConfigError

# operation -> platform -> form; "" is every other platform
FORMS = {
    "layers": {"gpu": "unroll", "other gpu": "unroll", "": "scan"},
    "attention": {"cpu": "heads", "gpu": "fused", "": "whole"},
    "positional_conv": {"cpu": "fft", "gpu": "fft", "other gpu": "fft", "": "conv"},
    "depthwise_conv": {"cpu": "shifts", "gpu": "fused", "": "conv"},
    "ctc": {"gpu": "fused", "": "scan"},
    "rows": {"gpu": "fused", "": "plain"},
    "first_conv": {"gpu": "folded", "other gpu": "folded", "": "conv"},
}
ONLY = {"fused": "gpu"}  # forms that are made for one platform
WORDS = {"cpu": "a CPU", "tpu": "a TPU", "other gpu": "an older GPU, or another maker's"}


def platform() -> str:
    """Of the mesh in force; without one, of this process's devices. "gpu" are those of NVIDIA from
    Ampere (2020) on: the compiler behind our kernels, Triton, takes no older ones, and what they
    say in NVIDIA's assembly no others. The rest are "other gpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else device.platform
    kind = None if device is None else device.device_kind
    return "other gpu" if name == "gpu" and not _runs_kernels(kind) else name


@functools.cache
def _runs_kernels(kind: str | None) -> bool:
    """Whether the GPUs of a kind do, as far as they are here; one that is not is believed to."""
    for device in jax.local_devices():
        if device.platform == "gpu" and kind in (None, device.device_kind):
            version = re.fullmatch(r"(\d+)\.\d+", str(device.compute_capability))  # AMD: gfx942
            return version is not None and int(version[1]) >= 8
    return True


def form(operation: str, choice: str) -> str:
    """The form of an operation that config.execution chooses, for the platform if it is `auto`.
    Raises ConfigError for one that the platform lacks."""
    forms, here = FORMS[operation], platform()
    if ONLY.get(choice, here) != here:
        raise ConfigError(
            f"--config.execution.{operation}={choice} is a kernel for GPUs of NVIDIA from Ampere "
            f"(compute capability 8.0) on, the program is for {WORDS.get(here, here)}; set "
            f"--config.execution.{operation}=auto"
        )
    return forms.get(here, forms[""]) if choice == "auto" else choice
