"""Model directories of transformers, in and out. The numbers are in test_parity.py."""

import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import flax
from safetensors.numpy import load_file, save_file

from tests import small
from tests.reference import GOLDEN, is_fairseq
from w2v_jax.audio.waveform import read
from w2v_jax.data.manifest import Manifest
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.errors import UserError
from w2v_jax.export import export
from w2v_jax.interop import fairseq, huggingface
from w2v_jax.interop.exported import encoder_of
from w2v_jax.interop.huggingface_tensors import parameters
from w2v_jax.interop.safetensors import INDEX, WHOLE, write
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.frontends.waveform import WaveformConfig
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import load_exported

MODELS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and not is_fairseq(path))
# what a base model cannot say: whether a plain encoder was called Hubert or Wav2Vec2
NAMES = {"model_type", "architectures"}
UNUSED = "encoder.pos_conv_embed."  # by conformers


@pytest.fixture
def directory(tmp_path):
    """`make(name)`: a golden model with the small files that a published one has."""

    def make(name):
        folder = tmp_path / name
        shutil.copytree(GOLDEN / name, folder, ignore=shutil.ignore_patterns("*.npz"))
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
        size = json.loads((folder / "config.json").read_text())["vocab_size"]
        symbols = Alphabet.english().symbols[:size]
        vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        return folder

    return make


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(directory, tmp_path, name):
    folder = directory(name)
    variables, config = huggingface.read(folder)
    huggingface.write(tmp_path / "out", variables, config)
    again, config_again = huggingface.read(tmp_path / "out")
    equal(variables, again)
    assert config == config_again

    theirs, ours = load_file(folder / WHOLE), load_file(tmp_path / "out" / WHOLE)
    assert ours.keys() == theirs.keys()
    # a conformer's convolutional positions are never called; their size is not ours to keep
    conformer = config["model"]["block"]["kind"] == "conformer"
    for key, x in theirs.items():
        if not (conformer and UNUSED in key):
            np.testing.assert_array_equal(ours[key], x)
            assert ours[key].dtype == x.dtype
    theirs, ours = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "out"))
    changed = {key for key in ours if key not in theirs or ours[key] != theirs[key]}
    free = {"ctc": {"ctc_zero_infinity"}, "encoder": NAMES | {"feat_quantizer_dropout"}}
    free = free.get(config["kind"], set()) | (set(huggingface.POSITIONS) if conformer else set())
    assert changed - {"written_by"} <= free


def test_export_converts(directory, tmp_path, capsys):
    folder = directory("ctc_w2v2_base")
    export(folder, tmp_path / "ours", "huggingface")
    variables, config = load_exported(tmp_path / "ours")
    equal(variables, huggingface.read(folder)[0])
    assert EncoderConfig.from_dict(config["model"]).frontend.normalize
    assert config["alphabet"]["symbols"][4] == "|"
    export(tmp_path / "ours", tmp_path / "theirs", "orbax", "huggingface")
    equal(variables, huggingface.read(tmp_path / "theirs")[0])
    export(tmp_path / "ours", tmp_path / "theirs", "orbax", "huggingface")
    downloaded = shutil.copytree(folder, tmp_path / "downloaded")
    with pytest.raises(UserError, match=r"downloaded/config\.json exists.*--overwrite"):
        export(tmp_path / "ours", downloaded, "orbax", "huggingface")
    (downloaded / "config.json").unlink()
    with pytest.raises(UserError, match=r"downloaded/\S+ exists.*--overwrite"):
        export(tmp_path / "ours", downloaded, "orbax", "huggingface")
    assert "ctc model written to" in capsys.readouterr().out
    with pytest.raises(UserError, match="is the --workdir"):
        export(folder, folder / ".." / folder.name, "huggingface")
    with pytest.raises(UserError, match="holds something else"):
        export(folder, tmp_path / "ours", "huggingface", "huggingface")
    with pytest.raises(UserError, match="choose another place"):
        export(folder, folder / WHOLE / "x", "huggingface")


def test_hubert_of_fairseq_goes_out_as_an_encoder(tmp_path, caplog):
    config = json.loads((GOLDEN / "fs_hubert_base" / "config.json").read_text())
    encoder = fairseq.encoder_config(config)
    tensors = load_file(GOLDEN / "fs_hubert_base" / WHOLE)
    variables = parameters(fairseq.rename(tensors, encoder, "hubert"), encoder, "hubert")
    described = {"kind": "hubert", "model": encoder.to_dict()}
    huggingface.write(tmp_path, variables, described)
    assert "label_embeddings, project_context are left out" in caplog.text
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["HubertModel"]
    again, found = huggingface.read(tmp_path)
    assert found["kind"] == "encoder"
    equal(again["params"]["encoder"], variables["params"]["encoder"])


def test_what_the_config_states_is_checked(directory, tmp_path):
    export(directory("ctc_conv_adapter"), tmp_path / "ours", "huggingface")
    config = load_exported(tmp_path / "ours")[1]
    assert (config["sample_rate"], config["frame_rate"], config["blank"]) == (16000, 12.5, 0)
    assert encoder_of(config, "x").frontend.normalize
    for key, value in (("sample_rate", 8000), ("frame_rate", 50.0), ("blank", 28)):
        with pytest.raises(UserError, match=f"x/config.json: {key} is {value!r}, but"):
            encoder_of(config | {key: value}, "x")


def test_a_short_config_means_the_usual_values():
    """Old configs lack keys, and so do those written as differences from the usual."""
    found = huggingface.encoder_config({"model_type": "wav2vec2", "hidden_dropout_prob": 0.3})
    usual = EncoderConfig(
        WaveformConfig(grad_mult=1.0, normalize_eps=1e-7), activation_dropout=0.1,
        dropout_input=0.0, layerdrop=0.1, padding_leaks=True,
    )  # fmt: skip
    assert found == usual
    conformer = huggingface.encoder_config({"model_type": "wav2vec2-conformer"})
    assert (conformer.positions.kind, conformer.block.kernel) == ("relative", 31)
    assert conformer.block.dropout == 0.1
    assert huggingface.quantizer_config({}) == QuantizerConfig(dropout=0.0)
    adapter = huggingface.encoder_config({"model_type": "wav2vec2", "add_adapter": True})
    assert (adapter.output.layers, adapter.output.stride, adapter.context_width) == (3, 2, 768)
    hubert = huggingface.encoder_config({"model_type": "hubert", "add_adapter": True})
    assert hubert.output.layers == 0


@pytest.mark.parametrize("normalize", [True, False, None])
def test_how_audio_is_scaled(directory, normalize):
    """transformers 5 keeps it in the processor's file; it normalises unless told not to."""
    folder = directory("w2v2_base_g2")
    (folder / "preprocessor_config.json").unlink()
    part = {} if normalize is None else {"do_normalize": normalize}
    whole = folder / "processor_config.json"
    whole.write_text(json.dumps({"feature_extractor": part, "processor_class": "x"}))
    assert huggingface.read(folder)[1]["model"]["frontend"]["normalize"] is (normalize is not False)
    whole.write_text(json.dumps({"feature_extractor": {"sampling_rate": 8000}}))
    with pytest.raises(UserError, match="8000 samples per second"):
        huggingface.read(folder)


def test_other_names_of_boundary_and_blank(directory):
    folder = directory("ctc_w2v2_base")
    letters = ["_", " ", *"abcdefghijklmnopqrstuvwxyz'"]
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(letters)}))
    with pytest.raises(UserError, match=r"vocab\.json.*'\|'"):
        huggingface.read(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"word_delimiter_token": " "}))
    assert huggingface.read(folder)[1]["alphabet"]["symbols"][:3] == ["<pad>", "|", "a"]


def test_shards(directory):
    folder = directory("w2v2_base_g2")
    whole = huggingface.read(folder)[0]
    tensors = load_file(folder / WHOLE)
    (folder / WHOLE).unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, folder / part)
    index = {name: part for part, inside in parts.items() for name in inside}
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    equal(whole, huggingface.read(folder)[0])


def test_a_blank_that_is_not_first_moves_there(directory):
    """Common fine-tunes have `|` at 0, `[PAD]` behind the letters and <s>, </s> added after it."""
    folder = directory("ctc_w2v2_base")
    before = huggingface.read(folder)[0]["params"]["head"]["kernel"]
    letters = "|ABCDEFGHIJKLMNOPQRSTUVWXY"
    vocabulary = {symbol: i for i, symbol in enumerate([*letters, "[PAD]"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "added_tokens.json").write_text(json.dumps({"<s>": 27, "</s>": 28}))
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": 26}
    (folder / "config.json").write_text(json.dumps(config))
    variables, found = huggingface.read(folder)
    symbols = found["alphabet"]["symbols"]
    assert symbols[:3] == ["[PAD]", "|", "A"]
    assert symbols[-1] == "</s>"
    kernel = variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :3], before[:, [26, 0, 1]])


def test_language_of_an_mms_model(directory, tmp_path):
    folder = directory("ctc_mms_adapter")
    english = huggingface.read(folder)[0]
    tensors = load_file(folder / WHOLE)
    part = {k: x + 1 for k, x in tensors.items() if "adapter_layer" in k}
    part |= {"lm_head.weight": np.ones((5, 32), np.float32), "lm_head.bias": np.ones(5, np.float32)}
    save_file(part, folder / "adapter.ces.safetensors")
    letters = {symbol: i for i, symbol in enumerate(["<pad>", "|", "a", "č", "ž"])}
    (folder / "vocab.json").write_text(json.dumps({"ces": letters, "eng": {"<pad>": 0}}))
    export(folder, tmp_path / "czech", "huggingface", language="ces")
    variables, config = load_exported(tmp_path / "czech")
    assert config["alphabet"]["symbols"] == list(letters)
    assert variables["params"]["head"]["kernel"].shape == (32, 5)
    blocks = [v["params"]["encoder"]["context"]["layers"]["block"] for v in (variables, english)]
    ours, old = (block["adapter"]["inner"]["kernel"] for block in blocks)
    np.testing.assert_array_equal(ours, old + 1)
    ours, old = (block["feed_forward"]["inner"]["kernel"] for block in blocks)
    np.testing.assert_array_equal(ours, old)
    with pytest.raises(UserError, match=r"adapter\.deu\.safetensors cannot be read"):
        huggingface.read(folder, "deu")
    with pytest.raises(UserError, match="is no name of a language"):
        huggingface.read(folder, "../eng")
    with pytest.raises(UserError, match="--language is of a model of transformers"):
        export(tmp_path / "czech", tmp_path / "x", language="ces")


def test_no_mask_embedding(directory, caplog):
    folder = directory("ctc_w2v2_base")
    tensors = load_file(folder / WHOLE)
    del tensors["wav2vec2.masked_spec_embed"]
    write(folder, tensors)
    embedding = huggingface.read(folder)[0]["params"]["encoder"]["mask_embedding"]
    assert 0 < embedding.min() < embedding.max() < 1
    assert "no masked_spec_embed" in caplog.text


def test_features_as_wide_as_the_model(tmp_path):
    """transformers always projects the features; ours does not between equal widths."""
    config = small.encoder(width=24)
    model = CTCModel(config, 32)
    audio = jnp.zeros((1, 4000), jnp.int16)
    variables = nn.meta.unbox(jax.jit(lambda: model.init(jax.random.key(0), audio))())
    described = {"kind": "ctc", "model": config.to_dict(), "alphabet": Alphabet.english().to_dict()}
    huggingface.write(tmp_path, variables, described)
    tensors = load_file(tmp_path / WHOLE)
    name = "wav2vec2.feature_projection.projection.weight"
    np.testing.assert_array_equal(tensors[name], np.eye(24))
    equal(variables["params"], huggingface.read(tmp_path)[0]["params"])
    tensors[name][0, 1] = 1
    write(tmp_path, tensors)
    with pytest.raises(UserError, match="only the identity"):
        huggingface.read(tmp_path)


def test_half_precision_becomes_float32(directory):
    folder = directory("ctc_mms_adapter")
    whole = huggingface.read(folder)[0]
    tensors = {k: jnp.asarray(x, jnp.bfloat16) for k, x in load_file(folder / WHOLE).items()}
    flax.save_file(tensors, folder / WHOLE)
    for x, y in zip(
        *(jax.tree.leaves(v) for v in (huggingface.read(folder)[0], whole)), strict=True
    ):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, y, rtol=2**-8)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("preprocessor_config.json", None, "preprocessor_config.json cannot be read"),
        ("vocab.json", {"eng": {"<pad>": 0}}, "name one with --language, such as eng"),
        ("vocab.json", {"<pad>": 0, "|": 1}, "no letter for any of the 29 outputs"),
        ("model.safetensors", None, "holds neither model.safetensors"),
        ("model.safetensors", "not tensors", "cannot be read"),
        ("vocab.json", {"<pad>": 0, "|": 1, "a": 2, "b": 29}, "without one of the 29 outputs"),
        (
            "vocab.json",
            {f"x{i}" if i else "<pad>": i for i in range(29)},
            "of several characters: x1",
        ),
        ("vocab.json", ["<pad>"], "no JSON object"),
        ("vocab.json", {"<pad>": None}, "does not number"),
        ("config.json", {"conv_dim": "x"}, "must be lists"),
        ("config.json", {"pad_token_id": 99}, "pad_token_id is 99; the model has 29 outputs"),
        ("config.json", {"hidden_size": 64}, "the tensors disagree"),
        ("config.json", {"num_attention_heads": 0}, "a value of the wrong kind"),
        ("config.json", {"adapter_kernel_size": 5}, "adapter_kernel_size is 5"),
        ("config.json", {"add_adapter": True}, r"missing: adapter\.layers\.0\.conv\.bias"),
        ("config.json", {"architectures": ["Wav2Vec2ForXVector"]}, "one must end with"),
    ],
)
def test_what_is_wrong_is_named(directory, file, change, words):
    path = directory("ctc_w2v2_base") / file
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        old = json.loads(path.read_text()) if file == "config.json" else None
        path.write_text(json.dumps(old | change if old else change))
    with pytest.raises(UserError, match=words):
        huggingface.read(path.parent)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block": {"kind": "conformer", "norm": "layer"}}, "model.block.norm is 'layer'"),
        ({"norm_order": "post"}, "model.norm_order is 'post'"),
        ({"positions": "conv"}, "no conv positions"),
        ({"positions": "sinusoidal"}, "no sinusoidal positions"),
        ({"block": {"kind": "conformer", "kernel": 32}}, "block.kernel is 32; .* only odd"),
        ({"block": {"kind": "conformer", "order": "parallel"}}, "block.order is 'parallel'"),
        ({"block": {"kind": "conformer", "residual": 1.0}}, "block.residual is 1.0; .* only 0.5"),
    ],
)
def test_what_transformers_cannot_express_is_named(directory, tmp_path, change, words):
    variables, config = huggingface.read(directory("conformer_rotary"))
    with pytest.raises(UserError, match=words):
        huggingface.write(tmp_path / "x", variables, config | {"model": config["model"] | change})


def test_even_kernels_are_of_no_published_conformer():
    """The sides on which their padding would stand are not known."""
    config = {"model_type": "wav2vec2-conformer", "conv_depthwise_kernel_size": 32}
    with pytest.raises(UserError, match="conv_depthwise_kernel_size is 32; it must be odd"):
        huggingface.encoder_config(config)
    config = {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "rel_pos"}
    with pytest.raises(UserError, match="depthwise_conv_kernel_size is 32, not odd"):
        fairseq.encoder_config(config | {"depthwise_conv_kernel_size": 32})


@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_it(directory, tmp_path, name):
    """Where torch and transformers are installed: no tensor missing or left over, same outputs."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    variables, config = huggingface.read(directory(name))
    huggingface.write(tmp_path / "out", variables, config)
    (architecture,) = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"]
    model, info = getattr(transformers, architecture).from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    # of training mode only where there is no other, and then nothing below depends on it
    path = min((GOLDEN / name).glob("*.npz"), key=lambda path: path.stem == "train")
    case, audio = dict(np.load(path)), np.load(GOLDEN / "audio.npz")
    kwargs = {}
    if "in/mask_time_indices" in case:
        kwargs["mask_time_indices"] = torch.tensor(case["in/mask_time_indices"])
    if str(case["in/audio"]) == "ragged":
        kwargs["attention_mask"] = torch.tensor(audio["ragged_mask"])
    waveform = torch.tensor(audio[str(case["in/audio"])])
    with torch.no_grad():
        found = model.eval()(waveform, output_hidden_states=True, **kwargs).hidden_states
    for i, x in enumerate(found):
        theirs = case[f"out/hidden_states.{i}"]
        assert np.abs(x.numpy() - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_transformers_reads_the_same_text(tmp_path, manifests):
    """Processor, tokenizer and model of what we write, against our own decoding."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    # without <s> and <unk>, which a random model writes, transformers prints and we drop
    config, alphabet = small.encoder(), Alphabet.from_letters("abcčdeéfghijklmnop'")
    model = CTCModel(config, len(alphabet))
    audio = jnp.zeros((1, 4000), jnp.int16)
    variables = nn.meta.unbox(jax.jit(lambda: model.init(jax.random.key(0), audio))())
    described = {"kind": "ctc", "model": config.to_dict(), "alphabet": alphabet.to_dict()}
    huggingface.write(tmp_path, variables, described)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    theirs = transformers.AutoModelForCTC.from_pretrained(tmp_path).eval()
    recognizer = Recognizer(config, alphabet)
    manifest = Manifest.read(manifests["test"])
    for i in range(4):
        audio = read(manifest.path(i))
        inputs = processor(audio / np.float32(32768), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            ids = theirs(inputs.input_values).logits.argmax(-1)
        text = recognizer.text(variables, audio)
        assert len(text) > 5
        assert " ".join(processor.batch_decode(ids)[0].split()) == text
