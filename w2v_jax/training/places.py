"""Where a run writes: a local folder, or one in a bucket (gs://..., with w2v_jax[gcs])."""

import os

from etils import epath

from w2v_jax.errors import UserError

Place = epath.Path


def is_remote(path: str | os.PathLike) -> bool:
    return "://" in os.fspath(path)


def place(path: str | os.PathLike) -> Place:
    """The path, from the root of its storage. Raises UserError where a package is missing."""
    if not is_remote(path):
        return epath.Path(path).absolute()
    try:
        found = epath.Path(path)
        found.exists()  # imports the package
    except ImportError as error:
        raise UserError(
            f"{os.fspath(path)} needs another package ({error}); for gs:// pip install gcsfs"
        ) from None
    return found


def write_whole(path: Place, text: str) -> None:
    """Writes a file that is never seen in part. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):  # object stores write in one step
        path.write_text(text)
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
