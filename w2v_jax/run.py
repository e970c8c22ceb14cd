"""What all kinds of training share: from buckets and a task to a trained state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from w2v_jax.data import augmentation, mixing
from w2v_jax.data.batches import BatchLoader, check_rows, iterate
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import BatchPlan, Bucket
from w2v_jax.errors import UserError
from w2v_jax.measuring.compiled import LoweredStep
from w2v_jax.places import place, write_whole
from w2v_jax.training.checkpoint import has_checkpoint
from w2v_jax.training.distributed import is_first
from w2v_jax.training.health import Alarm, Skipped
from w2v_jax.training.loop import AUDIO, Measure, train
from w2v_jax.training.profiling import Profile
from w2v_jax.training.retention import retention
from w2v_jax.training.settings import check_unchanged, write_settings
from w2v_jax.training.sharding import (
    batch_sharding,
    local_parts,
    parameter_table,
    shards_of_batch,
)
from w2v_jax.training.state import (
    Task,
    TrainState,
    abstract_state,
    first_state,
    jitted_step,
    on_mesh,
)

# keys of a config that are arguments of the loop
LOOP_KEYS = (
    "num_steps", "log_steps", "save_steps", "eval_steps", "keep_last", "keep_every", "keep_best",
    "max_skipped", "hang_seconds", "profile_steps",
)  # fmt: skip
# which checkpoints are the best: the scalar of an evaluation, the lower the better
BEST_BY = {
    "pretrained": "valid/contrastive_bits", "ctc": "valid/wer", "language": "valid/perplexity",
}  # fmt: skip
# of settings that runs of an earlier version lack: what they did
EARLIER = {"data": mixing.DEFAULTS | {"augment": augmentation.DEFAULTS}, "ema_decay": 0.0}


def training_data(
    config: ConfigDict, corpus: Corpus, buckets: Sequence[Bucket], mesh: Mesh, **options
) -> tuple[BatchPlan, Loader]:
    """The plan, and the loader of this process; options: more fields of the loader."""
    data = config.data
    check_rows(buckets, shards_of_batch(mesh), data.accumulation)
    buckets = mixing.by_config(
        buckets, corpus, data.mix, weights=data.mix_weights, alpha=data.mix_alpha
    )
    loader = Loader(
        corpus, config.seed, data.accumulation, max_bad_share=data.max_bad_share,
        augmentation=augmentation.open_augmentation(data.augment, config.seed),
        **parts(mesh), **options,
    )  # fmt: skip
    return BatchPlan(buckets, seed=config.seed, num_steps=config.num_steps), loader


def parts(mesh: Mesh) -> dict[str, Any]:
    """The fields of a loader that say which rows this process reads."""
    return {"parts": local_parts(mesh), "of": shards_of_batch(mesh)}


def run(
    config: ConfigDict,
    workdir: str,
    settings: Mapping[str, Any],
    earlier: Mapping[str, Any],
    *,
    task: Task,
    mesh: Mesh,
    plan: BatchPlan,
    loader: BatchLoader,
    evaluate: Callable[[TrainState], dict[str, float]] | None,
    alarms: Sequence[Alarm],
    begin: Callable[[TrainState], TrainState],
    measure: Measure = AUDIO,
) -> TrainState | None:
    """Trains, from the newest checkpoint of WORKDIR on; the last state, None of a dry run.

    settings: what decides the numbers of the run; earlier: what runs of an earlier version did
    where they lack one of them. begin: makes the state of a new run from the random one. measure:
    of what the loader says the amount.
    """
    check_unchanged(workdir, settings, earlier | EARLIER)
    table = parameter_table(jax.eval_shape(task.init)["params"], mesh)
    print(table, flush=True)
    check_loop_keys(config)
    first = lambda: begin(first_state(task, mesh))  # noqa: E731
    if config.dry_run:
        if not has_checkpoint(workdir):
            first()
        rehearse(task, mesh, plan, loader, measure)
        return None
    if is_first():
        write_settings(workdir, settings)
        write_whole(place(workdir) / "parameters.txt", table + "\n")
    data = config.data
    return train(
        first,
        abstract_state(task, mesh),
        on_mesh(jitted_step(task, mesh), mesh),
        lambda start: iterate(
            plan, loader, start=start, threads=data.threads, workers=data.workers,
            sharding=batch_sharding(mesh),
        ),
        workdir=workdir,
        **{key: config[key] for key in LOOP_KEYS},
        evaluate=evaluate,
        best_by=BEST_BY[config.kind],
        alarms=alarms,
        data_metrics=loader.metrics,
        measure=measure,
        meta=loader.meta,
    )  # fmt: skip


def check_loop_keys(config: ConfigDict) -> None:
    """Raises UserError for what the loop would not take, before anything large is made."""
    Profile(config.profile_steps, "")
    Skipped(config.max_skipped)
    retention(config.keep_last, config.keep_every, config.keep_best, {})
    if config.keep_best and not config.data.valid:
        raise UserError(
            f"--config.keep_best={config.keep_best} keeps what scores best on --config.data.valid, "
            "which is empty; set it, or keep_best=0"
        )


def rehearse(
    task: Task, mesh: Mesh, plan: BatchPlan, loader: BatchLoader, measure: Measure
) -> None:
    """Reads one batch, compiles the step for it and says what a device needs; trains nothing."""
    sharding = batch_sharding(mesh)
    (batch, amount), *_ = iterate([plan[0]], loader, sharding=sharding)
    shapes = {name: tuple(x.shape) for name, x in batch.items()}
    print(f"first batch: {amount:.1f} {measure.unit} in {len(plan[0].places)} rows, {shapes}")
    arrays = {name: (x.shape, x.dtype) for name, x in batch.items()}
    _, memory = LoweredStep(task, mesh, arrays).compile()
    print("the step compiles; a device holds {:.2f} GB of state, {:.2f} GB of the batch, and "
          "{:.2f} GB of intermediate results".format(
              *(size / 1e9 for size in (memory.state, memory.batch, memory.temporary))
          ))  # fmt: skip
    print("dry run: nothing was trained or written", flush=True)
