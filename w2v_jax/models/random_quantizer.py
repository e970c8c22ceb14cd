"""A frozen random codebook: codes of frames without anything learnt (arXiv 2202.01855)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

EXACT = jax.lax.Precision.HIGHEST  # codes are those of float32 on every platform


def random_codes(x: jax.Array, projection: jax.Array, codebook: jax.Array) -> jax.Array:
    """The code with the largest cosine to the projected frame, in each of G codebooks.

    x float32 [B, T, S]; projection [G, S, D]; codebook [G, V, D], its rows of length 1 ->
    int32 [B, T, G]. Of all codes the same length of the projected frame counts, so that it is left
    as it is: between vectors of length 1 the nearest is the one with the largest product.
    """
    projected = jnp.einsum("bts,gsd->btgd", x, projection, precision=EXACT)
    return jnp.einsum("btgd,gvd->btgv", projected, codebook, precision=EXACT).argmax(-1)


class RandomQuantizer(nn.Module):
    """A projection (Xavier's uniform) of frames of `inputs` numbers to `width` and a codebook
    (normal, rows scaled to length 1) of `codes` entries, for each of `codebooks`. They stand in
    `stats`: in checkpoints and exports, but no optimizer, gradient or weight decay knows them."""

    codebooks: int
    codes: int
    width: int
    inputs: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """-> (projection [G, inputs, D], codebook [G, V, D]), float32."""
        xavier = nn.initializers.xavier_uniform(batch_axis=0)

        def drawn(init, *shape):
            return init(self.make_rng("params"), (self.codebooks, *shape), jnp.float32)

        def codes():
            vectors = drawn(nn.initializers.normal(1.0), self.codes, self.width)
            return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)

        projection = self.variable("stats", "projection", drawn, xavier, self.inputs, self.width)
        return projection.value, self.variable("stats", "codebook", codes).value
