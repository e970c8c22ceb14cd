"""Compiles the training step of a config for devices one does not hold: does it fit, what does it
move, how long does it take?

    python -m w2v_jax.compile_check --config=configs/wav2vec2.py:base --topology=v5e:2x4 \
        --config.data.row_multiple=16 --config.run.accumulation=2

The program is the one that a training would run there; no data is read, no array made. TPU slices
(v4, v5e, v5p, v6e) need `pip install libtpu` and no TPU; GPUs of one host (h100:8, a10:1, ...) the
extra compile_check_gpu and no GPU; cpu:8 stands for fake devices. For GPUs the time of an update is
predicted, too. A large model takes minutes on a small machine, but one that does not fit a TPU is
known in a few seconds. docs/scaling.md has figures and says how to read them.
"""

import dataclasses
import json

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from w2v_jax import command_line, config_flag
from w2v_jax.data.batches import check_rows
from w2v_jax.measuring.collectives import sent
from w2v_jax.measuring.compiled import TooLarge, compile_step, times
from w2v_jax.measuring.topology import GIB, Topology, open_topology
from w2v_jax.places import check_replaceable, place, write_whole
from w2v_jax.tasks import make_task
from w2v_jax.training.sharding import make_mesh, parameter_table, shards_of_batch
from w2v_jax.training.state import boxed_shapes

REMEDIES = (
    "more --config.run.accumulation (smaller micro-batches), --config.execution.remat=dots or "
    "full, --config.execution.remat_features=True, --config.run.mesh.fsdp (state cut into parts), "
    "or more devices"
)


def check(config: ConfigDict, topology: Topology, *, all_shapes: bool = False) -> list[dict]:
    """Compiles and prints; the findings of every batch shape as plain JSON, those of the most work
    first. Raises UserError where mesh, batch and topology do not go together."""
    task, mesh = make_task(config), make_mesh(config.run.mesh, topology.devices)
    accumulation, shards = config.run.accumulation, shards_of_batch(mesh)
    flops = lambda shape: shape.rows * task.training_flops(shape.length)  # noqa: E731
    shapes = sorted(task.shapes(), key=flops, reverse=True)[: None if all_shapes else 1]
    parameters = boxed_shapes(task).params
    print(f"{topology.name}: {parameter_table(parameters, mesh).splitlines()[-1]}")
    results = []
    for shape in shapes:
        check_rows([shape.rows], shards, accumulation)
        micro = accumulation, shape.rows // accumulation
        amount, rows = shape.length / task.measure.per_row, micro[1] // shards
        total = shape.rows * amount
        print(
            f"\n{shape.rows} rows of {amount:g} {task.measure.unit} per update ({total:,.0f}): "
            f"{micro[0]} micro-batches of {rows} rows per device", flush=True,
        )  # fmt: skip
        found = compile_step(
            task, mesh, task.arrays(micro, shape.length), topology,
            layerdrop=config.model.get("layerdrop", 0.0),
        )  # fmt: skip
        result = {
            "topology": topology.name, "mesh": dict(mesh.shape), "rows": shape.rows,
            task.measure.name: amount, "accumulation": micro[0], "rows_per_device": rows,
            "execution": config.execution.to_dict(),
            "model_flops": flops(shape),
            "fits": not isinstance(found, TooLarge), "hbm": topology.hbm,
            **dataclasses.asdict(found),
        }  # fmt: skip
        if isinstance(found, TooLarge):
            print(_too_large_text(found))
        else:
            per_device = result["model_flops"] / mesh.size
            result["memory"]["total"] = found.memory.total
            if topology.card is not None:  # the next batch is there one update ahead
                result["fits"] = found.memory.total + found.memory.batch <= topology.hbm
            result["sent"] = sent(found.traffic)
            result["least_seconds"] = times(found, topology, per_device)
            print(_text(result, per_device, topology))
        results.append(result)
    return results


def _text(result: dict, per_device: float, topology: Topology) -> str:
    memory, hbm = result["memory"], result["hbm"]
    gib = {key: f"{value / GIB:.2f}" for key, value in memory.items()}
    fits = "it fits" if result["fits"] else "it does not fit"
    of = "" if hbm is None else f" of {topology.hbm_text} ({memory['total'] / hbm:.0%}): {fits}"
    counts = "kernels" if topology.card else "XLA counts"
    how = f"{result['prediction']['kernels']:,.0f} runs" if topology.card else "every loop once"
    lines = [
        f"  memory per device  {gib['total']} GiB{of}; state {gib['state']}, batch "
        f"{gib['batch']}, intermediate {gib['temporary']}",
        *(f"  {'largest in it' * (i == 0):<18} {x}" for i, x in enumerate(result["largest"])),
        *([] if result["fits"] else [f"  remedies           {REMEDIES}"]),
        f"  model arithmetic   {result['model_flops'] / 1e15:.3f} PFLOP per update, "
        f"{per_device / 1e12:.2f} TFLOP per device",
        f"  {counts:<18} {result['flops'] / 1e12:.2f} TFLOP and "
        f"{result['bytes_accessed'] / GIB:.1f} GiB of memory traffic per device, {how}",
    ]
    for kind, traffic in result["traffic"].items():
        lines.append(
            f"  {kind:<18} {traffic['count']} per update, {traffic['payload'] / GIB:.3f} GiB; a "
            f"device sends {traffic['sent'] / GIB:.3f} GiB"
        )
    if not result["traffic"]:
        lines.append("  no collectives")
    if result["least_seconds"]:
        least = result["least_seconds"]
        lines.append(
            f"  at best            arithmetic {least['arithmetic']:.3f} s, communication "
            f"{least['communication']:.3f} s per update (data sheet)"
        )
    if result["prediction"]:
        lines += _prediction_lines(result["prediction"], per_device / topology.flops)
    lines.append(f"  compiled in        {result['compile_seconds']:.0f} s")
    return "\n".join(lines)


def _prediction_lines(prediction: dict, ideal: float) -> list[str]:
    """ideal: seconds of the arithmetic at the card's peak."""
    seconds, parts = prediction["seconds"], prediction["parts"]
    rows = [
        f"    {part['name']:<40}{part['seconds'] * 1e3:>8.2f}{part['seconds'] / seconds:>7.1%}"
        f"{part['forward'] * 1e3:>9.2f}{part['backward'] * 1e3:>10.2f}"
        for part in parts
    ]
    return [
        f"  predicted          {seconds * 1e3:.1f} ms per update without collectives, "
        f"{ideal / seconds:.0%} of the peak",
        f"    {'part':<40}{'ms':>8}{'share':>7}{'forward':>9}{'backward':>10}", *rows,
    ]


def _too_large_text(found: TooLarge) -> str:
    lines = [
        f"  does not fit: {found.needed / GIB:.1f} GiB needed, {found.available / GIB:.2f} GiB "
        f"there ({found.message})"
    ]
    if found.largest:
        lines.append(f"  the largest intermediate results: {', '.join(found.largest)}")
    return "\n".join([*lines, f"  remedies: {REMEDIES}"])


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    given = flags.FLAGS
    config = config_flag.given_config()
    if given.output:
        check_replaceable(given.output, "--output", overwrite=given.overwrite)
    jax.config.update("jax_enable_compilation_cache", False)  # needs the devices to read from it
    jax.config.update("jax_platforms", "cpu")  # nothing runs: this leaves a GPU or TPU to others
    results = check(config, open_topology(given.topology), all_shapes=given.all_shapes)
    if given.output:
        write_whole(place(given.output), json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "a file of configs/")
    flags.DEFINE_string("topology", None, "v5e:2x4, v5p:2x2x4, ..., h100:8, ... or cpu:8")
    flags.DEFINE_boolean("all_shapes", False, "every batch shape, not the one of the most work")
    flags.DEFINE_string("output", "", "a file for the findings, as JSON")
    flags.mark_flags_as_required(["config", "topology"])
    command_line.define_overwrite()
    command_line.run(main)
