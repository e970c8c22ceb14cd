"""Normalises all of Unicode's letters and marks with many alphabets.

    python -m tests.measure.unicode_text

counts the letters that an alphabet has and that are rewritten, the texts that change when they are
normalised again, and, where transformers is installed, those that Wav2Vec2CTCTokenizer encodes
otherwise: each must be none.
"""

import importlib.util
import json
import random
import tempfile
import unicodedata
from pathlib import Path

from tests.text.test_normalisation import LETTERS, alphabet, hub
from w2v_jax.text.alphabet import Alphabet


def main() -> None:
    everything = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i))[0] in "LM"]
    wrong = 0
    for name in LETTERS:
        own, rng = alphabet(name), random.Random(name)
        letters = [c for c in own.ids if c != "|"]
        rewritten = sum(own.normalize(f"{a}{c}{b}") != f"{a}{c}{b}" for c in letters
                        for a, b in [rng.choices(letters, k=2)])  # fmt: skip
        texts = [
            text
            for letter in everything
            for a, b in [rng.choices(letters, k=2)]
            for text in (letter, f"{a}{letter}{b}", f"{a}{letter}{rng.choice(everything)}")
        ]
        found = [own.normalize(text) for text in texts]
        again = sum(own.normalize(text) != text for text in found)
        written = sum(bool(text) and not own.foreign(text) for text in found)
        print(f"{name}: {len(texts):,} texts of {len(everything):,} letters, {written:,} can be "
              f"written, {rewritten} of {len(letters)} own letters rewritten, {again} texts change "
              "again", flush=True)  # fmt: skip
        wrong += rewritten + again
    wrong += compare(everything)
    raise SystemExit(bool(wrong))


def compare(letters: list[str]) -> int:
    """The texts of 50 letters that our alphabet of all of them rewrites or encodes otherwise than a
    character each, and than the tokenizer of transformers where that is installed."""
    own = Alphabet(("<pad>", "|", "<unk>", *random.Random(0).sample(letters, len(letters))))
    order = own.symbols[3:]
    texts = [
        f"{''.join(order[i : i + 25])} {''.join(order[i + 25 : i + 50])}".strip()
        for i in range(0, len(order), 50)
    ]
    wrong = sum(
        own.normalize(text) != text or own.encode(text).tolist() != hub(own, text)
        for text in texts
    )  # fmt: skip
    print(f"all letters in one alphabet: {wrong} of {len(texts)} texts rewritten")
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed")
        return wrong
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps({symbol: i for i, symbol in enumerate(own.symbols)}))
        tokenizer = transformers.Wav2Vec2CTCTokenizer(
            str(file), pad_token="<pad>", unk_token="<unk>", bos_token=None, eos_token=None
        )
        other = sum(tokenizer(text).input_ids != own.encode(text).tolist() for text in texts)
    print(f"transformers {transformers.__version__}: {other} of {len(texts)} encoded otherwise")
    return wrong + other


if __name__ == "__main__":
    main()
