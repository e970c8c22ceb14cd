"""Text files, plain or gzip, here or in a bucket."""

import contextlib
import gzip
import io
import logging
import zlib
from collections.abc import Iterable, Iterator
from typing import TextIO

from w2v_jax.errors import UserError, reason
from w2v_jax.places import place, several, unwritable

log = logging.getLogger(__name__)
BLANKS = " \t\r\n"  # what separates the fields of a line, as for KenLM: U+00A0 is part of a word


@contextlib.contextmanager
def written(path: str) -> Iterator[TextIO]:
    """A file to write text to, compressed where its name ends with .gz. Raises UserError."""
    with _opened(path, "wb") as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        yield text


def every_line(path: str) -> Iterator[str]:
    """All lines of a file, without `BLANKS` at their ends. Raises UserError."""
    with _opened(path, "rb") as file:
        # what is not UTF-8 becomes U+FFFD, which no alphabet accepts
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="\n")
        told = False
        for number, line in enumerate(text, start=1):
            if "\ufffd" in line and not told:
                told = True
                log.warning("%s: line %d is not UTF-8, and perhaps others; convert the file, with "
                            "iconv say, or they count as lines that cannot be written",
                            path, number)  # fmt: skip
            yield line.strip(BLANKS)


def fields(line: str) -> list[str]:
    """The parts of a line with `BLANKS` between them."""
    for blank in BLANKS[1:]:
        line = line.replace(blank, " ")
    return list(filter(None, line.split(" ")))


def lines(paths: str) -> Iterator[str]:
    """The lines of files, several with commas between them, that are not empty."""
    for path in several(paths):
        yield from filter(None, map(str.strip, every_line(path)))


def write_lines(texts: Iterable[str], path: str) -> None:
    """Writes a line for each of the texts."""
    with written(path) as file:
        file.writelines(f"{text}\n" for text in texts)


@contextlib.contextmanager
def _opened(path: str, mode: str) -> Iterator[io.BufferedIOBase]:
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(place(path).open(mode))
            if path.endswith(".gz"):
                file = stack.enter_context(gzip.open(file, mode))
            yield file
    except (OSError, EOFError, zlib.error) as error:
        if mode == "wb":
            raise unwritable(path, error) from None
        raise UserError(f"{path} cannot be read: {reason(error)}") from None
