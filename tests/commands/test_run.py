"""What pre-training and fine-tuning share: what is refused before anything large is made."""

import pytest

from tests import small
from w2v_jax.errors import UserError
from w2v_jax.run import run


def prepared(kind, manifests, **changes):
    config = getattr(small, kind)()
    config.data.update(train=manifests["train"], valid=manifests["dev"], row_multiple=8)
    config.run.update(dry_run=True, **changes)
    return config


@pytest.mark.parametrize("kind", ["pretraining", "finetuning"])
def test_a_dry_run_compiles_and_writes_nothing(kind, manifests, tmp_path, capsys):
    assert run(prepared(kind, manifests), str(tmp_path / "run")) is None
    text = capsys.readouterr().out
    assert "first batch: " in text
    assert "the step compiles; a device holds 0.00 GB of state" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(profile_steps="abc"), "profile_steps=abc must be FIRST:LAST"),
        (dict(profile_steps="5:3"), "profile_steps=5:3 is no window"),
        (dict(max_skipped=-1), "max_skipped=-1"),
        (dict(keep_last=0), "keep_last=0"),
        (dict(init_from="/nowhere"), "/nowhere does not exist"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_a_dry_run_refuses(changes, words, manifests, tmp_path):
    with pytest.raises(UserError, match=words):
        run(prepared("pretraining", manifests, **changes), str(tmp_path / "run"))


def test_a_model_to_start_from_is_looked_for_first(manifests, tmp_path):
    config = prepared("pretraining", manifests, init_from="/nowhere")
    config.run.dry_run = False
    with pytest.raises(UserError, match="/nowhere does not exist"):
        run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_best_checkpoints_without_a_validation_set(manifests, tmp_path):
    config = prepared("pretraining", manifests, keep_best=1)
    config.data.valid = ""
    with pytest.raises(UserError, match=r"keep_best=1 keeps what scores best on .*data\.valid"):
        run(config, str(tmp_path / "run"))


def test_a_config_of_another_command(manifests, tmp_path):
    config = prepared("finetuning", manifests)
    with pytest.raises(UserError, match=r"kind ctc, which .* w2v_jax\.finetune trains"):
        run(config, str(tmp_path / "run"), command="pretrain")
    config.kind = "siamese"
    with pytest.raises(UserError, match="kind 'siamese'; one of the kinds wav2vec2, best_rq, hub"):
        run(config, str(tmp_path / "run"), command="pretrain")
