"""What a manifest holds, and what batches make of its lengths."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.measure.padding_share import librispeech_like
from tests.tools import tool
from w2v_jax import prepare as entry
from w2v_jax.configs import common
from w2v_jax.corpora.statistics import best_crops, crop_plan, histogram, pad_plan, report
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import bucket_edges

ROOT = Path(__file__).parents[2]


def test_crop_plan_by_hand():
    plan = crop_plan(np.array([5, 10, 19, 20, 60]), [20, 10])
    assert plan.crops == (10, 20)
    assert plan.heard == pytest.approx((10 + 10 + 20 + 20) / 114)
    assert plan.short == pytest.approx(5 / 114)
    assert plan.beyond == pytest.approx((9 + 40) / 114)


def test_pad_plan_by_hand():
    plan = pad_plan(np.array([5, 10, 15, 30]), [20, 10])
    assert plan.padding == pytest.approx(1 - 30 / 40)
    assert plan.long == pytest.approx(30 / 60)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_best_crops_are_the_best(count):
    """Against every choice of crops, on small cases."""
    rng = np.random.default_rng(count)
    for _ in range(20):
        lengths = rng.integers(1, 1200, 15)
        edges = range(100, 901, 100)
        choices = itertools.combinations(edges, count)
        best = max(crop_plan(lengths, choice).heard for choice in choices)
        crops = best_crops(lengths, count, 900, 100)
        assert len(crops) <= count
        assert max(crops) <= 900
        assert crop_plan(lengths, crops).heard == pytest.approx(best)


def test_goals_for_lengths_like_librispeech():
    """`python -m tests.measure.padding_share` prints the table."""
    lengths = librispeech_like()
    assert len(lengths) == 281_241
    assert lengths.sum() / 16_000 / 3600 == pytest.approx(960, rel=0.01)
    crops = crop_plan(lengths, best_crops(lengths, 8, round(15.6 * 16_000)))
    assert crops.beyond + crops.short < 0.08
    fits = lengths[lengths <= 30 * 16_000]
    assert pad_plan(fits, bucket_edges(fits, 14)).padding < 0.05


def test_the_report_knows_the_configs():
    assert tuple(map(float, entry.CROP_SECONDS)) == common.pretraining("tiny").data.crop_seconds
    assert common.finetuning("tiny").data.num_buckets == entry.NUM_BUCKETS
    assert common.finetuning("tiny").data.max_seconds == entry.MAX_SECONDS


def test_histogram_has_every_utterance():
    lengths = np.random.default_rng(0).gamma(3, 30_000, 5000).astype(int)
    lines = histogram(lengths)
    shares = [float(line.split()[-1].rstrip("%")) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert max(line.count("#") for line in lines) == 40
    assert "and more" in lines[-1]
    assert len(histogram(np.array([8000]))) == 2


@pytest.fixture
def troubled(tmp_path) -> Manifest:
    """Speech-like audio, and one file of each trouble."""
    rng = np.random.default_rng(0)
    sounds = {f"{i}.flac": rng.normal(size=16_000 * (i + 1)) * 0.1 for i in range(4)}
    sounds["again.flac"] = sounds["2.flac"]
    sounds["loud.flac"] = np.clip(rng.normal(size=16_000), -1, 1)
    sounds["still.flac"] = rng.normal(size=16_000) * 1e-4
    for name, sound in sounds.items():
        soundfile.write(tmp_path / name, sound, 16_000)
    lengths = [len(sound) for sound in sounds.values()]
    names = [*sounds, "gone.flac", "3.flac", "3.flac"]
    return Manifest(
        tmp_path,
        names,
        [*lengths, 16_000, 32_000, 16_000],
        ["HELLO YOU"] * 5 + [""] * 5,
        ["b"] * 8 + ["a"] + [""],
        ["en"] * 10,
        starts=[0] * 8 + [16_000, 63_000],
    )


def lines_of(manifest: Manifest, **changes) -> list[str]:
    options = {"crops": [16_000, 32_000], "num_buckets": 2, "longest": 48_000, "threads": 2}
    return list(report(manifest, **options | changes))


def test_report(troubled):
    lines = lines_of(troubled)
    text = "\n".join(lines)
    assert lines[0] == "10 utterances, 0.01 hours"
    assert lines[1] == "lengths 1.00 to 4.00 s, mean 1.90, median 1.50"
    assert "transcripts: 5 (50.0%), 10 words" in text
    assert "speakers: 2 (hours: b 0.00, a 0.00), unknown for 0.00 h" in text
    assert "pre-training, crops 1 2 s: padding 0 %, a pass hears 78.9%; 21.1% lies beyond" in text
    assert "21.1% is longer than 3 s and left out" in text
    warnings = [line for line in lines if line.startswith("warning: ")]
    root = troubled.root
    assert warnings == [
        f"warning: 2 rows overlap another of the same file; first: {root}/3.flac",
        f"warning: 2 cannot be read; first: {root}/gone.flac",
        "warning: 1 have more than 0.01% of their samples at full scale; first: "
        f"{root}/loud.flac",
        f"warning: 1 are below -60 dB of full scale; first: {root}/still.flac",
        "warning: 1 hold the same audio as another; first: "
        f"{root}/2.flac and {root}/again.flac",
    ]  # fmt: skip


def test_report_listens_to_as_many_as_asked(troubled):
    assert "listened to 3 of 10 utterances" in lines_of(troubled, files=3)


def test_report_of_sound_speech_warns_of_nothing(manifests):
    lines = lines_of(Manifest.read(manifests["dev"]))
    assert not [line for line in lines if line.startswith("warning")]


def test_report_from_the_command_line(manifests):
    output = f"--output={manifests['dev']}"
    done = tool("prepare", "--report", output, "--crop_seconds=1,2", "--report_files=5")
    assert done.stdout.startswith("55 utterances, 0.04 hours\n")
    assert "crops 1 2 s" in done.stdout
    assert "concatenate_seconds" in done.stdout, "many are shorter than a second"
    assert "listened to 5 of 55" in done.stdout
    wrong = tool("prepare", "--report", output, "--crop_seconds=1,x", status=2)
    assert "--crop_seconds=1,x: give lengths" in wrong.stderr
