"""data2vec's models: directories of transformers' Data2VecAudio, in and out.

The expected numbers are what transformers 5.24 gives for weights that a formula draws.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import drawn, small
from w2v_jax.configs import finetune
from w2v_jax.errors import UserError
from w2v_jax.interop import huggingface
from w2v_jax.interop.exported import encoder_of
from w2v_jax.interop.safetensors import WHOLE
from w2v_jax.models.catalogue import expected_shapes
from w2v_jax.models.encoder import Encoder
from w2v_jax.tasks import make_task

TINY = {
    "model_type": "data2vec-audio", "architectures": ["Data2VecAudioModel"], "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": [16] * 7, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
SAMPLES = 8_000


def mesh():
    return jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"))


PLAIN = {"preprocessor_config": {"do_normalize": False}}


def test_the_encoder_of_transformers(tmp_path):
    folder, tensors = drawn.write_directory(tmp_path / "x", TINY, "", SAMPLES, **PLAIN)
    assert len(tensors) == 66
    variables, config = huggingface.read(folder)
    audio = np.sin(0.05 * np.arange(SAMPLES, dtype=np.float32))[None]
    inner = {"params": variables["params"]["encoder"]}
    y = np.asarray(Encoder(encoder_of(config, folder)).apply(inner, jnp.asarray(audio)).context)
    assert y.shape == (1, 24, 32)
    np.testing.assert_allclose(y[0, 0, :4], [-0.18156, -0.77306, -0.24180, 1.57992], atol=2e-5)
    np.testing.assert_allclose(y[0, -1, :4], [-0.26811, -0.65552, -0.67062, 0.02692], atol=2e-5)
    assert np.abs(y).sum() == pytest.approx(621.905, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "prefix"),
    [
        ({}, ""),
        ({"architectures": ["Data2VecAudioForCTC"], "vocab_size": 32}, "data2vec_audio."),
        ({"conv_bias": True, "add_adapter": True, "num_adapter_layers": 1}, ""),
    ],
)
def test_round_trip(tmp_path, change, prefix):
    symbols = {x: i for i, x in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCF"
                                           "GYPBVK'XJQZ"))}  # fmt: skip
    folder, _ = drawn.write_directory(
        tmp_path / "x", TINY | change, prefix, SAMPLES, vocab=symbols, **PLAIN
    )
    variables, config = huggingface.read(folder)
    huggingface.write(tmp_path / "y", variables, config)
    theirs, ours = (load_file(f / WHOLE) for f in (folder, tmp_path / "y"))
    assert theirs.keys() == ours.keys()
    for name, x in theirs.items():
        np.testing.assert_array_equal(ours[name], x)
    written = json.loads((tmp_path / "y/config.json").read_text())
    for key, value in (TINY | change).items():
        assert written[key] == value, key


def test_what_their_class_ignores():
    """It has layer norms in all convolutions and post-norm blocks, whatever config.json says."""
    odd = {"feat_extract_norm": "group", "do_stable_layer_norm": True, "conv_pos_batch_norm": True}
    assert huggingface.encoder_config(TINY | odd) == huggingface.encoder_config(TINY)


@pytest.mark.parametrize(("size", "count"), [("base", 93_164_288), ("large", 313_276_416)])
def test_published_sizes(size, count):
    """Parameters of transformers' Data2VecAudioModel, its mask vector included."""
    config = finetune.get_config(f"split=10h,size=data2vec_{size}")
    shapes = expected_shapes({"kind": "encoder", "model": config.model.to_dict()})
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_a_pre_trained_one_is_written(tmp_path, caplog):
    """The encoder alone, named what it is by its positions."""
    task = make_task(small.data2vec(frontend__norm="layer"))
    variables = jax.device_get(small.build(task, mesh())[0].variables)
    huggingface.write(tmp_path / "x", variables, task.described())
    assert "no head for data2vec: regression are left out" in caplog.text
    again, config = huggingface.read(tmp_path / "x")
    assert config["kind"] == "encoder"
    assert json.loads((tmp_path / "x/config.json").read_text())["model_type"] == "data2vec-audio"
    expected = {"encoder": variables["params"]["encoder"]}
    jax.tree.map(np.testing.assert_array_equal, again["params"], expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frontend__norm": "group"}, "frontend.norm is 'group'"),
        ({"norm_order": "pre"}, "norm_order is 'pre'"),
        ({"positions__activation": "relu"}, "positions.activation is 'relu'"),
        ({"block": "conformer"}, "no conv_stack positions in a conformer"),
    ],
)
def test_what_transformers_cannot_express_is_named(tmp_path, change, words):
    model = small.data2vec(**({"frontend__norm": "layer"} | change)).model.to_dict()
    with pytest.raises(UserError, match=words):
        huggingface.write(tmp_path / "y", {}, {"kind": "encoder", "model": model})


def test_a_quantizer_is_not_expressed(tmp_path):
    model = small.data2vec(frontend__norm="layer").model.to_dict()
    with pytest.raises(UserError, match="no quantizer"):
        huggingface.write(tmp_path / "y", {}, {"kind": "wav2vec2", "model": model})


def test_fine_tuning_starts_from_it(tmp_path):
    """Of the size that configs/finetune.py knows, small: all of the encoder is taken over."""
    heard = {"preprocessor_config": {"do_normalize": True}}
    folder, _ = drawn.write_directory(tmp_path / "x", TINY, "", SAMPLES, **heard)
    config = finetune.get_config("split=10h,size=data2vec_base")
    config.model.update(width=32, num_layers=2, num_heads=4, feed_forward=64)
    config.model.positions.update(layers=3, kernel=5, groups=2)
    frontend = config.model.frontend
    frontend.conv_layers = tuple((16, *layer[1:]) for layer in frontend.conv_layers)
    config.run.init_from = str(folder)
    task = make_task(config)
    state = task.begin(small.build(task, mesh())[0])
    expected = huggingface.read(folder)[0]["params"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params["encoder"]), expected)
