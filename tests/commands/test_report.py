import json
from pathlib import Path

import pytest

from w2v_jax import report
from w2v_jax.errors import UserError
from w2v_jax.evaluation import figures
from w2v_jax.tasks import TASKS

CER = [{"step": 10, "time/seconds": 30.0}, {"step": 10, "valid/cer": 40.0, "valid/wer": 60.0}]
BITS = [
    {"step": 10, "train/accuracy": 0.2, "train/contrastive_bits": 5.1, "time/seconds": 90.0},
    {"step": 10, "valid/accuracy": 0.25, "valid/code_perplexity": 50.0,
     "valid/contrastive_bits": 5.0},
    {"step": 20, "valid/accuracy": 0.2, "valid/code_perplexity": 50.0,
     "valid/contrastive_bits": 5.5},
]  # fmt: skip


def write_run(folder, lines, pairs=None, kind="ctc", **settings):
    folder.mkdir(parents=True)
    settings = {"kind": kind, "num_steps": 10} | settings
    (folder / "config.json").write_text(json.dumps({"settings": settings, "described": {}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if pairs:
        rows = ["path\treference\thypothesis", *("\t".join(("x", *pair)) for pair in pairs)]
        (folder / "test.decoded.tsv").write_text("\n".join(rows) + "\n")


def write_pretraining(folder):
    write_run(folder, BITS, kind="wav2vec2", loss={"negatives": 100})


def test_table_and_picture_of_the_quickstart(tmp_path, capsys):
    write_pretraining(tmp_path / "pretrain")
    write_run(tmp_path / "finetuned-0", CER, [("ONE TWO", "ONE TWO"), ("A", "")])
    write_run(tmp_path / "finetuned-1", CER, [("ONE TWO", "ONE TWO"), ("A", "A")])
    write_run(tmp_path / "finetuned-2", CER)  # not scored yet
    write_run(tmp_path / "scratch-0", CER, [("ONE TWO", "ONE"), ("A", "B")])
    report.quickstart(tmp_path)
    said = capsys.readouterr().out
    rows = said.strip("\n").splitlines()
    assert rows[1].split() == ["pre-training", "0.200", "50.0", "1.5"]
    assert rows[2].split()[-6:] == ["2", "16.7", "(0.0-33.3)", "6.2", "(0.0-12.5)", "0.5"]
    assert rows[3].split()[-4:-2] == ["1", "66.7"]
    for name in ("quickstart.png", "finetuned-0/test.decoded.html", "transcribe --checkpoint="):
        assert name in said
    assert (tmp_path / "quickstart.png").read_bytes()[:4] == b"\x89PNG"


def test_the_quickstart_with_an_n_gram_model(tmp_path, capsys):
    lines = [
        {"step": 10, "train/accuracy": 0.2, "train/contrastive_bits": 5.1, "time/seconds": 90.0},
        {"step": 10, "valid/accuracy": 0.25, "valid/contrastive_bits": 5.0},
    ]
    write_run(tmp_path / "pretrain", lines, kind="wav2vec2", loss={"negatives": 100})
    for name in ("finetuned-0", "scratch-0", "all-0"):
        write_run(tmp_path / name, CER, [("ONE TWO", "ONE"), ("A", "A")])
        text = (tmp_path / name / "test.decoded.tsv").read_text()
        (tmp_path / name / "test.lm.decoded.tsv").write_text(text.replace("\tONE\n", "\tONE TWO\n"))
    report.quickstart(tmp_path)
    rows = capsys.readouterr().out.strip("\n").splitlines()
    assert "WER %, n-gram" in rows[0]
    assert "contrastive accuracy" in rows[0]
    assert "code perplexity" not in rows[0]
    assert rows[1].split() == ["pre-training", "0.250", "1.5"]
    assert rows[4].split() == ["CTC,", "all", "transcripts", "1", "33.3", "50.0", "0.0", "0.5"]
    assert (tmp_path / "quickstart.png").read_bytes()[:4] == b"\x89PNG"


def test_runs_of_any_kind_against_each_other(tmp_path, capsys, monkeypatch):
    write_pretraining(tmp_path / "a/run")
    write_run(tmp_path / "b/run", CER)
    write_run(tmp_path / "lm", [{"step": 5, "valid/perplexity": 3.0}], kind="language")
    drawn = []
    draw = figures.trainings
    monkeypatch.setattr(figures, "trainings", lambda runs: drawn.append(runs) or draw(runs))
    folders = [str(tmp_path / name) for name in ("a/run", "b/run", "lm", "b/run/")]
    report.draw(folders)
    rows = capsys.readouterr().out.splitlines()
    assert [run.name for run in drawn[0]] == ["a/run", "b/run", f"{tmp_path.name}/lm"]
    assert rows[1].split()[1:] == [
        "wav2vec2", "20", "of", "10", "1.5", "contrastive_bits", "5.5", "5", "at", "10"
    ]  # fmt: skip
    assert rows[-1] == f"curves: {tmp_path}/a/run/report.png"
    assert drawn[0][0].chance["contrastive_bits"] == pytest.approx(6.658, abs=1e-3)
    report.draw(folders[:1], f"{tmp_path}/a/run/report.png")  # ours may be made anew


def test_every_kind_of_training_can_be_drawn():
    names = {panel.name for panel in figures.PANELS}
    for task in TASKS.values():
        assert task.best_by.rpartition("/")[2] in names


def test_wrong_folders_end_in_one_line(tmp_path):
    write_run(tmp_path / "new", [])
    write_run(tmp_path / "odd", [{"step": 1, "other/metric": 1.0}])
    write_run(tmp_path / "good", CER)
    own = tmp_path / "recording.png"
    own.write_bytes(b"RIFF")
    notes = tmp_path / "notes.png"
    notes.write_text("something else")
    for folder, output, message in (
        ("nowhere", "", "is not the --workdir of a training"),
        ("new", "", "has no metrics yet"),
        ("odd", "", "can be drawn"),
        ("good", str(own), "is audio, which is never replaced"),
        ("good", str(notes), "notes.png exists, and nothing shows"),
        ("good", str(tmp_path), "cannot be written: is a directory"),
        ("good", f"{tmp_path}/r.jpg", r"is a PNG; name it \S+/r\.png"),
        ("good", f"{own}/x.png", "cannot be written: .*; choose another place"),
    ):
        with pytest.raises(UserError, match=message) as error:
            report.draw([str(tmp_path / folder)], output)
        assert "\n" not in str(error.value)
    assert own.read_bytes() == b"RIFF"
    with pytest.raises(UserError, match=r"quickstart\.sh"):
        report.quickstart(Path(tmp_path))


def test_damaged_metrics_end_at_the_damage(tmp_path):
    write_run(tmp_path / "run", CER)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('3\n{"step": 30, "valid/cer": 1.0}\n')
    run, _ = report.read(str(tmp_path / "run"))
    assert run.lines == CER
