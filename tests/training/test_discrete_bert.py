"""Discrete BERT as it is trained: where its centroids come from and stay, what is masked, and what
comes after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.promises.contract import mesh_of
from w2v_jax.analysis.centroids import Centroids
from w2v_jax.audio import mfcc
from w2v_jax.audio.waveform import read
from w2v_jax.configs import common, discrete_bert
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError
from w2v_jax.export import export
from w2v_jax.interop import checkpoints
from w2v_jax.models.config import EncoderConfig
from w2v_jax.tasks import make_task
from w2v_jax.tasks.centroids import digest
from w2v_jax.training.checkpoint import export_model
from w2v_jax.training.settings import settings_of
from w2v_jax.training.state import first_state
from w2v_jax.training.task import Context

MFCC = {"extractor": "mfcc", "source": "mfcc", "digest": mfcc.digest()}


def centroids(values, extractor=MFCC) -> Centroids:
    return Centroids(np.asarray(values, np.float32), "twenty", "mfcc", 100.0, 0.0125, extractor)


@pytest.fixture(scope="module")
def file(manifests, tmp_path_factory):
    """Of 20 frames of speech."""
    manifest = Manifest.read(manifests["train"])
    audio = read(manifest.path(0), int(manifest.starts[0]), int(manifest.samples[0]))
    path = str(tmp_path_factory.mktemp("centroids") / "twenty.npz")
    centroids(mfcc.mfcc(audio)[5:65:3]).write(path)
    return path


def kmeans(path="", classes=20):
    """A config whose centroids are in a file."""
    config = small.discrete_bert(**small.NO_DROPOUT)
    frontend = {"tokenizer": "kmeans", "classes": classes, "centroids": path}
    config.model.frontend.update(frontend)
    config.num_steps, config.optim.peak_lr = 90, 1e-2
    return config


def fine_tuning():
    """The same model with letters."""
    config = small.finetuning(frontend={"kind": "units", "width": 32, "classes": 20})
    config.model.update(small.NO_DROPOUT)
    return config


def begun(task):
    return task.begin(first_state(task, mesh_of(1, 1, 1)))


def held(state):
    return np.asarray(state.stats["encoder"]["feature_encoder"]["centroids"])


def context():
    return Context(jnp.int32(0), jax.random.key(0), jax.random.key(0))


@pytest.fixture(scope="module")
def trained(file):
    """(task, its state before some updates of one batch, and after, metrics of each)."""
    task = make_task(kmeans(file))
    first, step = small.build(task, mesh_of(1, 1, 1))
    state = task.begin(first)
    before, batch, metrics = jax.device_get(state), task.example((1, 4), 16_000), []
    for _ in range(60):
        state, found = step(state, batch)
        metrics.append({key: float(x / max(n, 1)) for key, (x, n) in found.items()})
    return task, before, jax.device_get(state), metrics


def test_the_centroids_of_the_file_are_frozen(trained, file):
    task, before, after, _ = trained
    of = Centroids.read(file)
    for state in (before, after):
        np.testing.assert_array_equal(held(state), of.values)
    embedding = lambda x: x.params["encoder"]["feature_encoder"]["embedding"]  # noqa: E731
    assert (embedding(before) != embedding(after)).any()
    frontend = task.described()["model"]["frontend"]
    assert frontend["centroids"] == ""  # where they were is forgotten
    assert frontend["digest"] == of.digest == digest(of.values)


def test_the_file_may_go(trained, tmp_path):
    """Fine-tuning takes them from the model, another pre-training where it is named."""
    task, _, after, _ = trained
    export_model(tmp_path, after.variables, task.described())
    config = fine_tuning()
    config.run.init_from = str(tmp_path)
    config.data.train = "train.tsv"
    state = begun(make_task(config))
    np.testing.assert_array_equal(held(state), held(after))
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], after.params["encoder"])
    other = make_task(kmeans(str(tmp_path)))
    np.testing.assert_array_equal(held(begun(other)), held(after))
    assert settings_of(other.config) == settings_of(task.config)


def test_other_centroids_are_told(trained, file, tmp_path):
    task, _, after, _ = trained
    export_model(tmp_path / "model", after.variables, task.described())
    path = str(tmp_path / "other.npz")
    centroids(Centroids.read(file).values + 1).write(path)
    config = kmeans(path)
    assert settings_of(make_task(config).config) != settings_of(task.config)  # nor is it resumed
    config.run.init_from = str(tmp_path / "model")
    words = r"init_from was trained with other centroids \(.*leave --config\.model\.frontend\.cen"
    with pytest.raises(UserError, match=words):
        begun(make_task(config))
    config.model.frontend.centroids = file
    np.testing.assert_array_equal(held(begun(make_task(config))), held(after))


def test_a_model_without_centroids_is_told(file, tmp_path):
    config = kmeans()
    with pytest.raises(UserError, match=r"has no centroids .*units learn --features=mfcc"):
        begun(make_task(config))  # of a run that names no data
    config.data.train = "train.tsv"
    with pytest.raises(UserError, match=r"kmeans needs centroids: set --config\.model\.frontend\."):
        make_task(config)
    task = make_task(small.discrete_bert())
    state = jax.device_get(first_state(task, mesh_of(1, 1, 1)))
    export_model(tmp_path, state.variables, task.described())
    with pytest.raises(UserError, match="is a model without centroids; name one that was trained"):
        make_task(kmeans(str(tmp_path)))
    config = small.discrete_bert()
    config.model.frontend.centroids = file
    with pytest.raises(UserError, match=r"twenty\.npz is of tokenizer=kmeans; leave it empty"):
        make_task(config)


@pytest.mark.parametrize(
    ("values", "extractor", "words"),
    [
        (np.ones((20, 768)), {"extractor": "model", "source": "runs/a", "digest": "12"},
         r"are of mfcc of runs/a \(digest 12\), not of MFCC; make some"),
        (np.ones((20, 39)), MFCC | {"digest": "12"}, "are of another MFCC than this version's"),
        (np.ones((20, 13)), MFCC, "have 13 dimensions; MFCC has 39"),
        (np.full((20, 39), np.nan), MFCC, "are not all finite numbers"),
        (np.ones((50, 39)), MFCC, r"has 50 centroids, the model --config\.model\.frontend\.classes="
         r"20; set --config\.model\.frontend\.classes=50"),
    ],
    ids=["extractor", "constants", "dimension", "nan", "number"],
)  # fmt: skip
def test_a_file_of_something_else(values, extractor, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # of a long path a message has the beginning
    centroids(values, extractor).write("wrong.npz")
    with pytest.raises(UserError, match=rf"model\.frontend\.centroids=wrong\.npz.*{words}"):
        make_task(kmeans("wrong.npz"))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive", b"text"])
def test_a_file_of_no_centroids(content, tmp_path):
    path = tmp_path / "file.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"--config\.model\.frontend\.centroids={path} holds no c"):
        make_task(kmeans(str(path)))


def test_kinds_that_there_are_not():
    config = small.discrete_bert()
    config.model.frontend.tokenizer = "vq"
    with pytest.raises(UserError, match="tokenizer=vq must be one of kmeans, random"):
        make_task(config)
    words = "model.frontend.kind=logmel has no tokens.*or set frontend=units"
    with pytest.raises(UserError, match=words):
        discrete_bert.get_config("tiny,frontend=logmel")
    config = small.discrete_bert()
    config.model = common.model("tiny", {"frontend": "logmel"})
    with pytest.raises(UserError, match=words):
        make_task(config)


@pytest.fixture(scope="module")
def still(trained):
    """(task, variables) of the first state."""
    task, before, *_ = trained
    return task, before.variables


def asked(task, variables, batch):
    """(logits, masked frames)."""
    forward = jax.jit(lambda v, x: task.forward(v, x, context(), train=False))
    return jax.device_get(forward(variables, batch))


def of_speech(task, rows=2, samples=32_000):
    return {key: x[0] for key, x in task.example((1, rows), samples).items()}


def test_a_masked_frame_does_not_hear_its_token(still):
    """What is said in the middle of a span reaches no answer, but changes tokens there."""
    task, variables = still
    batch = of_speech(task, rows=1)
    logits, masked = asked(task, variables, batch)
    # tokens depend on three frames before and two after: MFCC's windows and deltas
    inside = np.lib.stride_tricks.sliding_window_view(masked[0], 6).all(-1)
    middle = int(np.flatnonzero(inside)[0]) + 3
    changed = batch["audio"].copy()
    noise = np.random.default_rng(9).normal(size=320) * 9_000
    changed[0, 320 * middle : 320 * (middle + 1)] = noise
    other = batch | {"audio": changed}
    again, _ = asked(task, variables, other)
    before, after = (np.asarray(task.tokens(variables, x["audio"]))[0] for x in (batch, other))
    assert (before != after).any()
    assert not (before != after)[~masked[0]].any()
    np.testing.assert_array_equal(logits, again)


def test_scores_are_those_of_numpy(still):
    """And a row that fills up has no part in them."""
    task, variables = still
    batch = of_speech(task, rows=3)
    batch["id"] = np.array([0, -1, 2], np.int32)
    logits, masked = asked(task, variables, batch)
    tokens = np.asarray(task.tokens(variables, batch["audio"]))
    found = task.score(logits, tokens, masked)
    logits = np.asarray(logits, np.float64)
    assert not masked[1].any()
    assert 0.2 < masked[[0, 2]].mean() < 0.6
    chance = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(chance, tokens[..., None], -1)[..., 0]
    assert found.loss == pytest.approx(-own[masked].sum(), rel=1e-5)
    assert found.won == (logits.argmax(-1) == tokens)[masked].sum()
    assert found.count == masked.sum()
    np.testing.assert_array_equal(found.labels, np.bincount(tokens[masked], minlength=20))


def test_an_evaluation_says_what_needs_no_model(still, manifests):
    task, variables = still
    mesh = mesh_of(1, 1, 1)
    data = task.open(manifests["dev"], mesh, held_out=True)
    found = task.evaluation(data, mesh)(variables)
    assert found["valid/masked_frames"] > 1000
    assert 1 / 20 < found["valid/majority_accuracy"] < 0.3
    # neighbours are alike, frames far apart are not
    assert 0.1 < found["valid/copy_accuracy"] < 0.5
    assert 10 < found["valid/label_perplexity"] < 20


def test_it_learns_more_than_frequencies(trained):
    """The masks change from update to update."""
    *_, metrics = trained
    losses = [x["train/prediction_bits"] for x in metrics]
    frequencies = np.log2(metrics[-1]["train/label_perplexity"])
    assert losses[0] > frequencies
    assert np.mean(losses[-10:]) < frequencies - 1
    assert 0.2 < metrics[0]["train/masked_share"] < 0.6


def test_transformers_has_no_such_model(tmp_path):
    config = fine_tuning()
    described = make_task(config).described()
    state = jax.device_get(first_state(make_task(config), mesh_of(1, 1, 1)))
    export_model(tmp_path / "ours", state.variables, described)
    checkpoints.load(str(tmp_path / "ours"), "ctc")
    with pytest.raises(UserError, match=r"no model of model\.frontend\.kind=units; .*=orbax"):
        export(str(tmp_path / "ours"), str(tmp_path / "theirs"), form="huggingface")


def test_alarms():
    task = make_task(discrete_bert.get_config("tiny"))
    small.check_alarms(task, {"train/label_perplexity": 64.0, "train/prediction_bits": 5.0}, {
        "few_labels": ("train/label_perplexity", 2.0), "chance": ("train/prediction_bits", 5.99),
    })  # fmt: skip
    assert all("--config." in alarm.words for alarm in task.alarms)


def test_sizes():
    """base is the network of wav2vec 2.0 BASE."""
    ours = EncoderConfig.from_dict(common.model("base", {"frontend": "units"}))
    theirs = EncoderConfig.from_dict(common.model("base"))
    assert {key.split(".")[1] for key in ours.changes(theirs)} == {"frontend"}
    task = make_task(discrete_bert.get_config("base"))
    assert task.encoder.check_same(ours, "") is None
    assert task.encoder.frontend.width == task.encoder.width == 768
