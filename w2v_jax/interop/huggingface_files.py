"""The small files of a transformers model: how audio is scaled, and its letters."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from w2v_jax.errors import UserError, brief, some
from w2v_jax.interop.vocabulary import checked_alphabet
from w2v_jax.text.alphabet import BOUNDARY, Alphabet

log = logging.getLogger(__name__)
ROLES = ("pad_token", "unk_token", "bos_token", "eos_token", "word_delimiter_token")


def get(config: Mapping[str, Any], key: str) -> Any:
    """Of a config.json. Raises UserError where it has no such key."""
    if key not in config:
        raise UserError(f"config.json has no key {key}; is it of a Wav2Vec2 model?")
    return config[key]


def refuse(config: Mapping[str, Any], key: str, remedy: str) -> UserError:
    """That a value of a config.json cannot be used."""
    return UserError(f"config.json: {key} is {config.get(key)!r}; {remedy}")


def choose(config: Mapping[str, Any], key: str, choices: Mapping[Any, str]) -> str:
    """Ours for a value of a config.json. Raises UserError for one of which there is none."""
    value = get(config, key)
    if not isinstance(value, str | None) or value not in choices:
        raise refuse(config, key, f"it must be one of {', '.join(map(str, choices))}")
    return choices[value]


def read_preprocessor(folder: Path) -> dict[str, Any]:
    """What was done to the waveform; transformers 5 keeps it with the whole processor."""
    whole = folder / "processor_config.json"
    if whole.exists() and not (folder / "preprocessor_config.json").exists():
        part = read_json(whole).get("feature_extractor")
        if not isinstance(part, dict):
            raise UserError(f"{whole} has no feature_extractor, which says how audio is scaled")
        return part
    return read_json(folder / "preprocessor_config.json")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises UserError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} cannot be read: it is missing; save_pretrained of the model's processor "
            "writes the small files"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; is its folder a model?")
    return content


def read_alphabet(
    folder: Path, outputs: int, blank: Any, language: str, *, ignore_unknown: bool = False
) -> tuple[Alphabet, np.ndarray]:
    """The alphabet, blank first, and which of their outputs every symbol is.

    As in the decoding of transformers, an id has its token of vocab.json, else one that was added
    later, and the blank is the tokenizer's pad_token. Added tokens need no output, nor outputs a
    token: what is ignored is logged. blank: pad_token_id of the model, for tokenizers that do not
    name it. Raises UserError for a letter without an output unless `ignore_unknown`.
    """
    file = folder / "vocab.json"
    tokenizer = _optional(folder / "tokenizer_config.json")
    roles = {
        role: _content(_optional(folder / "special_tokens_map.json").get(role)) for role in ROLES
    }
    roles |= {role: _content(tokenizer[role]) for role in ROLES if role in tokenizer}
    language = language or _content(tokenizer.get("target_lang")) or ""
    vocabulary = _numbered(file, _vocabulary(file, language))
    added, special = _added(folder, tokenizer)
    tokens = added | {number: token for token, number in vocabulary.items()}

    _say_what_is_ignored(file, tokens, outputs)
    special |= {token for token in roles.values() if token}
    lost = [x for x in vocabulary if vocabulary[x] >= outputs and x not in special and len(x) == 1]
    if lost and not ignore_unknown:
        raise UserError(
            f"{file} has letters without one of the {outputs} outputs of the model: {some(lost)}; "
            "is it of another model? accept that with --ignore_unknown of export"
        )
    blank = _blank(file, tokens, outputs, blank, roles["pad_token"])
    symbols: list[str] = []
    for number in range(outputs):
        token = tokens.get(number, "")
        again = len(token) != 1 and token in symbols  # of two <s> neither is ever written
        symbols.append(f"<output {number}>" if again or not token else token)

    delimiter = roles["word_delimiter_token"]
    if delimiter and delimiter != BOUNDARY and delimiter in symbols:
        if BOUNDARY in symbols:
            raise UserError(
                f"{file} has {BOUNDARY!r} as a letter beside {delimiter!r}, the word delimiter; "
                f"an alphabet here has {BOUNDARY!r} between words and nowhere else"
            )
        symbols[symbols.index(delimiter)] = BOUNDARY
    if len(symbols[blank]) == 1:
        symbols[blank] = "<blank>" if "<pad>" in symbols else "<pad>"
    order = np.array([blank, *(i for i in range(outputs) if i != blank)])
    alphabet = checked_alphabet([symbols[i] for i in order], file, special)
    if alphabet.ids.keys() <= {BOUNDARY}:
        raise UserError(f"{file} names no letter for any of the {outputs} outputs of the model")
    return alphabet, order


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _content(token: Any) -> str | None:
    """The text of a token, which some files keep with how it is stripped; None without one."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _vocabulary(file: Path, language: str) -> Mapping[str, Any]:
    """Token -> id; of several languages those of one."""
    ids = read_json(file)
    if not ids or not all(isinstance(content, dict) for content in ids.values()):
        return ids
    if language not in ids:
        raise UserError(
            f"{file} has one vocabulary per language; name one with --language, such as "
            f"{some(sorted(ids), 5)} (python -m w2v_jax.export knows this flag)"
        )
    return ids[language]


def _numbered(file: Path, ids: Mapping[str, Any]) -> dict[str, int]:
    """`ids`, all of them numbers of an output. Raises UserError."""
    wrong = [token for token, number in ids.items() if type(number) is not int or number < 0]
    if wrong or not ids:
        raise UserError(
            f"{file} does not number its tokens; without a whole number are {some(wrong) or 'all'}"
        )
    return dict(ids)


def _added(folder: Path, tokenizer: Mapping[str, Any]) -> tuple[dict[int, str], set[str]]:
    """(id -> token that was added to the vocabulary, those that stand for no text)."""
    ids = _optional(folder / "added_tokens.json")
    added = {number: token for token, number in ids.items() if type(number) is int}
    decoder = tokenizer.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise UserError(f"{folder}/tokenizer_config.json: added_tokens_decoder is no JSON object")
    special = set()
    for number, token in decoder.items():
        if number.isdecimal() and isinstance(_content(token), str):
            added[int(number)] = _content(token)
            if isinstance(token, dict) and token.get("special") is True:
                special.add(_content(token))
    return added, special


def _say_what_is_ignored(file: Path, tokens: Mapping[int, str], outputs: int) -> None:
    without = [f"{tokens[i]} ({i})" for i in sorted(tokens) if i >= outputs]
    if without:
        log.warning(
            "%s: ignored, as the model has %d outputs: %s", file, outputs, some(without, 40)
        )
    silent = [i for i in range(outputs) if i not in tokens]
    if silent:
        log.warning("%s: ignored, outputs without a token: %s", file, some(silent, 40))


def _blank(file: Path, tokens: Mapping[int, str], outputs: int, blank: Any, pad: Any) -> int:
    """The output of the blank."""
    named = [i for i in range(outputs) if tokens.get(i) == pad]
    if pad and named:
        if named[0] != blank:
            log.warning(
                "%s: the blank is %s, output %d, as the tokenizer says; config.json has "
                "pad_token_id %r", file, pad, named[0], blank,
            )  # fmt: skip
        return named[0]
    if type(blank) is not int or not 0 <= blank < outputs:
        raise UserError(f"config.json: pad_token_id is {blank!r}; the model has {outputs} outputs")
    return blank
