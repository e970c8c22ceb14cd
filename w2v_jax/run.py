"""The one path of all kinds of training: from a config to a trained state."""

import contextlib
import functools
import shlex

from jax.sharding import Mesh
from ml_collections import ConfigDict

from w2v_jax import command_line
from w2v_jax.data.batches import Plan, check_rows, iterate
from w2v_jax.errors import UserError
from w2v_jax.measuring.fitting import FittingStep
from w2v_jax.places import place, write_whole
from w2v_jax.stopping import stop
from w2v_jax.tasks import TASKS, kind_of, make_task
from w2v_jax.tasks.task import Data, Task
from w2v_jax.training.checkpoint import checkpoint_steps
from w2v_jax.training.distributed import is_first
from w2v_jax.training.lock import Lock
from w2v_jax.training.loop import LoopOptions, train
from w2v_jax.training.settings import check_unchanged, settings_of, write_settings
from w2v_jax.training.sharding import (
    batch_sharding,
    make_mesh,
    parameter_summary,
    parameter_table,
    shards_of_batch,
)
from w2v_jax.training.state import TrainState, abstract_state, boxed_shapes, first_state

SOON = 100  # updates whose batch shapes are compiled before the first of them
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
    task, options = check(config, command), LoopOptions.from_config(config)
    command_line.enable_compilation_cache("" if config.run.dry_run else workdir)
    with contextlib.ExitStack() as stack:
        if is_first() and not config.run.dry_run:
            lock = stack.enter_context(Lock(workdir))
            stack.enter_context(stop.leaving(lock.release))
        return _run(config, workdir, task, options)


def _run(
    config: ConfigDict, workdir: str, task: Task, options: LoopOptions
) -> TrainState | None:
    """`run`, where no other process writes to WORKDIR."""
    mesh = make_mesh(config.run.mesh)
    settings, described = settings_of(task.config), task.described()
    check_unchanged(workdir, settings, described)
    data = task.open(config.data.train, mesh)
    check_rows([b.rows for b in data.buckets], shards_of_batch(mesh), config.run.accumulation)
    plan = data.plan(seed=config.seed, num_steps=config.num_steps)
    evaluate = None
    if config.data.valid:
        held_out = task.open(config.data.valid, mesh, held_out=True)
        evaluate = task.evaluation(held_out, mesh)
    parameters = boxed_shapes(task).params
    first = lambda: task.begin(first_state(task, mesh))  # noqa: E731
    amount = "batch_tokens" if "batch_tokens" in config.data else "batch_seconds"
    step = FittingStep(task, mesh, amount, task.measure)
    for shape in plan.shapes:
        step.check_held(data.loader.arrays(shape))
    start = max(checkpoint_steps(workdir), default=0)
    if not start:  # before minutes of compiling
        task.check_initial()
    if config.run.dry_run:
        print(parameter_table(parameters, mesh), flush=True)
        if not start:
            first()
        rehearse(task, mesh, plan, data, step)
        return None
    if is_first():
        write_settings(workdir, settings, described)
        table = parameter_table(parameters, mesh)
        write_whole(place(workdir) / "parameters.txt", table + "\n")
        print(parameter_summary(parameters, mesh))
        print(f"each of them, and how it is cut: {workdir}/parameters.txt", flush=True)
    if start < config.num_steps:  # before the state is made and the first batch is read
        soon = range(start, min(start + SOON, config.num_steps))
        shapes = dict.fromkeys(plan[i].shape for i in soon)
        step.prepare([data.loader.arrays(shape) for shape in shapes])
    with step.speaking():
        state = train(
            workdir,
            options,
            first,
            abstract_state(task, mesh),
            step,
            lambda start: iterate(
                plan, data.loader, start=start, threads=config.run.threads,
                workers=config.run.workers, sharding=batch_sharding(mesh),
            ),
            evaluate=evaluate,
            best_by=task.best_by,
            alarms=task.alarms,
            data_metrics=data.loader.metrics,
            measure=task.measure,
            meta=data.loader.meta,
        )  # fmt: skip
    if is_first():
        there = shlex.quote(workdir)
        print(
            f"its curves: python -m w2v_jax.report --workdir={there}\n"
            f"the model:  python -m w2v_jax.export --workdir={there} --output={there}/export"
        )
    return state


def check(config: ConfigDict, command: str = "") -> Task:
    """The task of a config. Raises UserError for a config of another command, for one that names no
    data, and for values that make no sense."""
    kind = kind_of(config)
    if command and TASKS[kind].command != command:
        raise UserError(
            f"this config is of the kind {kind}, which python -m w2v_jax.{TASKS[kind].command} "
            f"trains; {command} takes "
            + ", ".join(name for name, task in TASKS.items() if task.command == command)
        )
    task = make_task(config)
    if not config.data.train:
        raise UserError(f"set --config.data.train to {READS[TASKS[kind].reads]}")
    return task


def rehearse(task: Task, mesh: Mesh, plan: Plan, data: Data, step: FittingStep) -> None:
    """Compiles the step for one batch, says what a device needs, and reads it; trains nothing."""
    spec = plan[0]
    memory = step.compile(data.loader.arrays(spec.shape))
    if memory is not None:
        print("the step compiles; a device holds {:.2f} GB of state, {:.2f} GB of the batch, and "
              "{:.2f} GB of intermediate results".format(
                  *(size / 1e9 for size in (memory.state, memory.batch, memory.temporary))
              ))  # fmt: skip
    with step.speaking():
        (batch, amount), *_ = iterate([spec], data.loader, sharding=batch_sharding(mesh))
    shapes = {name: tuple(x.shape) for name, x in batch.items()}
    rows, unit = sum(len(part.items) for part in spec.parts.values()), task.measure.unit
    print(f"first batch: {amount:.1f} {unit} in {rows} rows, {shapes}")
    print("dry run: nothing was trained or written", flush=True)
