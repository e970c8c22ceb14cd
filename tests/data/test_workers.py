"""What the loader brings into a worker process.

grain's own process imports jax, whatever it reads; and, as every process that multiprocessing
spawns, the main module of its parent. Those of the trainings import nothing before they run.
"""

import subprocess
import sys

import numpy as np

from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, pad_buckets

UNPICKLED = ("loader", "corpus", "plan", "augmentation", "sources", "shards", "sharing", "text")
HEAVY = ("flax", "optax", "matplotlib", "w2v_jax.models", "w2v_jax.training")
WATCHED = ("numpy", "grain", "w2v_jax.data.loader", *HEAVY)


class Witness:
    """A source whose audio says which of WATCHED its process has imported."""

    name = "witness"

    def __init__(self):
        self.manifest = Manifest("/", [str(i) for i in range(4)], [16_000] * 4)

    def audio(self, row: int, start: int, count: int) -> np.ndarray:
        found = [name in sys.modules for name in WATCHED]
        return np.resize(np.array(found, np.int16), count)


def test_a_worker_process_has_no_model():
    corpus = Corpus(Witness())
    plan = BatchPlan(pad_buckets(corpus.lengths, [16_000], 32_000, 2), seed=0, num_steps=4)
    stream = iterate(plan, Loader(corpus, 0, crop=False), workers=1)
    batch, _ = next(stream)
    stream.close()
    seen = batch["audio"][0, 0, : len(WATCHED)]
    assert [name for name, there in zip(WATCHED, seen, strict=True) if there] == [*WATCHED[:3]]


def test_what_is_unpickled_needs_no_jax():
    modules = ", ".join(f"w2v_jax.data.{name}" for name in UNPICKLED)
    modules += "".join(f", w2v_jax.{name}" for name in ("pretrain", "finetune", "train_lm"))
    code = f"import sys, {modules}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {name.split(".")[0] for name in out.stdout.split()}
    assert "numpy" in found
    assert not found & {"jax", "flax", "orbax", "optax", "grain", "absl", "matplotlib"}
