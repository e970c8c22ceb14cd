"""BEST-RQ as it is trained: what its labels are made of is frozen and part of the model, and is not
masked; and what comes after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.promises.contract import mesh_of
from w2v_jax.audio import logmel
from w2v_jax.configs import best_rq, common, conformer, finetune
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.models.random_quantizer import random_codes
from w2v_jax.tasks import make_task
from w2v_jax.training.checkpoint import export_model
from w2v_jax.training.state import first_state
from w2v_jax.training.task import Context


def context(seed=0):
    return Context(jnp.int32(0), jax.random.key(seed), jax.random.key(seed))


def shape_of(tree):
    return jax.tree.map(lambda x: x.shape, tree)


@pytest.fixture(scope="module")
def trained():
    """(task, its state before three updates, and after)."""
    task = make_task(small.best_rq())
    state, step = small.build(task, mesh_of(1, 1, 1))
    before = jax.device_get(state)
    for _ in range(3):
        state, metrics = step(state, small.noise_batch(4, 32_000))
    assert metrics["train/prediction_bits"][1] > 0
    return task, before, jax.device_get(state)


def test_what_labels_are_made_of_is_frozen(trained):
    _, before, after = trained
    stats = after.stats["random_quantizer"]
    assert shape_of(stats) == {"projection": (1, 320, 4), "codebook": (1, 8, 4)}
    jax.tree.map(np.testing.assert_array_equal, stats, before.stats["random_quantizer"])
    assert "random_quantizer" not in after.params
    assert (before.params["predict"]["kernel"] != after.params["predict"]["kernel"]).any()
    sizes = {x.size for x in jax.tree.leaves(after.opt)}
    assert 1280 not in sizes  # 320 x 4: no moments
    config = small.best_rq()
    config.seed = 1
    other = first_state(make_task(config), mesh_of(1, 1, 1)).stats["random_quantizer"]
    assert (np.asarray(other["codebook"]) != stats["codebook"]).any()


def test_it_is_exported_and_taken_over(trained, tmp_path):
    task, _, after = trained
    export_model(tmp_path, after.variables, task.described())
    variables, described = checkpoints.load(str(tmp_path), "best_rq")
    assert described["random_quantizer"] == {"codebooks": 1, "codes": 8, "width": 4}
    jax.tree.map(np.testing.assert_array_equal, variables["stats"], after.stats)
    config = small.best_rq()
    config.seed, config.run.init_from = 5, str(tmp_path)
    task = make_task(config)
    begun = task.begin(first_state(task, mesh_of(1, 1, 1)))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(begun.stats), after.stats)
    config.random_quantizer.codes = 9
    with pytest.raises(UserError, match=r"codes: 8 there, 9 here.*config\.random_quantizer\.cod"):
        make_task(config).begin(begun)


@pytest.mark.parametrize(
    "recipe",
    [
        lambda: conformer.get_config("tiny"),
        lambda: finetune.get_config("split=10m,size=conformer_tiny"),
    ],
    ids=["conformer", "finetune"],
)
def test_fine_tuning_starts_from_it(recipe, tmp_path):
    """tiny itself, of random weights: front end and encoder are taken over, without a flag."""
    task = make_task(best_rq.get_config("tiny"))
    pretrained = jax.device_get(first_state(task, mesh_of(1, 1, 1)))
    moved = jax.tree.map(lambda x: x + 1, pretrained.params)
    export_model(tmp_path, {"params": moved, "stats": pretrained.stats}, task.described())
    config = recipe()
    config.run.init_from = str(tmp_path)
    task = make_task(config)
    first = first_state(task, mesh_of(1, 1, 1))
    state = jax.device_get(task.begin(first))
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], moved["encoder"])
    assert "subsampling" in state.params["encoder"]["feature_encoder"]
    jax.tree.map(
        np.testing.assert_array_equal, state.stats, {"encoder": pretrained.stats["encoder"]}
    )
    np.testing.assert_array_equal(state.params["head"]["kernel"], first.params["head"]["kernel"])


@pytest.fixture(scope="module")
def unnormalized():
    """(task, variables): each frame of the spectrum depends on its samples alone."""
    config = small.best_rq(**small.NO_DROPOUT, frontend__normalization="none")
    task = make_task(config)
    return task, jax.device_get(first_state(task, mesh_of(1, 1, 1))).variables


def test_labels_are_those_of_the_unmasked_spectrum(unnormalized):
    """Against NumPy's spectrum, whatever is masked; what is masked changes the answers."""
    task, variables = unnormalized
    batch = {key: x[0] for key, x in small.noise_batch(2, 16_000).items()}
    (first, counted), (second, others) = (
        task.forward(variables, batch, context(seed), train=False) for seed in range(2)
    )
    labels = np.asarray(task.labels(first))
    np.testing.assert_array_equal(labels, task.labels(second))
    assert (np.asarray(counted) != np.asarray(others)).any()
    assert np.abs(np.asarray(first.logits - second.logits)).max() > 1e-3
    mel = np.stack([logmel.log_mel(row, logmel.GOOGLE) for row in batch["audio"]])
    whole = mel.shape[1] // 4
    frames = mel[:, : 4 * whole].reshape(2, whole, 320).astype(np.float32)
    expected = random_codes(frames, first.projection, first.codebook)
    np.testing.assert_array_equal(labels[:, :whole], expected)
    assert len(np.unique(labels)) > 1


def test_a_masked_frame_does_not_hear_its_label(unnormalized):
    """What is said in frames that count reaches no answer, but changes their labels."""
    task, variables = unnormalized
    batch = {key: x[0] for key, x in small.noise_batch(1, 32_000).items()}
    out, counted = task.forward(variables, batch, context(), train=False)
    frames = np.flatnonzero(counted[0])
    middle = frames[1:-1][np.diff(frames, 2) == 0]  # between two others
    assert len(middle)
    start = 640 * middle[0]  # samples of its first frame of the spectrum
    changed = batch["audio"].copy()
    changed[0, start : start + 640] = np.random.default_rng(9).normal(size=640) * 30_000
    again, _ = task.forward(variables, batch | {"audio": changed}, context(), train=False)
    assert (np.asarray(out.spectrum) != np.asarray(again.spectrum)).any()
    np.testing.assert_array_equal(out.logits, again.logits)


def test_a_mask_follows_its_utterance(unnormalized):
    """Neither the other rows nor their order change what a row is asked."""
    task, variables = unnormalized
    batch = {key: x[0] for key, x in small.noise_batch(3, 16_000).items()}
    turned = {key: x[::-1] for key, x in batch.items()}
    (out, counted), (other, turned_counted) = (
        task.forward(variables, x, context(), train=False) for x in (batch, turned)
    )
    np.testing.assert_array_equal(counted, turned_counted[::-1])
    np.testing.assert_allclose(out.logits, other.logits[::-1], atol=1e-5)
    batch["id"] = np.array([0, -1, 2], np.int32)
    _, counted = task.forward(variables, batch, context(), train=False)
    assert not counted[1].any()


def test_several_codebooks():
    config = small.best_rq(**small.NO_DROPOUT)
    config.random_quantizer.codebooks = 3
    task = make_task(config)
    variables = jax.device_get(first_state(task, mesh_of(1, 1, 1))).variables
    batch = {key: x[0] for key, x in small.noise_batch(2, 16_000).items()}
    out, counted = task.forward(variables, batch, context(), train=False)
    assert out.logits.shape == (2, 25, 3, 8)
    found = task.score(out, counted, batch)
    assert found["labels"].shape == (3, 8)
    assert found["loss"] / found["count"] == pytest.approx(np.log(8), rel=0.2)


def test_crops_are_of_whole_stacks():
    """16 n frames, as those of wav2vec 2.0, the last with a label of its own."""
    config = best_rq.get_config("base")
    frontend = make_task(config).encoder.frontend
    for seconds in config.data.crop_seconds:
        samples = round(seconds * 16_000)
        assert frontend.mel_frames(samples) == 4 * frontend.frames(samples)
        assert frontend.mel_frames(samples - 2) < frontend.mel_frames(samples)
        assert frontend.frames(samples) % 16 == 0


def test_a_waveform_is_refused():
    words = "model.frontend.kind=waveform has no spectrum.*set frontend=logmel"
    with pytest.raises(UserError, match=words):
        best_rq.get_config("tiny,frontend=waveform")
    config = small.best_rq()
    config.model = common.model("tiny")
    with pytest.raises(UserError, match=words):
        make_task(config)


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (3, r"mel_masking\.span=3 is less than the 4 frames.*mel_masking\.span=4 or more"),
        (198, r"mel_masking\.span=198 is as long as the shortest crop, 198 frames.*in 2 s; set "
              r"--config\.mel_masking\.span=99 or less.*data\.crop_seconds='\(2\.0,4\.0,8\.0\)'"),
    ],
)  # fmt: skip
def test_spans_that_leave_nothing_to_learn(span, words):
    config = best_rq.get_config("tiny")
    config.mel_masking.span = span
    with pytest.raises(UserError, match=words):
        make_task(config)


def test_a_validation_set_without_a_masked_frame_is_told(monkeypatch):
    task = make_task(small.best_rq())
    monkeypatch.setattr(task, "summed", lambda *_: lambda _: {"count": 0.0})
    with pytest.raises(UserError, match=r"hide no frame wholly; .* --config.mel_masking.prob="):
        task.evaluation(None, None)({})


def test_alarms():
    small.check_alarms(make_task(best_rq.get_config("tiny")), {
        "train/label_perplexity": 100.0, "train/answer_perplexity": 40.0,
        "train/prediction_bits": 8.0,
    }, {
        "few_labels": ("train/label_perplexity", 3.0),
        "constant": ("train/answer_perplexity", 1.2),
        "chance": ("train/prediction_bits", 9.0),
    })  # fmt: skip
