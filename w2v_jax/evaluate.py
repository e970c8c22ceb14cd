"""Scores an exported CTC model on a manifest: word and letter error rates.

python -m w2v_jax.evaluate --checkpoint=runs/base-10h/export --data=test-clean.tsv
"""

import csv
import io
from pathlib import Path

from absl import flags

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.batches import iterate
from w2v_jax.data.items import Corpus, transcribed
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import bucket_edges, pad_buckets, sequential
from w2v_jax.data.sources import open_sources
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.decoding.scoring import Score, score
from w2v_jax.interop.exported import encoder_of
from w2v_jax.places import place, write_whole
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.training.checkpoint import load_exported

BUCKETS = 8


def evaluate(
    checkpoint: str,
    data: str,
    output: str,
    *,
    batch_seconds: float = 60.0,
    max_bad_share: float = 0.05,
) -> Score:
    """Greedy WER and CER of the model in `checkpoint` on the manifest `data`.

    Every reference and hypothesis is written to `output` (tsv). Utterances whose transcript the
    model's alphabet cannot write, and files that cannot be read, are left out and named.
    """
    variables, config = load_exported(checkpoint, "ctc")
    alphabet = Alphabet.from_dict(config["alphabet"])
    encoder = encoder_of(config, checkpoint)
    sources, labels = transcribed(open_sources(data), alphabet)
    corpus = Corpus(sources)
    edges = bucket_edges(corpus.lengths, BUCKETS)
    specs = sequential(pad_buckets(corpus.lengths, edges, round(batch_seconds * SAMPLE_RATE), 1))
    loader = Loader(corpus, 0, crop=False, replace_bad=False, max_bad_share=max_bad_share)
    texts = Recognizer(encoder, alphabet).batches(variables, iterate(specs, loader))
    read = sorted(texts)
    references = [alphabet.decode(labels[i]) for i in read]
    hypotheses = [texts[i] for i in read]
    rows = zip(map(corpus.path, read), references, hypotheses, strict=True)
    file = io.StringIO(newline="")
    table = csv.writer(file, delimiter="\t")
    table.writerows([("path", "reference", "hypothesis"), *rows])
    write_whole(place(output), file.getvalue())
    result = score(references, hypotheses)
    minutes = corpus.lengths[read].sum() / SAMPLE_RATE / 60
    print(f"{data}: {len(references)} utterances, {minutes:.1f} min")
    print(result)
    print(f"references and hypotheses: {output}")
    return result


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    values = flags.FLAGS
    output = values.output or f"{values.checkpoint}/{Path(values.data).stem}.decoded.tsv"
    evaluate(
        values.checkpoint, values.data, output,
        batch_seconds=values.batch_seconds, max_bad_share=values.max_bad_share,
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "folder of an exported CTC model", required=True)
    flags.DEFINE_string("data", None, "manifest with transcripts", required=True)
    flags.DEFINE_string(
        "output", "", "table of references and hypotheses (default: CHECKPOINT/...)"
    )
    flags.DEFINE_float("batch_seconds", 60.0, "audio per batch")
    flags.DEFINE_float("max_bad_share", 0.05, "share of unreadable files that is an error")
    command_line.run(main)
