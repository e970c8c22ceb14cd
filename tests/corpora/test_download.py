"""Downloads, from a server of this machine with the layout of the real one."""

import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

import w2v_jax
from w2v_jax.corpora import download as module
from w2v_jax.corpora.download import download
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError

SPEECH = Path(w2v_jax.__file__).parent / "samples/dev-clean"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` (path -> bytes); each answer breaks off after `most` bytes of content."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.most, self.ranges = {}, 10**9, True
        self.requests, self.failures = [], 0
        self.url = f"http://127.0.0.1:{self.server_port}/resources/12"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        server.requests.append((self.path.rsplit("/", 1)[1], begin))
        data = server.files.get(self.path.removeprefix("/resources/12/"))
        if server.failures:
            server.failures -= 1
            self.send_error(503)
        elif data is None:
            self.send_error(404)
        elif begin and server.ranges and begin >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
        else:
            partial = begin > 0 and server.ranges
            rest = data[begin:] if partial else data
            self.send_response(206 if partial else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: server.most])

    def log_message(self, *_):
        pass


def archive(members: dict[str, bytes | str | Path]) -> bytes:
    """A .tar.gz; a str is the target of a link."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                data = content.read_bytes() if isinstance(content, Path) else content
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0.01,) * 3)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    chapter = sorted(SPEECH.rglob("*.trans.txt"))[0].parent
    members = {f"LibriSpeech/dev-clean/7/8/{path.name}": path for path in chapter.iterdir()}
    offer(server, "dev-clean.tar.gz", archive({"LibriSpeech/README.TXT": b"read me"} | members))
    server.utterances = sum(path.suffix == ".ogg" for path in chapter.iterdir())
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def offer(server, name: str, data: bytes) -> None:
    server.files[name] = data
    sums = [f"{hashlib.md5(data).hexdigest()}  {name}" for name, data in server.files.items()]
    server.files["md5sum.txt"] = "\n".join(sums).encode()


def test_download_and_prepare(server, tmp_path, capsys):
    command = [
        sys.executable, "-m", "w2v_jax.prepare", "--download=dev-clean", "--output=m.tsv",
        f"--download_to={tmp_path}", f"--download_url={server.url}", "--decode=false",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(SPEECH.parents[2])}
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        command, cwd=tmp_path / "run", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(Manifest.read(tmp_path / "run/m.tsv")) == server.utterances
    assert (tmp_path / "LibriSpeech/README.TXT").read_text() == "read me"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["LibriSpeech", "run"], "nothing is left"
    count = len(server.requests)
    folder = str(tmp_path / "LibriSpeech/dev-clean")
    assert download("dev-clean", str(tmp_path), server.url) == folder
    assert len(server.requests) == count, "what is there is not fetched"
    assert "is there already" in capsys.readouterr().out


def test_a_download_goes_on_where_it_stopped(server, tmp_path):
    data = server.files["dev-clean.tar.gz"]
    (tmp_path / "dev-clean.tar.gz.part").write_bytes(data[:1000])
    server.most = len(data) // 3
    server.failures = 0
    download("dev-clean", str(tmp_path), server.url)
    begins = [begin for name, begin in server.requests if name == "dev-clean.tar.gz"]
    assert begins == [1000 + i * server.most for i in range(len(begins))]
    assert len(begins) == 3


def test_a_server_without_ranges_begins_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "dev-clean.tar.gz.part").write_bytes(b"x" * 10**7)
    download("dev-clean", str(tmp_path), server.url)
    assert (tmp_path / "LibriSpeech/dev-clean").is_dir()


@pytest.mark.parametrize("extra", [0, 5])
def test_a_part_that_is_whole_already(server, tmp_path, extra):
    data = server.files["dev-clean.tar.gz"]
    (tmp_path / "dev-clean.tar.gz.part").write_bytes(data + b"x" * extra)
    download("dev-clean", str(tmp_path), server.url)
    assert (tmp_path / "LibriSpeech/dev-clean").is_dir()


def test_a_server_that_is_busy_is_asked_again_but_not_for_ever(server, tmp_path):
    download("dev-clean", str(tmp_path / "a"), server.url)
    begun = len(server.requests)
    server.files["md5sum.txt"] = b""
    server.failures = 99
    with pytest.raises(UserError, match="503"):
        download("test-clean", str(tmp_path), server.url)
    # md5sum.txt once, the archive at first and after every wait
    assert len(server.requests) == begun + 1 + 1 + len(module.WAITS)


def test_a_wrong_sum_is_noticed(server, tmp_path):
    server.files["md5sum.txt"] = b"0" * 32 + b"  dev-clean.tar.gz\n"
    with pytest.raises(UserError, match=r"MD5 sum [0-9a-f]{32}, not 0{32}"):
        download("dev-clean", str(tmp_path), server.url)
    assert list(tmp_path.iterdir()) == []
    server.files["md5sum.txt"] = b"0" * 32 + b"  another.tar.gz\n"
    with pytest.raises(UserError, match="not 42e2234ba48799c1f50f24a7926300a1"):
        download("dev-clean", str(tmp_path), server.url)


@pytest.mark.parametrize(
    "member", [{"../evil.txt": b"x"}, {"/evil.txt": b"x"}, {"LibriSpeech/l": "../../../etc"}]
)
def test_archives_do_not_write_outside(server, tmp_path, member):
    members = {"LibriSpeech/dev-clean/a.txt": b"x"} | member
    offer(server, "dev-clean.tar.gz", archive(members))
    folder = tmp_path / "a/b"
    if "/evil.txt" in member:  # tarfile takes the slash away, as tar does
        download("dev-clean", str(folder), server.url)
        assert not Path("/evil.txt").exists()
    else:
        with pytest.raises(UserError, match="do not use this archive"):
            download("dev-clean", str(folder), server.url)
        assert [path.name for path in folder.iterdir()] == ["dev-clean.tar.gz"]
    assert not (tmp_path / "a/evil.txt").exists()


def test_errors_of_downloads(server, tmp_path):
    with pytest.raises(UserError, match="train-clean-99 is unknown; choose dev-clean"):
        download("train-clean-99", str(tmp_path), server.url)
    with pytest.raises(UserError, match=r"test-other\.tar\.gz: .*404|Not Found"):
        download("test-other", str(tmp_path), server.url)
    with pytest.raises(UserError, match="is --download_url right"):
        download("dev-clean", str(tmp_path), "nonsense")
    offer(server, "dev-clean.tar.gz", archive({"other/a.txt": b"x"}))
    with pytest.raises(UserError, match="has no folder LibriSpeech/dev-clean"):
        download("dev-clean", str(tmp_path), server.url)
    (tmp_path / "dev-clean.tar.gz").unlink()
    offer(server, "dev-clean.tar.gz", b"no archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        download("dev-clean", str(tmp_path), server.url)
