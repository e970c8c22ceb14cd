"""Work in two stages: the second of an item while the first of the next goes on."""

import itertools
from collections.abc import Iterable, Iterator


def one_ahead(items: Iterable) -> Iterator:
    """The same, each when the next has been begun."""
    for before, _ in itertools.pairwise(itertools.chain(items, [None])):
        yield before
