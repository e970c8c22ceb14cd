"""w2v-BERT 2.0: directories of transformers' Wav2Vec2Bert, in and out.

The expected numbers are what transformers 5.24 gives for weights and features that a formula draws.
"""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import drawn, small
from w2v_jax.configs import common, finetune
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints, huggingface
from w2v_jax.interop.huggingface_tensors import restore, slots
from w2v_jax.interop.safetensors import WHOLE
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.frontends.logmel import LogMel
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.tasks import make_task
from w2v_jax.text.alphabet import Alphabet

TINY = {
    "model_type": "wav2vec2-bert", "architectures": ["Wav2Vec2BertModel"], "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "left_max_position_embeddings": 6, "right_max_position_embeddings": 2,
    "conv_depthwise_kernel_size": 5,
}  # fmt: skip
ADAPTER = {"add_adapter": True, "num_adapter_layers": 1}
EXTRACTOR = {
    "feature_extractor_type": "SeamlessM4TFeatureExtractor", "feature_size": 80,
    "num_mel_bins": 80, "stride": 2, "sampling_rate": 16000, "padding_value": 1,
}  # fmt: skip
# 20 frames of 20 ms, and 13
SAMPLES, SHORT = 400 + 39 * 160, 400 + 25 * 160


def write_directory(folder, config, prefix="", **files):
    """A model directory of weights that a formula draws."""
    files = {"preprocessor_config": EXTRACTOR} | files
    return drawn.write_directory(folder, config, prefix, SAMPLES, **files)


def outputs(folder, features, length):
    """Context of given features, fed in where the front end's would be."""
    variables, config = huggingface.read(folder)
    encoder = EncoderConfig.from_dict(config["model"])

    def fed(call, args, kwargs, context):
        if isinstance(context.module, LogMel) and context.method_name == "__call__":
            return features
        return call(*args, **kwargs)

    with nn.intercept_methods(fed):
        audio = jnp.zeros((len(features), SAMPLES), jnp.int16)
        out = Encoder(encoder).apply({"params": variables["params"]["encoder"]}, audio, length)
    return np.asarray(out.context), None if length is None else np.asarray(out.length)


FEATURES = np.cos(0.01 * np.arange(2 * 20 * 160)).reshape(2, 20, 160).astype(np.float32)


def test_the_encoder_of_transformers(tmp_path):
    folder, tensors = write_directory(tmp_path / "x", TINY)
    assert len(tensors) == 69
    y, frames = outputs(folder, FEATURES, jnp.array([SAMPLES, SHORT]))
    assert list(frames) == [20, 13]
    np.testing.assert_allclose(y[0, 0, :4], [0.67958, 1.22260, -0.01397, -1.72076], atol=2e-5)
    np.testing.assert_allclose(y[0, -1, :4], [1.50227, -1.12094, 1.30511, -1.30767], atol=2e-5)
    assert np.abs(y[0]).sum() == pytest.approx(539.623, abs=1e-3)
    np.testing.assert_allclose(y[1, 12, :4], [1.81484, 0.01336, 0.74205, -1.63196], atol=2e-5)
    assert np.abs(y[1, :13]).sum() == pytest.approx(347.432, abs=1e-3)


def test_its_adapter(tmp_path):
    folder, tensors = write_directory(tmp_path / "x", TINY | ADAPTER)
    assert len(tensors) == 91
    y, _ = outputs(folder, FEATURES, None)
    assert y.shape == (2, 10, 32)
    np.testing.assert_allclose(y[0, 0, :4], [0.07628, 0.00748, 0.03054, -0.07870], atol=2e-5)
    np.testing.assert_allclose(y[0, -1, :4], [0.14175, 0.06053, -0.11719, -0.06952], atol=2e-5)
    assert np.abs(y[0]).sum() == pytest.approx(23.434, abs=1e-3)


@pytest.mark.parametrize(
    ("architecture", "change", "count"),
    [
        ("Wav2Vec2BertModel", {}, 580_493_120),
        ("Wav2Vec2BertForCTC", {"vocab_size": 32} | ADAPTER, 605_711_200),
    ],
)
def test_parameter_counts_of_the_published_size(architecture, change, count):
    config = {"model_type": "wav2vec2-bert", "architectures": [architecture]} | change
    encoder = huggingface.encoder_config(config)
    make = CTCModel(encoder, 32) if "vocab_size" in change else Encoder(encoder)
    audio = jnp.zeros((1, SAMPLES), jnp.int16)
    shapes = jax.eval_shape(lambda: make.init(jax.random.key(0), audio))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
    ours = EncoderConfig.from_dict(common.model("w2v_bert_2"))
    assert change or not ours.changes(encoder)


LETTERS = Alphabet.english().symbols
VOCABULARY = {symbol: i for i, symbol in enumerate(LETTERS)}
CTC = TINY | {
    "architectures": ["Wav2Vec2BertForCTC"], "vocab_size": len(LETTERS), "pad_token_id": 0,
    "final_dropout": 0.25,
}  # fmt: skip


OTHERS = pytest.mark.parametrize(
    "change",
    [
        {}, ADAPTER | {"num_adapter_layers": 2, "output_hidden_size": 24},
        {"position_embeddings_type": "relative"}, {"position_embeddings_type": "rotary"},
        {"position_embeddings_type": None},
    ],
    ids=["shaw", "adapter", "relative", "rotary", "none"],
)  # fmt: skip


@OTHERS
def test_round_trip(tmp_path, change):
    """ours -> transformers -> ours is bitwise, and so is theirs -> ours -> theirs."""
    folder, _ = write_directory(tmp_path / "in", CTC | change, "wav2vec2_bert.", vocab=VOCABULARY)
    variables, config = checkpoints.load(folder, "ctc")
    huggingface.write(tmp_path / "out", variables, config)
    again, config_again = huggingface.read(tmp_path / "out")
    assert config == config_again
    jax.tree.map(np.testing.assert_array_equal, variables, again)
    theirs, ours = load_file(folder / WHOLE), load_file(tmp_path / "out" / WHOLE)
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        np.testing.assert_array_equal(ours[name], x)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    clipped = {"left_max_position_embeddings", "right_max_position_embeddings"}
    unsaid = clipped if "position_embeddings_type" in change else set()
    given = {key: x for key, x in (CTC | change).items() if key not in unsaid}
    assert written == written | given
    extractor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert extractor == extractor | EXTRACTOR
    assert not config["model"]["padding_leaks"]
    assert config["final_dropout"] == 0.25


def test_the_preprocessor_says_how_many_frames_stand_side_by_side(tmp_path):
    extractor = EXTRACTOR | {"num_mel_bins": 40, "stride": 4}
    folder, _ = write_directory(
        tmp_path / "x", CTC, "wav2vec2_bert.", vocab=VOCABULARY, preprocessor_config=extractor
    )
    frontend = EncoderConfig.from_dict(huggingface.read(folder)[1]["model"]).frontend
    assert (frontend.mels, frontend.stack, frontend.width, frontend.stride) == (40, 4, 160, 640)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config", {"use_intermediate_ffn_before_adapter": True},
         "use_intermediate_ffn_before_adapter is True; only False is supported"),
        ("config", {"adapter_act": "gelu"}, "adapter_act is 'gelu'; only 'relu'"),
        ("config", {"adapter_stride": 3}, "adapter_stride is 3; only 2"),
        ("config", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06; only 1e-05"),
        ("config", {"hidden_act": "mish"}, "hidden_act is 'mish'; it must be one of"),
        ("config", {"position_embeddings_type": "absolute"}, "must be one of relative_key"),
        ("config", {"architectures": ["Wav2Vec2BertForXVector"]}, "one must end with"),
        ("config", {"architectures": ["Wav2Vec2BertForPreTraining"]}, "one must end with"),
        ("config", {"feature_projection_input_dim": 80}, "times stride 2 .* 80 of config"),
        ("preprocessor_config", {"num_mel_bins": 128}, "num_mel_bins 128 times stride 2"),
        ("preprocessor_config", {"feature_extractor_type": "WhisperFeatureExtractor"},
         "'WhisperFeatureExtractor', not SeamlessM4TFeatureExtractor"),
        ("preprocessor_config", {"sampling_rate": 8000}, "8000 samples per second"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, file, change, words):
    folder, _ = write_directory(tmp_path / "x", CTC, "wav2vec2_bert.", vocab=VOCABULARY)
    path = folder / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        huggingface.read(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frontend": {"kind": "logmel", "preset": "google"}}, "frontend.preset is 'google'"),
        ({"block": {"kind": "conformer", "norm": "layer"}}, "causal_convolution is False"),
        ({"norm_order": "pre"}, "norm_order is 'pre'"),
        ({"positions": "sinusoidal"}, "no sinusoidal positions"),
        ({"output": "strided"}, "takes model.output.kind=attentive"),
        ({"frontend": "waveform"}, "no shaw positions in a conformer"),
    ],
)
def test_what_transformers_cannot_express_is_named(tmp_path, change, words):
    folder, _ = write_directory(tmp_path / "x", CTC, "wav2vec2_bert.", vocab=VOCABULARY)
    variables, config = huggingface.read(folder)
    with pytest.raises(UserError, match=words):
        huggingface.write(tmp_path / "y", variables, config | {"model": config["model"] | change})
    encoder = config["model"]
    with pytest.raises(UserError, match="no pre-training head"):
        huggingface.write(tmp_path / "y", variables, {"kind": "wav2vec2", "model": encoder})


def test_attention_on_top_of_a_waveform_model_is_named(tmp_path):
    config = {"kind": "encoder", "model": small.encoder(output="attentive").to_dict()}
    with pytest.raises(UserError, match=r"model\.output\.kind is 'attentive'; .* only 'strided'"):
        huggingface.write(tmp_path / "y", {}, config)


def test_fine_tuning_starts_from_it(tmp_path):
    """Of the size that configs/finetune.py knows, small: all of the encoder is taken over."""
    folder, _ = write_directory(tmp_path / "x", TINY)
    config = finetune.get_config("split=10h,size=w2v_bert_2")
    config.model.update(width=32, num_layers=2, num_heads=4, feed_forward=64)
    config.model.positions.update(left=6, right=2)
    config.model.block.kernel = 5
    config.model.frontend.update(channels=32, projection=32)
    config.run.init_from = str(folder)
    task = make_task(config)
    state, _ = small.build(task, small_mesh())
    state = task.begin(state)
    expected = huggingface.read(folder)[0]["params"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params["encoder"]), expected)


def small_mesh():
    return jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"))


@OTHERS
def test_transformers_loads_it(tmp_path, change):
    """Where torch and transformers are installed: logits of padded rows from audio, and the
    gradients of all parameters."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder, _ = write_directory(tmp_path / "in", CTC | change, "wav2vec2_bert.", vocab=VOCABULARY)
    variables, config = huggingface.read(folder)
    huggingface.write(tmp_path / "out", variables, config)
    model, info = transformers.Wav2Vec2BertForCTC.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    audio = [small.noise_batch(1, n, seed=n)["audio"][0, 0] for n in (16_000, 11_000)]
    given = processor(
        [x.astype(np.float32) / 32768 for x in audio], sampling_rate=16_000, return_tensors="pt"
    )
    theirs = model.eval()(**given).logits
    rows = np.stack([np.pad(x, (0, 16_000 - len(x))) for x in audio])
    encoder = EncoderConfig.from_dict(config["model"])
    ctc, length = CTCModel(encoder, len(LETTERS)), jnp.array([16_000, 11_000])
    logits, frames = ctc.apply(variables, rows, length)
    heard = encoder.context_frames(given["attention_mask"].sum(1).numpy())
    np.testing.assert_array_equal(frames, heard)
    # the convolutions of its adapter see the padding: the last two frames of two layers
    heard = heard - [0, 2 * ("add_adapter" in change)]
    for ours, reference, count in zip(logits, theirs.detach().numpy(), heard, strict=True):
        close(ours[:count], reference[:count], 1e-4)

    weights = np.sin(np.arange(heard[0] * len(LETTERS), dtype=np.float32)).reshape(heard[0], -1)
    (theirs[0] * torch.tensor(weights)).sum().backward()
    params = jax.jit(jax.grad(
        lambda p: (ctc.apply({"params": p}, rows, length)[0][0] * weights).sum()
    ))(variables["params"])  # fmt: skip
    table = slots(encoder, "ctc")
    for name, x in model.named_parameters():
        slot = table[name.removeprefix("wav2vec2_bert.")]
        if slot.path[-1] != "mask_embedding" and not name.endswith("linear_k.bias"):
            ours = functools.reduce(lambda tree, key: tree[key], slot.path[1:], params)
            ours = ours if slot.layer is None else ours[slot.layer]
            close(restore(np.asarray(ours), slot.axes), x.grad.numpy(), 1e-3)


def close(ours, theirs, tolerance):
    assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()
