"""Which rows of manifests are decoded."""

import os
from collections.abc import Sequence

import numpy as np

from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sources import Source, open_sources
from w2v_jax.errors import UserError


def open_unlabelled(
    data: str, *, exclude: str = "", share: float = 1.0, seed: int = 0
) -> tuple[list[Source], Manifest]:
    """(sources, their rows as one manifest) of the manifests `data`.

    exclude: manifests whose audio is left out, as it has transcripts; share: of what remains, drawn
    with `seed`, at least one row. Raises UserError where no row is left.
    """
    sources = open_sources(data)
    if exclude:
        known = {key for source in open_sources(exclude) for key in _audio(source.manifest)}
        there = [np.array([x not in known for x in _audio(s.manifest)], bool) for s in sources]
        sources = [s.select(x) for s, x in zip(sources, there, strict=True) if x.any()]
        if not sources:
            raise UserError(f"--exclude={exclude} names all audio of --data={data}")
    total = sum(len(source.manifest) for source in sources)
    if not total:
        raise UserError(f"--data={data} has no rows; there is nothing to do")
    if share < 1:
        rows = np.random.default_rng(seed).permutation(total)[: max(round(share * total), 1)]
        ends = np.cumsum([len(source.manifest) for source in sources])
        rows = np.split(np.sort(rows), np.searchsorted(np.sort(rows), ends[:-1]))
        firsts = [0, *ends[:-1].tolist()]
        sources = [
            source.select(own - first)
            for source, own, first in zip(sources, rows, firsts, strict=True) if len(own)
        ]  # fmt: skip
    return sources, joined([source.manifest for source in sources])


def _audio(manifest: Manifest) -> list[tuple[str, int]]:
    """(file, first sample) of every row."""
    return [
        (os.path.realpath(manifest.path(row)), start)
        for row, start in enumerate(manifest.starts.tolist())
    ]


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """The rows of several manifests; where their roots differ paths are whole."""
    roots = {manifest.root for manifest in manifests}
    alike = len(roots) == 1

    def paths(manifest: Manifest) -> list[str]:
        if alike:
            return list(manifest.paths)
        return [manifest.path(row) for row in range(len(manifest))]

    def column(name: str) -> list:
        return [x for manifest in manifests for x in getattr(manifest, name)]

    return Manifest(
        roots.pop() if alike else "/", [x for m in manifests for x in paths(m)],
        [int(x) for x in column("samples")], column("texts"), column("speakers"),
        column("languages"), starts=[int(x) for x in column("starts")], corpora=column("corpora"),
    )  # fmt: skip


def ids(manifest: Manifest) -> list[str]:
    """A name for every row: its path, with #row where several are of one file."""
    paths = list(manifest.paths)
    seen: dict[str, int] = {}
    for path in paths:
        seen[path] = seen.get(path, 0) + 1
    return [f"{path}#{row}" if seen[path] > 1 else path for row, path in enumerate(paths)]
