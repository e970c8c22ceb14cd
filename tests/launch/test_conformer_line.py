"""benchmarks/conformer_line: its systems are what they are called, its tables are of runs."""

import csv
import json

import jax
import pytest

from benchmarks.conformer_line import results, systems
from w2v_jax.errors import UserError
from w2v_jax.tasks import make_task


def parameters(stage: str, name: str) -> dict[str, tuple[int, ...]]:
    """{path: shape} of the encoder."""
    found = jax.eval_shape(make_task(systems.get_config(f"{stage},{name}")).init)
    leaves = jax.tree_util.tree_leaves_with_path(found["params"]["encoder"])
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize("name", ["mel_best_rq", "wave_all"])
def test_pretraining_and_finetuning_have_one_encoder(name):
    mask = "['mask_vector']"
    before, after = parameters("pretrain", name), parameters("finetune", name)
    assert {k: v for k, v in before.items() if mask not in k} == {
        k: v for k, v in after.items() if mask not in k
    }


def test_a_switch_changes_what_it_says():
    usual = make_task(systems.get_config("pretrain,wave_codes")).config
    other = make_task(systems.get_config("pretrain,wave_deeper")).config
    changed = dict(systems.SYSTEMS["wave_deeper"].changes)
    assert changed
    assert (usual.model, usual.data) == (other.model, other.data)
    assert {f"quantizer.{k}": v for k, v in other.quantizer.items() if v != usual.quantizer[k]} == (
        changed
    )
    for names in systems.TABLES.values():
        for name in names:
            make_task(systems.get_config(f"finetune,{name}"))  # raises for what is wrong
    for wrong in ("pretrain,mel_scratch", "finetune,mel", "decode,conformer", "pretrain"):
        with pytest.raises(UserError, match=r"not pre-trained|write pretrain or finetune, a comma"):
            systems.get_config(wrong)


def finished(folder, stages: dict[str, dict], reference: str, hypothesis: str) -> None:
    for stage, last in stages.items():
        (folder / stage).mkdir(parents=True)
        line = {"step": 1, "time/seconds": 120.0, "time/seconds_per_step": 0.5}
        text = f"{json.dumps(line)}\n{json.dumps({'step': 2} | last)}\n"
        (folder / stage / "metrics.jsonl").write_text(text)
    (folder / "finetune" / "parameters.txt").write_text("a  3\n1,500,000 parameters, of all\n")
    (folder / "test.decoded.tsv").write_text(f"reference\thypothesis\n{reference}\t{hypothesis}\n")


def test_report(tmp_path, capsys):
    for seed, heard in enumerate(("ABCD EFGH", "ABCD EFGX")):
        stages = {"pretrain": {"valid/accuracy": 0.2 + 0.1 * seed}, "finetune": {}}
        finished(tmp_path / f"mel_linear-{seed}", stages, "ABCD EFGH", heard)
    finished(tmp_path / "mel_scratch-0", {"finetune": {}}, "ABCD EFGH", "ABCD")
    results.report(tmp_path)
    found = capsys.readouterr().out
    row = next(line.split() for line in found.splitlines() if "linear" in line)
    assert row[3:] == [
        "2", "1.50", "2.0", "2.0", "4.0", "0.250", "5.6", "(0.0-11.1)", "25.0", "(0.0-50.0)"
    ]  # fmt: skip
    assert found.count("not pre-trained   ") == 2, "of two tables"
    with (tmp_path / "results.csv").open() as file:
        assert next(csv.DictReader(file))["cer"] == "55.55555555555556"
    assert (tmp_path / "conformer_line.png").stat().st_size > 1_000
    with pytest.raises(UserError, match="holds no finished system"):
        results.report(tmp_path / "none")
