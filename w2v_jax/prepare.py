"""Writes the manifest of one or more folders of audio, or tables of it.

    python -m w2v_jax.prepare --input=LibriSpeech/train-clean-100 --output=train.arrow
    python -m w2v_jax.prepare --input=cv-corpus/de/train.tsv --input=mls_german/train \
        --output=german.arrow
    python -m w2v_jax.prepare --download=train-clean-100 --download_to=data --output=train.arrow

The layout of a folder or table is recognised (LibriSpeech, Libri-Light, Common Voice, VoxPopuli,
MLS, Kaldi, fairseq, JSON lines, tables of ids and texts, plain folders, our own manifests; --layout
names it). Audio is wav, flac, mp3, ogg, opus, aiff, au, caf, sph, w64 and, with pip install
'w2v_jax[av]', the sound of m4a, mp4, mov, mkv, webm, avi, aac, amr, wma, 3gp. Every file is decoded
once (--decode=false believes the headers instead). What cannot be used is left out, counted, and
listed in OUTPUT.skipped.tsv.

--report prints lengths, speakers, languages, what is wrong with the audio, and what the batches
would crop and pad; without an input it reports on the manifest that stands at --output.

    python -m w2v_jax.prepare --output=train.arrow --shards=train-shards --verify

packs the audio of a manifest into a few large files (data/shards.py), which training reads instead
(--config.data.train=train-shards). What an interrupted run has finished is kept.
"""

from collections.abc import Sequence

from absl import flags

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.corpora.download import ARCHIVES, download
from w2v_jax.corpora.preparation import prepare
from w2v_jax.corpora.statistics import report
from w2v_jax.corpora.utterances import at_rate
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.shards import FORMATS, verify_shards, write_shards
from w2v_jax.errors import UserError

# of the report: the values of configs/common.py
CROP_SECONDS = ("1.925", "4.485", "7.045", "9.605", "11.205", "12.805", "14.085", "15.365")
NUM_BUCKETS = 14
MAX_SECONDS = 30.0


def define_flags() -> None:
    """Defines the command line; a function so that importing this module defines nothing."""
    flags.DEFINE_multi_string(
        "input", None, "Folder with audio, or a table of it; may be given several times."
    )
    flags.DEFINE_string("output", None, "Manifest to write: .arrow, or .tsv as text.")
    flags.DEFINE_string("layout", "", "Layout of the inputs; recognised if not given.")
    flags.DEFINE_string("corpus", "", "Name of the corpus of all utterances, for mixing.")
    flags.DEFINE_string("language", "", "Language of all utterances, such as en.")
    flags.DEFINE_boolean("decode", True, "Decode every file; false believes the headers.")
    flags.DEFINE_integer("threads", None, "Files read at a time; all cores if not given.", 1)
    number = command_line.define_number
    number("min_seconds", 0.1, "Shorter files are left out.", 0, 1e6)
    number("segment_seconds", 0.0, "Cuts longer utterances without a text; 0 cuts nothing.", 0, 1e6)
    number("minutes", 0.0, "Random subset with this much audio; 0 takes all.", 0, 1e9)
    flags.DEFINE_integer("seed", 0, "Decides the subset.", 0)
    number("max_bad_share", 0.1, "Share of unreadable files tolerated.", 0, 1)
    flags.DEFINE_multi_enum(
        "download", None, list(ARCHIVES), "Subset that is fetched and is then an input."
    )
    flags.DEFINE_string("download_to", ".", "Folder for what is downloaded.")
    flags.DEFINE_string("download_url", "", "Another place of the archives, such as a mirror.")
    flags.DEFINE_boolean("report", False, "Prints statistics of the manifest.")
    flags.DEFINE_integer("report_files", 10_000, "Utterances listened to; 0: all.", 0)
    flags.DEFINE_list("crop_seconds", list(CROP_SECONDS), "Crops of pre-training, for the report.")
    flags.DEFINE_integer("num_buckets", NUM_BUCKETS, "Of fine-tuning, for the report.", 1)
    number("max_seconds", MAX_SECONDS, "Of fine-tuning, for the report.", 0.1, 1e6)
    command_line.define_overwrite()
    _define_shard_flags()
    flags.mark_flag_as_required("output")


def _define_shard_flags() -> None:
    flags.DEFINE_string("shards", "", "Folder to pack the audio of OUTPUT into, as ArrayRecord.")
    flags.DEFINE_enum("shard_format", "pcm", FORMATS, "16-bit samples as they are, or as FLAC.")
    flags.DEFINE_integer("shard_megabytes", 1000, "Samples in a shard, in MB before FLAC.", 1)
    flags.DEFINE_integer("processes", None, "That write shards; one per core if not given.", 1)
    flags.DEFINE_boolean("verify", False, "Reads and checks the shards once they are written.")


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is not a flag; give every folder as --input={argv[1]}")
    values = flags.FLAGS
    inputs = list(values.input or ())
    for name in values.download or ():
        inputs.append(download(name, values.download_to, values.download_url))
    crops = _crops(values.crop_seconds)
    if inputs:
        _prepare(inputs, values)
    elif not values.shards and not values.report:
        raise UserError("give --input=FOLDER, a folder with audio or a table, or --download=SUBSET")
    # without inputs those of a manifest that is there already
    if values.report:
        _report(Manifest.read(values.output), crops, values)
    if values.shards:
        write_shards(
            Manifest.read(values.output), values.shards, shard_format=values.shard_format,
            megabytes=values.shard_megabytes, processes=values.processes,
            max_bad_share=values.max_bad_share, overwrite=values.overwrite,
        )  # fmt: skip
        if values.verify:
            verify_shards(values.shards, processes=values.processes)


def _prepare(inputs: Sequence[str], values: flags.FlagValues) -> None:
    prepare(
        inputs,
        values.output,
        layout=values.layout,
        language=values.language,
        corpus=values.corpus,
        decode=values.decode,
        threads=values.threads,
        min_seconds=values.min_seconds,
        segment_seconds=values.segment_seconds,
        max_bad_share=values.max_bad_share,
        minutes=values.minutes,
        seed=values.seed,
        overwrite=values.overwrite,
    )


def _report(manifest: Manifest, crops: Sequence[int], values: flags.FlagValues) -> None:
    lines = report(
        manifest,
        crops=crops,
        num_buckets=values.num_buckets,
        longest=at_rate(values.max_seconds),
        files=values.report_files,
        threads=values.threads,
    )
    for line in lines:
        print(line, flush=True)


def _crops(seconds: Sequence[str]) -> list[int]:
    try:
        crops = [at_rate(float(value)) for value in seconds]
    except (ValueError, OverflowError):
        crops = []
    if not crops or min(crops) < SAMPLE_RATE // 10:
        raise UserError(
            f"--crop_seconds={','.join(seconds)}: give lengths from 0.1 s on, such as 2,4,8,15.6"
        )
    return crops


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
