"""The HTML report: well formed, harmless whatever the texts are, and heard as well as read."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import w2v_jax
from w2v_jax.audio.waveform import read
from w2v_jax.evaluation.page import write_page
from w2v_jax.evaluation.reports import Utterance, analyse

SPEECH = read(min(Path(w2v_jax.__file__).parent.glob("samples/dev-clean/*/*/*.ogg")))
EVIL = '<script>alert("1")</script>'
UTTERANCES = [
    Utterance("right", "ann", 1.0, "THE CAT", "THE CAT"),
    Utterance('a"&<b>.wav', "<i>bob", 3.0, "ONE TWO SIX", f"ONE {EVIL} TWO & SEX"),
    Utterance("arabic", "ann", 12.0, "مرحبا بالعالم كيف", "مرحبا العالم"),
    Utterance("nothing", "ann", 2.0, "", ""),
]
VOID = {"meta", "input", "option"}  # without end tags


class Page(HTMLParser):
    """Reads a page back: the words of every utterance by their kind, the sounds, all tags."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.utterances = [], [], []
        self.text, self.cells, self.bold = {}, [], []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "article":
            self.utterances.append({"name": attrs["data-name"], "pairs": []})
        elif tag == "audio":
            self.utterances[-1]["audio"] = attrs["src"]
        elif tag == "span" and self.utterances:
            self.utterances[-1]["pairs"].append([attrs.get("class", ""), "", ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        tag = self.open[-1] if self.open else ""
        self.text[tag] = self.text.get(tag, "") + data
        if not self.utterances and "b" in self.open:
            self.bold.append(data)
        if "td" in self.open:
            self.cells.append(data)
        if self.utterances and tag in ("b", "i") and "p" in self.open:
            self.utterances[-1]["pairs"][-1][1 if tag == "b" else 2] += data


@pytest.fixture
def written(tmp_path):
    def write(utterances=UTTERANCES, audio=lambda i: SPEECH, **options):
        path = tmp_path / "page.html"
        write_page(str(path), analyse(utterances), utterances, audio, f"{EVIL} on dev", **options)
        return Page(path)

    return write


def test_words_side_by_side_worst_first(written):
    page = written()
    assert [x["name"] for x in page.utterances] == ['a"&<b>.wav', "arabic", "right", "nothing"]
    first, arabic, right, nothing = (x["pairs"] for x in page.utterances)
    assert first == [
        ["", "ONE", "ONE"], ["n", "", EVIL], ["", "TWO", "TWO"], ["n", "", "&"], ["s", "SIX", "SEX"]
    ]  # fmt: skip
    assert [kind for kind, *_ in arabic] == ["", "s", "d"]
    assert arabic[2] == ["d", "كيف", ""]
    assert right == [["", "THE", "THE"], ["", "CAT", "CAT"]]
    assert nothing == []
    words = [attrs for tag, attrs in page.tags if tag == "p" and "lang" in attrs]
    assert [x["dir"] for x in words] == ["auto"] * 4


def test_nothing_is_executed_or_fetched(written):
    page = written()
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert EVIL in page.text["title"]
    for _, attrs in page.tags:
        assert not any(key.startswith("on") or key == "href" for key in attrs)
        assert attrs.get("src", "data:").startswith("data:")
    assert not re.search("https?:|//|@import|url", page.text["style"] + page.text["script"])
    (policy,) = (x["content"] for tag, x in page.tags if x.get("http-equiv"))
    digest = hashlib.sha256(page.text["script"].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none';")


def test_the_worst_are_heard(written, tmp_path):
    asked = []

    def audio(i):
        asked.append(i)
        return None if i == 2 else SPEECH

    page = written(audio=audio, players=3)
    assert asked == [1, 2, 0]
    assert ["audio" in x for x in page.utterances] == [True, False, True, False]
    kind, data = page.utterances[0]["audio"].split(",")
    assert kind == "data:audio/ogg;base64"
    path = tmp_path / "sound.ogg"
    path.write_bytes(base64.b64decode(data))
    assert b"OpusHead" in path.read_bytes()[:100]
    found = read(path)
    assert len(found) == len(SPEECH)
    assert np.corrcoef(found, SPEECH)[0, 1] > 0.95
    players = [attrs for tag, attrs in page.tags if tag == "audio"]
    assert all(x["preload"] == "none" for x in players)
    assert "audio" not in written(audio=lambda i: SPEECH[:0]).utterances[0]


def test_a_large_set_is_cut(written):
    page = written(shown=2)
    assert [x["name"] for x in page.utterances] == ['a"&<b>.wav', "arabic"]
    assert "The 2 worst of 4." in page.text["p"]


def test_tables(written):
    cells = " ".join(written().cells)
    assert "<2 1 0.0 2 0.0 0.0 2-5 2 0.1 3 100.0" in cells
    assert "<i>bob 1 0.1 3 100.0" in cells
    assert cells.endswith(f"SIX SEX 1 بالعالم العالم 1 كيف 1 & 1 {EVIL} 1")
    assert not written(UTTERANCES[:1]).cells[6:], "one speaker, no errors"


def test_systems_are_named(written):
    headings = (
        "system", "language model", "WER %", "95 %", "CER %", "LM weight, word score",
        "real-time factor", "better",
    )  # fmt: skip
    rows = [
        ("greedy", "", "40.00", "30.0-50.0", "9.00", "", "0.00001", ""),
        ("n-gram", "<b>4-gram.arpa", "30.00", "20.0-40.0", "8.00", "0.9, -1", "0.00100", "0.990"),
    ]
    page = written(systems=(headings, *rows))
    assert page.bold[:3] == ["n-gram", "<b>4-gram.arpa", "0.9, -1"]
    assert page.cells[:13] == [x for row in rows for x in row if x]
    assert written(systems=(headings, rows[0])).bold[:2] == ["greedy", "none"]
