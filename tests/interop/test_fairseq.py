"""Checkpoints of fairseq: names, configs, letters, and the file itself. The numbers are in
test_parity.py."""

import argparse
import enum
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.reference import GOLDEN
from w2v_jax import export
from w2v_jax.errors import UserError
from w2v_jax.interop import fairseq
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.frontends.waveform import WaveformConfig
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import load_exported

LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"
FILE = Path("x.pt")


def state(name: str, **task) -> dict:
    """A golden model as the content of a pre-training checkpoint."""
    config = json.loads((GOLDEN / name / "config.json").read_text())
    config["_name"] = "hubert" if config["cls"] == "HubertModel" else "wav2vec2"
    tensors = load_file(GOLDEN / name / "model.safetensors")
    return {"model": tensors, "cfg": {"model": config, "task": {"normalize": True, **task}}}


def fine_tuned(name: str = "fs_w2v2_base") -> dict:
    """The same with a CTC layer instead of the pre-training head."""
    before = state(name)
    head = ("final_proj", "quantizer", "project_q", "label_embs")
    inside = {f"w2v_encoder.w2v_model.{key}": x for key, x in before["model"].items()
              if not key.startswith(head)}  # fmt: skip
    inside["w2v_encoder.proj.weight"] = np.arange(32 * 32, dtype=np.float32).reshape(32, 32)
    inside["w2v_encoder.proj.bias"] = np.arange(32, dtype=np.float32)
    kind = before["cfg"]["model"]["_name"].replace("wav2vec2", "wav2vec")
    model = {"_name": f"{kind}_ctc", "w2v_args": before["cfg"], "normalize": False}
    return {"model": inside, "cfg": {"model": model, "task": {"normalize": True}}}


def test_pretrained():
    variables, config = fairseq.convert(state("fs_w2v2_base"), FILE)
    assert config["kind"] == "wav2vec2"
    quantizer = {"groups": 2, "codes": 24, "width": 32, "projection": 28, "dropout": 0.0}
    usual = {"kind": "gumbel", "depth": 1, "factor": 3, "projection_depth": 1}
    assert config["quantizer"] == quantizer | usual
    assert config["model"]["frontend"]["normalize"]
    assert variables["params"]["quantizer"]["codebook"].shape == (2, 24, 16)


def test_old_files_have_one_flat_namespace():
    new = state("fs_w2v2_base")
    flat = new["cfg"]["model"] | {"arch": "wav2vec2", "normalize": True, "_name": None}
    # keys that were not invented then have their later defaults
    flat = {key: x for key, x in flat.items() if key not in ("layer_type", "quantizer_depth")}
    found = fairseq.convert({"model": new["model"], "args": flat}, FILE)[1]
    assert found == fairseq.convert(new, FILE)[1]


@pytest.mark.parametrize("normalize", [True, False])
def test_references_of_early_hydra_files_are_followed(normalize):
    content = fine_tuned()
    content["cfg"]["model"]["normalize"] = "${task.normalize}"
    content["cfg"]["task"]["normalize"] = normalize
    content["task_state"] = {"target_dictionary": {"symbols": [*fairseq.SPECIAL, *LETTERS]}}
    config = fairseq.convert(content, FILE)[1]
    assert config["model"]["frontend"]["normalize"] is normalize
    content["cfg"]["task"]["normalize"] = "???"
    with pytest.raises(UserError, match=r"normalize is '\?\?\?', neither"):
        fairseq.convert(content, FILE)


def test_defaults_are_those_of_fairseq():
    """An old file says little: what it leaves out is wav2vec 2.0 BASE as its code builds it."""
    found = fairseq.encoder_config({"dropout": 0.0, "attention_dropout": 0.1})
    base = EncoderConfig(
        WaveformConfig(grad_mult=1.0), dropout=0.0, dropout_input=0.0, layerdrop=0.0,
        padding_leaks=True,
    )  # fmt: skip
    assert found == base
    assert fairseq.quantizer_config({"final_dim": 256}) == QuantizerConfig(dropout=0.0)
    conformer = {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "rope"}
    found = fairseq.encoder_config(conformer | {"dropout": 0.3, "attention_dropout": 0.1})
    assert (found.positions.kind, found.activation, found.block.kernel) == ("rotary", "swish", 31)
    assert {found.attention_dropout, found.activation_dropout, found.block.dropout} == {0.3}


@pytest.mark.parametrize("name", ["fs_hubert_base", "fs_hubert_100hz_2sets"])
def test_hubert(name):
    content = state(name)
    total = len(content["model"]["label_embs_concat"])
    if "2sets" in name:
        content["task_state"] = {"dictionaries": [{"symbols": ["x"] * n} for n in (5, total - 5)]}
    variables, config = fairseq.convert(content, FILE)
    head = config["prediction"]
    assert sum(head["classes"]) == total
    assert len(head["classes"]) == (2 if "2sets" in name else 1)
    assert head["label_rate"] == (100 if "2sets" in name else 50)
    assert variables["params"]["project_context"]["kernel"].shape[1] == 28 * len(head["classes"])


@pytest.mark.parametrize("where", ["file", "beside"])
def test_fine_tuned(tmp_path, where, caplog):
    content = fine_tuned()
    if where == "file":
        symbols = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS]
        content["task_state"] = {"target_dictionary": {"symbols": symbols}}
    else:
        lines = "".join(f"{letter} {9 - i}\n" for i, letter in enumerate(LETTERS))
        (tmp_path / "dict.ltr.txt").write_text(lines)
    content["model"]["w2v_encoder.w2v_model.final_proj.bias"] = np.zeros(28, np.float32)
    variables, config = fairseq.convert(content, tmp_path / "x.pt")
    assert config["kind"] == "ctc"
    # <s> is their blank and ours is called <pad>: the same row of the same layer
    assert Alphabet.from_dict(config["alphabet"]) == Alphabet.english()
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], np.arange(32))
    assert not config["model"]["frontend"]["normalize"], "the fine-tuned model's own value counts"
    assert "ignored, of a head that this model does not have: final_proj.bias" in caplog.text


def test_words_that_fill_a_dictionary_up_are_no_letters():
    content = fine_tuned()
    symbols = [*fairseq.SPECIAL, *LETTERS[:-2], "madeupword0000", "madeupword0001"]
    content["task_state"] = {"target_dictionary": {"symbols": symbols}}
    alphabet = Alphabet.from_dict(fairseq.convert(content, FILE)[1]["alphabet"])
    assert "Q" not in alphabet.ids
    assert alphabet.decode([5, 30, 6, 31]) == "ET"


def test_conv_layers_are_parsed_not_run():
    parse = fairseq._conv_layers
    assert parse("[(512, 10, 5)] + [(512,3,2)] * 2") == ((512, 10, 5), (512, 3, 2), (512, 3, 2))
    for text in ("__import__('os').getcwd()", "[(1, 2, 3)] * [2]", "512", "[("):
        with pytest.raises(UserError, match="conv_feature_layers"):
            parse(text)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("_name", "data2vec_audio", "holds a data2vec_audio model; it must be one of wav2vec2"),
        ("quantizer_depth", 2, "quantizer_depth is 2; only 1 is supported"),
        ("layer_type", "trf_adp", "layer_type is 'trf_adp'"),
        ("pos_conv_depth", 5, "pos_conv_depth is 5"),
        ("layer_type", "conformer", "attn_type is ''"),
        ("encoder_layers", "many", "wrong kind"),
        ("encoder_embed_dim", 64, "the tensors disagree"),
        ("encoder_layers", 4, r"missing: encoder\.layers\.3\.attention\.k_proj\.bias"),
        ("label_rate", "${task.label_rate}", "wrong kind"),
        ("encoder_layers", 2, r"without a place: encoder\.layers\.2\.attention"),
    ],
)
def test_what_cannot_be_expressed_is_named(key, value, words):
    content = state("fs_w2v2_base")
    content["cfg"]["model"][key] = value
    with pytest.raises(UserError, match=words):
        fairseq.convert(content, FILE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None}, "it has no 'model'"),
        ({"cfg": None}, "neither 'cfg' nor 'args'"),
        ({"task_state": {"target_dictionary": {"symbols": ["a"]}}}, "has 1 symbols"),
        ({}, "put its dict.ltr.txt beside it"),
    ],
)
def test_what_is_missing_is_named(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        fairseq.convert(fine_tuned() | change, tmp_path / "x.pt")


@pytest.mark.parametrize("change", [{"cfg": 3}, {"cfg": "x"}, {"cfg": {"model": 3}},
                                    {"cfg": {"model": {"_name": ["wav2vec2"]}}}])  # fmt: skip
def test_odd_configs_end_in_an_error(change):
    with pytest.raises(UserError):
        fairseq.convert(state("fs_w2v2_base") | change, FILE)


def test_other_sample_rates_are_refused():
    with pytest.raises(UserError, match="8000 samples per second"):
        fairseq.convert(state("fs_w2v2_base", sample_rate=8000), FILE)


class Mode(enum.Enum):
    GROUP = "default"


class Node:
    """As omegaconf keeps a value."""

    def __init__(self, value):
        self._val = value


class Container:
    """As omegaconf keeps a dict."""

    def __init__(self, content):
        self._content = {key: Node(value) for key, value in content.items()}


class Dictionary:
    def __init__(self):
        self.symbols = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS]


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_file_itself(tmp_path, monkeypatch, legacy):
    """Tensors, namespaces, enums and objects of packages that are not installed; nothing runs."""
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    content = fine_tuned()
    package = types.ModuleType("absent_package")
    for cls in (Mode, Dictionary, Node, Container):
        cls.__module__, cls.__qualname__ = "absent_package", cls.__name__
        setattr(package, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "absent_package", package)
    inner = content["cfg"]["model"]["w2v_args"]["model"] | {"extractor_mode": Mode.GROUP}
    content["cfg"]["model"]["w2v_args"] = argparse.Namespace(**inner)
    content["cfg"]["task"] = Container({"normalize": True})
    content["model"] = {key: torch.tensor(x).half() for key, x in content["model"].items()}
    content["task_state"] = {"target_dictionary": Dictionary()}
    content["extra_state"] = Harm()
    torch.save(content, "x.pt", _use_new_zipfile_serialization=not legacy)
    monkeypatch.delitem(sys.modules, "absent_package")

    export.export("x.pt", "ours", "fairseq")
    variables, config = load_exported("ours")
    assert not Path("harmed").exists()
    assert Alphabet.from_dict(config["alphabet"]) == Alphabet.english()
    assert config["frame_rate"] == 50
    kernel = variables["params"]["encoder"]["feature_projection"]["kernel"]
    assert kernel.dtype == np.float32
    expected = state("fs_w2v2_base")["model"]["post_extract_proj.weight"].T
    np.testing.assert_allclose(kernel, expected, rtol=1e-3)
    Path("broken.pt").write_bytes(b"PK not a file")
    with pytest.raises(UserError, match=r"broken\.pt cannot be read"):
        fairseq.read("broken.pt")


def test_programs_are_not_run(tmp_path, monkeypatch):
    """torch.load would run a TorchScript archive, whatever it is told about pickles."""
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)

    class Program(torch.nn.Module):
        def forward(self, x):
            return x

        @torch.jit.export
        def __getstate__(self):
            return torch.zeros(1), self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            torch.save(state[0], "harmed")
            self.training = state[1]

    torch.jit.script(Program()).save("x.pt")
    with pytest.raises(UserError, match="a TorchScript program"):
        fairseq.read("x.pt")
    assert not Path("harmed").exists()


def test_without_torch_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs torch"):
        fairseq.read(FILE)
