"""Whether a run is worth going on with: updates that were skipped, alarms in plain words."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

from w2v_jax.errors import UserError

log = logging.getLogger(__name__)

AGAIN = 10  # checks after which an alarm that stays on is repeated; then 20, 40, ...
QUIET = 3  # checks in a row without it after which an alarm is over: fewer would be flicker


class Skipped:
    """Counts updates without a finite gradient; too many in a row end the run.

    limit: --config.run.max_skipped, 0 for no limit. Its content, {"in_a_row", "total"}, is part of
    a checkpoint, so that a run that is killed again and again does not begin to count anew.
    """

    def __init__(self, limit: int, content: Mapping[str, int] | None = None):
        self._limit = limit
        self.content = {"in_a_row": 0, "total": 0, **(content or {})}

    def add(self, flag: bool | float, step: int) -> None:
        """Counts update `step`, skipped if flag is true. Raises UserError at the limit."""
        if not flag:
            self.content["in_a_row"] = 0
            return
        self.content["in_a_row"] += 1
        self.content["total"] += 1
        count = self.content["in_a_row"]
        if count == 1:
            log.warning("update %d is skipped: its gradient is not finite (%d such so far)",
                        step, self.content["total"])  # fmt: skip
        if self._limit and count >= self._limit:
            raise UserError(
                f"no finite gradient in {count} updates in a row, {step - count + 1} to {step}; "
                "look at the data there, or allow more of them with --config.run.max_skipped; "
                "another --workdir may start with a lower --config.optim.peak_lr or "
                "--config.optim.clip_norm=1"
            )


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Something that can be wrong with a run.

    needs: the scalars it looks at. condition(step, scalars): whether it is on; a pure function.
    words: what it means and what to change, a format string of {step} and the scalars it needs,
    "{train/accuracy:.3f}".
    """

    name: str
    needs: tuple[str, ...]
    condition: Callable[[int, Mapping[str, float]], bool]
    words: str


class Alarms:
    """Looks at everything that is logged.

    The metrics it returns depend on the step and the scalars alone, so a run that was interrupted
    writes the same ones; only how often a warning is repeated depends on what came before.
    """

    def __init__(self, alarms: Sequence[Alarm]):
        self._alarms = [(alarm, _Speech()) for alarm in alarms]

    def check(self, step: int, scalars: Mapping[str, float]) -> dict[str, float]:
        """{"alarm/<name>": 1.0 or 0.0} of the alarms whose scalars are all there.

        Logs a warning when an alarm goes on and, ever more rarely, while it stays on.
        """
        metrics = {}
        for alarm, speech in self._alarms:
            if not all(name in scalars for name in alarm.needs):
                continue
            on = bool(alarm.condition(step, scalars))
            metrics[f"alarm/{alarm.name}"] = float(on)
            change = speech.after(on)
            if change == "speak":
                words = alarm.words.format(step=step, **scalars)
                log.warning("step %d, alarm %s: %s", step, alarm.name, words)
            elif change == "over":
                log.info("step %d, alarm %s is over", step, alarm.name)
        return metrics


class _Speech:
    """When to speak of one alarm."""

    def __init__(self):
        self._active = False
        self._wait = self._pause = self._quiet = 0

    def after(self, on: bool) -> str:
        """What to do after a check: "speak", say that it is "over", or ""."""
        if not on:
            self._quiet += 1
            if self._active and self._quiet == QUIET:
                self._active = False
                return "over"
            return ""
        self._quiet = 0
        if not self._active:
            self._active, self._pause = True, AGAIN
        elif self._wait > 1:
            self._wait -= 1
            return ""
        else:
            self._pause *= 2
        self._wait = self._pause
        return "speak"
