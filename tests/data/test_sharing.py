import concurrent.futures
import gc
import multiprocessing
import pickle

import numpy as np

from w2v_jax.data import sharing
from w2v_jax.data.sharing import Ragged


def own_memory() -> int:
    """Bytes of memory of this process that are no file's."""
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Anonymous:")) * 1024


def use(data: bytes, answers) -> None:
    before = own_memory()
    ragged = pickle.loads(data)
    total = int(ragged.values.sum())
    answers.put((total, own_memory() - before, ragged[1].tolist()))


def test_large_arrays_are_mapped_by_other_processes():
    values = np.arange(8_000_000)
    ragged = Ragged(values, np.array([0, 3, 5, len(values)]))
    data = pickle.dumps(ragged)
    assert len(data) < 1000
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=use, args=(data, answers))
    process.start()
    total, cost, second = answers.get()
    process.join()
    assert total == values.sum()
    assert second == [3, 4]
    assert cost < values.nbytes / 4


def test_many_threads_may_pickle_and_the_file_goes_with_its_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing.tempfile, "tempdir", str(tmp_path))
    owner = [Ragged(np.arange(1_000_000), np.array([0, 1_000_000]))]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        pickled = list(pool.map(lambda _: pickle.dumps(owner[0]), range(16)))
    assert len(list(tmp_path.iterdir())) == 1
    copies = [pickle.loads(data) for data in pickled]
    assert all(np.array_equal(copy.values, np.arange(1_000_000)) for copy in copies)
    owner.clear()
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_small_arrays_travel_along():
    ragged = pickle.loads(pickle.dumps(Ragged.of([np.arange(3), np.arange(0), np.arange(2)])))
    assert [part.tolist() for part in ragged] == [[0, 1, 2], [], [0, 1]]
    assert ragged.sizes.tolist() == [3, 0, 2]
    assert len(Ragged.of([])) == 0
