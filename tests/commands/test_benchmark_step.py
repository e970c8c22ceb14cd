import json

import jax
import numpy as np
import pytest

from tests import small
from w2v_jax.benchmark import benchmark_step
from w2v_jax.errors import UserError
from w2v_jax.measuring import step_timing
from w2v_jax.measuring.topology import peak_flops
from w2v_jax.tasks import make_task
from w2v_jax.training.sharding import make_mesh
from w2v_jax.training.state import first_state


def measured(capsys, config, **options) -> dict:
    numbers = benchmark_step(config, "small", amount=1.0, steps=2, **options)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == numbers
    assert numbers["model"] == "small"
    assert numbers["device"] == "8 x cpu"
    assert numbers["mfu"] is None
    assert numbers["peak_memory_bytes"] > 1e8
    assert 0 < numbers["step_min_s"] <= numbers["step_median_s"]
    assert numbers["audio_seconds_per_second"] == numbers["batch"] / numbers["step_median_s"]
    return numbers


def test_pretraining(capsys):
    config = small.pretraining(num_layers=1)
    config.run.accumulation = 2
    numbers = measured(capsys, config, batch=16, breakdown=True)
    assert (numbers["work"], numbers["batch"]) == ("wav2vec2", 16)
    assert 1 < numbers["loss"] < 12  # bits per masked frame
    flops = 16 * make_task(config).training_flops(16_000, layerdrop=True)
    np.testing.assert_allclose(numbers["tflops"] * numbers["step_median_s"], flops / 1e12)
    parts = {x["part"]: x for x in numbers["breakdown"]}
    assert list(parts) == ["feature encoder", "positional convolution", "blocks", "quantizer",
                           "loss", "optimizer"]  # fmt: skip
    assert [x["times"] for x in parts.values()] == [2, 2, 2, 2, 2, 1]
    assert all(x["forward_s"] > 0 for x in parts.values())
    assert parts["optimizer"]["forward_backward_s"] is None
    blocks = parts["blocks"]
    assert blocks["forward_backward_s"] > blocks["forward_s"]


def test_finetuning(capsys):
    numbers = measured(capsys, small.finetuning(), batch=8)
    assert numbers["work"] == "ctc"
    assert 14 < numbers["loss"] < 300  # nats of 14 letters


def test_inference(capsys, tmp_path):
    config = small.finetuning()
    config.run.accumulation = 3  # matters to updates alone
    numbers = measured(capsys, config, batch=8, inference=True, profile=str(tmp_path))
    assert (numbers["work"], numbers["loss"]) == ("inference", None)
    flops = 8 * make_task(config).inference_flops(16_000)
    np.testing.assert_allclose(numbers["tflops"] * numbers["step_median_s"], flops / 1e12)
    assert list(tmp_path.glob("profile/plugins/profile/*/*.trace.json.gz"))


def test_finetuning_is_measured_with_nothing_frozen():
    config = small.finetuning()
    config.freeze_steps = 5
    task, mesh = make_task(config), make_mesh(config.run.mesh)
    state = first_state(task, mesh)
    before = jax.device_get(state.params["encoder"]["context"])
    _, state = step_timing.training_timing(task, mesh, task.example((1, 8), 16_000), steps=1)
    assert state.step == 7
    moved = jax.tree.map(lambda a, b: np.any(a != b), before, state.params["encoder"]["context"])
    assert all(jax.tree.leaves(moved))


def test_a_full_batch():
    config = small.finetuning()
    config.letters = "xy"
    batch = make_task(config).example((2, 3), 8_000)
    assert batch["audio"].shape == (2, 3, 8_000)
    assert batch["audio"].std(-1).min() > 10
    assert batch["labels"].shape == (2, 3, 8)
    assert len(set(batch["labels"][:, :, :7].ravel())) == 3  # x, y and the word boundary
    assert not batch["labels"][:, :, 7:].any()
    assert (batch["labels_length"] == 7).all()
    assert (batch["length"] == 8_000).all()
    assert np.array_equal(batch["id"].ravel(), np.arange(6))


def test_peaks_of_devices():
    found = [peak_flops(kind) for kind in ("TPU v5 lite", "TPU v5", "NVIDIA H100 80GB HBM3", "cpu")]
    assert found == [197e12, 459e12, 989e12, None]


def test_what_cannot_be_measured():
    config = small.pretraining()
    options = dict(amount=1.0, steps=1)
    config.run.accumulation = 2
    with pytest.raises(UserError, match=r"--batch=8 .* 2 \* 8 .* a multiple of 16"):
        benchmark_step(config, "", batch=8, **options)
    with pytest.raises(UserError, match=r"rows of 0\.01 s have 0 frames"):
        benchmark_step(config, "", batch=16, amount=0.01, steps=1)
    with pytest.raises(UserError, match="leave out --inference"):
        benchmark_step(config, "", batch=16, inference=True, breakdown=True, **options)
    config.kind = "poem"
    with pytest.raises(UserError, match="kind 'poem'"):
        benchmark_step(config, "", batch=16, **options)
