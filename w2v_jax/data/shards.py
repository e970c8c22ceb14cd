"""ArrayRecord shards: the audio of a manifest, decoded once, in a few large files.

A folder of shards is used wherever a manifest is (`data.train=FOLDER`) and gives the same batches,
bit for bit. It holds

    manifest.arrow                      the rows, with the digest of the manifest that was packed
    shard-00000-of-00012.arrayrecord    16-bit samples at 16 kHz, as they are (pcm) or as FLAC
    shard-00000-of-00012.json           what is in it, written when it is finished
    unreadable.tsv                      rows without audio and the reason, if there are any
    shards.json, records.npy            written last: the format; where each shard and row begins

ArrayRecord reads a record as a whole. A row is therefore cut into blocks of 4 seconds, one record
each, so that a crop of an hour reads and decodes only the blocks that it touches; in a FLAC record
decoding starts at the wanted sample. Records are neither grouped nor compressed again: either would
cost more than reading does. Every record carries a checksum of its own (Riegeli's).
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from w2v_jax.audio.waveform import AudioError, decode_flac, encode
from w2v_jax.data.audio_files import Files
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError
from w2v_jax.places import unwritable

BLOCK = 1 << 16  # samples in a record, the last of a row has what is left
FORMATS = ("pcm", "flac")
_PIECE = 64 * BLOCK  # samples read at a time: memory does not grow with the length of a recording
_WRITE = "group_size:1,uncompressed"
_READ = "readahead_buffer_size:0,max_parallelism:0"  # for access in random order
_OPEN = 128  # shards that a process holds open
_INDEX = "shards.json"


def is_shards(path: str | os.PathLike) -> bool:
    """Whether a path is a folder of finished shards."""
    return os.path.isfile(os.path.join(path, _INDEX))


class Shards:
    """Audio from a folder of shards. Pickled, it is the folder's name and the selected rows."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = self.path = os.path.abspath(folder)
        self.name = os.path.basename(self.folder)
        try:
            index = json.loads(Path(self.folder, _INDEX).read_text())
            self._records = np.load(os.path.join(self.folder, "records.npy"), mmap_mode="r")
            self.format, block = index["format"], index["block"]
            self._first_rows = np.array(index["first_rows"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.folder}: is no folder of shards ({error})") from None
        if block != BLOCK or self.format not in FORMATS:
            raise UserError(f"{self.folder}: blocks of {block} samples as {self.format} are new to "
                            "this version; write the shards again")  # fmt: skip
        self.manifest = Manifest.read(os.path.join(self.folder, "manifest.arrow"))
        if self.manifest.digest != index["digest"] or len(self._records) != len(self.manifest) + 1:
            raise UserError(f"{self.folder}: shards and manifest.arrow do not belong together")
        self._all = self.manifest
        self._rows: np.ndarray | None = None
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()

    def __reduce__(self):
        return _reopen, (self.folder, self._rows)

    def select(self, rows: np.ndarray) -> "Shards":
        rows = np.asarray(rows)
        chosen = np.arange(len(self.manifest), dtype=np.int32)[rows]
        return _reopen(self.folder, chosen if self._rows is None else self._rows[chosen])

    def audio(self, row: int, start: int, count: int) -> np.ndarray:
        size = int(self.manifest.samples[row])
        if start < 0 or count < 1 or start + count > size:
            raise AudioError(
                f"{self.manifest.path(row)}: has {size} samples in {self.folder}, "
                f"{start}..{start + count} were asked for"
            )
        if self._rows is not None:
            row = int(self._rows[row])
        first, last = start // BLOCK, (start + count - 1) // BLOCK
        try:
            parts = [
                self._decode(data, max(start - block * BLOCK, 0), start + count - block * BLOCK)
                for block, data in enumerate(self._read(row, first, last + 1), start=first)
            ]
        except (RuntimeError, AudioError, OSError) as error:
            name = _name(self._shard(row), len(self._first_rows) - 1)
            raise AudioError(f"{self._all.path(row)}: {error} ({self.folder}/{name})") from None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._first_rows, row, side="right")) - 1

    def _read(self, row: int, first: int, last: int) -> list[bytes]:
        """Blocks first..last of a row."""
        shard = self._shard(row)
        begin = int(self._records[row] - self._records[self._first_rows[shard]])
        return self._reader(shard).read(list(range(begin + first, begin + last)))

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._lock:
            reader = self._readers.pop(shard, None)
            if reader is None:
                path = os.path.join(self.folder, _name(shard, len(self._first_rows) - 1))
                reader = ArrayRecordReader(path, _READ, file_reader_buffer_size=1 << 16)
                if not reader.ok():
                    raise AudioError("the shard is missing or damaged")
                while len(self._readers) >= _OPEN:  # closed when no thread reads from it any more
                    self._readers.pop(next(iter(self._readers)))
            self._readers[shard] = reader
        return reader

    def _decode(self, data: bytes, start: int, stop: int) -> np.ndarray:
        """Samples start..stop of a block, fewer where it ends before."""
        stop = min(stop, BLOCK)
        if not data:
            raise AudioError("could not be read when the shards were written")
        if self.format == "flac":
            return decode_flac(data, start, stop - start)
        return np.frombuffer(data, "<i2")[start:stop]


def _reopen(folder: str, rows: np.ndarray | None) -> Shards:
    shards = Shards(folder)
    if rows is not None:
        shards._rows = rows
        shards.manifest = shards._all.select(rows)
    return shards


def _name(shard: int, count: int) -> str:
    return f"shard-{shard:05d}-of-{count:05d}.arrayrecord"


# ------------------------------------------------------------------------------ writing


def write_shards(
    manifest: Manifest,
    folder: str | os.PathLike,
    *,
    shard_format: str = "pcm",
    megabytes: int = 1000,
    processes: int | None = None,
    max_bad_share: float = 0.1,
    overwrite: bool = False,
) -> None:
    """Packs the audio of a manifest into shards of about `megabytes` of samples each.

    Shards that an earlier, interrupted run has finished are kept if they are of the same manifest
    and format. Rows that cannot be read are listed in unreadable.tsv; in a training run they count
    as files that cannot be read do. Raises UserError for more than `max_bad_share` of them, where
    the folder cannot be written and, without `overwrite`, where it holds those of another manifest.
    """
    if shard_format not in FORMATS:
        raise UserError(f"--shard_format={shard_format!r} is not one of {', '.join(FORMATS)}")
    if not len(manifest):
        raise UserError("the manifest has no rows")
    folder = Path(folder).absolute()
    if not overwrite:
        _check_free(folder, manifest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _INDEX).unlink(missing_ok=True)
        manifest.write(folder / "manifest.arrow")
        manifest = Manifest.read(folder / "manifest.arrow")  # that is cheap to send to processes
        ends = np.cumsum(manifest.samples)
        per_shard = max(megabytes * 1_000_000 // 2, 1)
        cuts = np.searchsorted(ends, np.arange(1, -(-int(ends[-1]) // per_shard)) * per_shard) + 1
        first_rows = np.unique([0, *cuts, len(manifest)]).tolist()
        tasks = [
            functools.partial(_write_shard, str(folder), manifest, shard_format, shard, first_rows)
            for shard in range(len(first_rows) - 1)
        ]
        found = _in_processes(tasks, processes, " shards")
        unreadable = [line for shard in found for line in shard["unreadable"]]
        _list_unreadable(folder / "unreadable.tsv", manifest, unreadable)
        if len(unreadable) > max_bad_share * len(manifest):
            raise UserError(
                f"{len(unreadable)} of {len(manifest)} rows cannot be read, see "
                f"{folder}/unreadable.tsv; repair them and remove the shards, or raise "
                f"--max_bad_share={max_bad_share:g}"
            )
        records = np.append(0, np.cumsum(-(-manifest.samples // BLOCK)))
        np.save(folder / "records.npy", records)
        index = {
            "format": shard_format, "block": BLOCK, "digest": manifest.digest,
            "first_rows": first_rows, "sha256": [shard["sha256"] for shard in found],
        }  # fmt: skip
        _write_text(folder / _INDEX, json.dumps(index) + "\n")
    except OSError as error:
        raise unwritable(f"--shards={folder}", error) from None
    size = sum(path.stat().st_size for path in folder.glob("*.arrayrecord"))
    print(
        f"{folder}: {len(manifest)} rows, {manifest.hours:.2f} hours in {len(tasks)} shards, "
        f"{size / 1e6:.1f} MB; {sum(shard['kept'] for shard in found)} shards were there, "
        f"{len(unreadable)} rows unreadable" + (", see unreadable.tsv" if unreadable else "")
    )


def _write_shard(folder, manifest, shard_format, shard, first_rows) -> dict:
    first, last = first_rows[shard], first_rows[shard + 1]
    path = Path(folder, _name(shard, len(first_rows) - 1))
    note = path.with_suffix(".json")
    content = {
        "digest": manifest.digest, "format": shard_format, "block": BLOCK, "rows": [first, last]
    }  # fmt: skip
    if note.exists() and path.exists():
        old = json.loads(note.read_text())
        if {key: old.get(key) for key in content} == content:
            return old | {"kept": 1}
    files = Files(manifest)
    temporary = path.with_suffix(".tmp")
    try:
        sha256, unreadable = _write_records(temporary, files, manifest, shard_format, first, last)
        os.replace(temporary, path)
        content |= {"sha256": sha256, "unreadable": unreadable}
        _write_text(note, json.dumps(content) + "\n")
    except (OSError, RuntimeError) as error:  # array_record raises the latter
        temporary.unlink(missing_ok=True)  # half of it would only take room
        raise unwritable(path, error) from None
    return content | {"kept": 0}


def _write_records(
    path: Path, files: Files, manifest: Manifest, shard_format: str, first: int, last: int
) -> tuple[str, list]:
    """Writes the audio of the rows; (SHA-256 of the samples, [row, reason] of what is unreadable).
    Raises RuntimeError where the file cannot be written."""
    writer = ArrayRecordWriter(str(path), _WRITE)
    digest, unreadable = hashlib.sha256(), []
    for row in range(first, last):
        size = int(manifest.samples[row])
        for start in range(0, size, _PIECE):
            count = min(_PIECE, size - start)
            try:
                pcm = files.audio(row, start, count).astype("<i2", copy=False)
            except AudioError as error:
                unreadable.append([row, str(error)])
                for _ in range(start, size, BLOCK):
                    writer.write(b"")
                break
            digest.update(pcm.tobytes())
            for block in np.split(pcm, range(BLOCK, count, BLOCK)):
                writer.write(encode(block, "flac") if shard_format == "flac" else block.tobytes())
    writer.close()
    return digest.hexdigest(), unreadable


def verify_shards(folder: str | os.PathLike, *, processes: int | None = None) -> None:
    """Decodes every record of a folder. Raises UserError for one that is damaged, has a wrong
    length, or where the samples of a shard are not those that were written."""
    shards = Shards(folder)
    sha256 = json.loads(Path(folder, _INDEX).read_text())["sha256"]
    tasks = [functools.partial(_verify_shard, shards, shard) for shard in range(len(sha256))]
    found = _in_processes(tasks, processes, " shards verified")
    for shard, (digest, problem) in enumerate(found):
        name = _name(shard, len(sha256))
        if problem or digest != sha256[shard]:
            problem = problem or "its samples are not those that were written"
            raise UserError(f"{folder}/{name}: {problem}; remove it and write the shards again")
    print(f"{folder}: {len(shards.manifest)} rows in {len(sha256)} shards, all records are right")


def _verify_shard(shards: Shards, shard: int) -> tuple[str, str]:
    """(sha256 of the samples, what is wrong with them)."""
    digest = hashlib.sha256()
    first, last = shards._first_rows[shard : shard + 2].tolist()
    for row in range(first, last):
        size = int(shards.manifest.samples[row])
        for block in range(-(-size // BLOCK)):
            wanted = min(BLOCK, size - block * BLOCK)
            try:
                (data,) = shards._read(row, block, block + 1)
                pcm = shards._decode(data, 0, BLOCK) if data else None
            except (RuntimeError, AudioError) as error:
                return "", f"row {row}: {error}"
            if pcm is None:
                continue  # known to be unreadable
            if len(pcm) != wanted:
                return "", f"row {row}, block {block}: {len(pcm)} samples instead of {wanted}"
            digest.update(pcm.astype("<i2").tobytes())
    return digest.hexdigest(), ""


def _in_processes(tasks: list[Callable], processes: int | None, unit: str) -> list:
    """The results of the tasks, in their order, with a progress bar where someone sees it."""
    processes = min(processes or os.cpu_count(), len(tasks))

    def bar(results: Iterator) -> list:
        return list(tqdm(results, total=len(tasks), unit=unit, disable=not sys.stderr.isatty()))

    if processes == 1:
        return bar(task() for task in tasks)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        return bar(pool.map(_call, tasks))


def _call(task: Callable):
    return task()


def _check_free(folder: Path, manifest: Manifest) -> None:
    """Raises UserError where a folder has shards, or a manifest, of other rows."""
    path = folder / "manifest.arrow"
    if not path.exists():
        return
    found = ""
    with contextlib.suppress(UserError):
        found = Manifest.read(path).digest
    if found != manifest.digest:
        raise UserError(
            f"--shards={folder} holds those of another manifest; name another folder, or replace "
            "them with --overwrite"
        )


def _list_unreadable(path: Path, manifest: Manifest, rows: list) -> None:
    if not rows:
        path.unlink(missing_ok=True)
        return
    lines = (f"{row}\t{manifest.paths[row]}\t{reason}\n" for row, reason in rows)
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("row\tpath\treason\n")
        file.writelines(line.replace("\r", " ") for line in lines)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text)
    os.replace(temporary, path)
