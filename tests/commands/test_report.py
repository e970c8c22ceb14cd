import json

import pytest

from w2v_jax import report
from w2v_jax.errors import UserError


def write_run(folder, lines, pairs=None):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if pairs:
        rows = ["path\treference\thypothesis", *("\t".join(("x", *pair)) for pair in pairs)]
        (folder / "test.decoded.tsv").write_text("\n".join(rows) + "\n")


def test_table_and_picture(tmp_path):
    valid = {"valid/accuracy": 0.25, "valid/code_perplexity": 50.0, "valid/contrastive_bits": 5.0}
    train = {"train/accuracy": 0.2, "train/contrastive_bits": 5.1, "time/seconds": 90.0}
    write_run(tmp_path / "pretrain", [{"step": 10, **train}, {"step": 10, **valid}])
    cer = [{"step": 10, "time/seconds": 30.0}, {"step": 10, "valid/cer": 40.0, "valid/wer": 60.0}]
    write_run(tmp_path / "finetuned-0", cer, [("ONE TWO", "ONE TWO"), ("A", "")])
    write_run(tmp_path / "finetuned-1", cer, [("ONE TWO", "ONE TWO"), ("A", "A")])
    write_run(tmp_path / "finetuned-2", cer)  # not scored yet
    write_run(tmp_path / "scratch-0", cer, [("ONE TWO", "ONE"), ("A", "B")])
    rows = report.table(tmp_path).splitlines()
    assert rows[1].split() == ["pre-training", "0.250", "50.0", "1.5"]
    assert rows[2].split()[-6:] == ["2", "16.7", "(0.0-33.3)", "6.2", "(0.0-12.5)", "0.5"]
    assert rows[3].split()[-4:-2] == ["1", "66.7"]
    report.picture(tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_unfinished_runs_are_named(tmp_path):
    with pytest.raises(UserError, match=r"quickstart\.sh"):
        report.table(tmp_path)
