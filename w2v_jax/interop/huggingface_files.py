"""The small files of a transformers model: how audio is scaled, and its letters."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from w2v_jax.errors import UserError
from w2v_jax.interop.vocabulary import checked_alphabet
from w2v_jax.text.alphabet import BOUNDARY, Alphabet


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); is its folder a model?") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; is its folder a model?")
    return content


def read_alphabet(
    folder: Path, outputs: int, blank: int, language: str
) -> tuple[Alphabet, np.ndarray]:
    """The alphabet, blank first, and which of their outputs every symbol is."""
    file = folder / "vocab.json"
    ids = read_json(file)
    if ids and all(isinstance(content, dict) for content in ids.values()):
        if language not in ids:
            some = ", ".join(sorted(ids)[:5])
            raise UserError(
                f"{file} has one vocabulary per language; name one with --language, such as {some}"
            )
        ids = ids[language]
    if (folder / "added_tokens.json").exists():
        ids |= read_json(folder / "added_tokens.json")
    numbers = ids.values()
    if not all(isinstance(i, int) for i in numbers) or sorted(numbers) != list(range(outputs)):
        raise UserError(f"{file} does not number the {outputs} outputs of the model")
    if blank not in numbers:
        raise UserError(f"config.json: pad_token_id is {blank!r}; the model has {outputs} outputs")
    symbols = sorted(ids, key=ids.get)
    delimiter = BOUNDARY
    if (folder / "tokenizer_config.json").exists():
        delimiter = read_json(folder / "tokenizer_config.json").get("word_delimiter_token")
    if BOUNDARY not in symbols and delimiter in symbols:
        symbols[symbols.index(delimiter)] = BOUNDARY
    if len(symbols[blank]) == 1 and "<pad>" not in symbols:
        symbols[blank] = "<pad>"
    order = np.array([blank, *(i for i in range(outputs) if i != blank)])
    return checked_alphabet([symbols[i] for i in order], file), order
