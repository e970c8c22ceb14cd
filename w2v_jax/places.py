"""Paths: local ones, and those in a bucket (gs://..., with w2v_jax[gcs])."""

import contextlib
import errno
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from etils import epath

from w2v_jax.errors import UserError, brief, some

Place = epath.Path
_HEAD = 4096  # bytes of a file by which it is recognised
# WAV, FLAC, Ogg, MPEG audio and ADTS, AIFF, AU, CAF, QuickTime, Matroska, WMA, NIST sphere, AMR,
# WavPack, Monkey's Audio, VOC, 8SVX
_AUDIO = re.compile(
    rb"RIFF|RIFX|RF64|riff|fLaC|OggS|ID3|\xff[\xe2-\xe7\xf1-\xfd]|FORM|\.snd|caff|"
    rb".{4}(ftyp|moov|mdat|wide|free|skip)|\x1aE\xdf\xa3|0&\xb2u|NIST_1A|#!AMR|wvpk|MAC |"
    rb"Creative Voice File",
    re.DOTALL,
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a limit of the process


def is_remote(path: str | os.PathLike) -> bool:
    path = os.fspath(path)
    return "://" in path and re.match("[a-z][a-z0-9]+://", path) is not None


def absolute(path: str | os.PathLike) -> str:
    """The path from the root of its storage."""
    return os.fspath(path) if is_remote(path) else os.path.abspath(path)


def join(folder: str, name: str) -> str:
    """`name` below `folder`, or `name` itself where it is absolute or remote."""
    return name if is_remote(name) else os.path.join(folder, name)


def place(path: str | os.PathLike) -> Place:
    """The path from the root of its storage, to work with. Raises UserError where a package is
    missing, and for an empty path: a variable that is not set would mean the current folder."""
    if not os.fspath(path):
        raise UserError("a path is empty; name the folder or file (. is the current folder)")
    found = epath.Path(absolute(path))
    try:
        if is_remote(path):
            found.exists()  # imports the package
    except ImportError as error:
        raise UserError(
            f"{os.fspath(path)} needs another package ({error}); for gs:// pip install gcsfs"
        ) from None
    return found


def several(names: str) -> list[str]:
    """The paths in a list with commas between them.

    A comma belongs to a name where something has that name, or fits it as a pattern.
    """
    parts, found = names.split(","), []
    while parts:
        for count in range(len(parts), 0, -1):
            name = ",".join(parts[:count]).strip()
            if count == 1 or os.path.exists(name) or (glob.has_magic(name) and glob.glob(name)):
                break
        found.append(name)
        parts = parts[count:]
    return [name for name in found if name]


def file_names(paths: list[str]) -> list[str]:
    """For every path of audio the name of its files below the output folder, without an ending.

    Paths with the same one, such as the parts of a recording, keep their ending and get their
    number, from 0 on.
    """
    parts = [PurePosixPath(path.split("://", 1)[-1] if is_remote(path) else path) for path in paths]
    parts = [PurePosixPath(*(x for x in part.parts if x not in ("/", ".."))) for part in parts]
    stems = [str(part.with_suffix("")) for part in parts]
    counts = Counter(stems)
    return [
        stem if counts[stem] == 1 else f"{part}-{i}"
        for i, (stem, part) in enumerate(zip(stems, parts, strict=True))
    ]


def short_names(paths: Sequence[str]) -> list[str]:
    """As many of the last parts of the paths as tell them apart."""
    parts = [path.split("/") for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-depth:]) for part in parts]
        if len(set(found)) == len(found):
            break
    return found


def check_replaceable(
    path: str | os.PathLike, flag: str, *, overwrite: bool, ours: bytes = b""
) -> None:
    """Raises UserError where writing `path` would replace a file that no command here wrote.

    flag: which names it, for the message. ours: what stands near the beginning of every file of
    its kind that is written here; empty where nothing does. overwrite: the user's leave to replace
    what is not recognised; audio is never replaced.
    """
    try:
        with place(path).open("rb") as file:
            head = file.read(_HEAD)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return  # nothing to lose; whether something can be written there is said by writing
    except OSError as error:
        raise UserError(
            f"{flag}: {path} exists and cannot be read ({brief(error)}); name another file"
        ) from None
    if _AUDIO.match(head):
        raise UserError(f"{flag}: {path} is audio, which is never replaced; name another file")
    if head and not overwrite and not (ours and ours in head):
        raise UserError(
            f"{flag}: {path} exists, and nothing shows that it was written by this command; name "
            "another file, or replace it with --overwrite"
        )


def check_writable(path: str | os.PathLike, flag: str) -> None:
    """Makes the folder of a file that is written at the end of a long computation. Raises UserError
    where it cannot be written there, which would else be said too late."""
    try:
        file = place(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise UserError(f"{flag}={os.fspath(path)} is a folder; name a file in it")
        if not is_remote(path) and not os.access(file.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(f"{flag}={os.fspath(path)}", error) from None


def check_empty(folder: Path, flag: str, but: tuple[str, ...] = ()) -> None:
    """Raises UserError where writing to a local folder, which `flag` names, would mix with what is
    in it. but: what begins so, or is a temporary file of that, does not count."""
    try:
        there = sorted(os.listdir(folder)) if folder.exists() else []
    except NotADirectoryError:
        raise UserError(f"{flag}={folder} is a file; name a folder") from None
    except OSError as error:
        raise unwritable(f"{flag}={folder}", error) from None
    there = [name for name in there if not (but and name.strip(".").startswith(but))]
    if there:
        raise UserError(
            f"{flag}={folder} holds something else ({some(there, 3)}); name a new folder, or an "
            "empty one"
        )


def check_no_input(path: str | os.PathLike, flag: str, inputs: Iterable[str]) -> None:
    """Raises UserError where a file to be written, which `flag` names, is one of the inputs: what
    was read would be lost, leave to replace it or not."""
    for name in inputs:
        if os.path.realpath(absolute(name)) == os.path.realpath(absolute(path)):
            raise UserError(f"{flag}={os.fspath(path)} is what is read; name another file")


def write_whole(path: Place, content: str | bytes) -> None:
    """Writes a file that is never seen in part. Raises UserError where it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write = "write_text" if isinstance(content, str) else "write_bytes"
        if is_remote(path):  # object stores write in one step
            getattr(path, write)(content)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            getattr(temporary, write)(content)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)  # half of it would only take room
            raise


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """An OSError inside becomes the UserError of `unwritable`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from None


def is_storage(error: OSError) -> bool:
    """Whether nothing more can be written there, whatever it is."""
    return is_full(error) or error.errno == errno.EROFS


def is_full(error: Exception) -> bool:
    """Whether there is no room; libraries wrap the reason in words of their own."""
    return bool(_full(error))


def _full(error: Exception) -> str:
    """Which of the reasons it is, "" if none."""
    found = (os.strerror(n) for n in _FULL
             if n == getattr(error, "errno", None) or os.strerror(n) in str(error))  # fmt: skip
    return next(found, "")


def unwritable(path: str | os.PathLike, error: Exception) -> UserError:
    """What is said of a file or folder that cannot be written, and what helps."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0][:200]
    if full := _full(error):
        reason = full
        remedy = "make room there and run the same command again, or write to another place"
    else:
        remedy = "choose another place, or change what forbids it"
    return UserError(f"{os.fspath(path)} cannot be written: {reason.lower()}; {remedy}")
