"""docs/design.md: the new kind of training that it builds is code that keeps the contract; and the
contract goes red for toys that break one promise each."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.promises import contract
from w2v_jax.errors import UserError
from w2v_jax.models.catalogue import MODELS
from w2v_jax.tasks import TASKS

PAGE = Path(__file__).parents[2] / "docs" / "design.md"


@pytest.fixture(scope="module")
def page():
    """What the code of the page defines; its kind is registered for these tests alone."""
    found = {"__name__": "design"}
    with pytest.MonkeyPatch.context() as patch:
        for table in (TASKS, MODELS):  # what the page adds is taken out again
            for kind in list(table):
                patch.setitem(table, kind, table[kind])
            patch.setitem(table, "loudness", None)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), found)
        yield found


@pytest.fixture(scope="module")
def case(page, manifests):
    config = small.shrunk(page["get_config"]("tiny"), {})
    return contract.Case(config, {"train": manifests["train"], "valid": manifests["dev"]})


def keep(check, case, tmp_path):
    needs = {"folder": tmp_path} if "folder" in inspect.signature(check).parameters else {}
    check(case, **needs)


# of its checks these train the most, and what they ask is asked of all kinds that are registered
LONG = (
    contract.accumulation_changes_nothing, contract.devices_change_nothing,
    contract.resume_is_bit_exact,
)  # fmt: skip


@pytest.mark.parametrize(
    "check", [x for x in contract.CHECKS if x not in LONG], ids=lambda check: check.__name__
)
def test_the_example_keeps_the_contract(check, case, tmp_path):
    keep(check, case, tmp_path)


def test_the_way_of_an_update_is_twelve_files():
    """As the page lists them, and all are there."""
    text = PAGE.read_text().partition("## Reading one pre-training update")[2]
    files = re.findall(r"`([\w/]+\.py)`", text.partition("## The task")[0])
    root = PAGE.parent.parent
    assert len(files) == len(set(files)) == 12
    for name in files:
        assert (root / name).exists() or (root / "w2v_jax" / name).exists(), name


# each breaks one promise ---------------------------------------------------------------------


def other_arrays(toy):
    class Broken(toy):
        def arrays(self, shape, length):
            return super().arrays(shape, length) | {"units": (shape, np.int32)}

    return Broken


def no_number(toy):
    class Broken(toy):
        def loss(self, variables, batch, context):
            total, out = super().loss(variables, batch, context)
            return total * jnp.nan, out

    return Broken


def mean_of_a_micro_batch(toy):
    class Broken(toy):
        def loss(self, variables, batch, context):
            total, out = super().loss(variables, batch, context)
            return total / out.weight, out

    return Broken


def scaled_by_devices(toy):
    class Broken(toy):
        def loss(self, variables, batch, context):
            total, out = super().loss(variables, batch, context)
            return total * jax.sharding.get_abstract_mesh().size, out

    return Broken


def counts_rows_that_fill_up(toy):
    class Broken(toy):
        def loss(self, variables, batch, context):
            return super().loss(variables, batch | {"id": abs(batch["id"])}, context)

    return Broken


def remembers_batches(toy):
    seen = []

    class Broken(toy):
        def open(self, path, mesh, *, held_out=False):
            data = super().open(path, mesh, held_out=held_out)
            load = data.loader.load

            def louder(spec):
                seen.append(spec)
                batch, problems = load(spec)
                return batch | {"audio": batch["audio"] // (1 + len(seen))}, problems

            data.loader.load = louder
            return data

    return Broken


def draws_at_evaluation(toy):
    rng = np.random.default_rng(0)

    class Broken(toy):
        def evaluation(self, data, mesh):
            evaluate = super().evaluation(data, mesh)
            return lambda variables: {
                name: value + rng.random() for name, value in evaluate(variables).items()
            }

    return Broken


def ranks_by_nothing(toy):
    class Broken(toy):
        best_by = "valid/accuracy"

    return Broken


def describes_another_model(toy):
    class Broken(toy):
        def described(self):
            found = super().described()
            return found | {"model": found["model"] | {"feed_forward": 96}}

    return Broken


def counts_no_arithmetic(toy):
    class Broken(toy):
        def training_flops(self, length, *, layerdrop=False):
            return 0.0

    return Broken


@pytest.mark.parametrize(
    ("broken", "check", "words"),
    [
        (other_arrays, contract.one_trace_per_shape, "arrays are those of task.arrays"),
        (no_number, contract.it_trains, "gradient is not finite"),
        (mean_of_a_micro_batch, contract.accumulation_changes_nothing, "gradient of"),
        (scaled_by_devices, contract.devices_change_nothing, "gradient of"),
        (counts_rows_that_fill_up, contract.padding_changes_nothing, "gradient of"),
        (remembers_batches, contract.resume_is_bit_exact, "params|mu"),
        (draws_at_evaluation, contract.evaluation_is_deterministic, "two evaluations differ"),
        (ranks_by_nothing, contract.evaluation_is_deterministic, "is no scalar of the evaluation"),
        (describes_another_model, contract.exports_load, "config and the tensors disagree"),
        (counts_no_arithmetic, contract.it_can_be_measured, "counts nothing"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_contract_goes_red(broken, check, words, page, case, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "loudness", broken(page["Loudness"]))
    case = contract.Case(case.config, case.data)
    with pytest.raises((AssertionError, UserError), match=words):
        keep(check, case, tmp_path)
