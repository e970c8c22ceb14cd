"""One of the updates, timed: compiles it, says so, waits for its turn and measures.

    python -m benchmarks.gpu_check.update FORM NAME FOLDER

It is what a training of the config runs, on full rows of the package's speech.
"""

import argparse
import runpy
import time
import traceback
from pathlib import Path

import jax

from benchmarks.gpu_check import forms
from benchmarks.gpu_check.kernels import kernels
from benchmarks.gpu_check.turns import Turn, timed
from w2v_jax.command_line import enable_compilation_cache
from w2v_jax.measuring import step_timing
from w2v_jax.measuring.compiled import LoweredStep
from w2v_jax.measuring.topology import peak_flops
from w2v_jax.tasks import make_task
from w2v_jax.training.profiling import Profile
from w2v_jax.training.sharding import batch_sharding, make_mesh
from w2v_jax.training.state import first_state

ROOT = Path(__file__).parents[2]
WARM, TRACED = 3, 3  # updates that are not measured, and that are traced
SECONDS = 8.0  # of measuring, at most


def main(form: forms.Form, name: str, turn: Turn) -> None:
    enable_compilation_cache()
    asked = form.updates[name]
    file, _, argument = asked.config.partition(":")
    config = runpy.run_path(str(ROOT / file))["get_config"](argument)
    task = make_task(forms.changed(config, asked.keys))
    mesh = make_mesh(config.run.mesh)
    length = round(asked.seconds * task.measure.per_row)
    arrays = dict(task.example((1, asked.rows), length))
    begin = time.perf_counter()
    step = LoweredStep(task, mesh, {key: (x.shape, x.dtype) for key, x in arrays.items()})
    lowered = time.perf_counter()
    program, memory = step.compile()
    compiled = time.perf_counter()
    # small beside what an update needs, so all that wait may hold theirs
    state = step_timing.at_step(first_state(task, mesh), task.freeze_steps)
    batch = jax.block_until_ready(jax.device_put(arrays, batch_sharding(mesh)))
    turn.say("ready", {})
    turn.wait()
    metrics = {}

    def update():
        nonlocal state, metrics
        state, metrics = program(state, batch)
        return jax.block_until_ready((state, metrics))

    times = timed(update, warm=WARM, most=form.steps, seconds=SECONDS)
    # as in training, where one follows the other and nothing waits for each
    begin_row = time.perf_counter()
    for _ in times:
        state, metrics = program(state, batch)
    jax.block_until_ready((state, metrics))
    streamed = (time.perf_counter() - begin_row) / len(times)
    total, weight = metrics[task.loss_scalar]
    timing = step_timing.StepTiming(
        compiled - begin, times, step_timing.peak_memory(), float(total) / max(float(weight), 1)
    )
    flops = asked.rows * task.training_flops(length, layerdrop=True)
    found = {"config": asked.config, "title": asked.title}
    found |= step_timing.figures(timing, task, mesh, asked.rows, length, flops)
    found |= {
        "step_streamed_s": streamed, "lowering_s": lowered - begin,
        "program_bytes": None if memory is None else memory.total,
        # of a model without LayerDrop, for others that have none
        "flops_of_all_blocks": asked.rows * task.training_flops(length, layerdrop=False),
        "peak_flops": peak_flops(mesh.devices.flat[0].device_kind),
    }  # fmt: skip
    turn.say("done", found)
    try:
        with Profile(f"1:{TRACED}", str(turn.folder)) as profile:
            for number in range(1, TRACED + 1):
                profile.before(number)
                profile.after(number, update())
        turn.say("kernels", kernels(turn.folder / "profile", TRACED))
    except Exception as error:
        turn.say("kernels", {"problem": f"{type(error).__name__}: {error}"})
        traceback.print_exc()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("form", choices=("FULL", "SMALL"))
    parser.add_argument("name")
    parser.add_argument("folder")
    given = parser.parse_args()
    main(getattr(forms, given.form), given.name, Turn(given.folder))
