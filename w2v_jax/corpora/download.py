"""Downloads of LibriSpeech and Libri-Light: resumed, checked, unpacked safely, and only once."""

import hashlib
import http.client
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from w2v_jax.errors import UserError

_OPENSLR = "https://www.openslr.org/resources/12"
_LIBRI_LIGHT = "https://dl.fbaipublicfiles.com/librilight/data"
_BLOCK = 1 << 20
WAITS = (1, 2, 4, 8, 16, 32)  # seconds between attempts of which none got any further
TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Archive:
    """`url`/`file`, whose MD5 sum is published, unpacks to `folder`."""

    url: str
    file: str
    md5: str
    folder: str


# The sums are those of md5sum.txt beside the LibriSpeech archives and of the README of
# facebookresearch/libri-light (data_preparation).
_LIBRISPEECH = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
ARCHIVES = {
    name: Archive(_OPENSLR, f"{name}.tar.gz", md5, f"LibriSpeech/{name}")
    for name, md5 in _LIBRISPEECH.items()
} | {
    "librilight-small": Archive(
        _LIBRI_LIGHT, "small.tar", "c49207eb86a8e8ac895561c37232041e", "small"
    ),
    "librilight-medium": Archive(
        _LIBRI_LIGHT, "medium.tar", "c75e7ac62471bfbf2db77528d62a9b74", "medium"
    ),
    "librilight-large": Archive(
        _LIBRI_LIGHT, "large.tar", "4dfbac018f50b99797ece101fc9f0c30", "large"
    ),
    "librilight-limited": Archive(
        _LIBRI_LIGHT,
        "librispeech_finetuning.tgz",
        "7f83024cb1334bfa372d1af2c75c3a77",
        "librispeech_finetuning",
    ),
}  # fmt: skip


def download(name: str, folder: str, url: str = "") -> str:
    """Returns the folder of the subset `name` below `folder`, fetched unless it is there.

    `url` is another address of the archives. The sum is looked up in its md5sum.txt, and is the
    published one where it has none or does not list the archive. An archive that was begun is
    continued; its parts are written to the subset's folder only when all is there, so that
    folder is whole or does not exist. The archive is removed afterwards.

    Raises UserError for an unknown subset, a server that does not answer, a wrong sum, and an
    archive with members outside its folder.
    """
    if name not in ARCHIVES:
        raise UserError(f"--download={name} is unknown; choose {', '.join(ARCHIVES)}")
    archive = ARCHIVES[name]
    target = os.path.join(folder, archive.folder)
    if os.path.isdir(target):
        print(f"{target}: is there already")
        return target
    os.makedirs(folder, exist_ok=True)
    base = (url or archive.url).rstrip("/")
    file = os.path.join(folder, archive.file)
    expected = _published_sum(base, archive.file) if url else ""
    expected = expected or archive.md5
    _fetch(f"{base}/{archive.file}", file)
    found = md5(file)
    if found != expected:
        os.remove(file)
        raise UserError(
            f"{base}/{archive.file}: the file that came has the MD5 sum {found}, not {expected}; "
            "it was removed, run the command again"
        )
    _unpack(file, folder, archive.folder)
    os.remove(file)
    return target


def md5(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _published_sum(base: str, file: str) -> str:
    try:
        with urllib.request.urlopen(f"{base}/md5sum.txt", timeout=TIMEOUT) as answer:
            lines = answer.read(1 << 20).decode("utf-8", "replace").splitlines()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        raise _no_answer(f"{base}/md5sum.txt", error) from None
    for line in lines:
        sum_and_name = re.fullmatch(r"([0-9a-f]{32}) [ *](?:.*/)?(\S+)", line.strip())
        if sum_and_name and sum_and_name[2] == file:
            return sum_and_name[1]
    return ""


def _no_answer(url: str, error: Exception) -> UserError:
    http_error = isinstance(error, urllib.error.HTTPError)
    reason = error if http_error else getattr(error, "reason", error)
    return UserError(f"{url}: {reason}; is --download_url right, and the network there?")


def _fetch(url: str, file: str) -> None:
    """Appends to `file`.part what is missing of it, and gives it its name when all is there."""
    if os.path.exists(file):
        return
    part = f"{file}.part"
    failures = 0
    while True:
        have = os.path.getsize(part) if os.path.exists(part) else 0
        try:
            if _fetch_rest(url, part, have):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise _no_answer(url, error) from None
            reason = error
        except (OSError, http.client.HTTPException) as error:
            reason = error
        except ValueError as error:
            raise _no_answer(url, error) from None
        size = os.path.getsize(part) if os.path.exists(part) else 0
        failures = 0 if size > have else failures + 1
        if failures > len(WAITS):
            raise _no_answer(url, reason if isinstance(reason, Exception) else OSError(reason))
        time.sleep(WAITS[max(failures - 1, 0)])
    os.replace(part, file)


def _fetch_rest(url: str, part: str, have: int) -> bool:
    """Whether the file is whole after what this answer brought."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if error.code == 416 and total:  # nothing lies beyond what we have
            if int(total[1]) != have:
                os.remove(part)
            return int(total[1]) == have
        raise
    with answer:
        length = int(answer.headers.get("Content-Length", -1))
        if answer.status != 206:
            have = 0  # a server that begins again
        with open(part, "r+b" if os.path.exists(part) else "wb") as out:
            out.truncate(have)
            out.seek(have)
            begin = last = time.monotonic()
            got = 0
            while block := answer.read(_BLOCK):
                out.write(block)
                got += len(block)
                now = time.monotonic()
                if now - last > 10:
                    last = now
                    print(
                        f"{os.path.basename(part)}: {(have + got) / 1e9:.2f} GB of "
                        f"{(have + length) / 1e9:.2f}, {got / (now - begin) / 1e6:.1f} MB/s",
                        flush=True,
                    )
    return length < 0 or got == length


def _unpack(file: str, folder: str, subset: str) -> None:
    """Unpacks beside the target; the subset's folder is moved to where it belongs at the end."""
    scratch = os.path.join(folder, f".unpacking-{os.path.basename(file)}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with tarfile.open(file) as archive:
            # refuses absolute names, .., links that lead out, devices
            archive.extractall(scratch, filter="data")
    except tarfile.FilterError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise UserError(f"{file}: {error}; nothing was unpacked, do not use this archive") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise UserError(f"{file}: cannot be unpacked ({error}); is the disk full?") from None
    if not os.path.isdir(os.path.join(scratch, subset)):
        shutil.rmtree(scratch)
        raise UserError(f"{file}: has no folder {subset}; is it the right archive?")
    # what lies beside the subset (README, SPEAKERS.TXT) first, the subset as the last
    beside = os.path.dirname(os.path.join(scratch, subset))
    target = os.path.dirname(os.path.join(folder, subset))
    os.makedirs(target, exist_ok=True)
    for name in sorted(os.listdir(beside), key=lambda name: name == os.path.basename(subset)):
        if not os.path.exists(os.path.join(target, name)):
            os.replace(os.path.join(beside, name), os.path.join(target, name))
    shutil.rmtree(scratch)
