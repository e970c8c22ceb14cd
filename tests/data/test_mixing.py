import numpy as np
import pytest

from w2v_jax.data.audio_files import Files
from w2v_jax.data.corpus import Corpus, concatenated
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.mixing import by_config, mixed, mixture
from w2v_jax.data.plan import BatchPlan, crop_buckets
from w2v_jax.errors import UserError

RNG = np.random.default_rng(0)
CROPS = [16_000, 32_000]


def source(name, languages, corpora=None):
    """Rows of 1 to 3 s in the given languages."""
    count = len(languages)
    samples = RNG.integers(16_000, 48_000, count)
    paths = [f"{name}/{i}.wav" for i in range(count)]
    speakers = [f"s{i % 3}" for i in range(count)]
    manifest = Manifest("/", paths, samples, None, speakers, languages, corpora=corpora)
    return Files(manifest, name)


@pytest.fixture(scope="module")
def corpus():
    """a: 900 rows of en, 90 of cs; b: 200 of en, 40 of cs, and 10 of a corpus with a name."""
    a = source("a", ["en"] * 900 + ["cs"] * 90)
    b = source("b", ["en"] * 200 + ["cs"] * 40 + ["xx"] * 10, [""] * 240 + ["c"] * 10)
    return Corpus([a, b])


def heard(plan, mix, steps):
    """The share of the audio from every part, in `steps` batches from 0 on."""
    audio = np.zeros(len(mix.names))
    for step in range(steps):
        spec = plan[step]
        audio += np.bincount(mix.codes[spec.items], minlength=len(audio)) * spec.samples
    return audio / audio.sum()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("hours", {}), ("weights", {"weights": (1, 3)}), ("temperature", {"alpha": 0.5})],
)
def test_every_part_has_its_share_of_the_audio(corpus, kind, settings):
    buckets = crop_buckets(corpus.lengths, CROPS, 320_000, 2)
    mix = mixture(corpus, kind, **settings)
    plan = BatchPlan(mixed(buckets, mix), seed=0, num_steps=10**6)
    np.testing.assert_allclose(heard(plan, mix, 2000), mix.shares, atol=0.004)
    for step in range(50):
        spec = plan[step]
        assert (corpus.lengths[spec.items] >= spec.samples).all()


def test_temperature_goes_over_languages_and_then_over_corpora(corpus):
    mix = mixture(corpus, "temperature", alpha=0.5)
    assert mix.names == ("a/cs", "a/en", "b/cs", "b/en", "c/xx")
    a, b = (source.manifest.samples for source in corpus.sources)
    n = {"a/en": a[:900], "a/cs": a[900:], "b/en": b[:200], "b/cs": b[200:240], "c/xx": b[240:]}
    n = {name: samples.sum() for name, samples in n.items()}
    totals = {c: sum(v for k, v in n.items() if k[0] == c) for c in "abc"}
    of_corpus = {c: (t / sum(totals.values())) ** 0.5 for c, t in totals.items()}
    within = {k: (v / totals[k[0]]) ** 0.5 for k, v in n.items()}
    for name, share in zip(mix.names, mix.shares, strict=True):
        whole = sum(v for k, v in within.items() if k[0] == name[0])
        expected = of_corpus[name[0]] / sum(of_corpus.values()) * within[name] / whole
        assert share == pytest.approx(expected)
    even = mixture(corpus, "temperature", alpha=0.0)
    np.testing.assert_allclose(even.shares, [1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 3])
    as_is = mixture(corpus, "temperature", alpha=1.0)
    np.testing.assert_allclose(as_is.shares, as_is.hours / as_is.hours.sum())


def test_every_item_of_a_part_once_per_epoch(corpus):
    mix = mixture(corpus, "weights", weights=(1, 1))
    buckets = mixed(crop_buckets(corpus.lengths, [16_000], 320_000, 2), mix)
    plan = BatchPlan(buckets, seed=0, num_steps=10**6)
    items = np.concatenate([plan[step].items for step in range(120)])
    small = items[mix.codes[items] == 1]
    assert len(small) > 1000
    for epoch in range(4):
        part = small[epoch * 250 : (epoch + 1) * 250]
        assert np.array_equal(np.sort(part), np.flatnonzero(mix.codes == 1))
    assert not np.array_equal(small[:250], small[250:500])


def test_batches_are_a_function_of_seed_and_step(corpus):
    def plan(seed):
        mix = mixture(corpus, "temperature")
        buckets = mixed(crop_buckets(corpus.lengths, CROPS, 320_000, 2), mix)
        return BatchPlan(buckets, seed=seed, num_steps=10**6)

    whole, again = plan(1), plan(1)
    for step in RNG.permutation(5000)[:100].tolist():
        assert np.array_equal(whole[step].slots, again[step].slots)
    assert not all(np.array_equal(whole[s].items, plan(2)[s].items) for s in range(5))


def test_stand_ins_are_of_the_same_part(corpus):
    mix = mixture(corpus, "temperature")
    for bucket in mixed(crop_buckets(corpus.lengths, CROPS, 320_000, 2), mix):
        for slot in (0, bucket.bounds[1], len(bucket.items) - 1):
            code = mix.codes[bucket.items[slot]]
            count = np.count_nonzero(mix.codes[bucket.items] == code)
            slots = [bucket.stand_in(slot, number) for number in range(count)]
            assert slots[0] == slot
            assert len(set(slots)) == count
            assert set(mix.codes[bucket.items[slots]]) == {code}


def test_joined_utterances_are_of_one_speaker_language_and_source(corpus):
    joined = concatenated(corpus, 160_000, seed=0)
    assert len(joined) < len(corpus)
    parts = mixture(corpus, "temperature").codes
    speakers = np.concatenate([source.manifest.speakers.codes for source in corpus.sources])
    for i in range(len(joined)):
        rows = joined.groups[i]
        assert joined.lengths[i] == corpus.lengths[rows].sum() == joined.length(i)
        assert len(set(zip(parts[rows], speakers[rows], strict=True))) == 1
    two = concatenated(Corpus([source("two", ["en"] * 20, ["x", "y"] * 10)]), 160_000, seed=0)
    assert all(len(set(two.groups[i] % 2)) == 1 for i in range(len(two))), "x and y are two corpora"
    mix = mixture(joined, "temperature")
    assert np.array_equal(mix.codes, parts[[joined.groups[i][0] for i in range(len(joined))]])


def test_errors_name_the_key(corpus):
    buckets = crop_buckets(corpus.lengths, CROPS, 320_000, 2)
    assert by_config(buckets, corpus, "none") == buckets
    for kind, settings, words in (
        ("weights", {"weights": (1,)}, "2 numbers.*a, b"),
        ("weights", {"weights": (0, 0)}, "mix_weights"),
    ):
        with pytest.raises(UserError, match=words):
            by_config(buckets, corpus, kind, **settings)
    only_b = mixed(buckets, mixture(corpus, "weights", weights=(0, 2)))
    assert all((bucket.items >= 990).all() for bucket in only_b)
