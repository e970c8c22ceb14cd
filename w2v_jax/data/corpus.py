"""A corpus and its items, what batches are made of: utterances, or a few short ones end to end."""

import copy
import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from w2v_jax.data.plan import concatenation
from w2v_jax.data.sharing import Ragged, SharedState
from w2v_jax.data.sources import Row, Source


class Corpus(SharedState):
    """Items of one or several sources, which can be read by index.

    Rows are counted through the sources in their order. An item is a row, or with `groups` the rows
    of one group, each cut to a multiple of `grid` samples. `cache_bytes` of decoded rows are kept
    in memory.
    """

    def __init__(
        self,
        sources: Source | Sequence[Source],
        groups: Ragged | None = None,
        *,
        grid: int = 1,
        cache_bytes: int = 0,
    ):
        self.sources = list(sources) if isinstance(sources, Sequence) else [sources]
        self.groups = groups
        self.grid = grid
        sizes = [len(source.manifest) for source in self.sources]
        self._first = np.concatenate([[0], np.cumsum(sizes)])  # row of every source
        self._start_cache(cache_bytes)

    def _start_cache(self, room: int) -> None:
        self._cache: dict[int, np.ndarray] = {}
        self._room = self._cache_bytes = room
        self._lock = threading.Lock()

    def __getstate__(self):
        """Without what is large and can be had again: worker processes map the manifests."""
        own = ("_cache", "_lock", "_room", "lengths", "row_lengths")
        return {k: v for k, v in super().__getstate__().items() if k not in own}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._start_cache(self._cache_bytes)

    def with_cache(self, cache_bytes: int) -> "Corpus":
        """The same items with a cache of another size."""
        other = copy.copy(self)
        other._start_cache(cache_bytes)
        return other

    @property
    def cache_bytes(self) -> int:
        return self._cache_bytes

    @cached_property
    def row_lengths(self) -> np.ndarray:
        """int64 [rows]: samples of every row; of a single source a view of the manifest."""
        return _joined([source.manifest.samples for source in self.sources])

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [items]: samples of every item."""
        if self.groups is None:
            return self.row_lengths
        return self.groups.sums(self.row_lengths - self.row_lengths % self.grid)

    @property
    def first_rows(self) -> np.ndarray:
        """int [items]: the row of every item, or the first of its rows."""
        if self.groups is None:
            return np.arange(len(self))
        return self.groups.values[self.groups.bounds[:-1]]

    @property
    def num_rows(self) -> int:
        """Of all sources."""
        return int(self._first[-1])

    @property
    def hours(self) -> float:
        return sum(source.manifest.hours for source in self.sources)

    @property
    def digest(self) -> str:
        """The manifest's digest, or one of those of several."""
        digests = [source.manifest.digest for source in self.sources]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def __len__(self) -> int:
        return self.num_rows if self.groups is None else len(self.groups)

    def length(self, item: int) -> int:
        """Samples of one item; in a worker process cheaper than `lengths`."""
        return sum(size for _, size in self.rows(item))

    def rows(self, item: int) -> list[tuple[int, int]]:
        """(row, samples that are heard of it) of the rows of an item."""
        if self.groups is None:
            return [(item, self._row_length(item))]
        sizes = ((row, self._row_length(row)) for row in self.groups[item].tolist())
        return [(row, size - size % self.grid) for row, size in sizes]

    def row(self, row: int) -> Row:
        """The audio of a row, to be read in parts."""
        return Row(*self._locate(row))

    def path(self, item: int) -> str:
        """The file of an item, or the first of its files, as its manifest writes it."""
        source, i = self._first_row(item)
        return source.manifest.paths[i]

    def speaker(self, item: int) -> str:
        """The speaker of an item; '' where it is not known."""
        source, i = self._first_row(item)
        return source.manifest.speakers[i]

    def _first_row(self, item: int) -> tuple[Source, int]:
        return self._locate(item if self.groups is None else int(self.groups[item][0]))

    def _locate(self, row: int) -> tuple[Source, int]:
        """The source of a row, and which of its rows it is."""
        if len(self.sources) == 1:
            return self.sources[0], row
        index = int(np.searchsorted(self._first, row, side="right")) - 1
        return self.sources[index], row - int(self._first[index])

    def _row_length(self, row: int) -> int:
        source, i = self._locate(row)
        return int(source.manifest.samples[i])

    def _read(self, row: int, start: int, count: int) -> np.ndarray:
        source, i = self._locate(row)
        cached = self._cache.get(row)
        if cached is None:
            size = int(source.manifest.samples[i])
            if 2 * size > self._room:
                return source.audio(i, start, count)
            cached = source.audio(i, 0, size)
            with self._lock:
                if row not in self._cache and cached.nbytes <= self._room:
                    self._cache[row] = cached
                    self._room -= cached.nbytes
        return cached[start : start + count]

    def audio(self, item: int, start: int, count: int) -> np.ndarray:
        """int16 [count] from sample `start` of the item. Raises AudioError."""
        if self.groups is None:
            return self._read(item, start, count)
        parts = []
        for row, size in self.rows(item):
            if start < size and count > 0:
                parts.append(self._read(row, start, min(count, size - start)))
                count -= len(parts[-1])
            start = max(start - size, 0)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def concatenated(corpus: Corpus, target: int, *, seed: int, grid: int = 1) -> Corpus:
    """A corpus whose items are short utterances joined up to `target` samples: of one speaker of
    one source and corpus, in one language.

    grid: samples of which the utterances are cut to a multiple, for tracks that have a rate (see
    `loader.Track`): a value is then of one utterance alone.
    """
    heard = corpus.row_lengths - corpus.row_lengths % grid
    groups = concatenation(heard, _speakers(corpus), target, seed=seed)
    return Corpus(corpus.sources, groups, grid=grid, cache_bytes=corpus.cache_bytes)


def with_joined(corpus: Corpus, target: int, longest: int, *, walks: int) -> Corpus:
    """A corpus whose items are every utterance alone and, `walks` times, in random company: joined
    as in `concatenated`, but for what would be longer than `longest` samples."""
    speakers, lengths = _speakers(corpus), corpus.row_lengths
    rows, sizes = [np.arange(len(lengths), dtype=np.int32)], [np.ones(len(lengths), np.int64)]
    for walk in range(walks):
        groups = concatenation(lengths, speakers, target, seed=walk)
        kept = (groups.sizes > 1) & (groups.sums(lengths) <= longest)
        rows.append(groups.values[np.repeat(kept, groups.sizes)])
        sizes.append(groups.sizes[kept])
    items = Ragged(np.concatenate(rows), np.append(0, np.concatenate(sizes).cumsum()))
    return Corpus(corpus.sources, items, cache_bytes=corpus.cache_bytes)


def _speakers(corpus: Corpus) -> np.ndarray:
    """int64 [rows]: the same for the rows that may be joined."""
    speakers = []
    for index, source in enumerate(corpus.sources):
        key = source.manifest.speakers.codes.astype(np.int64)
        for labels in (source.manifest.languages, source.manifest.corpora):
            key = key * len(labels.names) + labels.codes
        speakers.append((np.int64(index) << 48) + key)
    return _joined(speakers)


def _joined(columns: list[np.ndarray]) -> np.ndarray:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)
