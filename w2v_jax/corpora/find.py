"""Finds the utterances of a folder or a table, whatever corpus it holds."""

import os

from w2v_jax.corpora.layouts import LAYOUTS
from w2v_jax.corpora.tables import TABLES, kind
from w2v_jax.corpora.utterances import Found
from w2v_jax.corpora.utterances import walk as _walk
from w2v_jax.errors import UserError


def find(source: str | os.PathLike, layout: str = "") -> Found:
    """Returns every utterance of a folder or a table, sorted by path and start in the file.

    A table (a file) is known by its suffix and its first line, see `tables.kind`. In a folder and
    each folder below it the first layout of `layouts.LAYOUTS` whose mark is there is taken, so a
    folder may hold several corpora; `layout` takes that one everywhere. Hidden files are left
    out, links to folders are followed. Raises UserError where there is no such folder or file,
    where it is not of the `layout`, and for damaged tables.
    """
    if not source:
        raise UserError("--input is empty; name a folder or a table (. is the current folder)")
    source = os.path.abspath(source)
    known = sorted(LAYOUTS.keys() | TABLES.keys())
    if layout and layout not in known:
        raise UserError(f"--layout={layout} is unknown; choose {', '.join(known)}")
    if os.path.isfile(source):
        found = _read_table(source, layout)
    elif os.path.isdir(source):
        found = _search(source, layout)
    else:
        raise UserError(f"{source}: does not exist; give a folder with audio files, or a table")
    found.utterances.sort(key=lambda utterance: utterance.sort_key)
    found.lines_without_audio.sort()
    found.audio_without_line.sort()
    return found


def _read_table(path: str, layout: str) -> Found:
    name = layout or kind(path)
    if name not in TABLES:
        raise UserError(
            f"{path}: is a file, and no table of audio that is known; give a folder with audio "
            f"files, or say what it is with --layout={'|'.join(TABLES)}"
        )
    return TABLES[name](path)


def _search(folder: str, layout: str) -> Found:
    if layout and layout not in LAYOUTS:
        raise UserError(f"{folder}: is a folder; --layout={layout} needs a file")
    wanted = [LAYOUTS[layout]] if layout else LAYOUTS.values()
    total, seen = Found(), False
    for here, folders, names in _walk(folder, total.unreadable_folders):
        for read in wanted:
            found = read(here, folders, names)
            if found is not None:
                seen = True
                total.add(found)
                break
    if not seen:
        mark = " ".join(LAYOUTS[layout].__doc__.split("\n\n")[0].split())
        raise UserError(f"{folder}: holds nothing of --layout={layout}, which is {mark}")
    return total
