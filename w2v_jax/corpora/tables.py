"""Tables that name audio files: Common Voice, VoxPopuli, fairseq, JSON lines, our manifests."""

import itertools
import json
import os
from collections.abc import Iterator

from w2v_jax.corpora.ids import ids_of_table, is_id_table
from w2v_jax.corpora.kaldi import SCP, kaldi_table
from w2v_jax.corpora.utterances import Found, Utterance, at_rate, clean, lines
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError
from w2v_jax.places import join


def common_voice_table(path: str) -> Found:
    """Common Voice: client_id, path (a name in clips/), sentence, locale ..., by tabs."""
    found = Found()
    clips = os.path.join(os.path.dirname(path), "clips")
    folder = os.path.basename(os.path.dirname(path))  # older releases have no column locale
    for row in _rows(path, "path", {"client_id", "path", "sentence"}):
        name = row["path"] if os.path.splitext(row["path"])[1] else f"{row['path']}.mp3"
        language = row.get("locale") or folder
        found.utterances.append(
            Utterance(
                os.path.join(clips, name), clean(row["sentence"]), row["client_id"], language,
                "common_voice",
            )
        )  # fmt: skip
    return _without_missing(path, found)


def voxpopuli_table(path: str) -> Found:
    """VoxPopuli: id, raw_text, normalized_text, speaker_id, split, gender, by tabs.

    The audio is `YEAR/id.ogg`, the year the first four digits of the id. The normalized text is
    taken, or the raw one where it is empty; speakers called None are unknown.
    """
    found = Found()
    folder = os.path.dirname(path)
    language = os.path.basename(folder).split("_")[0]  # en_accented is English
    for row in _rows(path, "id", {"id", "raw_text", "normalized_text", "speaker_id"}):
        audio = os.path.join(folder, row["id"][:4], f"{row['id']}.ogg")
        text = clean(row["normalized_text"] or row["raw_text"])
        speaker = row["speaker_id"] if row["speaker_id"] != "None" else ""
        found.utterances.append(Utterance(audio, text, speaker, language, "voxpopuli"))
    return _without_missing(path, found)


def fairseq_table(path: str) -> Found:
    """fairseq: a line with the root, then `path<TAB>frames`. Texts, line by line, in NAME.wrd
    (words) or NAME.ltr (letters with | between words) beside NAME.tsv."""
    root, *rows = [*lines(path)] or [""]
    rows = [row for row in rows if row]
    root = join(os.path.dirname(path), root)
    texts = [""] * len(rows)
    stem = os.path.splitext(path)[0]
    for suffix in (".ltr", ".wrd"):
        file = next(filter(os.path.exists, (stem + suffix, stem + suffix.upper())), "")
        if not file:
            continue
        texts = list(lines(file))
        if len(texts) != len(rows):
            raise UserError(
                f"{file}: {len(texts)} lines for {len(rows)} rows of {path}; they must be as many"
            )
        if suffix == ".ltr":
            texts = ["".join(text.split()).replace("|", " ") for text in texts]
    found = Found()
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), start=2):
        name, _, frames = row.partition("\t")
        if not name or not frames.isdecimal():
            raise UserError(f"{path}: line {number} is {row[:80]!r}, not PATH, a tab and FRAMES")
        found.utterances.append(Utterance(join(root, name), clean(text)))
    return found


def json_lines(path: str) -> Found:
    """JSON lines: an object per line with audio (or audio_filepath), a path that may start from
    the table's folder, and where known text, speaker, language, corpus, offset, duration (s)."""
    found = Found()
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            audio = row.get("audio") or row["audio_filepath"]
            start = at_rate(float(row.get("offset") or 0))
            samples = at_rate(float(row["duration"])) if row.get("duration") else None
            if start < 0 or (samples is not None and samples < 1):
                raise ValueError(f"offset {row.get('offset')}, duration {row.get('duration')}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path}: line {number} is damaged ({type(error).__name__}: {error}); every line "
                'must be like {"audio": "a.flac", "text": "hello", "offset": 1.5, "duration": 2.0}'
            ) from None
        known = {
            key: clean(str(row.get(key) or "")) for key in ("text", "speaker", "language", "corpus")
        }
        path_of_audio = join(os.path.dirname(path), str(audio))
        found.utterances.append(Utterance(path_of_audio, **known, start=start, samples=samples))
    return found


def manifest(path: str) -> Found:
    """A manifest, so that several become one."""
    rows = Manifest.read(path)
    columns = rows.paths, rows.texts, rows.speakers, rows.languages, rows.corpora
    columns += rows.starts.tolist(), rows.samples.tolist()
    return Found(
        [
            Utterance(join(rows.root, path), text, speaker, language, corpus, start, count)
            for path, text, speaker, language, corpus, start, count in zip(*columns, strict=True)
        ]
    )


TABLES = {
    "manifest": manifest,
    "jsonl": json_lines,
    "common_voice": common_voice_table,
    "voxpopuli": voxpopuli_table,
    "fairseq": fairseq_table,
    "kaldi": kaldi_table,
    "ids": ids_of_table,
}


def kind(path: str) -> str:
    """Which of TABLES a file is, by its suffix and its first line; '' for none."""
    suffix = os.path.splitext(path)[1].lower()
    if os.path.basename(path) == SCP:
        return "kaldi"
    if suffix == ".arrow":
        return "manifest"
    if suffix in (".jsonl", ".json", ".ndjson"):
        return "jsonl"
    if suffix not in (".tsv", ".txt"):
        return ""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            first = file.readline(10_000).rstrip("\r\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror.lower()}") from None
    if first.startswith("#w2v_jax-manifest"):
        return "manifest"
    columns = set(first.split("\t"))
    if {"client_id", "path", "sentence"} <= columns:
        return "common_voice"
    if {"id", "normalized_text", "speaker_id"} <= columns:
        return "voxpopuli"
    if suffix == ".tsv" and len(columns) == 1 and first:
        return "fairseq"
    return "ids" if is_id_table(path) else ""


def _rows(path: str, key: str, needed: set[str]) -> Iterator[dict[str, str]]:
    """The rows of a table with column names; the column `key` must not be empty."""
    rest = lines(path)
    names = next(rest, "").split("\t")
    if not needed <= set(names):
        raise UserError(f"{path}: lacks the columns {', '.join(sorted(needed - set(names)))}")
    for number, line in enumerate(rest, start=2):
        if not line:
            continue
        # editors take empty columns away from the ends of lines
        row = dict(itertools.zip_longest(names, line.split("\t"), fillvalue=""))
        if len(row) > len(names) or not row[key]:
            raise UserError(f"{path}: line {number} is damaged: {line[:80]!r}")
        yield row


def _without_missing(path: str, found: Found) -> Found:
    """Releases list clips that are not in the archive: they are lines without audio."""
    present = [u for u in found.utterances if os.path.exists(u.path)]
    here = {u.path for u in present}
    missing = [u.path for u in found.utterances if u.path not in here]
    lost = [f"{path}: {os.path.splitext(os.path.basename(audio))[0]}" for audio in missing]
    return Found(present, lost, [u.path for u in present if not u.text])
