"""The folder layouts of published corpora, one small function each.

Every function gets a folder with what is in it, and answers with a Found, or None where its mark
is not there. `corpora.find` asks them in the order of LAYOUTS.
"""

import json
import os
import re
from collections.abc import Callable

import numpy as np

from w2v_jax.corpora.ids import id_table
from w2v_jax.corpora.kaldi import kaldi
from w2v_jax.corpora.tables import common_voice_table, voxpopuli_table
from w2v_jax.corpora.utterances import (
    Found,
    Utterance,
    audio_names,
    clean,
    lines,
    read_text,
    walk,
)

_MLS_LANGUAGES = {
    "dutch": "nl", "english": "en", "french": "fr", "german": "de", "italian": "it",
    "polish": "pl", "portuguese": "pt", "spanish": "es",
}  # fmt: skip


def common_voice(here: str, folders: list[str], names: list[str]) -> Found | None:
    """Common Voice: `LOCALE/train.tsv` (dev, test, validated ...) beside `LOCALE/clips/`.

    The folder stands for its train.tsv, or validated.tsv without one; give another table by name.
    """
    if "clips" not in folders:
        return None
    for name in ("train.tsv", "validated.tsv"):
        if name in names:
            folders.clear()
            return _by_table(common_voice_table, os.path.join(here, name))
    return None


def _by_table(read: Callable[[str], Found], table: str) -> Found:
    found = read(table)
    found.tables.append(table)
    return found


def voxpopuli(here: str, folders: list[str], names: list[str]) -> Found | None:
    """VoxPopuli, transcribed: `LANG/asr_train.tsv` (dev, test) and `LANG/YEAR/ID.ogg`.

    The folder stands for its asr_train.tsv; give another table by name. The untranscribed parts,
    `raw_audios/LANG/YEAR/EVENT_LANG.ogg` and `unlabelled_data/LANG/YEAR/EVENT_LANG_NUMBER.ogg`,
    have their language in the folder.
    """
    if "asr_train.tsv" in names:
        folders.clear()
        return _by_table(voxpopuli_table, os.path.join(here, "asr_train.tsv"))
    parent, year = os.path.split(here)
    language = os.path.basename(parent).split("_")[0]
    if not re.fullmatch(r"(19|20)\d\d", year) or not re.fullmatch("[a-z]{2}", language):
        return None
    event = re.compile(rf"{year}\d{{4}}-\d{{4}}-.*_{language}(_\d+)?\.ogg")
    if not any(event.fullmatch(name) for name in names):
        return None
    paths = [os.path.join(here, name) for name in audio_names(names)]
    return Found([Utterance(path, language=language, corpus="voxpopuli") for path in paths])


def multilingual_librispeech(here: str, folders: list[str], names: list[str]) -> Found | None:
    """MLS: `mls_LANGUAGE/SPLIT/transcripts.txt` (ID, tab, text) beside a segments.txt, which only
    says where LibriVox has the passage, and `audio/SPEAKER/BOOK/SPEAKER_BOOK_NUMBER.flac`."""
    if not {"transcripts.txt", "segments.txt"} <= set(names) or "audio" not in folders:
        return None
    folders.clear()
    name = re.search(r"mls_([a-z]+)(_opus)?$", os.path.dirname(here))
    language = _MLS_LANGUAGES.get(name[1], name[1]) if name else ""
    transcript = os.path.join(here, "transcripts.txt")
    texts = dict(line.split("\t", 1) for line in lines(transcript) if "\t" in line)
    found = Found()
    heard = set()
    for folder, _, files in walk(os.path.join(here, "audio")):
        for name in audio_names(files):
            key = os.path.splitext(name)[0]
            heard.add(key)
            path, text = os.path.join(folder, name), clean(texts.get(key, ""))
            speaker = key.split("_")[0]
            found.utterances.append(Utterance(path, text, speaker, language, corpus="mls"))
            if not text:
                found.audio_without_line.append(path)
    found.lines_without_audio = [f"{transcript}: {key}" for key in texts if key not in heard]
    return found


def libri_light(here: str, folders: list[str], names: list[str]) -> Found | None:
    """Libri-Light: `SPEAKER/BOOK/NAME.flac` with a NAME.json (speaker, voice_activity in s)."""
    found, sidecars = Found(), _by_stem(names, ".json")
    for name in audio_names(names):
        sidecar = sidecars.get(os.path.splitext(name)[0])
        if sidecar is None:
            continue
        try:
            about = json.loads(read_text(os.path.join(here, sidecar)))
            voice = np.array(about["voice_activity"], float).reshape(-1, 2)
            speaker = str(about["speaker"])
        except (ValueError, KeyError, TypeError):
            continue
        path = os.path.join(here, name)
        found.utterances.append(Utterance(path, "", speaker, "en", "librilight", voice=voice))
    if not found.utterances:
        return None
    read = {utterance.path for utterance in found.utterances}
    others = [os.path.join(here, name) for name in audio_names(names)]
    speaker = found.utterances[0].speaker
    found.utterances += [
        Utterance(path, "", speaker, "en", "librilight") for path in others if path not in read
    ]
    return found


def librispeech(here: str, folders: list[str], names: list[str]) -> Found | None:
    """LibriSpeech: `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`, lines of `ID TEXT`, beside
    `SPEAKER-CHAPTER-NUMBER.flac`. Many corpora are shaped so: none is named."""
    texts = {}
    for name in names:
        if name.lower().endswith(".trans.txt"):
            path = os.path.join(here, name)
            # an id ends at a tab where there is one: it may hold spaces then
            pairs = (
                line.split("\t" if "\t" in line else None, 1)
                for line in lines(path)
                if line.strip()
            )
            texts.update({key: (clean("".join(text)), path) for key, *text in pairs})
    if not texts:
        return None
    found = plain(here, folders, names)
    found.utterances = [
        Utterance(u.path, texts.get(stem, ("", ""))[0] or u.text, stem.split("-")[0])
        for u in found.utterances
        for stem in [os.path.splitext(os.path.basename(u.path))[0]]
    ]
    found.audio_without_line = [u.path for u in found.utterances if not u.text]
    heard = {os.path.splitext(name)[0] for name in audio_names(names)}
    found.lines_without_audio = [f"{p}: {key}" for key, (_, p) in texts.items() if key not in heard]
    return found


def plain(here: str, folders: list[str], names: list[str]) -> Found:
    """Any folder: `name.flac`, its text in `name.txt` where there is one."""
    found, texts = Found(), _by_stem(names, ".txt")
    for name in audio_names(names):
        text = texts.get(os.path.splitext(name)[0])
        text = clean(read_text(os.path.join(here, text))) if text else ""
        found.utterances.append(Utterance(os.path.join(here, name), text))
    return found


def _by_stem(names: list[str], ending: str) -> dict[str, str]:
    """Name without ending -> name of the files with an ending, in capitals or not."""
    parts = ((*os.path.splitext(name), name) for name in names)
    return {stem: name for stem, end, name in parts if end.lower() == ending}


LAYOUTS = {
    "kaldi": kaldi,
    "common_voice": common_voice,
    "voxpopuli": voxpopuli,
    "mls": multilingual_librispeech,
    "librilight": libri_light,
    "librispeech": librispeech,
    "ids": id_table,
    "folder": plain,
}
