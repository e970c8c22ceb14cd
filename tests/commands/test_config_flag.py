"""What is said of a --config that makes no config, and of flags that do not fit it."""

import shlex

import pytest
from absl import flags
from ml_collections import config_flags

from w2v_jax import config_flag
from w2v_jax.errors import UserError
from w2v_jax.keys.check import flag

TINY = "--config=configs/wav2vec2.py:tiny"


@pytest.mark.parametrize(
    ("content", "argument", "words"),
    [
        ("x = 1 / 0", "", "fails: ZeroDivisionError: division by zero (line 1)"),
        ("def get_config(:\n", "", "fails: SyntaxError: invalid syntax (config.py, line 1)"),
        ("import no_such_module", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "", "has no function get_config"),
        ("get_config = 3", "", "has no function get_config"),
        ("def get_config():\n    return {'a': 'b' * 9999}", "", "it must return an ml_"),
        ("def get_config(): return 3", "", "get_config returns 3; it must return"),
        ("def get_config(): return 3", "base", "takes no argument; write --config="),
        ("def get_config(size): return size", "", "needs an argument; write --config="),
        ("def get_config():\n\n    return absent['a']", "", "NameError: name 'absent' is not"),
        ("def get_config(): raise KeyError('x' * 9999)", "", "KeyError: 'xxx"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_config(content, argument, words, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(content)
    name = f"{path}:{argument}" if argument else str(path)
    with pytest.raises(UserError) as raised:
        config_flag.load(name)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert config_flag.complaint(["pretrain", f"--config={name}"]) == str(raised.value)


def test_a_place_that_is_no_file(tmp_path):
    for name, words in (
        ("nothing.py", "--config=nothing.py does not exist; name one of best_rq, c_siam, "),
        ("", "--config= does not exist"),
        (str(tmp_path), f"--config={tmp_path} is a folder; name a file in it"),
        ("configs", "is a folder; name a file in it, such as configs/wav2vec"),
        ("configs/wav2vec2.py:huge", "configs/wav2vec2.py:huge is unknown; choose tiny, base"),
        ("configs/finetune.py:base", "configs/finetune.py:base is unknown; write split=S,size=Z"),
        ("configs/finetune.py:size=", "write split=S,size=Z"),
        ("configs/wav2vec2.py:tiny,block", "'tiny,block' is no argument; write SIZE, or SIZE,blo"),
        ("configs/wav2vec2.py:tiny,block=lstm", "model.block.kind is 'lstm'; it must be one of"),
        ("configs/wav2vec2.py:tiny,head=ctc", "head is no union of the model; choose frontend"),
    ):
        with pytest.raises(UserError) as raised:
            config_flag.load(name)
        assert words in str(raised.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("save_steps=3", "no key 'save_steps'; did you mean --config.run.save_steps?"),
        ("model.dtype=bfloat16", "did you mean --config.execution.dtype?"),
        ("modle.width=3", "no key 'modle.width'; did you mean --config.model.width"),
        ("model.block=conformer", "--config=FILE:SIZE,block=conformer"),
        ("model.frontend.mels=40", "belongs to model.frontend.kind=logmel; here that is waveform:"),
        ("run.mesh=4", "is a group of keys; set one of --config.run.mesh.data, "),
        ("model.width=3", ""),
        ("num_steps=1.5", "--config.num_steps=1.5 must be a whole number from 1 to"),
        ("num_steps=ten", "--config.num_steps=ten must be a whole number"),
        ("execution.remat_features=maybe",
         "--config.execution.remat_features=maybe must be True or False; it is"),
        ("data.crop_seconds=(2.0,", "--config.data.crop_seconds='(2.0,' must be 1 to 64 values in"),
        ("data.crop_seconds=(2.0,'a')", """crop_seconds='(2.0,'"'"'a'"'"')' must be 1 to"""),
        ("data.train=a b", ""),
        ("run.threads=" + "9" * 20_000, "--config.run.threads=9999"),
    ],
)  # fmt: skip
def test_a_flag_that_does_not_fit(given, words):
    found = config_flag.complaint(["pretrain", TINY, f"--config.{given}"])
    assert words in found
    assert bool(found) == bool(words)
    assert len(found) < 1000


def test_a_config_that_was_kept_back_is_explained(tmp_path):
    """ml_collections holds a file that is not there, until the config is asked for something."""
    values = flags.FlagValues()
    argv = ["pretrain", f"--config={tmp_path}/none.py"]
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    values(argv)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "FLAGS", values)
        with pytest.raises(UserError, match=r"none\.py does not exist"):
            config_flag.given_config()


def test_flags_can_be_pasted_into_a_shell():
    for value, text in (
        ((2.0, 5.0), "(2.0,5.0)"), ("a b'c", "a b'c"), ("", ""), (3, "3"), (True, "True"),
        (("a",), '("a",)'),
    ):  # fmt: skip
        assert shlex.split(flag("data.x", value)) == [f"--config.data.x={text}"]
