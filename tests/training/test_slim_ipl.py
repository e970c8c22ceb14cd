"""slimIPL: whose labels are trained on, and when; what is refused; what is said to be wrong."""

import functools

import jax
import numpy as np
import pytest

from tests import small
from tests.promises import contract
from w2v_jax import run
from w2v_jax.data.label_cache import FRESH, PSEUDO, row_width
from w2v_jax.data.manifest import Manifest
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.errors import UserError
from w2v_jax.tasks import make_task
from w2v_jax.tasks.slim_ipl import SlimIPL
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import export_model
from w2v_jax.training.state import CARRIED, first_state, jitted_step, on_mesh

SAMPLES = 16_000
WIDTH = row_width(SAMPLES)


def config(manifests=None, **values):
    config = small.slim_ipl(**values)
    if manifests:
        config.data.update(
            train=manifests["train"], valid="", unlabelled=manifests["dev"], num_buckets=1
        )
    return config


def unlabelled(example: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The same rows as those of another stream, one behind the other in the cache."""
    batch = {key: x for key, x in example.items() if not key.startswith("labels")}
    rows = batch["id"].size
    batch["at"] = np.arange(rows, dtype=np.int32).reshape(batch["id"].shape) * WIDTH
    return {f"{prefix}{key}": x for key, x in batch.items()}


class Whole(SlimIPL):
    """With an example of the unlabelled streams, and labels from the first update on: a random
    model writes more letters than there is room for."""

    loss_scalar = "train/pseudo_ctc_loss"

    def init(self):
        variables = super().init()
        head = variables["params"]["head"]
        bias = head["bias"].replace_boxed(head["bias"].unbox().at[0].add(2.5))
        return variables | {"params": variables["params"] | {"head": head | {"bias": bias}}}

    def example(self, shape, length):
        example = super().example(shape, length)
        return unlabelled(example, PSEUDO) | unlabelled(example, FRESH)


@functools.cache
def trained():
    """(task, its first state, its step): without dropout."""
    changed = config(num_layers=1)
    contract.silence(changed)
    task, mesh = Whole(changed), contract.mesh_of(1, 1, 1)
    return task, jax.device_get(first_state(task, mesh)), on_mesh(jitted_step(task, mesh), mesh)


def test_labels_are_those_of_the_model_before_the_update():
    """And an update that trains on nothing moves nothing but them."""
    task, first, step = trained()
    batch = unlabelled(SlimIPL.example(task, (1, 2), SAMPLES), FRESH)
    state, metrics = jax.device_get(step(first, batch))
    jax.tree.map(np.testing.assert_array_equal, first.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, first.opt, state.opt)
    assert metrics["train/gradient_norm"][1] == 0
    assert state.step == 1

    recognizer = Recognizer(task.encoder, task.alphabet)
    batches = [({key: batch[f"{FRESH}{key}"] for key in ("audio", "length", "id")}, 0.0)]
    texts = recognizer.texts({"params": first.params}, batches)
    cache = state.stats[CARRIED]["labels"]
    for row in range(2):
        item, count, *labels = cache[row * WIDTH :][:WIDTH].tolist()
        assert item == row
        assert task.alphabet.decode(labels[:count]) == texts[row]
        assert count
    assert (cache[2 * WIDTH :] == -1).all()


def test_a_row_is_trained_on_with_its_own_label_or_not_at_all():
    task, first, _ = trained()
    cache = first.stats[CARRIED]["labels"].copy()
    labels = [5, 6, 4, 7]
    for row, (item, count) in enumerate([(0, 4), (8, 4), (2, 0), (-1, 4)]):
        cache[row * WIDTH :][: 2 + len(labels)] = [item, count, *labels]
    batch = unlabelled(SlimIPL.example(task, (1, 5), SAMPLES), PSEUDO)
    rows = {k.removeprefix(PSEUDO): x[0] for k, x in batch.items()}
    found, (without, present) = task.labelled(cache, rows)
    assert found["id"].tolist() == [0, -1, -1, -1, -1]  # another's, empty, none, never filled
    assert found["labels_length"].tolist() == [4, 0, 0, 0, 0]
    assert found["labels"][0, :4].tolist() == labels
    assert (without, present) == (4, 5)


def test_neither_padding_nor_micro_batches_nor_devices_change_what_is_learnt():
    changed = config(num_layers=1)
    contract.silence(changed)
    changed.pseudo.cache = 2
    task = Whole(changed)
    batch = contract.shortened(task, task.example((1, 8), SAMPLES))
    for prefix in (PSEUDO, FRESH):
        batch[f"{prefix}id"][0, 3], batch[f"{prefix}length"][0, 3] = -1, 0
    spoiled = {name: x.copy() for name, x in batch.items()}
    for prefix in (PSEUDO, FRESH):
        behind = np.arange(SAMPLES) >= batch[f"{prefix}length"][:, :, None]
        spoiled[f"{prefix}audio"][behind] = 1234
    parts = {name: x.reshape(4, 2, *x.shape[2:]) for name, x in spoiled.items()}
    whole = contract.Update(task, contract.mesh_of(1, 1, 1))
    split = contract.Update(task, contract.mesh_of(2, 1, 1), whole.first)
    one = whole([batch, batch])
    contract.same(task, split([parts, parts]), one)
    heard = one[1]["train/pseudo_unlabelled"]
    assert heard[1] == 7
    assert heard[0] < 7  # labels of the first update are trained on in the second


def test_alarms():
    task = make_task(config())
    fine = {
        "train/pseudo_empty": 0.1, "train/letters_per_second": 14.0,
        "train/pseudo_letters_per_second": 10.0, "train/infeasible": 0.0, "valid/empty_share": 0.0,
        "train/skipped": 0.0,
    }  # fmt: skip
    alarms = {alarm.name: alarm for alarm in task.alarms}
    assert not any(alarm.condition(1000, fine) for alarm in alarms.values())
    for name, key, value in (
        ("pseudo_empty", "train/pseudo_empty", 0.6),
        ("pseudo_length", "train/pseudo_letters_per_second", 5.0),
        ("pseudo_length", "train/pseudo_letters_per_second", 30.0),
    ):
        spoiled = fine | {key: value}
        assert alarms[name].condition(10, spoiled)
        assert "stop the run" in alarms[name].words.format(**spoiled)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pseudo.ratio": (1, 0)}, r"pseudo.ratio=.*\(1,0\).* must be"),
        ({"pseudo.replace": 0.0}, "pseudo.replace=0.0 must be"),
        ({"data.unlabelled": ""}, "set --config.data.unlabelled to a manifest"),
        ({"pseudo.cache": 9}, r"pseudo.cache=9 .* after the end .*num_steps=8"),
        ({"pseudo.cache": 10**6, "num_steps": 10**7, "data.batch_seconds": 1e4}, "too many to be"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_values_that_make_no_sense_are_refused(changes, words, manifests):
    changed = config(manifests)
    changed.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        make_task(changed)


def test_a_random_model_is_not_asked_for_labels(manifests, tmp_path):
    changed = config(manifests)
    changed.pseudo.start = 0
    words = r"pseudo.start=0 asks a random model .*run.init_from .*pseudo.start=2"
    with contract.one_device(), pytest.raises(UserError, match=words):
        run.run(changed, str(tmp_path))


def test_transcripts_of_unlabelled_speech_are_said_not_to_be_used(manifests, capsys):
    task = make_task(config(manifests))
    data = task.open(manifests["train"], contract.mesh_of(1, 1, 1))
    assert "it has transcripts, which are not used" in capsys.readouterr().out
    batch, _ = data.loader.load(data.plan(seed=0, num_steps=8)[1])
    assert batch.keys() == {f"{FRESH}{key}" for key in ("audio", "length", "id", "at")}


def test_transcribed_speech_without_transcripts_is_refused(manifests, tmp_path):
    manifest, path = Manifest.read(manifests["dev"]), str(tmp_path / "bare.tsv")
    Manifest(manifest.root, [*manifest.paths], manifest.samples).write(path)
    task = make_task(config(manifests))
    with pytest.raises(UserError, match=r"none of \d+ utterances has a usable transcript"):
        task.open(path, contract.mesh_of(1, 1, 1))


def test_it_begins_with_a_whole_model_of_the_same_letters(manifests, tmp_path):
    mesh, folder = contract.mesh_of(1, 1, 1), f"{tmp_path}/export"
    changed = config(manifests, num_layers=1)
    changed.pseudo.start, changed.run.init_from, changed.seed = 0, folder, 1
    task = make_task(changed)
    other = jax.device_get(first_state(make_task(config(num_layers=1)), mesh))
    export_model(folder, {"params": other.params, "stats": {}}, task.described())
    begun = task.begin(first_state(task, mesh))
    jax.tree.map(np.testing.assert_array_equal, begun.params, other.params)
    assert begun.stats.keys() == {CARRIED}

    encoder = {"params": {"encoder": other.params["encoder"]}, "stats": {}}
    export_model(folder, encoder, task.described() | {"kind": "encoder"})
    with pytest.raises(UserError, match="of the kind encoder, which writes no letters"):
        task.begin(first_state(task, mesh))
    changed.pseudo.start = 1
    begun = make_task(changed).begin(first_state(task, mesh))
    jax.tree.map(
        np.testing.assert_array_equal, begun.params["encoder"], other.params["encoder"]
    )

    changed.letters = "abc"
    task = make_task(changed)
    export_model(folder, {"params": other.params, "stats": {}}, task.described() | {
        "alphabet": Alphabet.english().to_dict()
    })  # fmt: skip
    words = r"writes another alphabet, .*set --config.letters=.*, or begin with another model"
    with pytest.raises(UserError, match=words):
        task.begin(first_state(task, mesh))
