"""Prints what CCA of one layer of a BASE model costs, for one draw of speech, on one core.

    OPENBLAS_NUM_THREADS=1 python -m tests.measure.cca_speed

Noise of the sizes that 33 minutes of speech have: seconds are those of the core (CPU time), so that
what else runs on the machine counts to none.
"""

import resource
import time

import numpy as np

from w2v_jax.analysis.cca import similarity

FRAMES, PIECES, WIDTH = 100_000, 39 * 200, 768


def main() -> None:
    random = np.random.default_rng(0)
    layer = random.standard_normal((FRAMES, WIDTH), np.float32)
    labels = np.arange(PIECES) % 39
    views = {
        f"phones: {PIECES:,} pieces": (layer[:PIECES], np.eye(39)[labels]),
        f"mel: {FRAMES:,} frames": (random.standard_normal((FRAMES, 80), np.float32), layer),
        f"intra: {FRAMES:,} frames": (random.standard_normal((FRAMES, WIDTH), np.float32), layer),
    }
    for name, (x, y) in views.items():
        begin = time.process_time()
        similarity(x, y)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{name:<24}{time.process_time() - begin:6.1f} s, {memory:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
