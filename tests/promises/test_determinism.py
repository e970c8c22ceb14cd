"""A short run of tests/measure/determinism.py: the same bytes however the batches are read."""

import pytest

from tests.measure.determinism import digests, make_data, make_loader

STEPS = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), 40)


@pytest.fixture(scope="module")
def expected(data):
    found = digests(data["files"], STEPS)
    assert len(set(found)) == STEPS
    plan, loader = make_loader(data["files"], STEPS)
    for step in range(STEPS):
        loader(plan[step])
    assert len(loader.bad) == 1, "the damaged file has to be met"
    return found


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        ("files", dict(hosts=2)),
        ("files", dict(hosts=4, start=5)),
        ("pcm", dict(start=0)),
        ("flac", dict(start=9)),
        ("files", dict(workers=1, start=6)),
        ("pcm", dict(workers=2, start=3)),
    ],
)
def test_same_bytes(data, expected, kind, case):
    assert digests(data[kind], STEPS, **case) == expected[case.get("start", 0) :]
