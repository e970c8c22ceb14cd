"""HuBERT's training: fairseq's loss, labels that follow their audio, and what does not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests import small
from tests.interop.test_fairseq import state as fairseq_file
from tests.promises import parity_fairseq
from tests.promises.contract import mesh_of
from tests.reference import GOLDEN, case_arrays, waveforms
from w2v_jax.configs import finetune, hubert
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints, fairseq
from w2v_jax.models.config import PredictionConfig
from w2v_jax.models.heads.hubert import Hubert as HubertModel
from w2v_jax.models.heads.hubert import PredictionOutput
from w2v_jax.models.layers import frame_mask
from w2v_jax.objectives.cluster_scores import nearest_known
from w2v_jax.objectives.masked_prediction import masked_prediction_loss
from w2v_jax.tasks import make_task
from w2v_jax.training.checkpoint import export_model
from w2v_jax.training.state import first_state


def of_sets(*names, classes=None, rate=100, **loss):
    """A config with these sets of units."""
    config = small.hubert(**small.NO_DROPOUT)
    config.data.units = names
    config.prediction.update(classes=classes or (8,) * len(names), label_rate=float(rate))
    config.loss.update(loss)
    return config


# the loss


@pytest.mark.parametrize("name", ["fs_hubert_base", "fs_hubert_100hz_2sets"])
def test_the_loss_is_fairseqs(name):
    """Of golden arrays, masks and targets, through the task: -1 stands where theirs is padded."""
    path = GOLDEN / name / "out.npz"
    theirs, (audio, _) = case_arrays(path), waveforms(path)
    given, encoder, _, variables = parity_fairseq.load(path.parent)
    targets = {key: x for key, x in theirs.items() if key.startswith("in/target.")}
    names = tuple(f"set{i}" for i in range(len(targets)))
    classes = tuple(theirs[f"out/logits_masked.{i}"].shape[1] - 1 for i in range(len(targets)))
    mask = theirs["in/mask_indices"]
    length = (~theirs["in/padding_mask"]).sum(1).astype(np.int32)
    prediction = fairseq.prediction_config(given, classes)
    model = HubertModel(encoder, prediction)
    out = jax.jit(lambda v: model.apply(v, audio, length, mask, mask.shape[1]))(variables)
    for weights in ((1.0, 0.0), (0.5, 2.0)):
        config = of_sets(*names, masked_weight=weights[0], unmasked_weight=weights[1])
        config.model = ConfigDict(encoder.to_dict())
        config.prediction = ConfigDict(prediction.to_dict())
        config.masking.prob = 1.0  # there are as many masked frames as there may be
        task = make_task(config)
        batch = {"audio": audio, "id": np.arange(len(audio))}
        batch |= {f"units_{x}": t for x, t in zip(names, targets.values(), strict=True)}
        heard = frame_mask(out.length, mask.shape[1])
        labels = [jnp.where(heard, x, -1) for x in task.labels(batch)]
        scores = task.scores(out, mask, labels)
        total, count = task.total(*scores, out.penalty)
        parts = [
            [theirs[f"out/loss_{part}.{i}"] for i in range(len(names))]
            for part in ("masked", "unmasked")
        ]
        n = [theirs["out/n"], (~mask & np.asarray(heard)).sum()]
        expected = sum(w * sum(part) for w, part in zip(weights, parts, strict=True))
        frames = sum(n for w, n in zip(weights, n, strict=True) if w)
        assert float(count) == frames
        expected += 10 * theirs["out/features_pen"] * frames
        assert float(total) == pytest.approx(float(expected), rel=1e-5)
        if not weights[1]:
            assert float(total) == pytest.approx(float(theirs["out/loss_total"]), rel=1e-5)
        for score, part in zip(scores[0], parts[0], strict=True):
            assert float(score.loss) == pytest.approx(float(part), rel=1e-5)
            assert float(score.labels.sum()) == float(score.answers.sum()) == n[0]


def test_a_class_wins_alone():
    """Where all are equal, as in a model that has not learnt to tell them apart, none wins."""
    labels, scored = np.zeros((1, 3), np.int32), np.ones((1, 3), bool)
    context = np.ones((1, 3, 2), np.float32)
    _, won, count = masked_prediction_loss(context, np.ones((4, 2)), labels, scored, 0.1)
    assert (int(won), int(count)) == (0, 3)
    apart = np.array([[1.0, 1.0], [1.0, 0.0]])
    assert int(masked_prediction_loss(context, apart, labels, scored, 0.1)[1]) == 3


def test_logits_are_of_the_frames_that_are_asked():
    """Of masked ones alone where the others have no weight, with the same numbers."""
    alone, both = (make_task(of_sets("eight", unmasked_weight=x)) for x in (0.0, 1.0))
    frames, rng = 50, np.random.default_rng(0)
    mask = np.zeros((2, frames), bool)
    mask[:, 5:20] = True
    labels = [jnp.asarray(rng.integers(-1, 8, (2, frames)))]
    context = (jnp.asarray(rng.normal(size=(2, frames, 16)), jnp.float32),)
    embeddings = (jnp.asarray(rng.normal(size=(8, 16)), jnp.float32),)
    out = PredictionOutput(context, embeddings, None, jnp.float32(0))
    (few,), others = alone.scores(out, mask, labels)
    assert others == []
    (some,), (rest,) = both.scores(out, mask, labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), few, some)
    assert int(some.count + rest.count) == int((np.asarray(labels[0]) >= 0).sum())
    for task, wide in ((alone, False), (both, True)):
        shapes = str(jax.make_jaxpr(task.scores)(out, mask, labels))
        assert ("f32[2,50,8]" in shapes) == wide
        assert ("f32[2,30,8]" in shapes) == (not wide)  # int(0.5 * 50 / 5 + 1) spans of 5


def test_nearest_known():
    rng = np.random.default_rng(0)
    values, known = rng.integers(0, 9, (6, 12)), rng.random((6, 12)) < 0.3
    known[0] = False
    for row, found in enumerate(np.asarray(nearest_known(values, known))):
        there = np.flatnonzero(known[row])
        for t in range(12):
            at = min(there, key=lambda i: (abs(i - t), i)) if len(there) else None
            assert found[t] == (-1 if at is None else values[row, at])


# labels


@pytest.fixture(scope="module")
def places(manifests):
    """The training manifest, with two sets of units at 100 per second: where a value is in its row,
    and which row that is."""
    path = manifests["train"]
    manifest = Manifest.read(path)
    counts = manifest.samples // 160
    for name, rows in (
        ("position", [np.arange(n) for n in counts]),
        ("row", [np.full(n, i) for i, n in enumerate(counts)]),
    ):
        small.write_rows(path, name, rows, classes=int(max(map(max, rows))) + 1, rate=100)
    return path, (int(counts.max()), len(manifest))


@pytest.mark.parametrize("join", [0.0, 6.0])
def test_labels_follow_their_audio(places, join):
    """A frame's labels say where its samples are: they are found there, to the sample."""
    path, classes = places
    config = of_sets("position", "row", classes=classes)
    config.data.concatenate_seconds = join
    task, mesh = make_task(config), mesh_of(1, 1, 1)
    data = task.open(path, mesh)
    plan = BatchPlan(data.buckets, seed=0, num_steps=4)
    stride, checked, joins = task.encoder.frontend.stride, 0, 0
    (source,) = data.loader.corpus.sources
    whole = functools.cache(lambda row: source.audio(row, 0, int(source.manifest.samples[row])))
    for i in range(3):
        batch = {key: x[0] for key, x in data.loader(plan[i]).items()}
        positions, rows = map(np.asarray, task.labels(batch))
        assert positions.shape[1] == task.encoder.frontend.frames(batch["audio"].shape[1])
        for audio, where, which in zip(batch["audio"], positions, rows, strict=True):
            joins += len(np.unique(which)) - 1
            for t, (position, row) in enumerate(zip(where, which, strict=True)):
                samples = whole(int(row))[160 * int(position) :][:stride]
                np.testing.assert_array_equal(audio[t * stride : (t + 1) * stride], samples)
                checked += 1
            assert set(np.diff(where)[np.diff(which) == 0]) == {stride // 160}
    assert checked > 500
    assert (joins > 0) == (join > 0)


def test_frames_without_a_label_do_not_count(manifests):
    """Neither beyond a row's last value nor of a row that fills up a batch."""
    task = make_task(small.hubert(**small.NO_DROPOUT))
    batch = {key: x[0] for key, x in task.example((1, 3), 16_000).items()}
    variables = jax.device_get(first_state(task, mesh_of(1, 1, 1))).variables
    batch["units_eight"][0, 60:] = -1
    batch["id"][2] = -1
    (labels,) = task.labels(batch)
    counted = np.asarray(labels) >= 0
    assert counted[0].sum() == 30
    assert counted[1].all()
    assert not counted[2].any()
    context = task.of_validation()
    forward = jax.jit(lambda x: task.forward(variables, x, context, train=False))
    out, mask = forward(batch)
    (score,), _ = task.scores(out, mask, [labels])
    assert int(score.count) == int((np.asarray(mask) & counted).sum())
    again = batch | {"units_eight": batch["units_eight"].copy()}
    again["units_eight"][2] = 3
    loss = jax.jit(lambda x: task.loss(variables, x, context)[0])
    first, second = loss(batch), loss(again)
    assert float(first) == float(second)


def test_a_head_of_fairseqs_has_its_clusters_after_four_rows(manifests, capsys):
    rows = small.write_units(manifests["dev"])
    config = of_sets("eight", classes=(12,))
    task = make_task(config)
    data = task.open(manifests["dev"], mesh_of(1, 1, 1), held_out=True)
    values = data.loader.tracks["units_eight"].values
    np.testing.assert_array_equal(values[3], rows[3] + 4)
    assert "in rows 4 to 11 of the head as in fairseq" in capsys.readouterr().out


# evaluation


def test_what_needs_no_hearing(manifests):
    """The majority label and the nearest unmasked one: by hand, and of units of one class."""
    small.write_units(manifests["dev"])
    manifest = Manifest.read(manifests["dev"])
    still = [np.full(n // 160, 5) for n in manifest.samples]
    small.write_rows(manifests["dev"], "still", still, classes=8, rate=100)
    config = of_sets("eight", "still")
    config.data.crop_seconds = (1.0,)
    task, mesh = make_task(config), mesh_of(1, 1, 1)
    data = task.open(manifests["dev"], mesh, held_out=True)
    state = first_state(task, mesh)
    found = task.evaluation(data, mesh)(state.variables)
    assert found["valid/majority_accuracy_still"] == found["valid/copy_accuracy_still"] == 1.0
    assert found["valid/label_perplexity_still"] == 1.0
    assert found["valid/label_perplexity_eight"] == pytest.approx(8, rel=0.02)
    assert found["valid/majority_accuracy_eight"] == pytest.approx(1 / 8, abs=0.03)
    # in runs of 2.5 frames the nearest of a span of five is the same a few times
    assert 0.2 < found["valid/copy_accuracy_eight"] < 0.5
    assert found["valid/prediction_bits"] == pytest.approx(
        (found["valid/prediction_bits_eight"] + found["valid/prediction_bits_still"]) / 2
    )
    assert found["valid/prediction_bits_eight"] > 2.99, "random units cannot be guessed"


# what does not fit


def open_dev(manifests, config):
    return make_task(config).open(manifests["dev"], mesh_of(1, 1, 1), held_out=True)


def test_units_that_do_not_fit_are_told(manifests):
    path = manifests["dev"]
    small.write_units(path)
    small.write_units(path, "slow", rate=50)
    small.write_units(path, "slower", rate=25)
    for config, words in (
        (of_sets("absent"), r"has no units 'absent' .*units apply .*--name=absent"),
        (of_sets("eight", classes=(9,)), r"8 classes, .*'\(9,\)' says 9; set .*classes='\(8,\)', "
                                         r"or 12 in its place for a head in fairseq's layout"),
        (of_sets("slow"), r"50 per second, .*label_rate=100\.0; set .*label_rate=50"),
        (of_sets("slower", rate=25), r"25 values per second, .* does not divide 320"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            open_dev(manifests, config)
    config = of_sets("eight")
    config.data.augment.speed_prob = 0.5
    with pytest.raises(UserError, match=r"speed_prob=0.5 changes lengths, but the track 'units_e"):
        make_task(config).open(path, mesh_of(1, 1, 1))


def test_units_of_the_evaluation_are_those_of_the_training(manifests):
    small.write_units(manifests["train"], "own", centroids="a")
    small.write_units(manifests["dev"], "own", centroids="b")
    task, mesh = make_task(of_sets("own")), mesh_of(1, 1, 1)
    task.open(manifests["train"], mesh)
    with pytest.raises(UserError, match=r"train.tsv and of .*dev.tsv differ in their centroids"):
        task.open(manifests["dev"], mesh, held_out=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss.masked_weight": 0.0}, r"masked_weight=0 .* leave nothing to learn; set --config"),
        ({"data.units": ("a", "b")}, r"""data.units='\("a","b"\)' and .* must be equally many"""),
        ({"data.units": ("a", "a"), "prediction.classes": (8, 8)}, "a name of its own"),
        ({"data.units": ("a b",)}, r"data.units=.* must be 1 to 64 values, each a name"),
        ({"masking.span": 49}, r"masking.span=49 is as long as the shortest crop, 49 frames"),
    ],
)  # fmt: skip
def test_values_that_leave_nothing_to_learn(changes, words):
    config = small.hubert()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        make_task(config)


def test_alarms():
    small.check_alarms(make_task(hubert.get_config("tiny")), {
        "train/label_perplexity": 60.0, "train/answer_perplexity": 20.0,
        "train/prediction_bits": 4.0,
    }, {
        "few_labels": ("train/label_perplexity", 1.1),
        "constant": ("train/answer_perplexity", 1.2),
        "chance": ("train/prediction_bits", 6.63),
    })  # fmt: skip


# before and after


def test_a_checkpoint_of_fairseq_is_trained_further(tmp_path):
    """Its head has four rows more than there are clusters: by name, or refused with the flag."""
    content = fairseq_file("fs_hubert_base", normalize=False)
    variables, described = fairseq.convert(content, tmp_path / "x.pt")
    export_model(tmp_path, variables, described)
    assert described["prediction"]["classes"] == (17,)
    config = of_sets("thirteen", classes=(13,), rate=50)
    config.model = ConfigDict(described["model"])
    config.prediction.projection = 28
    config.run.init_from = str(tmp_path)
    task = make_task(config)
    first = first_state(task, mesh_of(1, 1, 1))
    words = r"classes: \(17,\) there, \(13,\) here.*set --config.prediction.classes='\(17,\)' \(it"
    with pytest.raises(UserError, match=words):
        task.begin(first)
    config.prediction.classes = (17,)
    task = make_task(config)
    begun = jax.device_get(task.begin(first_state(task, mesh_of(1, 1, 1))))
    np.testing.assert_array_equal(
        begun.params["label_embeddings"], content["model"]["label_embs_concat"]
    )
    jax.tree.map(np.testing.assert_array_equal, begun.params, variables["params"])


def test_what_it_exports_is_read_and_fine_tuned(tmp_path):
    task = make_task(small.hubert())
    state = jax.device_get(first_state(task, mesh_of(1, 1, 1)))
    export_model(tmp_path, state.variables, task.described())
    variables, described = checkpoints.load(str(tmp_path), "hubert")
    assert PredictionConfig.from_dict(described["prediction"]) == task.prediction
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.params)
    config = small.finetuning()
    config.run.init_from = str(tmp_path)
    ctc = make_task(config)
    tuned = jax.device_get(ctc.begin(first_state(ctc, mesh_of(1, 1, 1))))
    jax.tree.map(np.testing.assert_array_equal, tuned.params["encoder"], state.params["encoder"])


@pytest.mark.parametrize("size", ["base", "large", "xlarge"])
def test_published_sizes_are_fine_tuned(size):
    """The encoders are the same, so that run.init_from takes them; the recipe is fairseq's."""
    before = make_task(hubert.get_config(size)).encoder
    config = finetune.get_config(f"split=10h,size=hubert_{size}")
    make_task(config).encoder.check_same(before, "there")
    assert (config.optim.peak_lr, config.num_steps, config.freeze_steps) == (2e-5, 25_000, 10_000)
    assert (config.time_masking.prob, config.channel_masking.prob) == (0.75, 0.5)
    schedule = make_task(config).schedule
    # 8,000 updates of warm-up, then e-folds of a decay over 72,000 that the run does not reach
    for step, share in ((8_000, 1.0), (16_000, 0.05 ** (8 / 72)), (25_000, 0.05 ** (17 / 72))):
        assert float(schedule(step)) == pytest.approx(2e-5 * share, rel=1e-4)


def test_published_values():
    """recipes of fairseq: learning rate, updates, hours per update, clipping, classes, rate."""
    for argument, expected in {
        "base": (5e-4, 250_000, 2800, 10.0, (100,), 100.0, 256),
        "base,iteration=2": (5e-4, 400_000, 2800, 10.0, (500,), 50.0, 256),
        "large": (1.5e-3, 400_000, 7200, 1.0, (500,), 50.0, 768),
        "xlarge": (3e-3, 400_000, 5760, 1.0, (500,), 50.0, 1024),
    }.items():
        config = hubert.get_config(argument)
        o, p = config.optim, config.prediction
        assert expected == (
            o.peak_lr, config.num_steps, config.data.batch_seconds, o.clip_norm, p.classes,
            p.label_rate, p.projection,
        )  # fmt: skip
        assert (o.warmup_steps, o.b1, o.b2, o.eps, o.weight_decay) == (
            32_000,
            0.9,
            0.98,
            1e-6,
            0.01,
        )
        assert config.masking.to_dict() == {"prob": 0.8, "span": 10, "minimum": 2}
        model, of_base = config.model, "base" in argument
        assert (model.layerdrop, model.dropout_input) == ((0.05, 0.1) if of_base else (0.0, 0.0))
        assert model.frontend.grad_mult == (0.1 if of_base else 1.0)
        assert (model.frontend.normalize, model.frontend.bias) == (not of_base, False)
    with pytest.raises(UserError, match=r"large,iteration=1 is unknown; choose tiny"):
        hubert.get_config("large,iteration=1")
