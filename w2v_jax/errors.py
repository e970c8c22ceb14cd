"""What is said to the user: the one exception without a stack trace, and what was left out."""

from collections.abc import Iterable, Sequence
from logging import Logger

NAMED = 5  # recordings left out that are named one by one


class UserError(Exception):
    """Something the user can put right: its message names the value, the key and the remedy."""


class AudioError(UserError):
    """An audio file that cannot be used; the message is `path: reason`."""


def brief(error: BaseException) -> str:
    """The first line of what a library, or the system, says about the cause of an error,
    shortened."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without its number
        text = f"{error.strerror.lower()}: {error.filename}" if error.filename else reason(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]


def reason(error: BaseException) -> str:
    """The same without the path, where that is named anyway."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return brief(error)


def some(names: Iterable[object], most: int = 6, between: str = ", ") -> str:
    """The first names with commas between them, and how many more there are."""
    names = [str(name) for name in names]
    shown = between.join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def warn_left_out(log: Logger, what: str, reasons: Sequence[str], count: int) -> None:
    """Logs that `what` is left out, and the reasons of the first of `count`; nothing if none is."""
    if not count:
        return
    log.warning("%s are left out:", what)
    for reason in reasons:
        log.warning("  %s", reason)
    if count > len(reasons):
        log.warning("  and %d more", count - len(reasons))
