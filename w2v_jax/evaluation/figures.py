"""Pictures of decoding."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from w2v_jax.evaluation.tuning import Trial, best

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def surface(trials: Mapping[str, Sequence[Trial]]) -> bytes:
    """A picture (PNG) of the error rate over the weights, a panel for every tuned model."""
    figure, axes = plt.subplots(
        1, len(trials), figsize=(6.2 * len(trials), 4.6), layout="constrained", squeeze=False
    )
    for axis, (name, tried) in zip(axes[0], trials.items(), strict=True):
        x, y, wer = np.array([(t.lm_weight, t.word_score, t.wer) for t in tried]).T
        low = wer.min()
        high = max(np.percentile(wer, 80), low + 0.1)  # far from the best all is equally bad
        dots = axis.scatter(x, y, c=wer, s=42, cmap="viridis_r", vmin=low, vmax=high)
        chosen = best(tried)
        axis.plot(chosen.lm_weight, chosen.word_score, "r+", markersize=16, markeredgewidth=2)
        axis.set(
            title=f"{name}: {chosen.wer:.1f} % at {chosen.lm_weight:g}, {chosen.word_score:g}",
            xlabel="LM weight (natural logarithms)", ylabel="word score",
        )  # fmt: skip
        figure.colorbar(dots, ax=axis, label="WER on the development set (%)", extend="max")
    file = io.BytesIO()
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file.getvalue()
