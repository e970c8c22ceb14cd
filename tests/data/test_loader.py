import numpy as np
import pytest

from w2v_jax.audio.augment import rms
from w2v_jax.data.audio_files import Files
from w2v_jax.data.augmentation import DEFAULTS, Augmentation, open_augmentation
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, crop_buckets, pad_buckets
from w2v_jax.errors import UserError

KINDS = ("speed", "pitch", "reverb", "noise", "gain", "band", "drop")


@pytest.fixture(scope="module")
def corpus(manifests):
    return Corpus(Files(Manifest.read(manifests["dev"])), cache_bytes=10**8)


def loaders(corpus, crop=True, **probabilities):
    """(plan, plain loader, loader with the given augmentation)."""
    buckets = (crop_buckets if crop else pad_buckets)(
        corpus.lengths, [16_000, 32_000] if crop else [24_000, 200_000], 128_000, 2
    )
    settings = DEFAULTS | {f"{kind}_prob": prob for kind, prob in probabilities.items()}
    augmentation = Augmentation(settings, 3, corpus, corpus)
    plain = Loader(corpus, 3, crop=crop)
    changed = Loader(corpus, 3, crop=crop, views={"audio": augmentation})
    return BatchPlan(buckets, seed=3, num_steps=100), plain, changed


def rows(batch):
    return zip(batch["id"][0], batch["length"][0], batch["audio"][0], strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_share_asked_for(corpus, kind):
    plan, plain, changed = loaders(corpus, **{kind: 0.5})
    touched = []
    for step in range(8):
        before, after = plain(plan[step]), changed(plan[step])
        assert np.array_equal(before["id"], after["id"])
        assert np.array_equal(before["length"], after["length"]), "a crop stays full"
        touched += [
            not np.array_equal(a, b)
            for a, b in zip(before["audio"][0], after["audio"][0])  # noqa: B905
        ]
    assert 0.25 < np.mean(touched) < 0.75, np.mean(touched)
    assert len(touched) > 30


def test_augmentation_is_a_function_of_seed_step_and_item(corpus):
    plan, _, changed = loaders(corpus, **dict.fromkeys(KINDS, 0.5))
    first = [changed(plan[step]) for step in range(6)]
    for step in reversed(range(6)):
        again = changed(plan[step])
        assert all(np.array_equal(first[step][key], again[key]) for key in again)
    other = Augmentation(changed.views["audio"].settings, 4, corpus, corpus)
    assert not np.array_equal(
        Loader(corpus, 3, views={"audio": other})(plan[0])["audio"], first[0]["audio"]
    )


def test_streams_are_those_of_every_run_so_far(corpus):
    """Of the first view: another key would change what a run hears after it goes on."""
    augmentation = Augmentation(DEFAULTS | {"speed_prob": 0.5}, 3, corpus, corpus)
    for step, item in np.ndindex(9, 9):
        rng = np.random.default_rng([3, 5, 0, step, item])
        factor = rng.choice((0.9, 1.1)) if rng.random() < 0.5 else 1.0
        assert augmentation.speed(step, item) == factor


def test_noise_is_drawn_within_its_range(corpus):
    plan, plain, changed = loaders(corpus, noise=1.0)
    levels = []
    for step in range(8):
        for (_, _, a), (_, _, b) in zip(
            rows(plain(plan[step])), rows(changed(plan[step])), strict=True
        ):
            if not np.abs(b.astype(int)).max() < 32767:
                continue  # clipped
            levels.append(20 * np.log10(rms(a) / rms(b.astype(int) - a)))
    low, high = DEFAULTS["noise_snr_db"]
    assert low - 0.1 < min(levels) < low + 4
    assert high - 4 < max(levels) < high + 0.1


def test_speed_changes_the_length_of_whole_utterances_within_their_bucket(corpus):
    plan, plain, changed = loaders(corpus, crop=False, speed=1.0)
    factors = []
    for step in range(10):
        spec = plan[step]
        before, after = plain(spec), changed(spec)
        for (_, a, _), (_, b, audio) in zip(rows(before), rows(after), strict=True):
            factors.append(a / b)
            assert b == min(b, spec.samples)
            assert not audio[b:].any()
            assert np.abs(audio[b - 400 : b].astype(int)).max() > 0
    full = [f for f in factors if abs(f - 1.1) < 0.01 or abs(f - 0.9) < 0.01]
    assert len(full) > 0.7 * len(factors), "others would not fit their bucket"
    assert min(factors) > 0.89
    assert max(factors) < 1.11


def test_nothing_is_opened_where_nothing_is_on():
    assert open_augmentation(DEFAULTS, 0) is None


def test_noise_that_cannot_be_read_is_counted(corpus, tmp_path):
    (tmp_path / "0.wav").write_text("not audio")
    noise = Corpus(Files(Manifest(tmp_path, ["0.wav"], [16_000])))
    plan, plain, changed = loaders(corpus, noise=1.0)
    changed.views["audio"].recordings["noise"] = noise
    batch, problems = changed.load(plan[0])
    assert {(kind, item) for kind, item, _ in problems} == {("noise of audio", 0)}
    assert np.array_equal(batch["audio"], plain(plan[0])["audio"])
    with pytest.raises(UserError, match="1 of 1 audio files"):
        changed.note(problems)
