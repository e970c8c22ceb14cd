"""What is said to the user: the one exception without a stack trace, and what was left out."""

from collections.abc import Iterable, Sequence
from logging import Logger

NAMES = 10  # of a list that are shown
LETTERS = 300  # of another's message


class UserError(Exception):
    """Something the user can put right: its message names the value, the key and the remedy."""


def listed(names: Iterable[object], most: int = NAMES, between: str = ", ") -> str:
    """Names in a row, the first of them where there are many: "a, b and 40 more"."""
    names = [str(name) for name in names]
    rest = len(names) - most
    return between.join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def first_line(error: BaseException) -> str:
    """What an exception says first."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}..."


def warn_left_out(log: Logger, what: str, reasons: Sequence[str], count: int) -> None:
    """Logs that `what` is left out, and the reasons of the first of `count`; nothing if none is."""
    if not count:
        return
    log.warning("%s are left out:", what)
    for reason in reasons:
        log.warning("  %s", reason)
    if count > len(reasons):
        log.warning("  and %d more", count - len(reasons))
