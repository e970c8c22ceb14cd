"""What can be read off the layers: small classifiers of frozen features, of all layers at once.

A probe is linear, or has one hidden layer (512, ReLU). Every layer has its own; they see the same
batches, begin with the same weights and are trained side by side with AdamW. Each keeps the weights
that were best on the development frames, and training ends when no layer has improved for a while.
Features are standardised with the mean and deviation of the training frames, so that one learning
rate suits layers of any scale.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from w2v_jax.errors import UserError

HIDDEN = 512
LEARNING_RATE = 1e-3
BATCH = 512
EVALUATE_STEPS = 100
PATIENCE = 5  # evaluations without a layer that is better by GAIN, after which training ends
GAIN = 0.001  # in accuracy: of a dozen layers one is always better by a frame
MOST_STEPS = 20_000
AT_ONCE = 4096  # frames that are evaluated together
TRAIN, DEV, TEST = range(3)
SHARES = 0.8, 0.1, 0.1
LEAST_GROUPS = 3  # of a class: one for training, development and test


class Accuracy(NamedTuple):
    """Of one seed, shares of frames, float [L]."""

    test: np.ndarray
    dev: np.ndarray
    steps: int  # updates until training ended


def split(classes: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """TRAIN, DEV or TEST of every row, int [n]; -1 where a class has less than LEAST_GROUPS groups.

    classes, groups [n]: rows of a group stay together, and the groups of every class are divided by
    SHARES, each part having one at least.
    """
    random = np.random.default_rng(seed)
    parts = np.full(len(classes), -1)
    for kind in np.unique(classes):
        rows = np.flatnonzero(classes == kind)
        names, inverse = np.unique(groups[rows], return_inverse=True)
        if len(names) < LEAST_GROUPS:
            continue
        few = max(round(SHARES[DEV] * len(names)), 1), max(round(SHARES[TEST] * len(names)), 1)
        of = np.repeat([DEV, TEST, TRAIN], [*few, len(names) - sum(few)])
        parts[rows] = random.permutation(of)[inverse]
    return parts


def _init(key: jax.Array, width: int, classes: int, hidden: int) -> dict[str, jax.Array]:
    def dense(key, name, fan_in, fan_out):
        weights = jax.random.normal(key, (fan_in, fan_out)) / np.sqrt(fan_in)
        return {f"{name}_kernel": weights, f"{name}_bias": jnp.zeros(fan_out)}

    first, second = jax.random.split(key)
    if not hidden:
        return dense(first, "out", width, classes)
    return dense(first, "hidden", width, hidden) | dense(second, "out", hidden, classes)


def _logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """params of all layers, x [L, B, D] -> [L, B, classes]."""
    product = functools.partial(jnp.einsum, "lbd,ldk->lbk")
    if "hidden_kernel" in params:
        x = jax.nn.relu(product(x, params["hidden_kernel"]) + params["hidden_bias"][:, None])
    return product(x, params["out_kernel"]) + params["out_bias"][:, None]


_OPTIMIZER = optax.adamw(LEARNING_RATE)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _update(params: Any, state: Any, x: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
    def loss(params):
        found = optax.softmax_cross_entropy_with_integer_labels(
            _logits(params, x), jnp.broadcast_to(labels, x.shape[:2])
        )
        return found.mean(1).sum()  # layers have no parameter in common

    updates, state = _OPTIMIZER.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


@jax.jit
def _correct(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
    """int [L]; labels of padding are -1."""
    return (_logits(params, x).argmax(-1) == labels).sum(1)


@jax.jit
def _better(best: Any, params: Any, improved: jax.Array) -> Any:
    def choose(old, new):
        return jnp.where(improved.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, best, params)


class _Layers:
    """Frames of all layers, standardised by those of training."""

    def __init__(self, arrays: Sequence[np.ndarray], train: np.ndarray):
        self._arrays = arrays
        self._mean, self._scale = [], []
        for array in arrays:
            sums = np.zeros((2, array.shape[1]))
            for part in np.array_split(train, -(-len(train) // AT_ONCE)):
                x = array[part].astype(np.float64)
                sums += x.sum(0), (x**2).sum(0)
            mean, square = sums / len(train)
            deviation = np.sqrt(np.maximum(square - mean**2, 0))
            self._mean.append(mean)
            # what does not vary among the frames of training says nothing about others
            steady = deviation <= 1e-6 * (np.abs(mean) + deviation.max(initial=0))
            self._scale.append(np.where(steady, 0, 1 / np.where(steady, 1, deviation)))

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        """float32 [L, B, D]."""
        return np.stack([
            (array[frames] - mean) * scale
            for array, mean, scale in zip(self._arrays, self._mean, self._scale, strict=True)
        ]).astype(np.float32)  # fmt: skip

    def __len__(self) -> int:
        return len(self._arrays)


def probe(
    arrays: Sequence[np.ndarray],
    labels: np.ndarray,
    parts: np.ndarray,
    *,
    hidden: int = 0,
    seed: int = 0,
) -> Accuracy:
    """The accuracy of a probe on each of several layers.

    arrays: of every layer [n, D]; labels int [n], from 0 on; parts int [n]: TRAIN, DEV or TEST of
    each frame; hidden: units of the hidden layer, 0: a linear probe. Raises UserError for a part
    without a frame, and for labels that are all the same.
    """
    frames = [np.flatnonzero(parts == part) for part in (TRAIN, DEV, TEST)]
    for name, found in zip(("training", "development", "test"), frames, strict=True):
        if not len(found):
            raise UserError(f"no frame is left for the {name} of probes; give them more speech")
    if len(np.unique(labels[frames[TRAIN]])) < 2:
        raise UserError("all frames have the same label; there is nothing to probe for")
    layers = _Layers(arrays, frames[TRAIN])
    classes, width = int(labels.max()) + 1, arrays[0].shape[1]
    random = np.random.default_rng(seed)
    one = _init(jax.random.key(seed), width, classes, hidden)
    params = jax.tree.map(lambda x: jnp.repeat(x[None], len(layers), axis=0), one)
    state = _OPTIMIZER.init(params)
    best = jax.tree.map(jnp.copy, params)
    dev, waited = np.full(len(layers), -1.0), 0
    gains = dev  # what each had when it last gained
    batch = min(BATCH, len(frames[TRAIN]))
    order = np.zeros(0, int)
    for step in range(1, MOST_STEPS + 1):
        if len(order) < batch:
            order = random.permutation(frames[TRAIN])
        drawn, order = np.sort(order[:batch]), order[batch:]
        params, state = _update(params, state, layers[drawn], labels[drawn])
        if step % EVALUATE_STEPS and step < MOST_STEPS:
            continue
        found = _accuracy(params, layers, labels, frames[DEV])
        gained = found > gains + GAIN
        gains = np.where(gained, found, gains)
        best, dev = _better(best, params, jnp.asarray(found > dev)), np.maximum(dev, found)
        waited = 0 if gained.any() else waited + 1
        if waited == PATIENCE:
            break
    return Accuracy(_accuracy(best, layers, labels, frames[TEST]), dev, step)


def _accuracy(params: Any, layers: _Layers, labels: np.ndarray, frames: np.ndarray) -> np.ndarray:
    correct = np.zeros(len(layers), int)
    for start in range(0, len(frames), AT_ONCE):
        part = frames[start : start + AT_ONCE]
        room = min(AT_ONCE, len(frames)) - len(part)  # all parts have one shape
        x = np.pad(layers[part], ((0, 0), (0, room), (0, 0)))
        said = np.pad(labels[part], (0, room), constant_values=-1)
        correct += np.asarray(_correct(params, x, said))
    return correct / len(frames)


def majority(labels: np.ndarray, parts: np.ndarray) -> float:
    """The accuracy on test frames of the label that training frames have most often."""
    return float((labels[parts == TEST] == np.bincount(labels[parts == TRAIN]).argmax()).mean())
