"""Prints time, memory and error of our CTC loss and optax's, a gradient step each in turn.

    python -m tests.measure.ctc_speed
    python -m tests.measure.ctc_speed --rounds=21 --shapes=8,750,32,200

The error of the gradient is that against the float64 twin, in the first two rows.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.objectives.test_ctc import twin
from w2v_jax.objectives.ctc import ctc_loss

SHAPES = ("8,750,32,200", "4,300,32,60", "16,1500,32,300")  # rows, frames, outputs, letters
CHECKED = 2  # rows that the twin computes


def optax_loss(logits, frames, labels, label_length):
    past_end = jnp.arange(logits.shape[1]) >= frames[:, None]
    past_label = jnp.arange(labels.shape[1]) >= label_length[:, None]
    paddings = past_end.astype(jnp.float32), past_label.astype(jnp.float32)
    return optax.ctc_loss(logits, paddings[0], labels, paddings[1]).sum()


def own_loss(logits, frames, labels, label_length):
    return ctc_loss(logits, frames, labels, label_length, jnp.ones(len(frames)))[0]


def batch(rows: int, frames: int, outputs: int, letters: int):
    """Random logits and labels; every second row is a tenth shorter."""
    rng = np.random.default_rng(0)
    short = np.where(np.arange(rows) % 2, 0.9, 1.0)
    logits = 3 * rng.normal(size=(rows, frames, outputs)).astype(np.float32)
    labels = rng.integers(1, outputs, (rows, letters)).astype(np.int32)
    return logits, (frames * short).astype(np.int32), labels, (letters * short).astype(np.int32)


def measure(shape: tuple[int, ...], rounds: int) -> None:
    arrays = batch(*shape)
    steps = {
        name: jax.jit(jax.value_and_grad(loss)).lower(*arrays).compile()
        for name, loss in (("optax", optax_loss), ("own", own_loss))
    }
    gradients = {name: np.asarray(step(*arrays)[1]) for name, step in steps.items()}
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(*arrays))
            seconds[name].append(time.perf_counter() - start)
    exact = [twin(*(x[i] for x in arrays))[1] for i in range(CHECKED)]
    print(f"\n{shape}  {'ms':>7} {'least':>7} {'MiB':>7}  gradient off by")
    for name, step in steps.items():
        times = np.array(seconds[name]) * 1e3
        memory = step.memory_analysis().temp_size_in_bytes / 2**20
        error = np.abs(gradients[name][:CHECKED] - exact).max()
        print(f"{name:>{len(str(shape))}}  {np.median(times):7.1f} {times.min():7.1f} {memory:7.1f}"
              f"  {error:.1e}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="B,T,L,U")
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, optax {optax.__version__}")
    for shape in arguments.shapes:
        measure(tuple(int(x) for x in shape.split(",")), arguments.rounds)


if __name__ == "__main__":
    main()
