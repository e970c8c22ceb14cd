"""What evaluations of masked prediction say: of each set of HuBERT's units, of Discrete BERT."""

import numpy as np

from w2v_jax.objectives.cluster_scores import Score, perplexity
from w2v_jax.tasks.task import BITS


def valid_scalars(masked: Score, copied: np.ndarray) -> dict[str, float]:
    """Of the masked frames, with what is right without hearing anything: always the most frequent
    label, and that of the nearest frame that is not masked, right in `copied` of them."""
    count = float(masked.count)
    return {
        "valid/prediction_bits": float(masked.loss * BITS / count),
        "valid/accuracy": float(masked.won / count),
        "valid/majority_accuracy": float(masked.labels.max() / count),
        "valid/copy_accuracy": float(copied / count),
        "valid/label_perplexity": float(perplexity([masked], "labels")),
        "valid/answer_perplexity": float(perplexity([masked], "answers")),
    }
