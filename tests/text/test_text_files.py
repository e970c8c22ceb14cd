"""Text files: plain, compressed, in a bucket, damaged."""

import gzip
from pathlib import Path

import pytest

from w2v_jax.errors import UserError
from w2v_jax.text.files import every_line, lines, write_lines


def test_lines_of_plain_and_compressed_files(tmp_path):
    (tmp_path / "a").write_bytes("one\r\n\n \ttwo\u2028three\n".encode())
    with gzip.open(tmp_path / "b.gz", "wb") as file:
        file.write(b"four\nf\xffve")
    found = list(lines(f"{tmp_path}/a, {tmp_path}/b.gz"))
    assert found == ["one", "two\u2028three", "four", "f\ufffdve"]
    (tmp_path / "b.gz").write_bytes((tmp_path / "b.gz").read_bytes()[:-9])
    for name, words in (("none", "no such file or directory$"), ("b.gz", "")):
        with pytest.raises(UserError, match=f"{name} cannot be read: {words}"):
            list(lines(f"{tmp_path}/{name}"))


@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_written_and_read_again(tmp_path, name):
    path = f"{tmp_path}/{name}"
    write_lines(["one", "", "zwölf"], path)
    assert list(every_line(path)) == ["one", "", "zwölf"]
    assert Path(path).read_bytes()[:2] == (b"\x1f\x8b" if name.endswith(".gz") else b"on")
    with pytest.raises(UserError, match=r"cannot be written: no such file .*; choose"):
        write_lines([], f"{tmp_path}/none/{name}")


def test_in_a_bucket(bucket):
    write_lines(["one"], f"{bucket}/text.gz")
    assert list(lines(f"{bucket}/text.gz")) == ["one"]
