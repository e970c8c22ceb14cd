"""Builds an n-gram language model of words, in the letters of a recognizer.

python -m w2v_jax.build_ngram --order=4 --output=lm.arpa.gz --transcripts=train.tsv \
    --text=more.txt.gz --exclude=dev.tsv,test.tsv

Transcripts of manifests and lines of text files are normalised as transcripts are for fine-tuning;
what the letters cannot write is left out and counted, and so are sentences that stand in --exclude,
word for word. The text that remains can be kept (--kept), for a Transformer language model.
Estimated is modified Kneser-Ney without pruning, in memory; for texts as large as LibriSpeech's,
--tool=lmplz has that program of KenLM do it, where it is installed.
"""

import dataclasses
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from w2v_jax import command_line
from w2v_jax.data.sources import open_sources
from w2v_jax.decoding import ngram
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.places import check_no_input, check_replaceable, several
from w2v_jax.text.alphabet import Alphabet, TextError
from w2v_jax.text.files import lines, write_lines

TOOLS = ("own", "lmplz")
RESERVED = {ngram.BEGIN, ngram.END, ngram.UNKNOWN, ngram.UNKNOWN_TOO}  # no words of a text


def transcripts_of(names: str) -> Iterator[str]:
    """The transcripts of manifests, those that are not empty."""
    for source in open_sources(names):
        yield from filter(None, source.manifest.texts)


def clean_sentences(
    texts: Iterator[str], alphabet: Alphabet, excluded: set[str], counts: Counter
) -> Iterator[str]:
    """The normalised sentences that the alphabet can write and that are not excluded; counts the
    others by their reason."""
    for text in texts:
        try:
            alphabet.encode(text)
        except TextError:
            counts["foreign"] += 1
            continue
        text = alphabet.normalize(text)
        if RESERVED.intersection(text.split()):
            counts["foreign"] += 1
            continue
        if text in excluded:
            counts["excluded"] += 1
            continue
        counts["sentences"] += 1
        counts["words"] += text.count(" ") + 1
        yield text


def vocabulary_of(sentences: Sequence[str], most: int) -> set[str] | None:
    """The `most` frequent words; None, for all, if most is 0 or there are no more."""
    frequent = Counter(word for sentence in sentences for word in sentence.split())
    if not most or len(frequent) <= most:
        return None
    ordered = sorted(frequent, key=lambda word: (-frequent[word], word))
    return set(ordered[:most])


def by_lmplz(
    sentences: Sequence[str], order: int, vocabulary: set[str] | None, output: str
) -> None:
    """Has KenLM's lmplz write the ARPA file. Raises UserError where it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        text, words = Path(folder, "text"), Path(folder, "words")
        text.write_text("\n".join(sentences) + "\n", encoding="utf-8")
        command = ["lmplz", "-o", str(order), "--discount_fallback", "--text", str(text),
                   "--arpa", output, "-T", folder]  # fmt: skip
        if vocabulary is not None:
            words.write_text(" ".join(sorted(vocabulary)), encoding="utf-8")
            command += ["--limit_vocab_file", str(words)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise UserError("lmplz is not on the PATH; build KenLM, or set --tool=own") from None
        except subprocess.CalledProcessError as error:
            raise UserError(f"lmplz failed: {error.stderr.strip()[-300:]}") from None


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    values = flags.FLAGS
    if not (values.text or values.transcripts):
        raise UserError("set --text to text files or --transcripts to manifests, or both")
    if values.tool == "lmplz" and values.output.endswith(".gz"):
        raise UserError(f"lmplz writes no .gz; set --output={values.output.removesuffix('.gz')}")
    for flag, path in (("--output", values.output), ("--kept", values.kept)):
        if path and not Path(path).absolute().parent.is_dir():
            raise UserError(f"the folder of {path} does not exist; make it first")
        if path:
            check_replaceable(path, flag, overwrite=values.overwrite)
    read = [values.text, values.transcripts, values.exclude]
    for flag, path in (("--output", values.output), ("--kept", values.kept)):
        if path:
            check_no_input(path, flag, [name for names in read for name in several(names)])
    if values.kept:
        check_no_input(values.kept, "--kept", [values.output])
    if values.checkpoint and values.letters:
        raise UserError("--checkpoint and --letters both name an alphabet; set one")
    alphabet = Alphabet.from_letters(values.letters, values.language)
    if values.checkpoint:
        alphabet = Alphabet.from_dict(checkpoints.load(values.checkpoint, "ctc")[1]["alphabet"])
        alphabet = dataclasses.replace(alphabet, language=values.language or alphabet.language)

    def texts() -> Iterator[str]:
        if values.transcripts:
            yield from transcripts_of(values.transcripts)
        yield from lines(values.text)

    excluded = set()
    if values.exclude:
        held_out = clean_sentences(transcripts_of(values.exclude), alphabet, set(), Counter())
        excluded = set(held_out)
    counts = Counter()
    sentences = list(clean_sentences(texts(), alphabet, excluded, counts))
    print(
        f"{counts['sentences']:,} sentences, {counts['words']:,} words; left out: "
        f"{counts['foreign']:,} with other characters, {counts['excluded']:,} excluded",
        flush=True,
    )
    if values.kept:
        write_lines(sentences, values.kept)
    vocabulary = vocabulary_of(sentences, values.num_words)
    if values.tool == "lmplz":
        by_lmplz(sentences, values.order, vocabulary, values.output)
        print(f"written by lmplz: {values.output}")
        return
    model = ngram.estimate(map(str.split, sentences), values.order, vocabulary)
    ngram.write_arpa(model, values.output)
    sizes = ", ".join(f"{len(grams):,} {n}-grams" for n, grams in enumerate(model.grams, 1))
    print(f"{sizes}: {values.output}")
    if excluded:
        held_out = [text.split() for text in sorted(excluded)]
        known = set(model.words)
        missing = sum(word not in known for text in held_out for word in text)
        total = sum(map(len, held_out))
        print(
            f"on the sentences of --exclude: perplexity "
            f"{ngram.perplexity(model, held_out):.1f} per word, "
            f"{missing / total:.1%} of {total:,} words unknown"
        )


if __name__ == "__main__":
    flags.DEFINE_string("text", "", "text files, plain or .gz, a sentence per line, with commas")
    flags.DEFINE_string("transcripts", "", "manifests whose transcripts count, with commas")
    flags.DEFINE_string("exclude", "", "manifests whose transcripts must not be among the text")
    flags.DEFINE_string("output", None, "the ARPA file to write, .arpa or .arpa.gz", required=True)
    flags.DEFINE_string("kept", "", "where to write the text that remains")
    flags.DEFINE_integer("order", 4, "n", 1, 10)
    flags.DEFINE_integer("num_words", 200_000, "the most frequent words alone; 0: all", 0)
    flags.DEFINE_string("checkpoint", "", "CTC model (any checkpoint) whose letters are used")
    flags.DEFINE_string("letters", "", "or these letters; empty: English")
    flags.DEFINE_string("language", "", "of the text, tr say: decides the case of I and i")
    flags.DEFINE_enum("tool", "own", TOOLS, "what estimates")
    command_line.define_overwrite()
    command_line.run(main)
