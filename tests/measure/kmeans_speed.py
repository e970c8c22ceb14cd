"""Prints inertia and time of our k-means and scikit-learn's on MFCC of speech, on one core.

    python -m venv /tmp/skl && /tmp/skl/bin/pip install scikit-learn
    python -m tests.measure.kmeans_speed --data=train.tsv --scikit_learn=/tmp/skl/bin/python

Each in a process of its own, which is bound to one core; seeds in turn. Seconds are those of the
core (CPU time), so that what else runs on the machine counts to none. Ours are without and with the
compilation, which is that of the first seed.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np

from w2v_jax.analysis import training_frames

# scikit-learn's defaults but for n_init, and what fairseq's learn_kmeans.py sets
OF_SCIKIT_LEARN = """
import sys, time
import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
frames, clusters, seeds = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
hubert = dict(max_iter=100, batch_size=10000, tol=0.0, max_no_improvement=100, n_init=20,
              reassignment_ratio=0.0, compute_labels=False)
for name, make, options in (
    ("KMeans", KMeans, dict(n_init=1)),
    ("MiniBatchKMeans", MiniBatchKMeans, dict(n_init=1)),
    ("MiniBatchKMeans, HuBERT's values", MiniBatchKMeans, hubert),
):
    for seed in range(seeds):
        begin = time.process_time()
        found = make(clusters, random_state=seed, **options).fit(frames)
        seconds = time.process_time() - begin
        print(name, -found.score(frames) / len(frames), seconds, found.n_iter_, sep="|", flush=True)
"""
OURS = """
import sys, time
import numpy as np
from w2v_jax.analysis import kmeans
frames, clusters, seeds = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for method in kmeans.METHODS:
    for seed in range(-1, seeds):  # the first is compiled
        begin = time.process_time()
        found = kmeans.learn(frames, clusters, seed=max(seed, 0), method=method)
        seconds = time.process_time() - begin
        name = f"ours, {method}" + (", compiled" if seed < 0 else "")
        print(name, found.inertia, seconds, found.iterations, sep="|", flush=True)
"""
ONE_CORE = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}  # fmt: skip


def numbers(python: str, program: str, *arguments) -> dict[str, list[tuple[float, ...]]]:
    """name -> (inertia, seconds, iterations) of every seed."""
    environment = os.environ | ONE_CORE
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    found = subprocess.run(
        [python, "-c", program, *map(str, arguments)], env=environment, check=True,
        stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
    )  # fmt: skip
    rows = {}
    for line in found.stdout.splitlines():
        name, *values = line.split("|")
        rows.setdefault(name, []).append(tuple(map(float, values)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--scikit_learn", required=True, help="a Python that has it")
    parser.add_argument("--features", default="mfcc")
    parser.add_argument("--tap", default="")
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    values = parser.parse_args()
    found = training_frames.read(values.features, values.tap, values.data, 1.0, 0, values.clusters)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, np.asarray(found.frames[:]))
        arguments = file.name, values.clusters, values.seeds
        rows = numbers(values.scikit_learn, OF_SCIKIT_LEARN, *arguments)
        rows |= numbers(sys.executable, OURS, *arguments)
    print(f"{values.clusters} clusters of {len(found.frames):,} frames; means of the seeds")
    print(f"{'':34} {'inertia':>9} {'of KMeans':>9} {'seconds':>8} {'iterations':>10}")
    whole = np.mean([inertia for inertia, *_ in rows["KMeans"]])
    for name, seeds in rows.items():
        inertia, seconds, iterations = np.mean(seeds, axis=0)
        print(f"{name:34} {inertia:9.1f} {inertia / whole:9.4f} {seconds:8.2f} {iterations:10.0f}")


if __name__ == "__main__":
    main()
