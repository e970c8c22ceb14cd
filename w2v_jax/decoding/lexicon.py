"""The words that a search may find: those of a language model or of a file."""

from collections.abc import Collection, Iterable

from w2v_jax.decoding.ngram import read_arpa
from w2v_jax.errors import UserError
from w2v_jax.places import place
from w2v_jax.text.alphabet import BOUNDARY, Alphabet
from w2v_jax.text.files import every_line

_KENLM = b"mmap lm http://kheafield.com/code"  # its binary files begin so
MAX_FOREIGN = 0.5  # of the words: more is a model of another case or script


def is_kenlm_binary(path: str) -> bool:
    """Whether a file is a binary of KenLM. Raises UserError where it cannot be read."""
    try:
        with place(path).open("rb") as file:
            return file.read(len(_KENLM)) == _KENLM
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def words_of(lm: str, lexicon: str = "") -> list[str]:
    """The words of the file `lexicon`, one first on each line, or else of the ARPA file `lm`.

    What follows a word in its line is its spelling (fairseq's lexicons: `CAT<TAB>C A T |`), which
    must be its letters. Raises UserError for a file that cannot be read or spells otherwise.
    """
    if not lexicon:
        if is_kenlm_binary(lm):
            raise UserError(
                f"{lm} is a binary of KenLM, which does not list its words: give them with "
                "the option lexicon, a file with a word per line"
            )
        return read_arpa(lm, highest=1).words
    words = []
    for number, line in enumerate(every_line(lexicon), 1):
        if not line:
            continue
        word, *spelling = line.split()
        if spelling and "".join(spelling).removesuffix(BOUNDARY) != word:
            raise UserError(
                f"{lexicon}, line {number}: {word} is spelt {' '.join(spelling)}; only words that "
                "are spelt with their own letters can be searched for"
            )
        words.append(word)
    if not words:
        raise UserError(f"{lexicon} has no words")
    return words


def spellable(words: Iterable[str], alphabet: Alphabet, where: str) -> set[str]:
    """Those of the words that the alphabet can write.

    Raises UserError where it cannot write more than half of them: the model has other letters, or
    the same in another case.
    """
    words = set(words)
    found = {word for word in words if set(word) <= alphabet.ids.keys() - {BOUNDARY}}
    if not words:
        raise UserError(f"{where} has no words")
    if len(found) >= (1 - MAX_FOREIGN) * len(words):
        return found
    foreign = sorted(words - found)
    changed = sum(set(alphabet.normalize(word)) <= alphabet.ids.keys() for word in foreign)
    letters = "".join(sorted(alphabet.ids.keys() - {BOUNDARY}))
    reason = f"the model writes {letters}"
    if changed > len(foreign) / 2:
        reason += (
            ", the same letters in another case: write it in that case (for a language model "
            "python -m w2v_jax.build_ngram --checkpoint=... does)"
        )
    raise UserError(
        f"{where}: {len(foreign)} of {len(words)} words cannot be written by the model, such as "
        f"{_some(foreign)}; {reason}"
    )


def check_known(known: int, total: int, lm: str) -> None:
    """Raises UserError where a language model knows less than half of the words of a lexicon."""
    if known < (1 - MAX_FOREIGN) * total:
        raise UserError(
            f"{lm} knows {known} of the {total} words of the lexicon: is one of them in "
            "another case?"
        )


def _some(words: Collection[str], count: int = 5) -> str:
    return ", ".join(repr(word) for word in list(words)[:count])
