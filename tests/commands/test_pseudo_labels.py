"""Decoding an unlabelled corpus: what is written, killed and gone on, in shards, refused."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.tools import said
from w2v_jax import pseudo_labels
from w2v_jax.audio.waveform import Recording
from w2v_jax.data.manifest import Manifest
from w2v_jax.decoding.decoder import Decoder
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.labelling import teacher
from w2v_jax.labelling.folder import Appender, Decoded
from w2v_jax.pseudo_labels import decode
from w2v_jax.recognizers import open_recognizer
from w2v_jax.training.checkpoint import export_model

COUNT = 14


@pytest.fixture(scope="module", autouse=True)
def few_shapes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "BUCKETS", 2)
        yield


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    """A model of words of one letter."""
    words = ["<unk>", "<s>", "</s>", *"ETAONIHS"]
    lines = [f"-1.0\t{word}" for word in words]
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    head = f"\\data\\\nngram 1={len(words)}\n\n\\1-grams:\n"
    path.write_text(head + "\n".join(lines) + "\n\n\\end\\\n")
    return str(path)


@pytest.fixture(scope="module")
def data(manifests, tmp_path_factory):
    """A manifest of some speech, most of it with transcripts."""
    path = str(tmp_path_factory.mktemp("unlabelled") / "some.tsv")
    found = Manifest.read(manifests["dev"]).select(np.arange(COUNT))
    texts = [text if row else "" for row, text in enumerate(found.texts)]
    Manifest(found.root, found.paths, found.samples, texts).write(path)
    return path


@pytest.fixture(scope="module")
def whole(data, checkpoint, tmp_path_factory):
    """What is found without any interruption; batches of few rows."""
    return decode(checkpoint, data, tmp_path_factory.mktemp("whole") / "d", batch_seconds=6.0)


@pytest.fixture(scope="module")
def recordings(data, checkpoint):
    """(recognizer, ln p of every row, each alone)."""
    recognizer, variables = open_recognizer(checkpoint)
    manifest = Manifest.read(data)
    audio = (Recording(manifest.path(row)) for row in range(COUNT))
    return recognizer, list(recognizer.recordings(variables, audio))


def test_the_best_path(whole, recordings, capsys):
    recognizer, emissions = recordings
    assert [x.row for x in whole.utterances] == list(range(COUNT))
    for one, log_probs in zip(whole.utterances, emissions, strict=True):
        assert one.text == Decoder(recognizer.alphabet, SearchOptions()).text(log_probs)
        assert one.letters == len(one.text)
        assert one.frames == len(log_probs)
        assert one.score == pytest.approx(log_probs.max(-1).sum(), rel=1e-4)
        assert one.blank_share == (log_probs.argmax(-1) == 0).mean()
        assert one.id == whole.manifest.paths[one.row]
    assert whole.manifest.texts[1], "the hidden transcripts are kept"


def test_the_search(data, checkpoint, arpa, recordings, tmp_path):
    recognizer, emissions = recordings
    options = SearchOptions(lm=arpa, library="python", beam=8, lm_weight=0.5, word_score=3.0)
    found = decode(checkpoint, data, tmp_path / "d", options=options)
    decoder = Decoder(recognizer.alphabet, options)
    assert [x.text for x in found.utterances] == [decoder.text(x) for x in emissions]
    assert any(x.text for x in found.utterances)
    scores = [decoder._search(x)[0].score for x in emissions]
    np.testing.assert_allclose([x.score for x in found.utterances], scores, rtol=1e-4)


def test_a_second_language_model_chooses_among_the_texts(arpa, recordings):
    """Here one that likes short texts best, beyond what all else says."""
    recognizer, emissions = recordings
    options = SearchOptions(
        lm=arpa, library="python", beam=8, best=8, lm_weight=0.5, word_score=3.0,
        transformer_weight=100.0, transformer_word_score=0.0,
    )  # fmt: skip
    model = teacher.Teacher(recognizer, None, options)

    class Short:
        def scores(self, texts):
            return [-float(len(text)) for text in texts]

    before = model.labels(emissions)
    model._scorer = Short()
    after = model.labels(emissions)
    assert sum(len(x.text) for x in after) < sum(len(x.text) for x in before)
    for label, log_probs in zip(after, emissions, strict=True):
        found = Decoder(recognizer.alphabet, options)._search(log_probs)
        best = max(found, key=lambda x: x.acoustic - 100 * len(x.text))
        assert label.text == best.text
        assert label.score == pytest.approx(best.acoustic - 100 * len(best.text))


def test_killed_it_goes_on(data, checkpoint, whole, tmp_path, monkeypatch, capsys):
    """With a batch half written, its last line cut: to the same bits, and no batch that was done is
    computed again."""
    folder, add, batches = tmp_path / "d", Appender.add, []

    def dies(self, utterances):
        batches.append(len(utterances))
        if len(batches) == 3:
            text = "".join(x.line() for x in utterances)
            os.write(self._file, text[: len(text) // 2].encode())
            raise KeyboardInterrupt
        add(self, utterances)

    with monkeypatch.context() as patch:
        patch.setattr(Appender, "add", dies)
        with pytest.raises(KeyboardInterrupt):
            decode(checkpoint, data, folder, batch_seconds=6.0)
    with pytest.raises(UserError, match=r"utterances are not decoded yet"):
        Decoded(folder).check_complete()
    labels, computed = teacher.Teacher.labels, []

    def counted(self, emissions):
        computed.append(len(emissions))
        return labels(self, emissions)

    monkeypatch.setattr(teacher.Teacher, "labels", counted)
    found = decode(checkpoint, data, folder, batch_seconds=6.0)
    assert found.found == whole.found
    assert sum(computed) == COUNT - sum(batches[:2]) < COUNT
    assert "utterances are there already" in capsys.readouterr().out
    lines = [x for part in folder.glob("part-*") for x in part.read_text().splitlines()]
    assert len(lines) == COUNT
    computed.clear()
    decode(checkpoint, data, folder, batch_seconds=6.0)
    assert not computed


def test_shards_fill_one_folder(data, checkpoint, whole, tmp_path, capsys):
    for which in (1, 0):
        found = decode(checkpoint, data, tmp_path / "d", shard=(which, 2))
    printed = capsys.readouterr().out
    assert "7 are still to be done by other shards" in printed
    assert "14 of 14 utterances, 0 unreadable" in printed
    assert [x.text for x in found.utterances] == [x.text for x in whole.utterances]
    found.check_complete()
    for text in ("2/2", "1", "-1/2", "a/b", "0/0"):
        with pytest.raises(UserError, match=r"must be I/N with I from 0 to N - 1"):
            pseudo_labels.shard_of(text)


def test_what_was_begun_otherwise_is_refused(data, checkpoint, arpa, whole, tmp_path):
    folder = str(whole.folder)
    before = {path.name: path.read_bytes() for path in whole.folder.iterdir()}

    def refused(words, checkpoint=checkpoint, data=data, output=folder, **options):
        with pytest.raises(UserError, match=words):
            decode(checkpoint, data, output, **options)

    variables, config = checkpoints.load(checkpoint)
    export_model(tmp_path / "other", jax.tree.map(lambda x: x * 2, variables), config)
    refused(r"begun with another model: --checkpoint=.*other here", str(tmp_path / "other"))
    few = str(tmp_path / "few.tsv")
    Manifest.read(data).select(np.arange(3)).write(few)
    refused(r"begun with another rows: --data=.*few.tsv here", data=few)
    refused(r"which has changed since, or with another --exclude, --share or --seed", share=0.5)
    refused(r"begun with --config.lm=, here it is .*lm.arpa; name another",
            options=SearchOptions(lm=arpa, library="python"))  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    refused(r"holds something else \(file\)", output=str(tmp_path / "mine"))
    refused(r"gs://x/y: texts are appended to files on a local disk", output="gs://x/y")
    writer = Appender(folder, whole.index, whole.manifest, (0, 1))
    refused(r"part-0-of-1.tsv is being written by another process; wait", batch_seconds=6.0)
    writer.close()
    assert {path.name: path.read_bytes() for path in whole.folder.iterdir()} == before


def test_a_language_model_that_changed(data, checkpoint, arpa, tmp_path):
    lm = tmp_path / "lm.arpa"
    lm.write_bytes(Path(arpa).read_bytes())
    options = SearchOptions(lm=str(lm), library="python", beam=2)
    few = str(tmp_path / "few.tsv")
    Manifest.read(data).select(np.arange(2)).write(few)
    decode(checkpoint, few, tmp_path / "d", options=options)
    lm.write_text(lm.read_text() + "\n")
    with pytest.raises(UserError, match=r"--config.lm=.*lm.arpa: what it names has changed since"):
        decode(checkpoint, few, tmp_path / "d", options=options)


def test_files_that_are_short_long_or_gone(data, checkpoint, whole, tmp_path, monkeypatch, caplog):
    """Those that cannot be read are named, and tried again when the command is."""
    monkeypatch.setattr(teacher, "WINDOW_SECONDS", 2.0)
    found = Manifest.read(data)
    paths, samples = [found.path(row) for row in range(COUNT)], found.samples.tolist()
    assert max(samples) > 2 * 16_000
    gone = str(tmp_path / "gone.ogg")
    for path, length in ((gone, samples[1]), (gone, 5 * 16_000), (paths[0], 100)):
        paths.append(path)
        samples.append(length)
    path = str(tmp_path / "x.tsv")
    Manifest("/", paths, samples).write(path)
    with pytest.raises(UserError, match=r"2 of 17 recordings cannot be read; repair them and run"):
        decode(checkpoint, path, tmp_path / "d")
    done = Decoded(tmp_path / "d")
    done.check_complete()
    assert [x.text for x in done.utterances[:COUNT]] == [x.text for x in whole.utterances]
    assert [x.row for x in done.utterances[COUNT:]] == [16]
    assert done.utterances[-1][2:6] == ("", 0.0, 0, 0)
    assert done.utterances[-1].id == f"{paths[0]}#16"
    assert "gone.ogg" in caplog.text
    os.symlink(paths[1], gone)
    found = decode(checkpoint, path, tmp_path / "d", max_bad_share=0.1)
    assert [x.text for x in found.utterances] == [x.text for x in (
        *whole.utterances, whole.utterances[1], done.utterances[-1]
    )]  # fmt: skip


def test_audio_with_transcripts_is_left_out(data, checkpoint, whole, tmp_path, capsys):
    labelled, copy = str(tmp_path / "labelled.tsv"), Manifest.read(data)
    paths = [copy.path(row) for row in (2, 5)]
    Manifest("/", paths, copy.samples[[2, 5]], ["A", "B"]).write(labelled)
    found = decode(checkpoint, f"{data},{data}", tmp_path / "d", exclude=labelled, share=0.25)
    assert len(found.manifest) == 6
    assert not set(paths) & {found.manifest.path(row) for row in range(6)}
    texts = dict(zip(whole.manifest.paths, (x.text for x in whole.utterances), strict=True))
    assert [x.text for x in found.utterances] == [texts[x] for x in found.manifest.paths]
    assert "utterances have transcripts: they are not looked at" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"names all audio of --data"):
        decode(checkpoint, data, tmp_path / "e", exclude=data)


def test_the_command(data, checkpoint, arpa, tmp_path):
    base = [f"--checkpoint={checkpoint}", f"--data={data}", f"--output={tmp_path}/d"]
    weights = tmp_path / "w.json"
    weights.write_text("{}")
    printed = said("pseudo_labels", "decode", *base, f"--tuned={weights}", status=2)
    assert "w.json holds no weights" in printed
    values = dataclasses.asdict(SearchOptions(lm_weight=0.25))
    weights.write_text(str(values).replace("'", '"').replace("False", "false"))
    flags = [f"--tuned={weights}", f"--config.lm={arpa}", "--config.library=python",
             "--config.beam=2", "--shard=1/14"]  # fmt: skip
    printed = said("pseudo_labels", "decode", *base, *flags)
    assert "1/1  " in printed
    assert "1 of 14 utterances" in printed
    assert Decoded(tmp_path / "d").index["search"]["lm_weight"] == 0.25
    assert "name what is done, one of decode, select" in said("pseudo_labels", status=2)
    assert "needs --checkpoint" in said("pseudo_labels", "decode", status=2)
