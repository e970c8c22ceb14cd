"""Operations whose cheapest form is not the obvious one, one file each. Where an operation has
several forms they are equal but for rounding, and each is fastest somewhere.

The form follows the platform that a program is compiled for, which is that of the mesh in force
(`jax.set_mesh`): a program for a TPU that is compiled on a machine with CPUs alone gets the TPU's
forms. `jax.lax.platform_dependent` would decide later, when a program is lowered; but the backward
pass of its branches would hold what any of them keeps.
"""

import jax

# operation -> platform -> form; "" is every other platform
FORMS = {
    "attention": {"cpu": "heads", "": "whole"},
    "positional_conv": {"cpu": "fft", "": "conv"},
    "depthwise_conv": {"cpu": "shifts", "": "conv"},
}


def platform() -> str:
    """Of the mesh in force; without one, of this process's devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def form(operation: str, choice: str) -> str:
    """The form of an operation that config.execution chooses, for the platform if it is `auto`."""
    forms = FORMS[operation]
    return forms.get(platform(), forms[""]) if choice == "auto" else choice
