"""What a value may be: ranges that say so in words and know what lies outside them."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Protocol


class Range(Protocol):
    """Of the values of a key."""

    def takes(self, value: Any) -> bool:
        """Whether the value lies in it."""

    def outside(self) -> Iterator[Any]:
        """Values that do not, near its ends and of other types: for tests and fuzzing."""

    def __str__(self) -> str:
        """What a value must be."""


def figures(value: float) -> str:
    """A number for reading: 1,000, 0.5, 1e-06."""
    return f"{value:,.10g}"


@dataclasses.dataclass(frozen=True)
class Number:
    """From `low` to `high`, one end of them perhaps left out. other: one value besides."""

    low: float
    high: float
    whole: bool = False
    open_low: bool = False
    open_high: bool = False
    other: int | None = None

    def takes(self, value: Any) -> bool:
        kind = Integral if self.whole else Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        if not isinstance(value, Integral) and not math.isfinite(value):  # no int of any size is
            return False
        if self.other is not None and value == self.other:
            return True
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def outside(self) -> Iterator[Any]:
        step = 1 if self.whole else 1e-3 * max(abs(self.high), 1)
        yield self.low if self.open_low else self.low - step
        yield self.high if self.open_high else self.high + step
        yield from (math.nan, math.inf, -math.inf, "ten", True, None, ())
        if self.whole:
            yield self.low + 0.5

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        besides = "" if self.other is None else f"{figures(self.other)} or "
        low, high = figures(self.low), figures(self.high)
        if self.open_low:
            return f"{besides}{kind} above {low}, at most {high}"
        ends = f"{low} on, below {high}" if self.open_high else f"{low} to {high}"
        return f"{besides}{kind} from {ends}"


def whole(low: int, high: int, *, other: int | None = None) -> Number:
    return Number(low, high, whole=True, other=other)


def number(low: float, high: float) -> Number:
    return Number(low, high)


def above(low: float, high: float) -> Number:
    """Above `low`, at most `high`."""
    return Number(low, high, open_low=True)


def below(low: float, high: float) -> Number:
    """From `low` on, below `high`."""
    return Number(low, high, open_high=True)


SHARE = below(0.0, 1.0)  # of what is dropped, say: never all
PROBABILITY = number(0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    def takes(self, value: Any) -> bool:
        return isinstance(value, bool)

    def outside(self) -> Iterator[Any]:
        yield from (2, "yes", 0.5, None, ())

    def __str__(self) -> str:
        return "True or False"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def takes(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.words

    def outside(self) -> Iterator[Any]:
        yield from ("", "something", 1, True, None, ())

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}" if len(self.words) > 1 else self.words[0]


def choice(*words: str) -> Choice:
    return Choice(words)


@dataclasses.dataclass(frozen=True)
class Text:
    """Any text, or one of a form: a regular expression and what it means in words."""

    pattern: str = ""
    words: str = "text"

    def takes(self, value: Any) -> bool:
        return isinstance(value, str) and (
            not self.pattern or re.fullmatch(self.pattern, value) is not None
        )

    def outside(self) -> Iterator[Any]:
        yield from (3, 0.5, True, None, ("text",))
        if self.pattern:
            yield "no such form"

    def __str__(self) -> str:
        return self.words


@dataclasses.dataclass(frozen=True)
class Several:
    """A tuple, or a list, of `least` to `most` values of one range.

    rising: each is greater than the one before. example: how they are written on a command line.
    """

    of: Range
    least: int
    most: int
    example: str = ""
    rising: bool = False

    def takes(self, value: Any) -> bool:
        if not isinstance(value, (tuple, list)) or not self.least <= len(value) <= self.most:
            return False
        if not all(map(self.of.takes, value)):
            return False
        return not self.rising or all(a < b for a, b in itertools.pairwise(value))

    def outside(self) -> Iterator[Any]:
        inside = next(x for x in _INSIDE if self.of.takes(x))
        for wrong in self.of.outside():
            yield (wrong,) * max(self.least, 1)
        yield (inside,) * (self.most + 1)
        if self.least:
            yield (inside,) * (self.least - 1)
        if self.rising:
            yield (inside, inside)
        yield from (3, 0.5, "text", True, None)

    def __str__(self) -> str:
        least, most = figures(self.least), figures(self.most)
        count = most if least == most else f"{least} to {most}"
        rising = " in rising order" if self.rising else ""
        written = f", written as '{self.example}'" if self.example else ""
        return f"{count} values{rising}, each {self.of}{written}"


_INSIDE = (1, 0.5, 1.0, "text", (1, 1, 1))
