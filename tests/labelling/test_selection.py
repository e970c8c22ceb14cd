"""Which decoded utterances teach: a pure function of files, and what stops it."""

import json

import numpy as np
import pytest

from tests.tools import tool
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError
from w2v_jax.labelling import generations, selection
from w2v_jax.labelling.folder import FORMAT, Appender, Decoded, Utterance
from w2v_jax.labelling.selection import Limits, select
from w2v_jax.text.alphabet import Alphabet

ROWS = 40
WORDS = ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN")


def text_of(rng) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, 6)))


def write(folder, *, seed=0, pace=10.0, changes=(), hidden=True, alphabet=None, **index):
    """A folder of ROWS decoded utterances, one of three of them with a wrong word and a low
    score; changes: {row: fields} of utterances that are otherwise."""
    rng = np.random.default_rng(seed)
    texts = [text_of(rng) for _ in range(ROWS)]
    samples = [round(len(text) / pace * 16_000) for text in texts]
    paths = [f"{seed}-{row}.wav" for row in range(ROWS)]
    manifest = Manifest("/speech", paths, samples, texts if hidden else None)
    index = {
        "format": FORMAT, "alphabet": (alphabet or Alphabet.english()).to_dict(), "digests": {},
        "checkpoint": {"name": "runs/teacher", "digest": "1"}, "search": {"lm": ""},
        "data": {"name": "x.tsv", "digest": manifest.digest},
    } | index  # fmt: skip
    found = []
    for row, text in enumerate(texts):
        wrong = row % 3 == 2
        text = text.replace("E", "A") if wrong else text
        score = -0.5 * len(text) - 2.0 * wrong * len(text) ** 0.5 + rng.normal() * 0.1
        one = Utterance(row, paths[row], text, score, len(text), 50, 0.4, samples[row] / 16_000)
        found.append(one._replace(**dict(changes).get(row, {})))
    writer = Appender(folder, index, manifest, (0, 1))
    writer.add(found)
    writer.close()
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    """(decoded, reference, labelled)."""
    rng = np.random.default_rng(9)
    texts = [text_of(rng) for _ in range(30)]
    samples = [round(len(text) / 10 * 16_000) for text in texts]
    Manifest("/speech", [f"l{i}.wav" for i in range(30)], samples, texts).write(
        tmp_path / "labelled.tsv"
    )
    return [
        write(tmp_path / "decoded"), write(tmp_path / "dev", seed=1),
        str(tmp_path / "labelled.tsv"),
    ]  # fmt: skip


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_is_a_pure_function_of_files(folders, tmp_path):
    """Run again, in another place, after other choices, over lines in another order: the bytes are
    the same."""
    out = tmp_path / "a"
    first = select(*folders, str(out), cutoff=0.0, strength=0.7)
    before = contents(out)
    assert set(before) == {"table.tsv", "pseudo.tsv", "selection.json"}
    select(*folders, str(out), cutoff=-1.0)
    assert contents(out)["pseudo.tsv"] != before["pseudo.tsv"]
    part = next((tmp_path / "decoded").glob("part-*"))
    part.write_text("".join(reversed(part.read_text().splitlines(keepends=True))))
    assert select(*folders, str(out), cutoff=0.0, strength=0.7) == first
    assert contents(out) == before


def test_wrong_texts_are_left_out(folders, tmp_path):
    out = tmp_path / "out"
    summary = select(*folders, str(out), cutoff=0.0).summary
    rows = [line.split("\t") for line in (out / "table.tsv").read_text().splitlines()]
    assert tuple(rows[0]) == selection.COLUMNS
    assert [row[5] for row in rows[1:]] == [str(int(row % 3 != 2)) for row in range(ROWS)]
    assert all((float(row[4]) > 0) == (row[5] == "1") for row in rows[1:])
    assert summary["cer_kept"] == 0 < summary["cer_all"]
    assert summary["kept"] == summary["rows"] == 27
    found = Manifest.read(out / "pseudo.tsv")
    whole = Decoded(folders[0]).manifest
    assert found.root == "/speech"
    assert list(found.texts) == [text for i, text in enumerate(whole.texts) if i % 3 != 2]
    assert "27 (67.5%)" in selection.printed(select(*folders, str(out), cutoff=0.0), out)
    kept = select(*folders, str(tmp_path / "all")).summary
    assert kept["kept"] == ROWS


def test_balance_changes_how_often_they_are_heard(folders, tmp_path):
    found = select(*folders, str(tmp_path / "out"), strength=1.0).summary
    assert found["kl_after"] < 0.9 * found["kl_kept"]
    paths = list(Manifest.read(tmp_path / "out" / "pseudo.tsv").paths)
    weights = [
        float(line.split("\t")[6])
        for line in (tmp_path / "out" / "table.tsv").read_text().splitlines()[1:]
    ]
    for row, weight in enumerate(weights):
        assert paths.count(f"0-{row}.wav") in (np.floor(weight), np.ceil(weight))
    assert max(weights) > 1.2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pace": 2.0}, r"has 2.0 letters per second, 0.20 times as many"),
        ({"pace": 30.0}, r"3.00 times as many"),
        ({"changes": {row: {"blank_share": 0.99} for row in range(ROWS)}}, r"99.0% of the frames"),
        (
            {"changes": {row: {"text": "", "letters": 0} for row in range(30)}},
            r"75.0% of the texts are empty",
        ),
    ],
)
def test_useless_labels_stop(values, words, folders, tmp_path):
    folders[0] = write(tmp_path / "bad", **values)
    out = tmp_path / "out"
    select(*folders[:1], *folders[1:], str(out), limits=Limits(0, 100, 1, 1))
    assert (out / "pseudo.tsv").exists()
    found = select(*folders, str(out))
    assert not (out / "pseudo.tsv").exists(), "nobody trains on these"
    assert len((out / "table.tsv").read_text().splitlines()) == ROWS + 1
    assert any(words in x for x in found.useless), found.useless
    assert json.loads((out / "selection.json").read_text())["useless"] == list(found.useless)


def test_the_command_has_a_status_of_its_own(folders, tmp_path):
    bad = write(tmp_path / "bad", pace=2.0)
    flags = [f"--reference={folders[1]}", f"--labelled={folders[2]}", f"--output={tmp_path}/out"]
    ended = tool("pseudo_labels", "select", f"--decoded={bad}", *flags, status=3)
    assert "error: these labels would teach nothing: the median text has" in ended.stderr
    assert f"{tmp_path}/out/table.tsv" in ended.stderr
    ended = tool("pseudo_labels", "select", f"--decoded={folders[0]}", *flags[:2], status=2)
    assert "pseudo_labels select needs --output" in ended.stderr
    ended = tool(
        "pseudo_labels", "select", f"--decoded={folders[0]}", *flags,
        "--config=configs/c_siam.py:tiny", status=2,
    )  # fmt: skip
    assert "of the kind c_siam, which writes no letters" in ended.stderr


def test_bad_input_is_named(folders, tmp_path):
    decoded, reference, labelled = folders
    out = str(tmp_path / "out")

    def refused(words, *, student=None, cutoff=None, **given):
        names = {"decoded": decoded, "reference": reference, "labelled": labelled} | given
        with pytest.raises(UserError, match=words):
            select(*names.values(), out, student=student, cutoff=cutoff)

    silent = str(tmp_path / "silent.tsv")
    Manifest("/", ["a.wav"], [16_000]).write(silent)
    refused(r"silent.tsv: none of its 1 utterances has a transcript", labelled=silent)
    refused(r"--decoded=.*nowhere holds no decoded utterances", decoded=str(tmp_path / "nowhere"))
    other = write(tmp_path / "o1", seed=1, checkpoint={"name": "runs/b", "digest": "2"})
    refused(r"of runs/teacher, --reference=.*o1 of runs/b", reference=other)
    other = write(tmp_path / "o2", seed=1, search={"lm": "x.arpa"})
    refused(r"--config.lm=, --reference=.* with x.arpa", reference=other)
    refused(r"--cutoff=99: no utterance has a higher s, the highest is", cutoff=99)
    german = Alphabet.from_letters("abcdefghijklmnopqrstuvwxyzäöü")
    refused(r"--config: its alphabet .* the student lacks '; the teacher lacks ä, ö, ü",
            student=german)  # fmt: skip
    for letters in ("", "'abcdefghijklmnopqrstuvwxyz"):  # the case is no difference
        same = Alphabet.from_letters(letters)
        assert select(decoded, reference, labelled, out, student=same).summary["kept"] == ROWS
    part = next((tmp_path / "decoded").glob("part-*"))
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:30]) + lines[30][:-4])  # killed within a line
    refused(r"10 of 40 utterances are not decoded yet; run the command that decodes")
    part.write_text(lines[0] + "3\tnonsense\n")
    refused(r"line 2 is damaged, '3\\tnonsense'; remove it")
    for column, value in ((2, "\udcff"), (4, "7"), (7, "-1.0")):  # flipped bits
        fields = lines[1].split("\t")
        fields[column] = value
        part.write_text(lines[0] + "\t".join(fields) + "\n", errors="surrogateescape")
        refused(r"line 2 is damaged")
    silent = write(tmp_path / "o3", changes={row: dict(text="", letters=0) for row in range(ROWS)})
    with pytest.raises(UserError, match=r"o3 has no text: all of its 40 utterances are empty"):
        select(silent, reference, labelled, out, limits=Limits(0, 100, 1, 1))
    index = tmp_path / "o3" / "decoded.json"
    index.write_text(json.dumps({"format": FORMAT}))
    refused(r"decoded.json is not of the format", decoded=silent)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pseudo.tsv").write_text("what I wrote\n")
    out = str(tmp_path / "mine")
    refused(r"holds something else \(pseudo.tsv\)", decoded=reference)
    assert (tmp_path / "mine" / "pseudo.tsv").read_text() == "what I wrote\n"


def test_without_hidden_transcripts_there_is_no_rate(folders, tmp_path):
    folders[0] = write(tmp_path / "d", hidden=False)
    found = select(*folders, str(tmp_path / "out"))
    assert (found.summary["hidden"], found.summary["cer_all"]) == (0, None)
    assert "hidden" not in selection.printed(found, "out")


def test_the_table_of_generations(folders, tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match="holds no generations"):
        generations.table(str(runs))
    for number, text in ((0, "ONE TWO"), (1, "ONE TOO"), (10, "ONE")):
        (runs / f"generation-{number}").mkdir(parents=True)
        (runs / f"generation-{number}" / "test.decoded.tsv").write_text(
            f"path\treference\thypothesis\nx\tONE TWO\t{text}\n"
        )
    (runs / "labels-1").mkdir()
    select(*folders, str(runs / "labels-1" / "selected"), cutoff=0.0)
    (runs / "labels-2").mkdir()
    folders[0] = write(tmp_path / "bad", pace=2.0)
    select(*folders, str(runs / "labels-2" / "selected"))
    rows = [line.split() for line in generations.table(str(runs)).splitlines()[1:]]
    assert [row[0] for row in rows] == ["0", "1", "2", "2", "10"]
    assert rows[0][-4:] == ["0.0", "0.0", "-", "-"]
    assert rows[1][1:3] == ["0", "67.5"]
    assert rows[1][5:8] == ["0.0", "14.3", "50.0"]
    assert rows[3][1] == "stopped"
    for name, content in (
        ("generation-1/test.decoded.tsv", "path\treference\thypothesis\nx\tONE\n"),
        ("labels-1/selected/selection.json", "{}"),
    ):
        (runs / name).write_text(content)
        with pytest.raises(UserError, match=rf"{name} is damaged"):
            generations.table(str(runs))
