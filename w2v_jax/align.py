r"""Finds when each word and letter of a known text is spoken, with an exported CTC model.

python -m w2v_jax.align --checkpoint=runs/base-10h/export --data=test.tsv --output=aligned \
    --format=textgrid,json,ctm
python -m w2v_jax.align --checkpoint=runs/base-10h/export --text=book.txt --output=aligned book.mp3

The first aligns every transcribed utterance of a manifest: a TextGrid (without --format nothing
else) and a JSON file each, named as the audio is, and words.ctm for all. The second aligns one
recording of any length with the text of a file, which must be all that is said in it. Times are
seconds from the start of the utterance.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from absl import flags

from w2v_jax import command_line
from w2v_jax.audio.waveform import SAMPLE_RATE, Recording
from w2v_jax.corpora.utterances import read_text
from w2v_jax.data.sources import open_sources
from w2v_jax.decoding.alignment import Alignment, align
from w2v_jax.decoding.alignment_files import ctm, json_text, text_grid
from w2v_jax.errors import UserError
from w2v_jax.places import Place, check_replaceable, file_names, place, write_whole
from w2v_jax.recognizers import HELP, open_recognizer

ENDINGS = {"textgrid": "TextGrid", "json": "json", "ctm": "ctm"}
FORMATS = tuple(ENDINGS)


class Aligner:
    """An exported CTC model and the folder that its alignments are written to."""

    def __init__(self, checkpoint: str, output: str, formats: list[str], overwrite: bool = False):
        self.folder: Place = place(output)
        self._recognizer, self._variables = open_recognizer(checkpoint)
        self._formats = formats
        self._overwrite = overwrite
        self._ctm: list[str] = []

    def check(self, names: Iterable[str], ctm: str) -> None:
        """Raises UserError where a file of the recordings `names`, or the CTM of all, is there and
        may not be replaced."""
        endings = [ENDINGS[kind] for kind in self._formats if kind != "ctm"]
        paths = [self.folder / f"{name}.{ending}" for name in names for ending in endings]
        paths += [self.folder / f"{ctm}.ctm"] if "ctm" in self._formats else []
        for path in paths:
            check_replaceable(path, "--output", overwrite=self._overwrite)

    def add(self, name: str, audio, text: str) -> Alignment:
        """Aligns samples and writes what is asked for. Raises UserError where it cannot."""
        self._recognizer.alphabet.encode(text)  # before the model is run for nothing
        log_probs = self._recognizer.log_probs(self._variables, audio)
        found = align(
            log_probs, text, self._recognizer.alphabet, self._recognizer.seconds_per_frame
        )
        duration = len(audio) / SAMPLE_RATE
        if "textgrid" in self._formats:
            write_whole(self.folder / f"{name}.TextGrid", text_grid(found, duration))
        if "json" in self._formats:
            write_whole(self.folder / f"{name}.json", json_text(found, duration))
        self._ctm.append(ctm(found, name))
        return found

    def finish(self, name: str) -> None:
        """Writes the CTM of all."""
        if "ctm" in self._formats:
            write_whole(self.folder / f"{name}.ctm", "".join(self._ctm))


def align_manifest(aligner: Aligner, data: str) -> int:
    """Aligns the utterances of a manifest that have a text. Returns how many of them failed: these
    are named on stderr and left out."""
    sources = open_sources(data)
    rows = [
        (source, row)
        for source in sources
        for row, text in enumerate(source.manifest.texts)
        if text
    ]
    if not rows:
        raise UserError(f"{data} has no utterance with a text; align needs transcripts")
    names = file_names([source.manifest.paths[row] for source, row in rows])
    aligner.check(names, "words")
    failed = 0
    for name, (source, row) in zip(names, rows, strict=True):
        manifest = source.manifest
        try:
            audio = source.audio(row, 0, int(manifest.samples[row]))
            aligner.add(name, audio, manifest.texts[row])
        except UserError as error:
            reason = str(error).removeprefix(f"{manifest.path(row)}: ")
            print(f"error: {manifest.path(row)}: {reason}", file=sys.stderr, flush=True)
            failed += 1
    aligner.finish("words")
    silent = sum(len(source.manifest) for source in sources) - len(rows)
    without = f", {silent} without a text" if silent else ""
    print(f"{len(rows) - failed} of {len(rows)} utterances aligned{without}: {aligner.folder}")
    return failed


def align_recording(aligner: Aligner, file: str, text: str) -> Alignment:
    """Aligns an audio file with the text in another. Raises UserError where it cannot."""
    try:
        words = read_text(text)
    except OSError as error:
        raise UserError(f"--text={text} cannot be read: {error.strerror.lower()}") from None
    if "\ufffd" in words:
        raise UserError(f"--text={text} is not UTF-8; convert it, with iconv say")
    name = Path(file).stem
    aligner.check([name], name)
    found = aligner.add(name, Recording(file), words)
    aligner.finish(name)
    print(f"{len(found.words)} words aligned, mean ln p {found.score:.3f} per frame: "
          f"{aligner.folder / name}.*")  # fmt: skip
    return found


def main(argv: list[str]) -> None:
    values, files = flags.FLAGS, argv[1:]
    unknown = sorted(set(values.format) - set(FORMATS))
    if unknown or not values.format:
        raise UserError(f"--format={','.join(values.format)}: choose from {','.join(FORMATS)}")
    if bool(values.data) == bool(values.text):
        raise UserError("set either --data to a manifest or --text to the text of one audio file")
    if values.data:
        command_line.no_arguments(argv)
    elif len(files) != 1:
        raise UserError(f"--text is the text of one audio file; {len(files)} are given")
    aligner = Aligner(values.checkpoint, values.output, values.format, values.overwrite)
    if values.text:
        align_recording(aligner, files[0], values.text)
    elif align_manifest(aligner, values.data):
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, HELP, required=True)
    flags.DEFINE_string("data", "", "manifest with transcripts")
    flags.DEFINE_string("text", "", "file with the text of the one recording that is given")
    flags.DEFINE_string("output", None, "folder for the alignments", required=True)
    flags.DEFINE_list("format", ["textgrid"], f"any of {','.join(FORMATS)}, with commas between")
    command_line.define_overwrite()
    command_line.run(main)
