"""What every kind of training keeps, as checks over its task. `test_contract` runs them over all
registered kinds, and over toys that break one each."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import signal
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from w2v_jax import benchmark, compile_check, run
from w2v_jax.export import export
from w2v_jax.interop.exported import expected_shapes
from w2v_jax.measuring.topology import open_topology
from w2v_jax.tasks import make_task
from w2v_jax.tasks.task import Task
from w2v_jax.training.checkpoint import load_exported
from w2v_jax.training.loop import PREEMPTED
from w2v_jax.training.sharding import AXES, make_mesh
from w2v_jax.training.state import (
    TrainState,
    abstract_state,
    first_state,
    jitted_step,
    on_mesh,
)
from w2v_jax.training.writer import read_lines

GARBAGE = 1234


@dataclasses.dataclass(frozen=True)
class Case:
    """A kind of training, small, with data; what several checks compile or train is kept."""

    config: ConfigDict
    data: dict[str, str]  # "train", "valid": what config.data names
    kept: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def copy(self, **keys) -> ConfigDict:
        """The config with other values of dotted keys (written with __)."""
        config = self.config.copy_and_resolve_references()
        config.data.update({key: name for key, name in self.data.items() if key in config.data})
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in keys.items()})
        return config

    def one_shape(self) -> dict[str, Any]:
        """Keys of `copy` with which all batches have one shape, for less to compile."""
        data = self.config.data
        crops = {"data__crop_seconds": (1.0,)} if "crop_seconds" in data else {}
        return crops | ({"data__num_buckets": 1} if "num_buckets" in data else {})

    def exact(self) -> Task:
        """Without terms of the loss that see a micro-batch alone, and without dropout."""
        task = make_task(self.copy())
        config = self.copy(**dict.fromkeys(task.over_micro_batch, 0.0))
        silence(config)
        return make_task(config)

    def update(self, *shape: int, exact: bool = False, like: "Update | None" = None) -> "Update":
        """The update of a task on a mesh, the same one whenever it is asked for; like: begins with
        the state of this one."""
        name = f"{'exact' if exact else 'whole'} {shape}"
        if name not in self.kept:
            task = self.exact() if exact else make_task(self.copy())
            self.kept[name] = Update(task, mesh_of(*(shape or (1, 1, 1))), like and like.first)
        return self.kept[name]

    def batch(self, task: Task) -> dict[str, np.ndarray]:
        """Of one micro-batch, whose rows have lengths of their own where the task pads."""
        return shortened(task, task.example((1, 8), self.length(task)))

    def length(self, task: Task) -> int:
        return min(shape.length for shape in task.shapes())


def silence(config: ConfigDict) -> None:
    """Every dropout rate of a config becomes 0, LayerDrop's too."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            silence(value)
        elif "dropout" in key or key == "layerdrop":
            config[key] = 0.0


def mesh_of(*shape: int):
    sizes = dict(zip(AXES, shape, strict=True))
    return make_mesh(sizes, jax.devices()[: math.prod(shape)])


class Update:
    """Updates from the first state of a task on a mesh on."""

    def __init__(self, task: Task, mesh, first: TrainState | None = None):
        self.task, self.mesh = task, mesh
        self._shardings = jax.tree.map(lambda x: x.sharding, abstract_state(task, mesh))
        self.step = on_mesh(jitted_step(task, mesh), mesh)
        self.first = first or jax.device_get(first_state(task, mesh))
        self.shapes: set[str] = set()  # of the batches that it has seen

    def __call__(self, batches):
        """(state, metrics of the last update)."""
        state = jax.device_put(self.first, self._shardings)
        for batch in batches:
            self.shapes.add(str({name: (x.shape, x.dtype) for name, x in batch.items()}))
            state, metrics = self.step(state, batch)
        return jax.device_get((state, metrics))


def same(task: Task, found, expected) -> None:
    """Two updates (state, metrics) agree but for rounding: in gradients (of Adam's moments the
    first), running statistics and loss."""
    (found, metrics), (expected, others) = found, expected
    moments = lambda state: [x.mu for x in jax.tree.leaves(  # noqa: E731
        state.opt, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]  # fmt: skip
    pairs = zip(
        jax.tree.leaves_with_path(moments(found)), jax.tree.leaves(moments(expected)), strict=True
    )
    largest = max(np.abs(x).max() for x in jax.tree.leaves(moments(expected)))
    for (path, a), b in pairs:
        atol = max(1e-4 * np.abs(b).max(), 1e-5 * largest)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol, err_msg=f"gradient of {name}")
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, found.stats, expected.stats)
    close(metrics[task.loss_scalar], others[task.loss_scalar], err_msg=task.loss_scalar)


def one_trace_per_shape(case: Case) -> None:
    """The loader's batches have the arrays that the task declares, one program each."""
    update = case.update()
    task = update.task
    data = task.open(case.data["train"], update.mesh)
    plan = data.plan(seed=0, num_steps=8)
    batches = []
    for i in range(4):
        batch, _ = data.loader.load(plan[i])
        arrays = {name: (x.shape, x.dtype) for name, x in batch.items()}
        declared = declared_arrays(task, data.loader, batch, plan[i])
        assert arrays.keys() == declared.keys(), "the loader's arrays are those of task.arrays"
        for name, (shape, dtype) in declared.items():
            found = arrays[name]
            assert found[1] == dtype, f"{name} is {found[1]}, task.arrays says {dtype}"
            assert len(found[0]) == len(shape), f"{name} has the shape {found[0]}, not {shape}"
            # of a track without a rate the length is an estimate
            sure = 2 if f"{name}_length" in declared else len(shape)
            assert found[0][:sure] == shape[:sure], f"{name} has the shape {found[0]}, not {shape}"
        batches.append(batch)
    update([*batches, batches[0]])  # the first shape with a state that an update made, too
    traced = update.step.__wrapped__._cache_size()
    assert traced == len(update.shapes), "a batch shape is traced more than once"


def declared_arrays(task: Task, loader, batch, spec) -> dict[str, tuple]:
    """What the task says of the arrays of the streams that have their turn in a batch, and, of
    streams that it does not declare, what their loader does."""
    found = {}
    for prefix, part in spec.parts.items():
        declared = task.arrays(batch[f"{prefix}id"].shape, part.samples)
        if f"{prefix}id" not in declared:
            declared = loader.arrays(spec.shape)
        own = {name: x for name, x in declared.items() if stream_of(name, declared) == prefix}
        found |= own
    return found


def stream_of(name: str, arrays) -> str:
    """The prefix of the stream that an array is of."""
    prefixes = [other.removesuffix("id") for other in arrays if other.endswith("_id")]
    return max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default="")


def it_trains(case: Case) -> None:
    """The loss and all gradients are finite, and the parameters move."""
    update = case.update()
    task = update.task
    state, metrics = update([task.example((1, 8), case.length(task))] * 3)
    assert metrics["train/skipped"][0] == 0, "the gradient is not finite"
    total, weight = metrics[task.loss_scalar]
    assert weight > 0, f"{task.loss_scalar} has no weight"
    assert np.isfinite(total / weight), f"{task.loss_scalar} is {total / weight}"
    before = update.first.params
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), before, state.params))
    assert np.mean(moved) > 0.3, "hardly any parameter moves"


def accumulation_changes_nothing(case: Case) -> None:
    """Four micro-batches of unequal rows, on two devices, give the update of the whole batch."""
    whole = case.update(exact=True)
    split = case.update(2, 1, 1, exact=True, like=whole)
    batch = case.batch(whole.task)
    parts = {name: x.reshape(4, 2, *x.shape[2:]) for name, x in batch.items()}
    same(whole.task, split([parts]), whole([batch]))


def devices_change_nothing(case: Case) -> None:
    """Dropout, masks and negatives are drawn alike on every mesh."""
    one, eight = case.update(), case.update(2, 2, 2)
    batch = case.batch(one.task)
    same(one.task, eight([batch]), one([batch]))


def shortened(task: Task, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch whose rows have lengths of their own, where the task pads."""
    if not task.pads:
        return batch
    lengths = {name: batch[name] for name in batch if name == f"{stream_of(name, batch)}length"}
    shares = {name: np.linspace(1, 0.6, x.size).reshape(x.shape) for name, x in lengths.items()}
    return batch | {name: (x * shares[name]).astype(np.int32) for name, x in lengths.items()}


def padding_changes_nothing(case: Case) -> None:
    """Neither what stands behind the end of a row nor rows that only fill up (id -1)."""
    update = case.update(exact=True)
    task, batch = update.task, case.batch(update.task)
    for prefix in {stream_of(name, batch) for name in batch}:
        batch[f"{prefix}id"][0, 3], batch[f"{prefix}length"][0, 3] = -1, 0
    clean, spoiled = ({k: v.copy() for k, v in batch.items()} for _ in range(2))
    for name, array in spoiled.items():
        if array.ndim != 3:
            continue
        # samples, or values of a track with a rate
        length = batch[f"{stream_of(name, batch)}length"].astype(np.int64)
        length = length * array.shape[2] // length.max()
        length = batch.get(f"{name}_length", length)
        behind = np.arange(array.shape[2]) >= length[:, :, None]
        # of a row that fills up everything is padding
        behind[0, 3] = True
        array[behind] = np.resize(np.array([GARBAGE, 1, 2], array.dtype), behind.sum()) % (
            GARBAGE + 1 if name.endswith("audio") else 3
        )
        clean[name][behind] = 0
    same(task, update([spoiled]), update([clean]))


def one_device(program=run):
    """What an entry point does inside it does on one of the test's devices, which compiles sooner
    than on eight."""
    return mock.patch.object(program, "make_mesh", return_value=mesh_of(1, 1, 1))


@contextlib.contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """A run inside is asked to stop (SIGTERM) when it takes the batch of this step."""
    iterate = run.iterate

    def stopping(*args, start=0, **kwargs):
        for number, item in enumerate(iterate(*args, start=start, **kwargs), start + 1):
            if number == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    with mock.patch.object(run, "iterate", stopping):
        yield


def resume_is_bit_exact(case: Case, folder) -> None:
    """A run that was stopped ends in the arrays and metrics of one that was not."""
    seconds = {"data__batch_seconds": 4.0} if "batch_seconds" in case.config.data else {}
    config = case.copy(
        num_steps=4, run__log_steps=1, run__save_steps=3, run__eval_steps=4, run__hang_seconds=0.0,
        run__accumulation=2, data__row_multiple=2, **case.one_shape(), **seconds,
    )  # fmt: skip
    with one_device():
        whole = run.run(config, f"{folder}/whole")
        with stopped_at(2), pytest.raises(SystemExit) as stop:
            run.run(config, f"{folder}/cut")
        assert stop.value.code == PREEMPTED
        cut = run.run(config, f"{folder}/cut")
    for (path, a), b in zip(jax.tree.leaves_with_path(whole), jax.tree.leaves(cut), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)
    heard = f"time/{make_task(config).measure.total}"  # the only one of them that no clock measures
    kept = lambda key: key == heard or not key.startswith("time/")  # noqa: E731
    lines = [
        [{k: v for k, v in line.items() if kept(k)} for line in read_lines(path)]
        for path in (f"{folder}/whole/metrics.jsonl", f"{folder}/cut/metrics.jsonl")
    ]
    assert any(line.get(heard) for line in lines[0])
    assert json.dumps(lines[0]) == json.dumps(lines[1]), "the metrics differ"
    case.kept["trained"] = whole, f"{folder}/whole"


def evaluation_is_deterministic(case: Case) -> None:
    """It has the scalar that ranks checkpoints, and gives the same numbers each time."""
    update = case.update()
    task, mesh = update.task, update.mesh
    evaluate = task.evaluation(task.open(case.data["valid"], mesh, held_out=True), mesh)
    first, second = evaluate(update.first.variables), evaluate(update.first.variables)
    assert task.best_by in first, f"{task.best_by} is no scalar of the evaluation"
    assert np.isfinite(first[task.best_by])
    assert first == second, "two evaluations differ"


def exports_load(case: Case, folder) -> None:
    """What a run exports says by itself what it is: the arrays are those that it describes."""
    if "trained" not in case.kept:
        config = case.copy(
            num_steps=2, data__valid="", run__save_steps=2, run__hang_seconds=0.0,
            **case.one_shape(),
        )  # fmt: skip
        with one_device():
            case.kept["trained"] = run.run(config, f"{folder}/short"), f"{folder}/short"
    state, workdir = case.kept["trained"]
    export(workdir, f"{folder}/export")
    variables, described = load_exported(f"{folder}/export")
    shapes = jax.tree.map(lambda x: x.shape, expected_shapes(described)["params"])
    assert jax.tree.map(lambda x: x.shape, variables["params"]) == shapes, (
        "the arrays are not those that the description asks for"
    )
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.variables["params"])


def it_can_be_measured(case: Case) -> None:
    """compile_check and benchmark step know it, without data."""
    config = case.copy(data__train="", data__valid="", data__row_multiple=8, **case.one_shape())
    (found,) = compile_check.check(config, open_topology("cpu:8"))
    assert found["fits"]
    assert found["model_flops"] > 0, "task.training_flops counts nothing"
    task = make_task(config)
    amount = case.length(task) / task.measure.per_row
    with one_device(benchmark):  # of which `case.update` has compiled it
        numbers = benchmark.benchmark_step(config, "small", batch=8, amount=amount, steps=1)
    assert np.isfinite(numbers["loss"])
    assert numbers["tflops"] > 0


CHECKS = (
    one_trace_per_shape, it_trains, accumulation_changes_nothing, devices_change_nothing,
    padding_changes_nothing, resume_is_bit_exact, evaluation_is_deterministic, exports_load,
    it_can_be_measured,
)  # fmt: skip
