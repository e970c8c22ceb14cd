"""Scores an exported CTC model on a manifest, with and without language models.

python -m w2v_jax.evaluate --checkpoint=runs/base-10h/export --data=test-clean.tsv
python -m w2v_jax.evaluate --checkpoint=runs/base-10h/export --data=test-clean.tsv \
    --tune=dev-other.tsv --config.lm=4-gram.arpa.gz --config.transformer_lm=runs/lm/export

The second prints a row per system: the best path, the search with the n-gram model, the Transformer
over its best texts. --tune finds the weights on another set first; configs/evaluate.py has those of
the published tables.
"""

import contextlib
import csv
import dataclasses
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from glob import has_magic
from pathlib import Path

from absl import flags

from w2v_jax import command_line, config_flag
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError
from w2v_jax.config_files import RECIPES
from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import bucket_edges, pad_buckets, sequential
from w2v_jax.data.sources import open_sources
from w2v_jax.data.transcripts import transcribed
from w2v_jax.decoding.rescoring import LanguageScorer
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.errors import UserError
from w2v_jax.evaluation import figures, page
from w2v_jax.evaluation.reports import Report, Utterance, analyse, columns, compare
from w2v_jax.evaluation.scoring import Score
from w2v_jax.evaluation.systems import NGRAM, TRANSFORMER, Decoded, Systems
from w2v_jax.evaluation.tuning import Trial
from w2v_jax.interop import checkpoints
from w2v_jax.places import (
    check_no_input,
    check_replaceable,
    check_writable,
    place,
    several,
    write_whole,
)
from w2v_jax.recognizers import HELP, open_recognizer

BUCKETS = 8
COLUMNS = "path", "reference", "hypothesis"
HEAD = "\t".join(COLUMNS).encode()
CONFIG = RECIPES / "evaluate.py"


class Model:
    """An exported CTC model, and what it computes for a manifest."""

    def __init__(self, checkpoint: str, batch_seconds: float, max_bad_share: float):
        self.recognizer, self._variables = open_recognizer(checkpoint)
        self._batch_seconds, self._max_bad_share = batch_seconds, max_bad_share

    def __call__(self, data: str) -> tuple[Corpus, list[int], list, list[str]]:
        """(corpus, items that could be read, ln p [T, V] of each, references).

        Utterances whose transcript the alphabet cannot write, and files that cannot be read, are
        left out and named.
        """
        sources, labels = transcribed(open_sources(data), self.recognizer.alphabet)
        corpus = Corpus(sources)
        edges = bucket_edges(corpus.lengths, BUCKETS)
        at_once = round(self._batch_seconds * SAMPLE_RATE)
        specs = sequential(pad_buckets(corpus.lengths, edges, at_once, 1))
        loader = Loader(corpus, 0, crop=False, replace_bad=False, max_bad_share=self._max_bad_share)
        found = self.recognizer.emissions(self._variables, iterate(specs, loader))
        items = sorted(found)
        references = [self.recognizer.alphabet.decode(labels[item]) for item in items]
        return corpus, items, [found[item] for item in items], references


def evaluate(
    checkpoint: str,
    data: str,
    output: str,
    *,
    options: SearchOptions | None = None,
    tune: str = "",
    trials: int = 64,
    players: int = 50,
    processes: int = 1,
    batch_seconds: float = 60.0,
    max_bad_share: float = 0.05,
    overwrite: bool = False,
) -> Score:
    """The error rates of the last system that `options` ask for, greedy decoding without.

    Prints a row for each system, and a report on the last. Beside `output`, its table of references
    and hypotheses, a page to read and hear is written, and with `tune` the weights and a picture.
    """
    options = options or SearchOptions()
    base = output.removesuffix(".tsv")
    check_output(output, bool(tune), overwrite)
    check_no_input(output, "--output", [*several(data), *several(tune)])
    if tune:
        if not (options.lm or options.transformer_lm):
            raise UserError(
                "--tune looks for weights of language models; set --config.lm or "
                "--config.transformer_lm"
            )
        check_apart(tune, data)
    model = Model(checkpoint, batch_seconds, max_bad_share)
    scorer = None
    if options.transformer_lm:
        scorer = LanguageScorer(
            *checkpoints.load(options.transformer_lm, "language"), model.recognizer.alphabet
        )
    with contextlib.closing(
        Systems(model.recognizer.alphabet, options, scorer, processes)
    ) as systems:
        if tune:
            _, _, emissions, references = model(tune)
            tried = systems.tune(emissions, references, trials)
            write_tuned(base, systems.options, tried)
        corpus, items, emissions, references = model(data)
        decoded = systems(emissions)
    seconds = (corpus.lengths[items] / SAMPLE_RATE).tolist()
    names = [corpus.path(item) for item in items]
    times = Counter(names)  # parts of one file
    names = [f"{name}#{item}" if times[name] > 1 else name
             for name, item in zip(names, items, strict=True)]  # fmt: skip
    speakers = [corpus.speaker(item) for item in items]

    def utterances(texts: Sequence[str]) -> list[Utterance]:
        fields = zip(names, speakers, seconds, references, texts, strict=True)
        return [Utterance(*field) for field in fields]

    found = [utterances(x.texts) for x in decoded]
    reports = [analyse(x) for x in found]
    last, report = found[-1], reports[-1]
    print(f"{data}: {len(items)} utterances, {sum(seconds) / 60:.1f} min")
    headings, *rows = systems = table(decoded, found, reports)
    # without the files of language models, which the command names
    shown = [("", *headings[2:]), *((name, *rest) for name, _, *rest in rows)]
    print("\n".join(columns(shown)))
    file = io.StringIO(newline="")
    texts = csv.writer(file, delimiter="\t", lineterminator="\n")
    texts.writerow(COLUMNS)
    texts.writerows((x.name, x.reference, x.hypothesis) for x in last)
    write_whole(place(output), file.getvalue())

    def audio(index: int):
        try:
            return corpus.audio(items[index], 0, corpus.length(items[index]))
        except AudioError:
            return None

    html = f"{base}.html"
    title = f"{checkpoint} on {data}"
    page.write_page(html, report, last, audio, title, systems=systems, players=players)
    print(f"\n{decoded[-1].system}: {report}")
    print(f"\nreferences and hypotheses: {output}; to read and hear: {html}")
    return report.score


def check_output(output: str, tuned: bool, overwrite: bool) -> None:
    """Makes the folder of `output`. Raises UserError where nothing can be written there, or what
    stands there is not evaluate's."""
    check_writable(output, "--output")
    base = output.removesuffix(".tsv")
    written = {output: HEAD, f"{base}.html": page.HEAD}
    if tuned:
        written |= {
            f"{base}.tuned.json": b'"transformer_weight"', f"{base}.tuned.png": figures.MARK
        }
    for path, ours in written.items():
        check_replaceable(path, "--output", overwrite=overwrite, ours=ours)


def write_tuned(base: str, options: SearchOptions, tried: Mapping[str, Sequence[Trial]]) -> None:
    """Writes the weights that were found and the picture of the search, and prints the flags."""
    weights = json.dumps(dataclasses.asdict(options), indent=2)
    write_whole(place(f"{base}.tuned.json"), weights + "\n")
    place(f"{base}.tuned.png").write_bytes(figures.surface(tried))
    keys = {
        NGRAM: ("lm_weight", "word_score"),
        TRANSFORMER: ("transformer_weight", "transformer_word_score"),
    }
    found = (f"--config.{key}={getattr(options, key)}" for name in tried for key in keys[name])
    print(f"tuned: {' '.join(found)}\n  {base}.tuned.json, {base}.tuned.png")


def check_apart(tune: str, data: str) -> None:
    """Raises UserError where the sets have an utterance in common: weights that were tuned on what
    is scored say nothing."""
    first, second = (
        {
            (os.path.realpath(source.manifest.path(row)), int(source.manifest.starts[row]))
            for source in open_sources(names)
            for row in range(len(source.manifest))
        }
        for names in (tune, data)
    )
    if common := sorted(first & second):
        raise UserError(
            f"{len(common)} utterances of --tune={tune} are in --data={data} too, such as "
            f"{common[0][0]}; tune on another set"
        )


def table(
    decoded: Sequence[Decoded], found: Sequence[list[Utterance]], reports: Sequence[Report]
) -> list[tuple[str, ...]]:
    """Headings and a row per system; the last column compares it with the one above."""
    rows = [
        ("system", "language model", "WER %", "95 %", "CER %", "LM weight, word score",
         "real-time factor", "better"),
    ]  # fmt: skip
    for i, (system, report) in enumerate(zip(decoded, reports, strict=True)):
        low, high = report.wer_interval
        better = f"{compare(found[i - 1], found[i]).improvement:.3f}" if i else ""
        rates = f"{report.score.wer:.2f}", f"{low:.1f}-{high:.1f}", f"{report.score.cer:.2f}"
        factor = f"{system.seconds / 60 / report.minutes:.2g}"
        rows.append((system.system, system.models, *rates, system.weights, factor, better))
    return rows


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    values = flags.FLAGS
    pattern = has_magic(values.data) and not os.path.exists(values.data)
    if not values.output and (pattern or len(several(values.data)) > 1):
        raise UserError(f"--data={values.data} is several manifests; name --output, the table")
    folder = values.checkpoint  # of a file that it lies in
    if os.path.isfile(folder):
        folder = os.path.dirname(folder) or os.curdir
    output = values.output or f"{folder}/{Path(values.data).stem}.decoded.tsv"
    evaluate(
        values.checkpoint, values.data, output,
        options=SearchOptions.from_config(config_flag.given_config()),
        tune=values.tune, trials=values.trials, players=values.players,
        processes=values.processes,
        batch_seconds=values.batch_seconds, max_bad_share=values.max_bad_share,
        overwrite=values.overwrite,
    )  # fmt: skip


if __name__ == "__main__":
    config_flag.define(str(CONFIG), "how to decode")
    flags.DEFINE_string("checkpoint", None, HELP, required=True)
    flags.DEFINE_string("data", None, "manifest with transcripts", required=True)
    flags.DEFINE_string(
        "output", "", "table of references and hypotheses (default: CHECKPOINT/...)"
    )
    flags.DEFINE_string("tune", "", "manifest of another set, to find the weights on")
    flags.DEFINE_integer("trials", 64, "pairs of weights to try there", 2)
    flags.DEFINE_integer("players", 50, "utterances of the page with audio, the worst", 0)
    flags.DEFINE_integer("processes", 1, "that search with the language models", 1)
    command_line.define_number("batch_seconds", 60.0, "audio per batch", 0, 1e6, above=True)
    command_line.define_number(
        "max_bad_share", 0.05, "share of unreadable files that is an error", 0, 1
    )
    command_line.define_overwrite()
    command_line.run(main)
