"""The task contract over every registered kind of training: a new one gets every promise by being
registered."""

import inspect

import pytest

from tests import small
from tests.promises.contract import CHECKS, Case
from w2v_jax.tasks import TASKS


@pytest.fixture(scope="session")
def data(manifests, tmp_path_factory):
    """What config.data.train and valid name, by what a task reads."""
    folder = tmp_path_factory.mktemp("texts")
    return {
        "manifest": {"train": manifests["train"], "valid": manifests["dev"]},
        "text": {name: small.transcripts(folder, name) for name in ("train", "valid")},
    }


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", TASKS)
def test_the_contract(kind, check, data, tmp_path):
    case = Case(small.recipe(kind), data[TASKS[kind].reads])
    needs = {"folder": tmp_path} if "folder" in inspect.signature(check).parameters else {}
    check(case, **needs)
