"""The one training loop."""

import contextlib
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from w2v_jax.errors import UserError
from w2v_jax.keys.check import complaint
from w2v_jax.places import place
from w2v_jax.stopping import PREEMPTED, Stopped, stop
from w2v_jax.training.checkpoint import Checkpoints
from w2v_jax.training.distributed import from_first, is_first
from w2v_jax.training.health import Alarm, Alarms, Skipped
from w2v_jax.training.metrics import AUDIO, Measure, Window
from w2v_jax.training.profiling import Profile
from w2v_jax.training.progress import Progress
from w2v_jax.training.state import TrainState
from w2v_jax.training.task import Variables
from w2v_jax.training.watchdog import Watchdog
from w2v_jax.training.writer import NoWriter, Writer, read_lines

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How long, how often, how careful; the keys of config.run of the same names."""

    num_steps: int
    log_steps: int
    save_steps: int
    eval_steps: int
    keep_last: int = 2
    keep_every: int = 0
    keep_best: int = 0
    max_skipped: int = 10
    hang_seconds: float = 0.0
    profile_steps: str = ""

    def __post_init__(self):
        if wrong := complaint(self, "run") or complaint(self):
            raise UserError(wrong)
        Profile(self.profile_steps, "")  # refuses a window that is none

    @classmethod
    def from_config(cls, config) -> "LoopOptions":
        """Of a whole config. Raises UserError for values that the loop does not take."""
        keys = {field.name for field in dataclasses.fields(cls)} - {"num_steps"}
        return cls(config.num_steps, **{key: config.run[key] for key in keys})


def train(
    workdir: str,
    options: LoopOptions,
    first: Callable[[], TrainState],
    abstract: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, dict]],
    batches: Callable[[int], Generator[tuple[Any, float], None, None]],
    *,
    evaluate: Callable[[Variables], dict[str, float]] | None = None,
    best_by: str = "",
    alarms: Sequence[Alarm] = (),
    data_metrics: Callable[[], dict[str, float]] = dict,
    measure: Measure = AUDIO,
    meta: Mapping[str, Any] | None = None,
) -> TrainState:
    """Trains until options.num_steps and returns the last state.

    first() makes the state of a new run; `abstract` has the shapes, types and shardings of it, and
    of what is restored where the run continues: never are both on the devices.
    batches(start) yields (global batch, amount of data in it) for steps start, start + 1, ...;
    it is a generator, closed at the end. `measure`: of what the amount is. The scalar `best_by` of
    evaluate(variables), the lower the better, is the score of a checkpoint. data_metrics() is
    added to every log line. `meta` is stored with every checkpoint and must be the same when a run
    continues (the digest of the data, say).

    The order within a step is a contract: batch, step, metrics (those of the step before, so that
    the device never waits for the host), log line, checkpoint, stop request, evaluation. A run
    killed between a checkpoint and the evaluation of the same step evaluates first when it
    continues. SIGTERM and Ctrl-C save and exit with status 75: after an update; before one whose
    batch does not come; in an evaluation, which is done anew later. Until the first update has been
    compiled there is nothing to save, and they end the process at once. Of several processes all
    run this loop, and stop after the same update; the first alone writes metrics.
    """
    started = time.monotonic()
    scores = {line["step"]: line[best_by] for line in read_lines(place(workdir) / "metrics.jsonl")
              if best_by in line}  # fmt: skip
    num_steps, eval_steps = options.num_steps, options.eval_steps
    checkpoints = Checkpoints(
        workdir, keep_last=options.keep_last, keep_every=options.keep_every,
        keep_best=options.keep_best, scores=scores,
    )  # fmt: skip
    meta = dict(meta or {})
    restored = checkpoints.restore(abstract.saved())
    if restored is None:
        state, content = first(), {"clock": {measure.total: 0.0, "seconds_trained": 0.0}}
    else:
        state, content = abstract.restored(restored[0]), restored[1]
        for key, value in meta.items():
            if content["run"].get(key) != value:
                raise UserError(
                    f"the {key} has changed since {workdir} was started "
                    f"({content['run'].get(key)} -> {value}); put the old one back, or use another "
                    "--workdir"
                )
    clock, window = content["clock"], Window(content.get("window"))
    skipped = Skipped(options.max_skipped, content.get("skipped"))
    start = int(state.step)
    if start:
        print(f"continues from step {start} of {num_steps}", flush=True)
    writer = Writer(workdir, start) if is_first() else NoWriter()
    watched = Alarms(alarms if is_first() else ())

    def write(step: int, scalars: dict[str, float]) -> None:
        writer.write(step, scalars | watched.check(step, scalars))

    def evaluate_now(step: int) -> None:
        begin = time.monotonic()
        scalars = evaluate(state.variables)
        write(step, scalars)
        if best_by in scalars:
            checkpoints.scored(step, scalars[best_by])
        values = "  ".join(f"{k} {v:.4g}" for k, v in scalars.items())
        print(f"step {step}: {values}", flush=True)
        # or its time would count to the next updates
        progress.leave_out(time.monotonic() - begin)
        watchdog.beat(step)

    def close_checkpoints(failure: type | None, *_) -> None:
        # to finish a save needs all processes: one that fails alone would wait for the others
        if failure is None:
            checkpoints.close()
        elif jax.process_count() == 1:
            with contextlib.suppress(UserError):  # what failed first is the one to be told
                checkpoints.close()

    def asked_after(step: int) -> bool:
        """Whether to stop after this step; to be asked once for every step."""
        return multihost_utils.reached_preemption_sync_point(step) if together else stop.asked

    def settle(upto: int) -> None:
        """Takes the metrics of the steps up to that one from the device."""
        while pending and pending[0][0] <= upto:
            number, metrics = pending.pop(0)
            ready = jax.device_get(metrics)
            watchdog.beat(number)
            window.add(ready)
            skipped.add(ready["train/skipped"][0], number)

    def save(step: int) -> None:
        settle(step)
        content = {
            "run": meta,
            "clock": {**clock, "seconds_trained": progress.seconds()},
            "window": window.content,
            "skipped": skipped.content,
        }
        checkpoints.save(step, state.saved(), content)

    progress = Progress(start, num_steps, clock, measure)
    waited = 0.0
    done = start
    stopping = False
    pending = []  # (step, metrics) of steps that may still be on the device
    together = jax.distributed.is_initialized()
    with contextlib.ExitStack() as stack:
        # first in, last out: a second signal ends no save
        stack.enter_context(stop.held(together=together))
        stack.enter_context(stop.leaving(writer.close))
        stack.callback(writer.close)
        watchdog = stack.enter_context(
            Watchdog(options.hang_seconds, workdir, process=jax.process_index())
        )
        stack.push(close_checkpoints)  # after the watchdog: the last save is watched too
        due = evaluate is not None and start and (start % eval_steps == 0 or start >= num_steps)
        try:
            if due and from_first(not writer.has(start, "valid/")):
                evaluate_now(start)
            if start >= num_steps:
                return state
            traced = options.profile_steps if is_first() else ""
            profile = stack.enter_context(Profile(traced, workdir))
            # closed in any case: worker processes end with the generator
            iterator = stack.enter_context(contextlib.closing(batches(start)))
            for step in range(start + 1, num_steps + 1):
                profile.before(step)
                before = time.monotonic()
                batch, amount = next(iterator)
                waited += time.monotonic() - before
                # the first one compiles, for minutes where the model is large
                alone = contextlib.nullcontext() if done > start else stop.nothing_to_save()
                with alone, progress.update(batch):
                    state, metrics = train_step(state, batch)
                done = step
                profile.after(step, metrics)
                last = step == num_steps
                logs = step % options.log_steps == 0 or last
                # asked once: a signal from here on belongs to the next step
                stopping = asked_after(step) and not last
                saves = step % options.save_steps == 0 or last or stopping
                pending.append((step, metrics))
                settle(step if logs or saves else step - 1)
                clock[measure.total] += amount / measure.scale
                if logs:
                    scalars = window.means()
                    scalars |= progress.rates(step, clock, waited) | data_metrics()
                    waited = 0.0
                    write(step, scalars)
                    progress.show(step, scalars)
                checkpoints.check()
                if saves:
                    save(step)
                if stopping:
                    break
                if evaluate is not None and (step % eval_steps == 0 or last):
                    evaluate_now(step)
        except Stopped:
            stopping = True
            if done > start:
                save(done)
    if stopping:
        log.warning("asked to stop: step %d is saved, the same command continues", done)
        sys.exit(PREEMPTED)
    log.info("trained %d steps in %.0f s", num_steps - start, time.monotonic() - started)
    return state
