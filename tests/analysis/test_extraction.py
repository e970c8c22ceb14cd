"""Features are those of the model, of every recording by itself, of any length."""

import json
import shutil

import jax
import numpy as np
import pytest
import soundfile

from tests import small
from tests.reference import GOLDEN, case_arrays, hidden_states
from w2v_jax.analysis import layers, spectra
from w2v_jax.analysis.extraction import Features, Part, open_extractor
from w2v_jax.analysis.layers import ModelExtractor, alone, digest, random_variables
from w2v_jax.audio.layerwise_mel import layerwise_mel
from w2v_jax.audio.mfcc import mfcc
from w2v_jax.audio.waveform import AudioError, Recording, read
from w2v_jax.data.sources import Row, open_sources
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints, huggingface
from w2v_jax.models.encoder import Encoder, tap_widths
from w2v_jax.models.frontends.logmel import LogMelConfig
from w2v_jax.models.frontends.waveform import WaveformConfig
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import export_model
from w2v_jax.training.sharding import make_mesh

AUDIO = small.noise_batch(4, 40_000)["audio"][0]
RECORDINGS = [AUDIO[0], AUDIO[1, :17_000], AUDIO[2, :300], AUDIO[3, :0], AUDIO[3, 5_000:]]
LOGMEL = dict(kind="logmel", channels=8, projection=24)


def extractor(config, *, devices=1, taps=None, **options):
    mesh = make_mesh({"data": devices}, jax.devices()[:devices])
    widths = tap_widths(config)
    taps = {name: widths[name] for name in taps or widths}
    return ModelExtractor(config, random_variables(config, 0), taps, mesh=mesh, **options)


@pytest.fixture(scope="module")
def config():
    return small.encoder(frontend__normalize=True)


@pytest.fixture(scope="module")
def whole(config):
    """Every tap of every recording."""
    return list(extractor(config).many(RECORDINGS))


def close(found, expected, tolerance=1e-5):
    scale = max(np.abs(expected).max(initial=0), 1e-6)
    np.testing.assert_allclose(found, expected, atol=tolerance * scale)


def test_the_models_own_bits(config, whole):
    """Of the same batch: five rows in eight, at the length that the longest gets."""
    size = extractor(config)._padded_length(40_000)
    assert 40_000 <= size < 40_000 * 2**0.25 + 1
    length = np.zeros(8, np.int32)
    audio = np.zeros((8, size), np.int16)
    order = np.argsort([-len(x) for x in RECORDINGS], kind="stable")
    for row, i in enumerate(order):
        length[row] = len(RECORDINGS[i])
        audio[row, : length[row]] = RECORDINGS[i]
    names = hidden_states(config)
    run = jax.jit(lambda v, x, n: Encoder(alone(config)).apply(v, x, n, taps=names).taps)
    taps = run(random_variables(config, 0), audio, length)
    found = extractor(config, taps=names)
    features = list(found.many(RECORDINGS))
    for row, i in enumerate(order):
        count = found.frames(len(RECORDINGS[i]))
        for name in names:
            np.testing.assert_array_equal(features[i].arrays[name], taps[name][row, :count])


def test_each_as_alone(config, whole):
    """Without a length, or neighbours, or another device's part."""
    variables, names = random_variables(config, 0), tuple(tap_widths(config))
    run = jax.jit(lambda v, x: Encoder(config).apply(v, x, taps=names).taps)
    parallel = extractor(config, devices=4).many(RECORDINGS)
    for audio, found, other in zip(RECORDINGS, whole, parallel, strict=True):
        frames = config.frontend.frames(len(audio))
        assert found.times.shape == (frames,)
        for name in names:
            assert found.arrays[name].dtype == np.float32
            assert found.arrays[name].shape == (frames, tap_widths(config)[name])
            close(found.arrays[name], other.arrays[name])
        if not frames:
            continue
        taps = run(variables, audio[None])
        for name in names:
            if not name.startswith("conv_"):
                close(found.arrays[name], taps[name][0])


def test_times(config, whole):
    """The middle of a frame of the small convolutions: 345 samples every 320."""
    np.testing.assert_allclose(whole[0].times[:2], [172.5 / 16_000, 492.5 / 16_000])
    published = WaveformConfig()
    assert (published.middle, published.receptive_field) == (200, 400)
    assert LogMelConfig(**{"preset": "seamless", "subsampling": "stack"}).middle == 280
    assert LogMelConfig().middle == 201
    assert LogMelConfig(preset="whisper").middle == 0


def test_convolutions_are_averaged_over_what_a_frame_sees(config, whole):
    """Of the published convolutions those are 79, 39, 19, 9, 4, 2 and 1, as in the analyses of
    Pasad et al., every 20 ms instead of every 10."""
    published = WaveformConfig()
    for i, size in enumerate((79, 39, 19, 9, 4, 2, 1), start=1):
        x = np.zeros((1, 20_000, 1), np.float32)
        below = WaveformConfig(conv_layers=published.conv_layers[:i])
        x[0, : below.frames(16_000), 0] = np.arange(below.frames(16_000))
        found = published.pooled(f"conv_{i}", x[:, : below.frames(16_000)], None)
        assert found.shape == (1, 49, 1)
        hop = 320 // below.stride
        np.testing.assert_allclose(
            found[0, :, 0], hop * np.arange(49) + (size - 1) / 2, rtol=1e-5, err_msg=str(i)
        )
    np.testing.assert_array_equal(
        whole[0].arrays[f"conv_{len(config.frontend.conv_layers)}"],
        whole[0].arrays["raw_features"],
    )
    variables = random_variables(config, 0)
    taps = Encoder(config).apply(variables, AUDIO[1:2, :17_000], taps=("conv_1",)).taps
    fine, short = np.asarray(taps["conv_1"][0]), whole[1].arrays["conv_1"]
    size = (345 - 10) // 5 + 1
    for t in (0, 7, len(short) - 1):
        close(short[t], fine[64 * t : 64 * t + size].mean(0))


@pytest.mark.parametrize("subsampling", ["conv", "stack"])
def test_a_spectrum_is_averaged_over_what_a_frame_sees(subsampling):
    config = small.encoder(frontend=LOGMEL | {"subsampling": subsampling})
    found = list(extractor(config, taps=("spectrum", "hidden_1")).many(RECORDINGS))
    for audio, features in zip(RECORDINGS, found, strict=True):
        frames = config.frontend.frames(len(audio))
        assert len(features.arrays["spectrum"]) == len(features.arrays["hidden_1"]) == frames
        if not frames:
            continue
        mel = np.asarray(config.frontend.spectrum(audio[None])[0][0])
        for t in (0, 1, frames - 1):
            seen = mel[max(4 * t - 3, 0) : 4 * t + 4] if subsampling == "conv" else (
                mel[2 * t : 2 * t + 2])  # fmt: skip
            close(features.arrays["spectrum"][t], seen.mean(0))


def test_windows(config, monkeypatch):
    """Frames of a long recording are those of the window they stand in; none is lost."""
    monkeypatch.setattr(layers, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(layers, "CONTEXT_SECONDS", 0.2)
    found = extractor(config, taps=("hidden_2",), batch_seconds=1.0)
    for samples in (16_000, 16_001, 25_599, 25_600, 38_765, 40_000):
        audio = AUDIO[0, :samples]
        features = found(audio)
        frames = config.frontend.frames(samples)
        assert features.arrays["hidden_2"].shape == (frames, 32)
        assert features.times.shape == (frames,)
        for start, left, right in ((0, 0, 40), (9_600, 10, 40)):
            if start + 16_000 < samples:
                part = found(audio[start : start + 16_000]).arrays["hidden_2"][left:right]
                first = start // 320 + left
                close(features.arrays["hidden_2"][first : first + len(part)], part)
    parts = list(found.parts([AUDIO[0], AUDIO[1, :8_000]]))
    assert {part.recording for part in parts} == {0, 1}
    assert all(len(part.arrays["hidden_2"]) <= 50 for part in parts)
    covered = np.sort(np.concatenate(
        [np.arange(p.first, p.first + len(p.arrays["hidden_2"])) for p in parts if not p.recording]
    ))  # fmt: skip
    np.testing.assert_array_equal(covered, np.arange(config.frontend.frames(40_000)))


class Cut(Recording):
    """Of which a part in the middle cannot be read."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, part):
        if part.start < 100_000 < part.stop:
            raise AudioError("cut.wav: damaged")
        return self.samples[part]


def test_what_cannot_be_read_keeps_its_place(config, monkeypatch, tmp_path):
    monkeypatch.setattr(layers, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(layers, "CONTEXT_SECONDS", 0.2)
    soundfile.write(tmp_path / "a.wav", AUDIO[1], 16_000)
    (tmp_path / "b.wav").write_text("no audio")
    recordings = [
        Recording(tmp_path / "a.wav"), Recording(tmp_path / "b.wav"), Cut(AUDIO.ravel()), AUDIO[2],
        AUDIO[3, :0], Recording(tmp_path / "c.wav"),
    ]  # fmt: skip
    for found in (extractor(config, taps=("hidden_2",), batch_seconds=1.0), open_extractor("mfcc")):
        features = list(found.many(recordings))
        kinds = [type(x) for x in features]
        assert kinds == [Features, AudioError, AudioError, Features, Features, AudioError]
        assert "c.wav: no such file" in str(features[-1])
        (tap,) = found.taps
        close(features[0].arrays[tap], found(AUDIO[1]).arrays[tap])
        close(features[3].arrays[tap], found(AUDIO[2]).arrays[tap])
        with pytest.raises(AudioError, match=r"b\.wav"):
            found(tmp_path / "b.wav")
        parts = list(found.parts(recordings))
        numbers = [x.recording if isinstance(x, Part) else x[0] for x in parts]
        assert set(numbers) == set(range(6))
        of_cut = [x for x, number in zip(parts, numbers, strict=True) if number == 2]
        assert [isinstance(x, Part) for x in of_cut] == [True] * (len(of_cut) - 1) + [False]
        assert (len(of_cut) > 2) == (found.stride == 320)  # windows came before


@pytest.mark.parametrize("name", ["mfcc", "mel"])
def test_spectra_in_parts_are_the_whole(name, monkeypatch, manifests):
    """To the bit, but for rounding of samples into float."""
    function = {"mfcc": mfcc, "mel": layerwise_mel}[name]
    expected = function(AUDIO[0])
    monkeypatch.setattr(spectra, "CHUNK", 37)
    found = open_extractor(name)
    features = found(AUDIO[0])
    np.testing.assert_allclose(features.arrays[name], expected, atol=1e-5)
    assert found.taps == {name: expected.shape[1]}
    assert found.frames(40_000) == len(expected) == len(features.times)
    middle = 0.0125 if name == "mfcc" else 0.0
    np.testing.assert_allclose(features.times[:2], [middle, middle + 0.01])
    source = open_sources(manifests["dev"])[0]
    row, path = Row(source, 0), source.manifest.path(0)
    np.testing.assert_allclose(
        next(iter(found.many([row]))).arrays[name], function(read(path)), atol=1e-5
    )
    assert list(found.many([])) == []


def exported(folder, config, seed=0, kind="encoder"):
    variables = {name: {"encoder": tree} for name, tree in random_variables(config, seed).items()}
    export_model(folder, variables, {"kind": kind, "model": config.to_dict()})
    return str(folder)


def test_heads_are_dropped(checkpoint):
    """Of a CTC model its encoder, which is told from others by its weights and what it is."""
    found = open_extractor(checkpoint, ("hidden_1", "features"))
    variables, _ = checkpoints.load(checkpoint, "ctc")
    encoder = small.encoder()
    params = {kind: tree.get("encoder", {}) for kind, tree in variables.items()}
    assert found.description == {
        "extractor": "model", "digest": digest(params, encoder), "normalize": False,
        "source": checkpoint,
    }  # fmt: skip
    assert list(found.taps.items()) == [("features", 24), ("hidden_1", 32)]
    taps = jax.jit(
        lambda x: Encoder(encoder).apply(params, x, taps=("hidden_1",)).taps["hidden_1"]
    )(AUDIO[:1])
    close(found(AUDIO[0]).arrays["hidden_1"], taps[0])
    close(found(AUDIO[0] / 32768).arrays["hidden_1"], taps[0])
    assert list(open_extractor(checkpoint).taps) == ["hidden_0", "hidden_1", "hidden_2"]
    assert list(open_extractor(checkpoint, ["conv_*"]).taps) == [f"conv_{i}" for i in range(1, 5)]


def test_digests(tmp_path, checkpoint):
    """Of what is computed, wherever it lies."""
    one = exported(tmp_path / "one", small.encoder())
    paths = [one, exported(tmp_path / "two", small.encoder(), 1)]
    paths.append(exported(tmp_path / "three", small.encoder(frontend__normalize=True)))
    digests = [open_extractor(path).description["digest"] for path in paths]
    assert len(set(digests)) == 3
    shutil.move(one, tmp_path / "moved")
    assert open_extractor(tmp_path / "moved").description["digest"] == digests[0]
    spectra = {open_extractor(name).description["digest"] for name in ("mfcc", "mel")}
    assert len(spectra) == 2


def test_random_weights(checkpoint):
    """Of the same architecture; a seed says which."""
    trained = open_extractor(checkpoint, ("hidden_2",))
    floor = [open_extractor(checkpoint, ("hidden_2",), random_weights=seed) for seed in (1, 1, 2)]
    assert floor[0].description["random"] == 1
    assert "random" not in trained.description
    digests = [x.description["digest"] for x in (trained, *floor)]
    assert digests[1] == digests[2]
    assert len(set(digests)) == 3
    a, b, c = (x(AUDIO[0]).arrays["hidden_2"] for x in floor)
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.1
    with pytest.raises(UserError, match="mfcc has no weights"):
        open_extractor("mfcc", random_weights=0)


def test_a_directory_of_transformers(tmp_path):
    """hidden_N is hidden_states[N] of transformers, of pre-norm models too; the samples there are
    no int16, so a digit fewer agrees."""
    golden = GOLDEN / "ctc_mms_adapter"
    folder = tmp_path / "model"
    shutil.copytree(golden, folder, ignore=shutil.ignore_patterns("*.npz"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    symbols = Alphabet.english().symbols[:size]
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(symbols)}))
    found = open_extractor(folder)
    audio = np.load(GOLDEN / "audio.npz")["ragged_raw"][0]
    arrays = found(audio).arrays
    assert list(arrays) == [f"hidden_{i}" for i in range(4)]
    for i in range(4):
        expected = case_arrays(golden / "padded.npz")[f"out/hidden_states.{i}"][0]
        close(arrays[f"hidden_{i}"], expected, 3e-3)
    huggingface.write(tmp_path / "again", *checkpoints.load(folder))
    again = open_extractor(tmp_path / "again")
    assert again.description["digest"] == found.description["digest"]


def test_a_run_and_a_model_with_batch_norm(tmp_path):
    """Statistics come along."""
    config = small.encoder(block="conformer", positions="relative", norm_order="pre")
    found = open_extractor(exported(tmp_path / "model", config), ("hidden_2",))
    alone = [found(audio).arrays["hidden_2"] for audio in RECORDINGS]
    for one, features in zip(alone, found.many(RECORDINGS), strict=True):
        close(features.arrays["hidden_2"], one)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (("hidden_9",), r"has no hidden_9; it has raw_features, features, projected, "
                        r"hidden_0 to hidden_2, feed_forward_1 to feed_forward_2, "
                        r"conv_1 to conv_4"),
        (("context", "hidden_1"), "has no context; it has"),
        ("hidden_1", r"taps is 'hidden_1'; it must be names in a tuple, \('hidden_1',\)"),
    ],
)  # fmt: skip
def test_a_tap_that_there_is_not(checkpoint, taps, message):
    with pytest.raises(UserError, match=message):
        open_extractor(checkpoint, taps)


def test_other_errors(checkpoint, tmp_path):
    for seconds in (10.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match=f"--batch_seconds={seconds:g} must be .* at least 100"):
            open_extractor(checkpoint, batch_seconds=seconds)
    with pytest.raises(UserError, match="mfcc has no hidden_6; it has mfcc"):
        open_extractor("mfcc", ("hidden_6",))
    with pytest.raises(UserError, match="does not exist; a checkpoint is"):
        open_extractor(tmp_path / "nothing")
    found = open_extractor("mel")
    with pytest.raises(UserError, match="shape"):
        found(AUDIO[None])
    with pytest.raises(UserError, match="dtype"):
        found(AUDIO[0].astype(np.int32))


def test_batches_are_cut_by_length(config):
    """As much audio as asked for, whatever the lengths; few shapes."""
    found = extractor(config, taps=("hidden_0",))
    rng = np.random.default_rng(0)
    shapes, heard = set(), 0
    lengths = rng.integers(8_000, 320_000, 500)
    windows = found._windows(np.zeros(n, np.int16) for n in lengths)
    batches = list(found._batches([(window, None) for window in windows]))
    for batch in batches:
        size = found._padded_length(batch[0][0].samples)
        assert size >= batch[0][0].samples >= batch[-1][0].samples
        assert size * len(batch) <= found._batch
        shapes.add(size)
        heard += sum(window.samples for window, _ in batch)
    assert heard == lengths.sum()
    assert len(shapes) <= 22
    padded = sum(found._padded_length(batch[0][0].samples) * len(batch) for batch in batches)
    assert heard / padded > 0.85
