"""Skipped updates and alarms: they speak when something is wrong, and of nothing else.

The lines below, rounded, were written by pre-training runs of configs/quickstart.py (HEALTHY as it
is, COLLAPSED with --config.loss.diversity_weight=0 --config.optim.peak_lr=3e-3), of tests/small.py
with 16 codes, 100 negatives and a learning rate of 1e-6 (STUCK), and by a fine-tuning run of
tests/small.py (BLANK). No update of theirs was skipped.
"""

import re

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from tests.promises.test_imports import PACKAGE
from w2v_jax.configs import common
from w2v_jax.errors import UserError
from w2v_jax.objectives.contrastive import dead_codes
from w2v_jax.tasks.ctc import alarms as ctc_alarms
from w2v_jax.tasks.targets import alarms as pretraining_alarms
from w2v_jax.tasks.targets import alarms_without_codes
from w2v_jax.tasks.task import PATIENCE
from w2v_jax.training.health import AGAIN, QUIET, Alarm, Alarms, Skipped


def trained(bits, accuracy, perplexity):
    return {
        "train/contrastive_bits": bits, "train/accuracy": accuracy,
        "train/code_perplexity": perplexity, "train/skipped": 0.0,
    }  # fmt: skip


def evaluated(first, second, dead, frames=1265.0):
    return {
        "valid/code_perplexity_0": first, "valid/code_perplexity_1": second,
        "valid/dead_codes": dead, "valid/masked_frames": frames,
    }  # fmt: skip


HEALTHY = [
    (10, trained(6.503, 0.072, 18.188)),
    (50, trained(6.475, 0.065, 44.073)),
    (50, evaluated(20.272, 23.069, 6.0)),
    (600, trained(4.878, 0.210, 58.093)),
    (600, evaluated(30.075, 30.626, 0.0)),
]
COLLAPSED = [
    (10, trained(6.216, 0.239, 10.843)),
    (20, trained(5.149, 0.457, 3.992)),
    (50, trained(1.228, 0.862, 2.211)),
    (50, evaluated(1.0, 1.006, 61.0)),
    (110, trained(5.324, 0.422, 4.204)),
]
STUCK = [(290, trained(7.341, 0.044, 17.714)), (300, trained(7.425, 0.044, 17.776))]
BLANK = [(300, {"valid/empty_share": 1.0}), (350, {"valid/empty_share": 1.0})]

QUICKSTART = dict(groups=2, codes=32, negatives=100, warmup_steps=50)


def fired(rules, lines):
    alarms = Alarms(rules)
    return [
        (step, name.removeprefix("alarm/"))
        for step, scalars in lines
        for name, on in alarms.check(step, scalars).items()
        if on
    ]


def test_a_healthy_run_is_left_alone(caplog):
    caplog.set_level("INFO")
    assert fired(pretraining_alarms(**QUICKSTART), HEALTHY) == []
    assert not caplog.messages
    metrics = Alarms(pretraining_alarms(**QUICKSTART)).check(*HEALTHY[0])
    assert metrics == {"alarm/skipped": 0, "alarm/collapse": 0, "alarm/chance": 0}
    some = {"train/code_perplexity": 1.0}  # without the accuracy of the words
    assert Alarms(pretraining_alarms(**QUICKSTART)).check(10, some) == {}
    metrics = Alarms(pretraining_alarms(**QUICKSTART)).check(*HEALTHY[2])
    assert metrics == {"alarm/group_collapse": 0, "alarm/dead_codes": 0}


def test_a_collapsed_codebook(caplog):
    assert fired(pretraining_alarms(**QUICKSTART), COLLAPSED) == [
        (20, "collapse"), (50, "collapse"), (50, "group_collapse"), (110, "collapse"),
    ]  # fmt: skip
    first, second = caplog.messages
    assert "step 20" in first
    assert "3.99 (2 is one code per group, 64 all" in first
    assert "0.457" in first
    assert "1.00, 1.01" in second
    # one group alone
    one = [(50, evaluated(30.0, 1.2, 31.0))]
    assert fired(pretraining_alarms(**QUICKSTART), one) == [(50, "group_collapse")]
    # few codes are no collapse where there are few
    assert not fired(pretraining_alarms(**QUICKSTART | {"codes": 8}), [(9, trained(6, 0.1, 4.5))])


def test_a_loss_that_stays_at_chance(caplog):
    rules = pretraining_alarms(**QUICKSTART)
    assert fired(rules, STUCK) == [(300, "chance")]
    assert "6.658" in caplog.messages[0]
    long = pretraining_alarms(**QUICKSTART | {"warmup_steps": 32_000})
    assert fired(long, [(31_999, STUCK[1][1]), (32_000, STUCK[1][1])]) == [(32_000, "chance")]
    near = [(300, trained(6.657, 0.01, 40.0)), (400, trained(6.63, 0.012, 40.0))]
    assert fired(rules, near) == [(300, "chance")]
    assert not fired(pretraining_alarms(**QUICKSTART | {"negatives": 200}), near)


def test_without_codes(caplog):
    """No codebook can collapse; targets that are all alike can."""
    rules = alarms_without_codes(negatives=100, warmup_steps=50)
    assert [alarm.name for alarm in rules] == ["skipped", "collapse", "chance"]
    line = lambda bits, alike: {  # noqa: E731
        "train/contrastive_bits": bits, "train/target_similarity": alike,
    }  # fmt: skip
    lines = [(299, line(6.6, 0.999)), (300, line(6.4, 0.999)), (400, line(6.65, 0.5))]
    assert fired(rules, lines) == [(300, "collapse"), (400, "chance")]
    assert "0.9990" in caplog.messages[0]
    assert "quantizer.codes" not in "".join(caplog.messages)


def test_dead_codes():
    usage = jnp.array([[0.5, 0.5, 0.0, 0.0], [1e-6, 0.0, 0.4, 0.6]])
    assert dead_codes(usage) == 3
    rules = pretraining_alarms(**QUICKSTART)
    lines = [
        (299, evaluated(9.0, 9.0, 33.0)), (300, evaluated(9.0, 9.0, 33.0)),
        (400, evaluated(9.0, 9.0, 32.0)), (500, evaluated(9.0, 9.0, 60.0, frames=639.0)),
    ]  # fmt: skip
    assert fired(rules, lines) == [(300, "dead_codes")]


def test_skipped_updates_and_fine_tuning():
    rules = ctc_alarms(freeze_steps=0, warmup_steps=50)
    assert fired(rules, BLANK) == [(350, "blank")]
    assert not fired(ctc_alarms(freeze_steps=10_000, warmup_steps=0), BLANK)
    lines = [(1, {"train/infeasible": 0.06, "train/skipped": 0.2})]
    lines += [(2, {"train/infeasible": 0.04, "train/skipped": 0.1})]
    assert fired(rules, lines) == [(1, "skipped"), (1, "infeasible")]
    assert fired(pretraining_alarms(**QUICKSTART), lines) == [(1, "skipped")]


@pytest.mark.parametrize(
    ("rules", "config"),
    [
        (pretraining_alarms(**QUICKSTART), common.pretraining("base")),
        (
            alarms_without_codes(negatives=100, warmup_steps=50, waveform=False),
            common.pretraining("wav2vec_conformer_xl"),
        ),
        (ctc_alarms(freeze_steps=0, warmup_steps=0), common.finetuning("base")),
    ],
)
def test_the_words_fill_in_and_name_keys_that_exist(rules, config):
    for alarm in rules:
        words = alarm.words.format(step=PATIENCE, **dict.fromkeys(alarm.needs, 0.5))
        keys = re.findall(r"--config\.([a-z_.]*[a-z])", words)
        assert keys, alarm.name
        for key in keys:
            value = config
            for part in key.split("."):
                assert isinstance(value, ConfigDict)
                assert part in value, f"{alarm.name}: {key}"
                value = value[part]


HIGH = Alarm("high", ("x",), lambda step, s: s["x"] > 1, "x is {x:.1f} at {step}")


def test_a_warning_is_repeated_ever_more_rarely(caplog):
    alarms = Alarms([HIGH])
    for step in range(1, 4 * AGAIN + 1):
        assert alarms.check(step, {"x": 2.0}) == {"alarm/high": 1.0}
        assert alarms.check(step, {"y": 2.0}) == {}
    steps = [int(message.split()[-1]) for message in caplog.messages]
    assert steps == [1, 1 + AGAIN, 1 + 3 * AGAIN]


def test_over_is_said_once_and_flicker_is_not_news(caplog):
    caplog.set_level("INFO")
    alarms = Alarms([HIGH])
    for step, x in enumerate([2, 0, 2, 0, 0, 2, *[0] * (QUIET + 2), 2]):
        alarms.check(step, {"x": x})
    assert caplog.messages == [
        "step 0, alarm high: x is 2.0 at 0",
        f"step {5 + QUIET}, alarm high is over",
        f"step {8 + QUIET}, alarm high: x is 2.0 at {8 + QUIET}",
    ]


def test_the_metrics_do_not_depend_on_what_came_before():
    lines = [line for pair in zip(COLLAPSED, HEALTHY, strict=True) for line in pair]
    rules = pretraining_alarms(**QUICKSTART)
    whole = Alarms(rules)
    together = [whole.check(*line) for line in lines]
    assert together == [Alarms(rules).check(*line) for line in lines]


def test_skipped_updates_in_a_row_end_the_run(caplog):
    skipped = Skipped(3)
    for step, flag in enumerate([1.0, 1.0, 0.0, 1.0, 1.0], start=8):
        skipped.add(flag, step)
    assert skipped.content == {"in_a_row": 2, "total": 4}
    assert [m.split()[1] for m in caplog.messages] == ["8", "11"], "the first of each row"
    continued = Skipped(3, skipped.content)
    with pytest.raises(UserError, match=r"3 updates in a row, 11 to 13; .*max_skipped.*peak_lr"):
        continued.add(True, 13)


def test_without_a_limit_the_run_goes_on():
    skipped = Skipped(0)
    for step in range(1, 101):
        skipped.add(True, step)
    assert skipped.content["total"] == 100


def test_their_scalars_are_written_somewhere():
    """A rule for a metric that nobody writes would never speak."""
    files = [path.read_text() for path in PACKAGE.rglob("*.py")]
    source = "".join(text.partition("\ndef alarms(")[0] for text in files)
    for alarm in (*pretraining_alarms(**QUICKSTART), *ctc_alarms(freeze_steps=0, warmup_steps=0)):
        for name in alarm.needs:
            assert f'"{re.sub("_[0-9]$", "_{g}", name)}"' in source, f"{alarm.name}: {name}"
