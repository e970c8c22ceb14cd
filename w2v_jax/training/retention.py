"""Which checkpoints of a run are kept."""

import math
from collections.abc import Mapping, Sequence

from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PolicyCheckpointInfo,
    PreservationContext,
    PreservationPolicy,
)


def best_steps(scores: Mapping[int, float], count: int) -> list[int]:
    """The `count` steps of the lowest scores, best first; of equals the earlier one.

    Scores that are no finite number do not take part.
    """
    finite = (step for step, score in scores.items() if math.isfinite(score))
    return sorted(finite, key=lambda step: (scores[step], step))[:count]


class _Best(PreservationPolicy):
    """The checkpoints of the lowest scores. Orbax's own policy wants the score of a step when it is
    saved; ours comes later, so `scores` is read anew at every save."""

    def __init__(self, count: int, scores: Mapping[int, float]):
        self._count, self._scores = count, scores

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        there = [info.step for info in checkpoints]
        scores = {step: self._scores[step] for step in there if step in self._scores}
        best = best_steps(scores, self._count)
        return [step in best for step in there]


def retention(
    keep_last: int, keep_every: int, keep_best: int, scores: Mapping[int, float]
) -> PreservationPolicy:
    """Keeps the newest, the steps that `keep_every` divides (0: none) and the best by `scores`,
    which may grow."""
    policies = [LatestN(keep_last), _Best(keep_best, scores)]
    if keep_every:
        policies.append(EveryNSteps(keep_every))
    return AnyPreservationPolicy(policies)
