"""What a directory of transformers carries beside its model: tokens without outputs, outputs
without tokens, tensors of another head, older names."""

import itertools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import small
from w2v_jax import transcribe
from w2v_jax.errors import UserError
from w2v_jax.export import export
from w2v_jax.interop import huggingface
from w2v_jax.interop.huggingface_files import read_alphabet
from w2v_jax.interop.safetensors import WHOLE, write
from w2v_jax.models.catalogue import expected_shapes
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import load_exported

LETTERS = "|abcdefg'"
SPECIAL = {"special": True}


def model(folder, outputs: int = 11):
    """A directory of a small random model, [PAD] and [UNK] its last two outputs."""
    alphabet = Alphabet(("[PAD]", *LETTERS, "[UNK]"))
    encoder = small.encoder()
    config = {"kind": "ctc", "model": encoder.to_dict(), "alphabet": alphabet.to_dict()}
    rng = np.random.default_rng(0)
    params = expected_shapes(config)["params"]
    params["head"] = {"kernel": np.zeros((32, outputs)), "bias": np.zeros(outputs)}
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    huggingface.write(folder, {"params": params, "stats": {}}, config)
    return folder


def put(folder, name, content):
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def vocabulary(tokens) -> dict:
    return {token: i for i, token in enumerate(tokens)}


BASE = vocabulary([*LETTERS, "[UNK]", "[PAD]"])
DECODER = {"11": {"content": "<s>", **SPECIAL}, "12": {"content": "</s>", **SPECIAL}}
# name -> (outputs, vocab.json, other files, words of the log)
TOKENIZERS = {
    "plain": (11, BASE, {}, ""),
    "added_tokens.json": (11, BASE, {"added_tokens.json": {"<s>": 11, "</s>": 12}},
                          "ignored, as the model has 11 outputs: <s> (11), </s> (12)"),
    "added_tokens_decoder": (11, BASE, {"tokenizer_config.json": {"added_tokens_decoder": DECODER}},
                             "ignored, as the model has 11 outputs: <s> (11), </s> (12)"),
    "added tokens with outputs": (13, BASE, {"added_tokens.json": {"<s>": 11, "</s>": 12}}, ""),
    "more outputs": (16, BASE, {"added_tokens.json": {"<s>": 11}},
                     "ignored, outputs without a token: 12, 13, 14, 15"),
    "a hole": (12, {**vocabulary([*LETTERS, "[UNK]"]), "[PAD]": 11}, {},
               "ignored, outputs without a token: 10"),
    "names without brackets": (11, vocabulary([*LETTERS, "UNK", "PAD"]), {
        "tokenizer_config.json": {"pad_token": "PAD", "unk_token": {"content": "UNK"}}}, ""),
    "names in the map": (11, vocabulary([*LETTERS, "UNK", "PAD"]), {
        "special_tokens_map.json": {"pad_token": {"content": "PAD"}, "unk_token": "UNK"}}, ""),
    "another blank than the model says": (11, vocabulary([*LETTERS, "[PAD]", "[UNK]"]), {},
                                          "the blank is [PAD], output 9, as the tokenizer says"),
    "a token twice": (13, BASE, {"added_tokens.json": {"[UNK]": 11, "<s>": 12}}, ""),
}  # fmt: skip


def tokenizer(folder, name):
    outputs, ids, files, words = TOKENIZERS[name]
    put(folder, "vocab.json", ids)
    usual = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "unk_token": "[UNK]", "pad_token": "[PAD]",
             "bos_token": None, "eos_token": None}  # fmt: skip
    if "special_tokens_map.json" in files:
        usual = {"tokenizer_class": "Wav2Vec2CTCTokenizer"}
    put(folder, "tokenizer_config.json", usual)
    for file, content in files.items():
        put(folder, file, (usual | content) if file == "tokenizer_config.json" else content)
    return outputs, words


def their_text(ids, tokens: dict[int, str], pad: str) -> str:
    """The decoding of transformers' tokenizer without special tokens, as its code reads: ids to
    tokens, equal neighbours joined, the blank away, the delimiter a space."""
    joined = [token for token, _ in itertools.groupby(tokens.get(i, "[UNK]") for i in ids)]
    kept = [token for token in joined if token != pad and len(token) == 1]
    return " ".join("".join(kept).replace("|", " ").split())


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_and_outputs_are_decoded_as_theirs(tmp_path, caplog, name):
    outputs, words = tokenizer(tmp_path, name)
    ids = json.loads((tmp_path / "vocab.json").read_text())
    pad = next(token for token in ids if "PAD" in token)
    alphabet, order = read_alphabet(tmp_path, outputs, 10 + (name == "a hole"), "")
    assert words in caplog.text
    assert bool(words) == bool(caplog.text)
    tokens = {number: token for token, number in ids.items()}
    rng = np.random.default_rng(1)
    for _ in range(50):
        drawn = rng.integers(outputs, size=40)
        path = [i for i, _ in itertools.groupby(drawn)]
        assert alphabet.decode(path) == their_text(order[drawn].tolist(), tokens, pad)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "names" not in name])
def test_and_as_transformers_decodes(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    outputs, _ = tokenizer(tmp_path, name)
    theirs = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    alphabet, order = read_alphabet(tmp_path, outputs, 10, "")
    rng = np.random.default_rng(1)
    for _ in range(50):
        drawn = rng.integers(outputs, size=40)
        text = theirs.decode(order[drawn].tolist())
        for token in ("[UNK]", "<s>", "</s>"):  # printed there, dropped here
            text = text.replace(token, "")
        path = [i for i, _ in itertools.groupby(drawn)]
        assert alphabet.decode(path) == " ".join(text.split())


def test_a_bar_that_is_a_letter_is_refused(tmp_path):
    put(tmp_path, "vocab.json", vocabulary(["<pad>", "|", " ", "a"]))
    put(tmp_path, "tokenizer_config.json", {"word_delimiter_token": " "})
    with pytest.raises(UserError, match=r"has '\|' as a letter beside ' ', the word delimiter"):
        read_alphabet(tmp_path, 4, 0, "")


def test_letters_without_an_output_can_be_accepted(tmp_path, caplog):
    put(tmp_path, "vocab.json", vocabulary(["<pad>", "|", "a", "b", "c"]))
    with pytest.raises(UserError, match=r"without one of the 3 outputs .*: b, c; .*ignore_unknown"):
        read_alphabet(tmp_path, 3, 0, "")
    alphabet, _ = read_alphabet(tmp_path, 3, 0, "", ignore_unknown=True)
    assert alphabet.symbols == ("<pad>", "|", "a")
    assert "ignored, as the model has 3 outputs: b (3), c (4)" in caplog.text


def test_the_language_of_the_tokenizer_is_the_usual_one(tmp_path):
    ids = vocabulary(["<pad>", "|", "a"])
    put(tmp_path, "vocab.json", {"deu": vocabulary(["<pad>", "|", "ä"]), "eng": ids})
    put(tmp_path, "tokenizer_config.json", {"target_lang": "eng"})
    assert read_alphabet(tmp_path, 3, 0, "")[0].symbols == tuple(ids)
    assert read_alphabet(tmp_path, 3, 0, "deu")[0].symbols[2] == "ä"


def test_tensors(tmp_path, caplog):
    folder = model(tmp_path / "hub")
    whole = load_file(folder / WHOLE)
    mask = whole.pop("wav2vec2.masked_spec_embed")
    vector = np.zeros(3, np.float32)
    for name in ("wav2vec2.mask_time_emb_vector", "wav2vec2.mask_emb", "mask_emb"):
        write(folder, whole | {name: mask})
        found = huggingface.read(folder)[0]["params"]["encoder"]["mask_embedding"]
        np.testing.assert_array_equal(found, mask)
    assert not caplog.text
    # today's name counts where both are there
    write(folder, whole | {"wav2vec2.masked_spec_embed": mask, "wav2vec2.mask_emb": mask + 1})
    np.testing.assert_array_equal(
        huggingface.read(folder)[0]["params"]["encoder"]["mask_embedding"], mask
    )
    whole["wav2vec2.masked_spec_embed"] = mask

    heads = ("quantizer.codevectors", "quantizer.weight_proj.bias", "project_q.bias",
             "project_hid.weight")  # fmt: skip
    write(folder, whole | dict.fromkeys(heads, vector))
    huggingface.read(folder)
    assert f"of a head that this model does not have: {', '.join(sorted(heads))}" in caplog.text

    write(folder, whole | {"wav2vec2.encoder.layers.0.router.weight": vector})
    words = r"without a place: encoder\.layers\.0\.router\.weight; accept these with --ignore_unk"
    with pytest.raises(UserError, match=words):
        export(str(folder), str(tmp_path / "out"))
    with pytest.raises(UserError, match=words):
        transcribe.load(folder)
    export(str(folder), str(tmp_path / "out"), ignore_unknown=True)
    assert "ignored, unknown: encoder.layers.0.router.weight" in caplog.text
    np.testing.assert_array_equal(
        load_exported(tmp_path / "out")[0]["params"]["encoder"]["mask_embedding"], mask
    )


def test_tensors_of_other_shapes_are_named(tmp_path):
    folder = model(tmp_path / "hub")
    whole = load_file(folder / WHOLE)
    for change, words in (
        ({"lm_head.weight": np.zeros(3, np.float32)}, r"lm_head\.weight is \(3,\); expected are 2"),
        ({"wav2vec2.encoder.layers.1.layer_norm.bias": np.zeros(5, np.float32)},
         "attention_norm/bias has layers of several shapes"),
        ({"wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0":
          np.zeros((2, 1, 8), np.float32)}, r"is \(2, 1, 8\); expected are 3 axes, 0, 1 .* size 1"),
    ):  # fmt: skip
        write(folder, whole | change)
        with pytest.raises(UserError, match=words):
            huggingface.read(folder)
