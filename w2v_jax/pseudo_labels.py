"""Texts of a model as transcripts for the next one: noisy student training, pseudo-labels.

    python -m w2v_jax.pseudo_labels decode --checkpoint=runs/teacher/export \
        --data=unlabelled.arrow --exclude=labelled.tsv --config.lm=4-gram.arpa.gz --output=decoded

writes the text of every utterance, its score and its share of blanks, with the search of
python -m w2v_jax.evaluate (--tuned takes the weights that it found). Transcripts that the manifest
has are not looked at. Killed, the same command goes on where it was; --shard=0/4 to --shard=3/4 are
four processes, on as many machines, that fill one folder.

    python -m w2v_jax.pseudo_labels select --decoded=decoded --reference=decoded-dev \
        --labelled=labelled.tsv --cutoff=0 --balance=0.5 --output=selected

says which teach: those whose score is better than usual for their length, by so many standard
deviations (docs/teachers.md). The folder has a table of all and a manifest of these, for
--config.data.train. It ends with status 3, and no manifest, where the labels are useless. With
--config, the training of the student, its alphabet must be the teacher's.

    python -m w2v_jax.pseudo_labels report --runs=runs/noisy

prints what the generations of launch/noisy_student.sh have learnt.
"""

import re
import sys
from pathlib import Path

import numpy as np
from absl import flags

from w2v_jax import command_line, config_flag
from w2v_jax.analysis.progress import Progress
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.config_files import RECIPES
from w2v_jax.data.corpus import Corpus
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.errors import UserError
from w2v_jax.labelling import folder, generations, selection
from w2v_jax.labelling.teacher import Label, Teacher, with_tuned
from w2v_jax.labelling.unlabelled import ids, open_unlabelled
from w2v_jax.recognizers import HELP, open_recognizer
from w2v_jax.tasks import TASKS
from w2v_jax.tasks.ctc import CTC
from w2v_jax.tasks.task import Task
from w2v_jax.text.alphabet import Alphabet

CONFIG = RECIPES / "evaluate.py"
USELESS = 3  # the status where labels teach nothing


def decode(
    checkpoint: str,
    data: str,
    output: str,
    *,
    options: SearchOptions | None = None,
    exclude: str = "",
    share: float = 1.0,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    processes: int = 1,
    batch_seconds: float = 60.0,
    max_bad_share: float = 0.05,
) -> folder.Decoded:
    """Fills the folder `output` with what the model in `checkpoint` hears in the rows of `data`.

    exclude, share, seed: see `open_unlabelled`; shard: (which, of how many). Raises UserError, and
    where more than `max_bad_share` of the rows cannot be read.
    """
    sources, manifest = open_unlabelled(data, exclude=exclude, share=share, seed=seed)
    if known := sum(bool(text) for text in manifest.texts):
        print(
            f"{known:,} of {len(manifest):,} utterances have transcripts: they are not looked at, "
            "and kept for the error rate of the labels alone",
            flush=True,
        )
    teacher = Teacher(*open_recognizer(checkpoint), options or SearchOptions(), processes)
    index = teacher.described(checkpoint) | {
        "format": folder.FORMAT, "data": {"name": data, "digest": manifest.digest},
    }  # fmt: skip
    writer = folder.Appender(output, index, manifest, shard)
    try:
        _fill(writer, teacher, Corpus(sources), ids(manifest), shard, batch_seconds)
    finally:
        writer.close()
        teacher.close()
    found = folder.Decoded(output, "--output")
    bad = len(found.found) - len(found.utterances)
    missing = len(manifest) - len(found.found)
    rest = f"; {missing:,} are still to be done by other shards" if missing else ""
    print(f"{len(found.utterances):,} of {len(manifest):,} utterances, {bad:,} unreadable: "
          f"{output}{rest}")  # fmt: skip
    if bad > max_bad_share * len(manifest):
        raise UserError(
            f"{bad:,} of {len(manifest):,} recordings cannot be read; repair them and run the same "
            f"command again, or raise --max_bad_share={max_bad_share:g}"
        )
    return found


def _fill(
    writer: folder.Appender, teacher: Teacher, corpus: Corpus, names: list[str],
    shard: tuple[int, int], batch_seconds: float,
) -> None:  # fmt: skip
    """Decodes the rows of a shard that are missing, and says how far it is."""
    lengths = np.asarray(corpus.lengths)
    # every shard has long ones and short ones
    rows = np.sort(np.argsort(-lengths, kind="stable")[shard[0] :: shard[1]])
    done = np.zeros(len(lengths), bool)
    done[[row for row, one in writer.found.items() if one.frames >= 0]] = True
    todo = rows[~done[rows]]
    if len(todo) < len(rows):
        print(f"{len(rows) - len(todo):,} of {len(rows):,} utterances are there already",
              flush=True)  # fmt: skip
    progress = Progress(len(todo), int(lengths[todo].sum()), SAMPLE_RATE)

    def utterance(row: int, label: Label | None) -> folder.Utterance:
        label = label or Label("", 0.0, folder.UNREADABLE, 0.0)
        return folder.Utterance(
            row, names[row], label.text, label.score, len(label.text), label.frames,
            label.blank_share, int(lengths[row]) / SAMPLE_RATE,
        )  # fmt: skip

    left = len(todo)
    for found in teacher.batches(corpus, rows, done, batch_seconds):
        new = [utterance(row, label) for row, label in found.items() if not done[row]]
        writer.add(new)
        left -= len(new)
        for one in new:
            progress.add(int(lengths[one.row]), whole=True)
        if progress.due() or not left:
            print(progress.line(), flush=True)


def shard_of(text: str) -> tuple[int, int]:
    """(which, of how many) of 2/8. Raises UserError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    which, of = map(int, found.groups()) if found else (0, 0)
    if which >= of:
        raise UserError(f"--shard={text} must be I/N with I from 0 to N - 1, such as 0/4")
    return which, of


NEEDS = {
    "decode": ("checkpoint", "data", "output"),
    "select": ("decoded", "reference", "labelled", "output"),
    "report": ("runs",),
}


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    command = command_line.chosen(argv, "pseudo_labels", NEEDS)
    config = config_flag.given_config()
    if command == "report":
        print(generations.table(values.runs))
    elif command == "decode":
        options = SearchOptions.from_config(config)
        if values.tuned:
            options = with_tuned(options, values.tuned)
        command_line.enable_compilation_cache()
        decode(
            values.checkpoint, values.data, values.output, options=options, exclude=values.exclude,
            share=values.share, seed=values.seed, shard=shard_of(values.shard),
            processes=values.processes, batch_seconds=values.batch_seconds,
            max_bad_share=values.max_bad_share,
        )  # fmt: skip
    else:
        student = None
        if "kind" in config:  # a training
            if not issubclass(TASKS.get(config.kind, Task), CTC):
                raise UserError(
                    f"this config is of the kind {config.kind}, which writes no letters; take that "
                    "of the student, such as configs/finetune.py"
                )
            student = Alphabet.from_letters(config.letters, config.language)
        limits = selection.Limits(
            values.least_length, values.most_length, values.most_blank, values.most_empty
        )
        found = selection.select(
            values.decoded, values.reference, values.labelled, values.output,
            cutoff=values.cutoff, strength=values.balance, student=student, limits=limits,
        )  # fmt: skip
        print(selection.printed(found, values.output))
        if found.useless:
            print(
                f"error: these labels would teach nothing: {'; '.join(found.useless)}. Train the "
                f"teacher longer, or on more transcripts, or give it a language model; the texts "
                f"are in {Path(values.output) / selection.TABLE}",
                file=sys.stderr,
            )
            sys.exit(USELESS)


if __name__ == "__main__":
    config_flag.define(str(CONFIG), "decode: how; select: the training of the student, to compare "
                       "alphabets")  # fmt: skip
    flags.DEFINE_string("checkpoint", "", f"decode: {HELP}")
    flags.DEFINE_string("data", "", "decode: manifests or shards, with commas")
    flags.DEFINE_string("output", "", "decode, select: the folder to write")
    flags.DEFINE_string("tuned", "", "decode: weights that evaluate found, a .tuned.json")
    flags.DEFINE_string("exclude", "", "decode: manifests whose audio is left out")
    command_line.define_number(
        "share", 1.0, "decode: of the utterances, drawn at random", 0, 1, above=True
    )
    flags.DEFINE_integer("seed", 0, "decode: of what is random", 0)
    flags.DEFINE_string("shard", "0/1", "decode: this part of the work, I/N from 0/N on")
    flags.DEFINE_integer("processes", 1, "decode: that search with the language models", 1)
    command_line.define_number("batch_seconds", 60.0, "decode: audio per batch", 0, 1e6, above=True)
    command_line.define_number(
        "max_bad_share", 0.05, "decode: share of unreadable files that is an error", 0, 1
    )
    flags.DEFINE_string("decoded", "", "select: the folder of the unlabelled utterances")
    flags.DEFINE_string("reference", "", "select: the folder of held-out ones, decoded alike")
    flags.DEFINE_string("labelled", "", "select: manifests with transcripts, with commas")
    command_line.define_number(
        "cutoff", None, "select: utterances must have a higher s (default: all have)", -1e6, 1e6
    )
    command_line.define_number(
        "balance", 0.0, "select: how far letters become as frequent as in transcripts", 0, 1
    )
    usual = selection.Limits()
    for name, about, most in (
        ("least_length", "letters per second, at least so many times the transcripts'", 1e3),
        ("most_length", "and at most", 1e3),
        ("most_blank", "of the frames may be blanks", 1),
        ("most_empty", "of the texts may be empty", 1),
    ):  # fmt: skip
        command_line.define_number(name, getattr(usual, name), f"select: {about}", 0, most)
    flags.DEFINE_string("runs", "", "report: folder of launch/noisy_student.sh")
    command_line.run(main)
