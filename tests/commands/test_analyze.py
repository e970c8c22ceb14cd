"""The program that says what layers know: from speech to scores, tables and pictures."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.tools import tool
from w2v_jax import analyze, features
from w2v_jax.analysis import layer_cca, layer_probes, probes
from w2v_jax.analysis.sampling import StoredFeatures, Utterances
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError
from w2v_jax.recognizers import open_recognizer

ROOT = Path(__file__).parents[2]
DEFAULTS = dict(
    checkpoints=[], names=[], data="", output="", labels="", tier="", least_covered=0.5,
    views=["mel", "intra"], targets=["letters"], vectors="", layers="all", taps=[], floor=False,
    samples=1, seed=0, utterances=30, instances=40, words=20, word_instances=15, clusters=8,
    frames=2000, batch_seconds=100.0, published=False, checkpoint="", folder="", overwrite=False,
)  # fmt: skip


def run(command, **flags):
    analyze.scored(command, SimpleNamespace(**DEFAULTS | flags))


def rows(folder, command="cca"):
    with open(f"{folder}/{command}.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def said(manifests, tmp_path_factory):
    """Alignments of all train utterances: letters as long as each other, in TextGrids."""
    folder = tmp_path_factory.mktemp("said")
    manifest = Manifest.read(manifests["train"])
    for i in range(len(manifest)):
        seconds, words = manifest.samples[i] / 16000, manifest.texts[i].split()
        tiers = []
        for name, texts in (("letters", [x for word in words for x in word]), ("words", words)):
            ends = np.linspace(0, seconds, len(texts) + 1)
            parts = "\n".join(
                f'{a} {b} "{text}"' for a, b, text in zip(ends, ends[1:], texts, strict=False)
            )
            tiers.append(f'"IntervalTier" "{name}" 0 {seconds} {len(texts)}\n{parts}')
        path = folder / Path(manifest.paths[i]).with_suffix(".TextGrid")
        path.parent.mkdir(parents=True, exist_ok=True)
        head = f'"ooTextFile"\n"TextGrid"\n0 {seconds}\n<exists>\n2\n'
        path.write_text(head + "\n".join(tiers) + "\n")
    return str(folder)


def test_cca_of_frames_and_a_second_model(manifests, checkpoint, tmp_path, monkeypatch, capsys):
    data = dict(data=manifests["train"], output=str(tmp_path))
    data |= dict(utterances=15)
    run("cca", checkpoints=[checkpoint], names=["small"], floor=True, **data)
    found = rows(tmp_path)
    assert {row["model"] for row in found} == {"small", "small, random weights"}
    layers = ["conv_1", "conv_2", "conv_3", "conv_4", "hidden_0", "hidden_1", "hidden_2"]
    mel = [row for row in found if row["measure"] == "cca_mel" and row["model"] == "small"]
    assert [row["layer"] for row in mel if row["score"] == "pwcca"] == layers
    assert {row["score"] for row in mel} == {"pwcca", "mean_cca", "svcca"}
    for row in mel:
        assert -0.1 < float(row["lowest"]) <= float(row["value"]) <= float(row["highest"]) < 1
        assert (row["repeats"], row["floor"]) == ("1", "")
    first = [row for row in found if row["measure"] == "cca_intra"]
    assert {row["layer"] for row in first} == {"hidden_1", "hidden_2"}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []

    called = []
    cca = layer_cca.cca
    monkeypatch.setattr(
        layer_cca, "cca", lambda *args: called.append((args[0].taps, args[2])) or cca(*args)
    )
    capsys.readouterr()
    run("cca", checkpoints=[checkpoint, "mfcc"], names=["small", "mfcc"], **data)
    assert called == [({"mfcc": 39}, ("mel",))]  # nothing of the first again
    assert "mfcc: no hidden_0" in capsys.readouterr().out
    found = rows(tmp_path)
    assert {row["model"] for row in found} == {"small", "small, random weights", "mfcc"}
    (spectrum,) = [float(row["value"]) for row in found
                   if row["model"] == "mfcc" and row["score"] == "pwcca"]  # fmt: skip
    assert spectrum > 0.6  # one linear map of a mel spectrum, and another
    with pytest.raises(UserError, match="scores of another model under the name 'small'"):
        run("cca", checkpoints=["mfcc"], names=["small"], views=["mel"], **data)


def test_cca_of_pieces(manifests, said, tmp_path):
    vectors = tmp_path / "glove.txt"
    words = sorted({w for text in Manifest.read(manifests["train"]).texts for w in text.split()})
    random = np.random.default_rng(0)
    vectors.write_text("".join(
        f"{word.lower()} {' '.join(f'{x:.3f}' for x in random.standard_normal(4))}\n"
        for word in words[::2]
    ))  # fmt: skip
    out = tmp_path / "out"
    run("cca", checkpoints=["mfcc"], data=manifests["train"], output=str(out), labels=said,
        views=["letters", "words", "vectors"], vectors=str(vectors), words=40)  # fmt: skip
    found = {(row["measure"], row["score"]): row for row in rows(out)}
    assert {measure for measure, _ in found} == {"cca_letters", "cca_words", "cca_vectors"}
    for row in found.values():
        assert row["layer"] == "mfcc"
        assert float(row["in_sample"]) > 0.05
        assert abs(float(row["floor"])) < 0.25
    of = [int(found[f"cca_{x}", "pwcca"]["frames"]) for x in ("letters", "words", "vectors")]
    assert of[0] > 500
    assert of[1] > of[2] > 100  # words without a vector are left out
    with pytest.raises(UserError, match=r"words, mfcc: .* are too few for CCA"):
        run("cca", checkpoints=["mfcc"], data=manifests["train"], output=str(tmp_path / "other"),
            labels=said, views=["letters", "words"], words=2, word_instances=1)  # fmt: skip
    kept = [path.name for path in (tmp_path / "other").iterdir()]
    assert kept == ["mfcc.cca_letters.json"]  # of the view before


def test_probes(manifests, said, tmp_path, capsys, monkeypatch):
    """Letters and, of one speaker, languages that are drawn by lot."""
    monkeypatch.setattr(probes, "MOST_STEPS", 100)
    manifest = Manifest.read(manifests["train"])
    languages = np.where(np.arange(len(manifest)) % 2, "x", "y")
    speakers = [f"{x}{i % 8 // 2}" for i, x in enumerate(languages)]
    told = Manifest(manifest.root, list(manifest.paths), manifest.samples, list(manifest.texts),
                    speakers, list(languages))  # fmt: skip
    data = str(tmp_path / "told.tsv")
    told.write(data)
    out = str(tmp_path / "out")
    run("probe", checkpoints=["mfcc"], data=data, output=out, labels=said, samples=2, utterances=80,
        targets=["letters", "language"])  # fmt: skip
    text = capsys.readouterr().out
    assert "letters, divided by utterance" in text
    assert "2 languages, divided by speaker" in text
    found = {(row["measure"], row["score"]): row for row in rows(out, "probe")}
    assert len(found) == 4
    for (measure, _), row in found.items():
        if measure == "probe_language":
            assert abs(float(row["value"]) - 0.5) < 0.25
        assert row["repeats"] == "2"
        assert 0 < float(row["floor"]) < 0.75
    with pytest.raises(UserError, match="of no utterance what its language is"):
        run("probe", checkpoints=["mfcc"], data=manifests["train"], output=out,
            targets=["language"])  # fmt: skip


def test_languages_are_divided_by_speaker_where_they_have_three():
    class Speech:
        def __init__(self, languages, speakers):
            self._columns = {"languages": np.array(languages), "speakers": np.array(speakers)}

        def __len__(self):
            return len(self._columns["languages"])

        def column(self, name):
            return self._columns[name]

    speech = Speech(["a"] * 6 + ["b"] * 6 + [""], [*"112233", *"445555", "1"])
    kept, classes, groups = layer_probes._targets(speech, "speaker", None)
    assert kept.tolist() == list(range(13))
    assert groups.tolist() == list(range(13))
    parts = layer_probes.split(classes, groups, seed=0)
    said = layer_probes._division("speaker", classes, groups, parts, 2)
    assert said == "2 speakers, divided by utterance; 3 with fewer than 3 utterances left out"
    kept, classes, groups = layer_probes._targets(speech, "language", None)
    assert kept.tolist() == list(range(12))
    assert len(set(groups[:6].tolist())) == 3
    assert len(set(groups[6:12].tolist())) == 6
    parts = np.zeros(12, int)
    said = layer_probes._division("language", classes[:12], groups[:12], parts, 2)
    assert said == "2 languages, divided by speaker in 1 of them, by utterance in the others"


def test_clusters(manifests, said, tmp_path):
    run("clusters", checkpoints=["mfcc"], data=manifests["train"], output=str(tmp_path),
        labels=said, samples=2)  # fmt: skip
    found = {row["score"]: row for row in rows(tmp_path, "clusters")}
    assert set(found) == {"pnmi", "label_purity", "cluster_purity"}
    assert float(found["pnmi"]["value"]) > 1.5 * float(found["pnmi"]["floor"])


def test_clusters_of_speakers(manifests, tmp_path):
    """Of two voices, of which one is much louder."""
    source = Manifest.read(manifests["dev"]).select(range(16))
    for i in range(16):
        audio = soundfile.read(source.path(i), dtype="int16")[0] // (1 if i % 2 else 16)
        soundfile.write(tmp_path / f"{i}.wav", audio, 16_000)
    speakers = ["quiet", "loud"] * 8
    paths = [f"{i}.wav" for i in range(16)]
    Manifest(tmp_path, paths, source.samples, None, speakers).write(tmp_path / "two.tsv")
    run("clusters", checkpoints=["mfcc"], data=str(tmp_path / "two.tsv"), output=str(tmp_path),
        targets=["speaker"], samples=1, clusters=16)  # fmt: skip
    found = {row["score"]: row for row in rows(tmp_path, "clusters")}
    assert float(found["pnmi"]["value"]) > 3 * float(found["pnmi"]["floor"])
    with pytest.raises(UserError, match="says of no utterance what its language is"):
        run("clusters", checkpoints=["mfcc"], data=str(tmp_path / "two.tsv"),
            output=str(tmp_path), targets=["language"])  # fmt: skip


def test_a_folder_of_features_is_the_model(manifests, checkpoint, tmp_path):
    few = str(tmp_path / "few.tsv")
    Manifest.read(manifests["dev"]).select(np.arange(20)).write(few)
    extractor = features.load(checkpoint, "all")
    features.extract_all(extractor, few, [], str(tmp_path / "features"), "float32")
    out = str(tmp_path / "out")
    flags = dict(data=few, output=out, layers="1,2", views=["intra"])
    run("cca", checkpoints=[checkpoint, str(tmp_path / "features")], **flags)
    model, store = (
        [row for row in rows(out) if row["model"] == name]
        for name in (Path(checkpoint).name, "features")
    )
    assert [row["layer"] for row in model] == [row["layer"] for row in store]
    assert len(model) == 6
    for one, other in zip(model, store, strict=True):
        assert float(one["value"]) == pytest.approx(float(other["value"]), abs=1e-4)
    of_spectra = str(tmp_path / "mfcc")  # which have no layers to choose from
    features.extract_all(features.load("mfcc"), few, [], of_spectra, "float32")
    found = StoredFeatures(of_spectra, [analyze.LAYERS], Utterances(open_sources(few)))
    assert (found.taps, found.stride) == ({"mfcc": 39}, 160)
    with pytest.raises(UserError, match="has the features of another manifest"):
        run("cca", checkpoints=[str(tmp_path / "features")], **flags | {"data": manifests["test"]})


def test_errors(manifests, said, checkpoint, tmp_path):
    data = dict(data=manifests["train"], output=str(tmp_path), checkpoints=[checkpoint])
    with pytest.raises(UserError, match=r"has no hidden_9; it has .*hidden_0 to hidden_2"):
        run("cca", layers="9", **data)
    with pytest.raises(UserError, match="--layers=six: 'six' is no number of a layer"):
        run("cca", layers="six", **data)
    with pytest.raises(UserError, match=r"mel, hidden_0: .* too few for CCA of 80 and 32"):
        run("cca", utterances=1, **data)
    with pytest.raises(UserError, match="--views=mfcc: choose from mel,intra"):
        run("cca", views=["mfcc"], **data)
    with pytest.raises(UserError, match="phones: set --labels to alignments"):
        run("cca", views=["phones"], **data)
    with pytest.raises(UserError, match="it has no tier of intervals --tier=phones"):
        run("cca", views=["phones"], labels=said, **data)
    with pytest.raises(UserError, match="--views=vectors needs --vectors"):
        run("cca", views=["vectors"], labels=said, **data)
    with pytest.raises(UserError, match="give each of the 1 checkpoints one"):
        run("cca", names=["a", "b"], **data)
    with pytest.raises(UserError, match="analyze probe needs --data"):
        run("probe", **data | {"data": ""})
    both = f"{manifests['train']},{manifests['test']}"
    with pytest.raises(UserError, match="less than 95%: give those of all recordings"):
        run("probe", labels=said, least_covered=0.95, **data | {"data": both})


def test_features_that_are_not_finite(manifests, checkpoint, tmp_path, monkeypatch):
    opened = analyze.open_extractor

    def damaged(*args, **kwargs):
        extractor = opened(*args, **kwargs)
        many = extractor.many

        def with_nan(recordings):
            for found in many(recordings):
                found.arrays["hidden_1"][3, 4] = np.nan
                yield found

        extractor.many = with_nan
        return extractor

    monkeypatch.setattr(analyze, "open_extractor", damaged)
    with pytest.raises(UserError, match=r"hidden_1 of .*\.ogg has values that are not finite"):
        run("cca", checkpoints=[checkpoint], data=manifests["dev"], output=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_program(manifests, tmp_path):
    def program(*arguments, status):
        done = tool("analyze", *arguments, status=status, environment={"PATH": "/nowhere"})
        return done.stdout + done.stderr

    said = program("cca", "probe", status=2)
    assert "one of cca, probe, clusters, curves, reference" in said
    said = program("cca", "--checkpoints=mfcc", f"--data={manifests['dev']}", "--views=mel",
                   f"--output={tmp_path}", "--samples=2", "--published", status=0)  # fmt: skip
    assert "nothing here is what was published" in said
    assert json.loads((tmp_path / "mfcc.cca_mel.json").read_text())["settings"]["seed"] == 0
    assert {row["repeats"] for row in rows(tmp_path)} == {"2"}


def test_the_text_of_a_fine_tuned_model(checkpoint, tmp_path, capsys):
    audio = (3000 * np.random.default_rng(0).standard_normal(32000)).astype(np.int16)
    soundfile.write(tmp_path / "1-2-3.flac", audio, 16000)
    np.save(tmp_path / "sample.small.L2.npy", np.zeros((99, 32), np.float32))
    with pytest.raises(UserError, match=r"sample.small.hypo.word cannot be read"):
        analyze.compare(checkpoint, str(tmp_path))
    recognizer, variables = open_recognizer(checkpoint)
    text = recognizer.text(variables, audio)
    assert text
    (tmp_path / "sample.small.hypo.word").write_text(f"{text} (None-0)\n")
    assert analyze.compare(checkpoint, str(tmp_path))
    (tmp_path / "sample.small.hypo.word").write_text(f"{text}X (None-0)\n")
    assert not analyze.compare(checkpoint, str(tmp_path))
    assert "DIFFERS" in capsys.readouterr().out
