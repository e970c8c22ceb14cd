"""What the parts of an update cost, each alone: forward, and forward with backward."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.encoder import block_stack, feature_encoder, positional_conv
from w2v_jax.models.heads.quantizer import Quantizer
from w2v_jax.models.layers import torch_dense
from w2v_jax.objectives.contrastive import diversity_loss
from w2v_jax.objectives.ctc import ctc_loss
from w2v_jax.tasks.pretraining import masked_prediction, score_candidates
from w2v_jax.training.sharding import BATCH_AXES
from w2v_jax.training.state import Task, TrainState, on_mesh

Part = tuple[str, Callable[..., Any], Any, Any]  # name, function, moving, fixed; see `_parts`


@dataclasses.dataclass(frozen=True)
class PartTiming:
    """Medians, in seconds, of a part of one micro-batch; of the optimizer `forward_s` is all."""

    part: str
    forward_s: float
    forward_backward_s: float | None
    times: int  # in an update: once per micro-batch

    @property
    def per_update(self) -> float:
        once = self.forward_s if self.forward_backward_s is None else self.forward_backward_s
        return self.times * once


def part_timings(
    config,
    task: Task,
    mesh: Mesh,
    state: TrainState,
    batch: Mapping[str, Any],
    *,
    repeats: int,
) -> Iterator[PartTiming]:
    """Times every part of training on a micro-batch of `batch` (arrays [A, B, ...]).

    The modules are the real ones with the parameters of `state`, the shapes and types those of the
    step; inputs and gradients from above are noise. Compiled alone a part can be slower than in
    the step, where it shares memory traffic with its neighbours, so the sum is no exact account.
    """
    accumulation = batch["audio"].shape[0]
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    micro = {name: jax.device_put(array[0], rows) for name, array in batch.items()}
    for name, function, moving, fixed in _parts(config, mesh, state, micro, rows):

        def both(moving, above, fixed, key, function=function):
            out, backward = jax.vjp(lambda x: function(x, fixed, key), moving)
            return out, backward(above)

        forward = on_mesh(jax.jit(function), mesh)
        out = forward(moving, fixed, jax.random.key(0))
        above = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape, x.dtype), out)
        above = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), above, out)
        yield PartTiming(
            name,
            _median(forward, (moving, fixed), repeats),
            _median(on_mesh(jax.jit(both), mesh), (moving, above, fixed), repeats),
            accumulation,
        )

    def update(params, grads, opt, step, key):
        updates, opt = task.optimizer.update(grads, opt, params)
        rate = task.schedule(step)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), opt

    arguments = (state.params, state.params, state.opt, state.step)
    seconds = _median(on_mesh(jax.jit(update), mesh), arguments, repeats)
    yield PartTiming("optimizer", seconds, None, 1)


def _median(function: Callable[..., Any], arguments: tuple, repeats: int) -> float:
    """Seconds of a call with (*arguments, key), each with another key: LayerDrop drops others."""
    jax.block_until_ready(function(*arguments, jax.random.key(0)))
    taken = []
    for i in range(repeats):
        key = jax.block_until_ready(jax.random.key(i))
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments, key))
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def _parts(
    config, mesh: Mesh, state: TrainState, micro: dict[str, Any], rows: NamedSharding
) -> Iterator[Part]:
    """(name, function(moving, fixed, key), moving, fixed): the gradient is that of `moving`."""
    cfg = EncoderConfig.from_dict(config.model)
    dtype, params = cfg.compute_dtype, state.params["encoder"]
    count, samples = micro["audio"].shape
    frames = cfg.frames(samples)

    def noise(*shape: int, dtype=dtype) -> jax.Array:
        return jax.device_put(jax.random.normal(jax.random.key(2), shape, dtype), rows)

    features = feature_encoder(cfg)
    yield (
        "feature encoder",
        lambda p, x, key: features.apply({"params": p}, x, None),
        params["feature_encoder"],
        noise(count, samples, dtype=jnp.float32),
    )
    x = noise(count, frames, cfg.width)
    context, stats = params["context"], state.stats.get("encoder", {}).get("context", {})
    if cfg.positions == "conv":
        positions = positional_conv(cfg)

        def convolution(moving, stats, key):
            variables = {"params": moving[0], "stats": stats}
            return positions.apply(variables, moving[1], None, True, mutable=["stats"])[0]

        yield (
            "positional convolution", convolution, (context["positions"], x),
            stats.get("positions", {}),
        )  # fmt: skip
    blocks = block_stack(cfg, train=True)

    def stack(moving, stats, key):
        dropout, layerdrop = jax.random.split(key)
        (y, _), _ = blocks.apply(
            {"params": moving[0], "stats": stats}, moving[1], None,
            rngs={"dropout": dropout, "layerdrop": layerdrop}, mutable=["stats"],
        )  # fmt: skip
        return y

    yield "blocks", stack, (context["layers"], x), stats.get("layers", {})
    if config.kind == "ctc":
        vocabulary = state.params["head"]["bias"].shape[0]
        t = cfg.context_frames(frames)
        length = jax.device_put(jnp.full(count, t), rows)
        yield (
            "loss",
            lambda x, fixed, key: ctc_loss(x, *fixed)[0],
            noise(count, t, vocabulary, dtype=jnp.float32),
            (length, micro["labels"], micro["label_length"], jnp.ones(count)),
        )
    else:
        yield from _contrastive_parts(config, mesh, state, micro, noise)


def _contrastive_parts(
    config, mesh: Mesh, state: TrainState, micro: dict[str, Any], noise: Callable[..., jax.Array]
) -> Iterator[Part]:
    cfg = EncoderConfig.from_dict(config.model)
    quantizer, dtype = QuantizerConfig.from_dict(config.quantizer), cfg.compute_dtype
    forward = masked_prediction(config, train=True)
    keys = jax.random.key(3), jax.random.key(4)
    variables = {"params": state.params, "stats": state.stats}
    (out, _), candidates = on_mesh(
        jax.jit(lambda v, x: forward(v, x, state.step, keys, mutable=["stats"])), mesh
    )(variables, micro)
    count, size, groups, codes = out.code_logits.shape
    projection = torch_dense(
        quantizer.width, quantizer.projection, ("embed", "act_embed"), dtype, name="project_targets"
    )

    def quantize(moving, gumbel, key):
        (codebook, project), x = moving
        found = Quantizer(quantizer, dtype).apply({"params": codebook}, x, gumbel, 1.0)
        return projection.apply({"params": project}, found.vectors), found.logits

    weights = state.params["quantizer"], state.params["project_targets"]
    yield (
        "quantizer", quantize, (weights, noise(count, size, cfg.channels)),
        noise(count, size, groups, codes, dtype=jnp.float32),
    )  # fmt: skip
    settings = config.loss

    def loss(moving, fixed, key):
        out, candidates = fixed
        out = out.replace(**moving)
        contrastive, _, masked = score_candidates(settings, out, candidates)
        diversity, _ = diversity_loss(out.code_logits, candidates.usable)
        return contrastive + settings.diversity_weight * diversity * masked

    moving = {"context": out.context, "targets": out.targets, "code_logits": out.code_logits}
    yield "loss", loss, moving, (out, candidates)


def table(parts: list[PartTiming], step: float) -> str:
    """A line per part of an update of `step` seconds, and one for what no part accounts for."""
    lines = [f"{'per micro-batch':24}  forward ms  forward+backward ms  share of the step"]
    for x in parts:
        both = "" if x.forward_backward_s is None else f"{1000 * x.forward_backward_s:.2f}"
        lines.append(
            f"{x.part:24}  {1000 * x.forward_s:10.2f}  {both:>19}  {x.per_update / step:17.1%}"
        )
    rest = 1 - sum(x.per_update for x in parts) / step
    return "\n".join([*lines, f"{'everything else':24}  {'':10}  {'':19}  {rest:17.1%}"])
