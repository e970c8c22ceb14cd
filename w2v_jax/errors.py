"""What is said to the user: the one exception without a stack trace, and what was left out."""

from collections.abc import Sequence
from logging import Logger


class UserError(Exception):
    """Something the user can put right: its message names the value, the key and the remedy."""


class AudioError(UserError):
    """An audio file that cannot be used; the message is `path: reason`."""


def warn_left_out(log: Logger, what: str, reasons: Sequence[str], count: int) -> None:
    """Logs that `what` is left out, and the reasons of the first of `count`; nothing if none is."""
    if not count:
        return
    log.warning("%s are left out:", what)
    for reason in reasons:
        log.warning("  %s", reason)
    if count > len(reasons):
        log.warning("  and %d more", count - len(reasons))
