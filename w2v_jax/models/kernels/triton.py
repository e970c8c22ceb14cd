"""What the kernels of GPUs have in common."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of tiles, summed in float32: exact for arrays of 16 bits, and not in TF32, of 10
    bits, for those of 32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return plgpu.dot(a, b, precision=precision)


def instruction(code: str, *args: jax.Array) -> jax.Array:
    """An instruction of NVIDIA's assembly on every element of float32 tiles: $0 is the result, $1
    and following are the arguments."""
    constraints = ",".join(["=f", *"f" * len(args)])
    (found,) = plgpu.elementwise_inline_asm(
        code, args=args, constraints=constraints, pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, jnp.float32)],
    )  # fmt: skip
    return found
