"""The one path of all kinds of training: from a config to a trained state."""

import functools

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from w2v_jax import command_line
from w2v_jax.data.batches import check_rows, iterate
from w2v_jax.data.plan import BatchPlan
from w2v_jax.errors import UserError
from w2v_jax.measuring.compiled import LoweredStep
from w2v_jax.places import place, write_whole
from w2v_jax.tasks import TASKS, kind_of, make_task
from w2v_jax.tasks.task import Data, Task
from w2v_jax.training.checkpoint import has_checkpoint
from w2v_jax.training.distributed import is_first
from w2v_jax.training.loop import LoopOptions, train
from w2v_jax.training.progress import compiling
from w2v_jax.training.settings import check_unchanged, settings_of, write_settings
from w2v_jax.training.sharding import (
    batch_sharding,
    make_mesh,
    parameter_summary,
    parameter_table,
    shards_of_batch,
)
from w2v_jax.training.state import TrainState, abstract_state, first_state, jitted_step, on_mesh

READS = {
    "manifest": "a manifest (python -m w2v_jax.prepare)",
    "text": "a text file, with a sentence per line",
}


def main(command: str) -> None:
    """The entry point `command`: trains the kinds that name it."""
    command_line.run_training(functools.partial(run, command=command))


def run(config: ConfigDict, workdir: str, *, command: str = "") -> TrainState | None:
    """Trains as `config` says, from the newest checkpoint of WORKDIR on; the last state, None of a
    dry run. command: the entry point that was called, if one was."""
    command_line.enable_compilation_cache()
    check(config, command)
    options = LoopOptions.from_config(config)
    task, mesh = make_task(config), make_mesh(config.run.mesh)
    settings, described = settings_of(config), task.described()
    check_unchanged(workdir, settings, described)
    data = task.open(config.data.train, mesh)
    check_rows([b.rows for b in data.buckets], shards_of_batch(mesh), config.run.accumulation)
    plan = BatchPlan(data.buckets, seed=config.seed, num_steps=config.num_steps)
    evaluate = None
    if config.data.valid:
        held_out = task.open(config.data.valid, mesh, held_out=True)
        evaluate = task.evaluation(held_out, mesh)
    parameters = jax.eval_shape(task.init)["params"]
    first = lambda: task.begin(first_state(task, mesh))  # noqa: E731
    if config.run.dry_run:
        print(parameter_table(parameters, mesh), flush=True)
        if not has_checkpoint(workdir):
            first()
        rehearse(task, mesh, plan, data)
        return None
    if is_first():
        write_settings(workdir, settings, described)
        table = parameter_table(parameters, mesh)
        write_whole(place(workdir) / "parameters.txt", table + "\n")
        print(parameter_summary(parameters, mesh))
        print(f"each of them, and how it is cut: {workdir}/parameters.txt", flush=True)

    def batches(start: int):
        print(compiling(len(data.buckets), jax.config.jax_compilation_cache_dir), flush=True)
        return iterate(
            plan, data.loader, start=start, threads=config.run.threads, workers=config.run.workers,
            sharding=batch_sharding(mesh),
        )

    state = train(
        workdir,
        options,
        first,
        abstract_state(task, mesh),
        on_mesh(jitted_step(task, mesh), mesh),
        batches,
        evaluate=evaluate,
        best_by=task.best_by,
        alarms=task.alarms,
        data_metrics=data.loader.metrics,
        measure=task.measure,
        meta=data.loader.meta,
    )  # fmt: skip
    if is_first():
        print(
            f"its curves: python -m w2v_jax.report --workdir={workdir}\n"
            f"the model:  python -m w2v_jax.export --workdir={workdir} --output={workdir}/export"
        )
    return state


def check(config: ConfigDict, command: str = "") -> None:
    """Raises UserError for a config of another command, or one that names no data."""
    kind = kind_of(config)
    if command and TASKS[kind].command != command:
        raise UserError(
            f"this config is of the kind {kind}, which python -m w2v_jax.{TASKS[kind].command} "
            f"trains; {command} takes "
            + ", ".join(name for name, task in TASKS.items() if task.command == command)
        )
    if not config.data.train:
        raise UserError(f"set --config.data.train to {READS[TASKS[kind].reads]}")
    if config.run.keep_best and not config.data.valid:
        raise UserError(
            f"--config.run.keep_best={config.run.keep_best} keeps what scores best on "
            "--config.data.valid, which is empty; set it, or keep_best=0"
        )


def rehearse(task: Task, mesh: Mesh, plan: BatchPlan, data: Data) -> None:
    """Reads one batch, compiles the step for it and says what a device needs; trains nothing."""
    sharding = batch_sharding(mesh)
    (batch, amount), *_ = iterate([plan[0]], data.loader, sharding=sharding)
    shapes = {name: tuple(x.shape) for name, x in batch.items()}
    rows, unit = len(plan[0].items), task.measure.unit
    print(f"first batch: {amount:.1f} {unit} in {rows} rows, {shapes}")
    arrays = {name: (x.shape, x.dtype) for name, x in batch.items()}
    _, memory = LoweredStep(task, mesh, arrays).compile()
    print("the step compiles; a device holds {:.2f} GB of state, {:.2f} GB of the batch, and "
          "{:.2f} GB of intermediate results".format(
              *(size / 1e9 for size in (memory.state, memory.batch, memory.temporary))
          ))  # fmt: skip
    print("dry run: nothing was trained or written", flush=True)
