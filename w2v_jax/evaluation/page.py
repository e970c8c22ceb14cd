"""The errors on a test set as one HTML file that can be read and heard without a network."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

import numpy as np

from w2v_jax.audio.waveform import encode
from w2v_jax.evaluation.reports import HEADINGS, Group, Report, Utterance
from w2v_jax.evaluation.scoring import WordAlignment
from w2v_jax.places import place, write_whole

PLAYERS = 50
SHOWN = 3000
HEAD = b'<meta name="generator" content="w2v_jax evaluate">'  # by which a page is known as ours
# columns that begin at one place
TEXTS = ("reference", "hypothesis", "speaker", "seconds", "system", "language model")
SYSTEM = ("system", "language model", "LM weight, word score")  # what is said of it first
FREQUENT = 50  # rows of the tables of substitutions, deletions and insertions

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --back: #fff; --dim: #63666b; --line: #d5d8dd;
  --sub: #fbe0c8; --sub-line: #a84300; --del: #d5e7f8; --del-line: #00508c;
  --ins: #e8def5; --ins-line: #64359b; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --back: #16181b; --dim: #a0a5ad;
  --line: #3a3f46; --sub: #4d2b10; --sub-line: #f4a261; --del: #143a5c; --del-line: #7cbcf5;
  --ins: #3c2a57; --ins-line: #c9a7f5; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 75rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.4rem; margin: .5rem 0; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; }
.score { display: flex; flex-wrap: wrap; gap: .3rem 2.5rem; margin: .5rem 0; }
.score b { font-size: 1.7rem; } .dim, .score small { color: var(--dim); }
.tables { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: start; }
.scroll { max-height: 21rem; overflow: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .1rem .7rem .1rem 0; text-align: end; white-space: nowrap; }
th { position: sticky; top: 0; background: var(--back); font-weight: 600; color: var(--dim); }
th.t, td.t { text-align: start; } tr + tr td { border-top: 1px solid var(--line); }
.bar { padding: .1rem .5rem; background: linear-gradient(var(--sub), var(--sub))
  no-repeat left / calc(var(--share) * 1%) 100%; }
form { position: sticky; top: 0; z-index: 1; background: var(--back); padding: .5rem 0;
  display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; align-items: center; }
input, select { font: inherit; }
article { border-top: 1px solid var(--line); padding: .6rem 0; content-visibility: auto;
  contain-intrinsic-size: auto 7rem; }
article[hidden] { display: none; }
h3 { font-size: .9rem; font-weight: 400; margin: 0; color: var(--dim); overflow-wrap: anywhere; }
h3 b { color: var(--text); } audio { height: 2.2rem; width: 22rem; max-width: 100%; }
.w { margin: .3rem 0 0; }
.w span { display: inline-flex; flex-direction: column; margin: 0 .15em .4em; padding: 0 .2em;
  border-radius: 3px; vertical-align: top; }
.w b, .w i { font-weight: 400; font-style: normal; min-height: 1.45em; white-space: nowrap; }
.w i { color: var(--dim); }
.w .s, .w .d, .w .n { border-inline-start: 3px solid; } .w [class] i { color: inherit; }
.w .s { background: var(--sub); border-color: var(--sub-line); }
.w .d { background: var(--del); border-color: var(--del-line); }
.w .n { background: var(--ins); border-color: var(--ins-line); }
.w .s i { font-weight: 600; } .w .n i { font-weight: 600; text-decoration: underline; }
.w .s i::before { content: "\\d7\\a0"; } .w .n b::before { content: "+"; }
.w .d b { text-decoration: line-through; } .w .d i::before { content: "\\2212"; }
"""

_SCRIPT = """
const list = document.getElementById('list'), worst = [...list.children];
const form = document.forms[0], { sort, find, wrong } = form.elements;
const words = (x, side) => [...x.querySelectorAll('.w ' + side)]
  .map(word => word.textContent).filter(word => word).join(' ');
const text = new Map(worst.map(x => [x,
  [x.querySelector('h3').textContent, words(x, 'b'), words(x, 'i')].join('\\n').toLowerCase()]));
function sorted() {
  const by = sort.value, items = [...worst];
  if (by === 'name') items.sort((a, b) => a.dataset.name < b.dataset.name ? -1 : 1);
  else if (by !== 'wer') items.sort((a, b) => b.dataset[by] - a.dataset[by]);
  list.append(...items);
}
function filtered() {
  const wanted = find.value.trim().toLowerCase();
  let shown = 0;
  for (const x of worst) {
    x.hidden = (wrong.checked && x.dataset.errors === '0') || !text.get(x).includes(wanted);
    shown += !x.hidden;
  }
  document.getElementById('shown').textContent = shown + ' shown';
}
form.addEventListener('submit', event => event.preventDefault());
sort.addEventListener('change', sorted);
find.addEventListener('input', filtered);
wrong.addEventListener('change', filtered);
sorted();
filtered();
"""

_CONTROLS = """<form>
<label>Sort by <select name="sort"><option value="wer">WER<option value="errors">number of errors
<option value="seconds">length<option value="name">name</select></label>
<label>Find <input type="search" name="find" placeholder="word, name or speaker"></label>
<label><input type="checkbox" name="wrong"> with errors only</label>
<span class="dim" id="shown"></span></form>
<p class="w">Upper line: reference, lower line: hypothesis.
<span><b>right</b><i>right</i></span><span class="s"><b>said</b><i>substituted</i></span><span
class="d"><b>deleted</b><i></i></span><span class="n"><b></b><i>inserted</i></span></p>
"""


def write_page(
    path: str,
    report: Report,
    utterances: Sequence[Utterance],
    audio: Callable[[int], np.ndarray | None],
    title: str,
    *,
    systems: Sequence[Sequence[str]] = (),
    players: int = PLAYERS,
    shown: int = SHOWN,
) -> None:
    """Writes the report on `utterances` as an HTML page.

    systems: the table of all that were scored, headings first; `utterances` are of the last.
    audio: an utterance's samples by its index, int16 [S] at 16 kHz, None where there are none; it
    is asked for the `players` worst utterances, which can be heard (as Opus, some 0.3 MB a
    minute). The `shown` worst ones are written out.
    """
    write_whole(
        place(path), "".join(_page(report, utterances, audio, title, systems, players, shown))
    )


def _page(report, utterances, audio, title, systems, players, shown) -> Iterator[str]:
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    # no script but ours, and nothing from anywhere else, whatever stands in a text
    policy = "default-src 'none'; media-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'"
    yield f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
{HEAD.decode()}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<h1 dir="auto">{escape(title)}</h1>
"""
    if systems:
        yield from _system(systems[0], systems[-1])
    yield from _summary(report)
    if systems:
        yield '<div class="tables">\n'
        yield from _systems(*systems)
        yield "</div>\n"
    yield from _tables(report)
    left_out = len(utterances) - shown
    yield "<h2>Utterances</h2>\n"
    if left_out > 0:
        yield f"<p>The {shown} worst of {len(utterances)}.</p>\n"
    yield _CONTROLS
    yield '<main id="list">\n'
    for rank, i in enumerate(report.worst[:shown]):
        samples = audio(i) if rank < players else None
        yield from _utterance(utterances[i], report.alignments[i], samples)
    yield f"</main>\n<script>{_SCRIPT}</script>\n</html>\n"


def _system(headings: Sequence[str], system: Sequence[str]) -> Iterator[str]:
    """Which system all that follows is about."""
    values = dict(zip(headings, system, strict=True))
    values["language model"] = values["language model"] or "none"
    said = (
        f"{heading}: <b><bdi>{escape(values[heading])}</bdi></b>"
        for heading in SYSTEM if values[heading]
    )  # fmt: skip
    yield f"<p>{' · '.join(said)}</p>\n"


def _systems(headings: Sequence[str], *rows: Sequence[str]) -> Iterator[str]:
    cells = [
        "".join(
            (_cell if heading in TEXTS else _number)(value)
            for heading, value in zip(headings, row, strict=True)
        )
        for row in rows
    ]
    yield from _scrolled("Systems", headings, cells)


def _summary(report: Report) -> Iterator[str]:
    score = report.score
    yield '<div class="score">\n'
    for name, rate, (low, high) in (
        ("WER", score.wer, report.wer_interval),
        ("CER", score.cer, report.cer_interval),
    ):
        yield f"<div>{name} <b>{rate:.2f} %</b> <small>{low:.2f} to {high:.2f}</small></div>\n"
    yield (
        f'</div>\n<p class="dim">{score.substitutions} substitutions, {score.deletions} deletions, '
        f"{score.insertions} insertions in {score.words} words; {len(report.names)} utterances, "
        f"{report.minutes:.1f} minutes. 95 % intervals: {report.certainty}.</p>\n"
    )


def _tables(report: Report) -> Iterator[str]:
    yield '<div class="tables">\n'
    if len(report.by_length) > 1:
        yield from _groups("By length", "seconds", report.by_length)
    if report.by_speaker:
        yield from _groups("By speaker", "speaker", report.by_speaker)
    yield '</div>\n<div class="tables">\n'
    pairs = [(*pair, times) for pair, times in report.substitutions]
    yield from _table("Substitutions", ("reference", "hypothesis", "times"), pairs)
    yield from _table("Deletions", ("reference", "times"), report.deletions)
    yield from _table("Insertions", ("hypothesis", "times"), report.insertions)
    yield "</div>\n"


def _groups(title: str, name: str, groups: Sequence[Group]) -> Iterator[str]:
    highest = np.nanmax([group.wer for group in groups]) or 1.0
    rows = []
    for group in groups:
        cells = [_cell(group.name), *map(_number, group.cells()[1:])]
        share = 100 * np.nan_to_num(group.wer / highest)
        cells[4] = cells[4].replace("<td>", f'<td class="bar" style="--share:{share:.0f}">')
        rows.append("".join(cells))
    yield from _scrolled(title, (name, *HEADINGS), rows)


def _table(title: str, headings: Sequence[str], entries: Sequence[tuple]) -> Iterator[str]:
    if entries:
        rows = ["".join(map(_cell, words)) + _number(times) for *words, times in entries[:FREQUENT]]
        title += (
            f" ({len(entries)}, the {FREQUENT} most frequent)" if len(entries) > FREQUENT else ""
        )
        yield from _scrolled(title, headings, rows)


def _scrolled(title: str, headings: Iterable[str], rows: Iterable[str]) -> Iterator[str]:
    yield f'<section><h2>{title}</h2><div class="scroll"><table><tr>'
    for heading in headings:
        words = ' class="t"' if heading in TEXTS else ""
        yield f"<th{words}>{heading}</th>"
    yield "</tr>\n" + "".join(f"<tr>{row}</tr>\n" for row in rows) + "</table></div></section>\n"


def _utterance(
    utterance: Utterance, alignment: WordAlignment, samples: np.ndarray | None
) -> Iterator[str]:
    errors, words = len(alignment.errors), alignment.words
    rate = f"{100 * errors / words:.1f} %" if words else "no reference"
    name, speaker = escape(utterance.name), escape(utterance.speaker)
    yield (
        f'<article data-errors="{errors}" data-seconds="{utterance.seconds:.2f}" '
        f'data-name="{name}"><h3><b>{rate}</b> {errors} errors, {words} words · '
        f"{utterance.seconds:.1f} s · <bdi>{name}</bdi>"
        + (f" · <bdi>{speaker}</bdi>" if speaker else "")
        + "</h3>\n"
    )
    if samples is not None and len(samples):
        sound = base64.b64encode(encode(samples, "opus")).decode()
        yield f'<audio controls preload="none" src="data:audio/ogg;base64,{sound}"></audio>\n'
    yield '<p class="w" dir="auto" lang="">' + "".join(map(_pair, alignment.pairs)) + "</p>\n"
    yield "</article>\n"


def _pair(pair: tuple[str, str]) -> str:
    reference, found = map(escape, pair)
    kind = ""
    if pair[0] != pair[1]:
        kind = ' class="s" title="substitution"'
        if not found:
            kind = ' class="d" title="deletion"'
        elif not reference:
            kind = ' class="n" title="insertion"'
    return f"<span{kind}><b>{reference}</b><i>{found}</i></span>"


def _cell(text: str) -> str:
    return f'<td class="t"><bdi>{escape(text)}</bdi></td>'


def _number(value: int | str) -> str:
    return f"<td>{value}</td>"
