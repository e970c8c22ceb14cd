"""Output vocabularies of other houses as our alphabets."""

from collections.abc import Collection, Sequence
from pathlib import Path

from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet, TextError, excerpt


def checked_alphabet(
    symbols: Sequence[str], source: str | Path, special: Collection[str] = ()
) -> Alphabet:
    """The alphabet of `symbols`, blank first. Raises UserError naming letters of several
    characters; `special` tokens and such as <unk> and [UNK] are none."""
    long = [s for s in symbols if len(s) > 1 and s[0] + s[-1] not in ("<>", "[]")]
    long = [s for s in long if s not in special]
    if long:
        raise UserError(
            f"{source} has letters of several characters: {', '.join(map(excerpt, long[:5]))}; "
            "an alphabet here has single characters"
        )
    try:
        return Alphabet(tuple(symbols))
    except TextError as error:
        raise UserError(f"{source}: {error}") from None
