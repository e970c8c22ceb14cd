"""Any checkpoint is opened by one door; what is none is named."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import small
from w2v_jax import transcribe
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints, huggingface
from w2v_jax.interop.safetensors import INDEX, WHOLE
from w2v_jax.tasks.ctc import CTC
from w2v_jax.training.checkpoint import Checkpoints, export_model, load_exported
from w2v_jax.training.settings import settings_of, write_settings
from w2v_jax.training.sharding import make_mesh
from w2v_jax.training.state import first_state

AUDIO = (np.random.default_rng(0).normal(size=16000) * 3000).astype(np.int16)


@pytest.fixture(scope="module")
def export(checkpoint):
    return load_exported(checkpoint)


@pytest.fixture
def hub(tmp_path, export):
    """A directory of transformers with the session's model."""
    folder = tmp_path / "hub"
    huggingface.write(folder, *export)
    return folder


@pytest.fixture
def run(tmp_path, export):
    """A run with checkpoints of the steps 2 and 3; the later has other values."""
    folder = tmp_path / "run"
    variables, config = export
    described = {key: config[key] for key in ("kind", "model", "alphabet")}
    write_settings(str(folder), settings_of(small.finetuning()), described)
    manager = Checkpoints(folder)
    for step in (2, 3):
        trees = jax.tree.map(lambda x, step=step: x + (step - 2), variables)
        manager.save(step, {"params": trees["params"], "stats": trees.get("stats", {})}, {})
    manager.close()
    return folder


def first(variables) -> np.ndarray:
    return variables["params"]["head"]["bias"]


def test_an_export_and_a_directory_of_transformers_write_the_same(checkpoint, hub):
    ours, theirs = (transcribe.load(path)(AUDIO).text for path in (checkpoint, hub))
    assert ours == theirs
    assert len(ours) > 5


def test_a_run_is_its_newest_checkpoint(run, export, caplog):
    caplog.set_level("INFO")
    variables, config = checkpoints.load(run, "ctc")
    np.testing.assert_array_equal(first(variables), first(export[0]) + 1)
    assert config["step"] == 3
    assert f"{run}: the model of the run's checkpoint of step 3" in caplog.text
    assert checkpoints.load(f"{run}/checkpoints/")[1]["step"] == 3
    variables, config = checkpoints.load(f"{run}/checkpoints/2")
    np.testing.assert_array_equal(first(variables), first(export[0]))
    with pytest.raises(UserError, match=r"has no checkpoint of step 7; there are \[2, 3\]"):
        checkpoints.load(f"{run}/checkpoints/7")


def test_a_run_whose_description_is_damaged(run):
    for value in (0.5, [], "x"):
        rewrite(run / "config.json", described=value)
        with pytest.raises(UserError, match="does not describe a training run, or is damaged"):
            checkpoints.load(run)


def test_a_run_without_checkpoints_is_its_export(run, export, caplog):
    caplog.set_level("INFO")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="a run without a checkpoint; it saves one every"):
        checkpoints.load(run)
    export_model(run / "export", *export)
    np.testing.assert_array_equal(first(checkpoints.load(run)[0]), first(export[0]))
    assert f"its export is read, {run}/export" in caplog.text


def test_a_file_of_fairseq(tmp_path):
    torch = pytest.importorskip("torch")
    from tests.interop.test_fairseq import LETTERS, fine_tuned

    symbols = {"symbols": ["<s>", "<pad>", "</s>", "<unk>", *LETTERS]}
    content = fine_tuned() | {"task_state": {"target_dictionary": symbols}}
    content["model"] = {key: torch.tensor(x) for key, x in content["model"].items()}
    torch.save(content, tmp_path / "x.pt")
    assert transcribe.load(tmp_path / "x.pt")(AUDIO).duration == 1


def test_a_run_starts_from_any_checkpoint(hub, run, export):
    config = small.finetuning()
    config.freeze_steps = 0
    for path, plus in ((hub, 0), (run, 1)):
        config.run.init_from = str(path)
        config.run.partial_init = True
        task = CTC(config)
        state = task.begin(first_state(task, make_mesh(config.run.mesh)))
        ours, theirs = (
            params["encoder"]["feature_encoder"]["conv_0"]["kernel"]
            for params in (state.params, export[0]["params"])
        )
        np.testing.assert_array_equal(ours, theirs + plus)


def rewrite(path, **changes):
    """config.json with other values; None takes a key away."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: x for key, x in values.items() if x is not None}))


WITHOUT_CONFIG = {
    "empty": (lambda f: None, "the folder is empty"),
    "params": (lambda f: (f / "params").mkdir(), "config.json is gone, or was never written"),
    "checkpoints": (lambda f: (f / "checkpoints").mkdir(), "config.json beside its checkpoints"),
    "cache": (lambda f: (f / "snapshots/4ab").mkdir(parents=True), "cache of the hub; .*/4ab"),
    "fairseq": (lambda f: (f / "x.pt").touch(), "name one of these, as .*/x.pt"),
    "other": (lambda f: (f / "notes").touch(), "holds no config.json but notes; a checkpoint is"),
    "config": (lambda f: (f / "config.json").write_text('{"a": 1}'), "else, with the keys a; a"),
    "list": (lambda f: (f / "config.json").write_text("[1]"), "else, with the keys none; a"),
    "damaged": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "whisper": (
        lambda f: (f / "config.json").write_text('{"model_type": "whisper"}'),
        "model_type is 'whisper'; it must be one of wav2vec2",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_CONFIG)
def test_folders_that_are_no_checkpoint(tmp_path, name):
    make, words = WITHOUT_CONFIG[name]
    make(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        transcribe.load(tmp_path)
    assert len(str(caught.value)) < 1000


def test_files_that_are_no_checkpoint(hub, tmp_path):
    with pytest.raises(UserError, match=r"x\.pt does not exist; a checkpoint is an export, the"):
        checkpoints.load(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_text("no")
    with pytest.raises(UserError, match=r"x\.pt is no checkpoint; a checkpoint is an export, the"):
        checkpoints.load(tmp_path / "x.pt")
    with pytest.raises(UserError, match=f"is a part of a model; name its folder, {hub}"):
        checkpoints.load(hub / WHOLE)


def test_a_directory_of_transformers_that_is_not_whole(hub):
    tensors = load_file(hub / WHOLE)
    (hub / "vocab.json").rename(hub / "v")
    with pytest.raises(UserError, match=r"vocab\.json cannot be read: it is missing; save_pretr"):
        checkpoints.load(hub)
    (hub / "v").rename(hub / "vocab.json")
    (hub / WHOLE).unlink()
    with pytest.raises(UserError, match=r"holds neither model\.safetensors nor"):
        checkpoints.load(hub)
    # in shards, of which one is missing
    (hub / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "a.safetensors")}))
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read: there is no such file"):
        checkpoints.load(hub)
    save_file(tensors, hub / "a.safetensors")
    checkpoints.load(hub, "ctc")


def test_arrays_that_do_not_fit_their_config(tmp_path, export):
    variables, config = export
    folder = tmp_path / "export"
    export_model(folder, variables, config)
    model = config["model"]
    for changes, words in (
        ({"model": model | {"num_layers": 5}}, r"attention/key/bias is \(2, 32\), .*\(5, 32\)"),
        ({"alphabet": {"symbols": ["<pad>", "|", "a"]}}, r"head/bias is \(32,\), .*\(3,\) is"),
        ({"model": model | {"num_heads": 7}}, "num_heads"),
        ({"model": model | {"positions": "none"}}, "without a place: encoder/context/positions"),
        ({"alphabet": None}, "lacks a value or has one of the wrong kind .*alphabet"),
        ({"alphabet": {"symbols": 3}}, "wrong kind"),
        ({"model": model | {"width": "wide"}}, "width is 'wide'; it must be a whole"),
        ({"model": None}, "nothing says how it is built"),
        ({"kind": "hubert"}, "lacks a value or has one of the wrong kind .*prediction"),
        ({"digests": 3}, "digests is no JSON object"),
        ({"blank": 3}, "blank is 3, but a model like this has 0"),
        ({"kind": None, "w2v_jax": "1"}, "its config.json has no kind"),
    ):
        export_model(folder, variables, config)
        rewrite(folder / "config.json", **changes)
        with pytest.raises(UserError, match=words) as caught:
            checkpoints.load(folder)
        assert len(str(caught.value)) < 1000
        assert str(folder) in str(caught.value)


def test_a_truncated_export(tmp_path, export):
    export_model(tmp_path, *export)
    shutil.rmtree(tmp_path / "params" / "d")
    with pytest.raises(UserError, match=f"{tmp_path}/params cannot be read"):
        checkpoints.load(tmp_path)


def test_models_of_another_kind(checkpoint, tmp_path, export):
    with pytest.raises(UserError, match=r"of the kind ctc; one of the kind language .*train_lm"):
        checkpoints.load(checkpoint, "language")
    variables, config = export
    encoder = {key: {"encoder": x["encoder"]} for key, x in variables.items() if "encoder" in x}
    described = {"kind": "encoder", "model": config["model"]}
    export_model(tmp_path / "ours", encoder, described)
    huggingface.write(tmp_path / "hub", encoder, described)
    for path in (tmp_path / "ours", tmp_path / "hub"):
        with pytest.raises(UserError, match=rf"of the kind encoder; .*finetune, .*{path}\)"):
            transcribe.load(path)
