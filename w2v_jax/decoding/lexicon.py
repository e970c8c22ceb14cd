"""The words that a search may find: those of a language model or of a file."""

import logging
from collections.abc import Collection, Iterable

from w2v_jax.decoding.ngram import read_arpa
from w2v_jax.errors import UserError
from w2v_jax.places import place
from w2v_jax.text.alphabet import Alphabet, excerpt, quoted
from w2v_jax.text.files import every_line, fields
from w2v_jax.text.normalisation import BOUNDARY

log = logging.getLogger(__name__)
_KENLM = b"mmap lm http://kheafield.com/code"  # its binary files begin so
SOME = 5  # words that are named
# what is said of a model without <unk>
CLOSED = ", which it lacks: each costs log10 p = -100 as in KenLM, and they are hardly ever found"
MAX_FOREIGN = 0.5  # of the words: more is a model of another case or script


def is_kenlm_binary(path: str) -> bool:
    """Whether a file is a binary of KenLM. Raises UserError where it cannot be read."""
    try:
        with place(path).open("rb") as file:
            return file.read(len(_KENLM)) == _KENLM
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def words_of(lm: str, lexicon: str = "", alphabet: Alphabet | None = None) -> list[str]:
    """The words of the file `lexicon`, one first on each line, or else of the ARPA file `lm`.

    What follows a word in its line is its spelling (fairseq's lexicons: `CAT<TAB>C A T |`), which
    must be its letters. The words of a lexicon are normalised where an alphabet is given; what
    becomes nothing or several words stays as it is. Raises UserError for a file that cannot be
    read or spells otherwise.
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
        word, *spelling = fields(line)
        written = alphabet.normalize(word) if alphabet else word
        if " " in written or not written:
            written = word
        if spelling and "".join(spelling).removesuffix(BOUNDARY) not in (word, written):
            raise UserError(
                f"{lexicon}, line {number}: {excerpt(word)} is spelt "
                f"{excerpt(' '.join(spelling))}; only words that are spelt with their own letters "
                "can be searched for"
            )
        words.append(written)
    if not words:
        raise UserError(f"{lexicon} has no words")
    return words


def spellable(words: Iterable[str], alphabet: Alphabet, where: str) -> set[str]:
    """Those of the words that the alphabet can write; the others are named in the log.

    Raises UserError where it cannot write more than half of them: the model has other letters, or
    the same in another case.
    """
    words = set(words)
    letters = alphabet.ids.keys() - {BOUNDARY}
    found = {word for word in words if letters >= set(word)}
    if not words:
        raise UserError(f"{where} has no words")
    foreign = sorted(words - found)
    if len(found) >= (1 - MAX_FOREIGN) * len(words):
        if foreign:
            log.warning(
                "%s: %d of %d words are never found, as the model cannot write them, such as %s",
                where, len(foreign), len(words), quoted(foreign[:SOME]),
            )  # fmt: skip
        return found
    changed = sum(set(alphabet.normalize(word)) <= alphabet.ids.keys() for word in foreign)
    reason = f"the model writes {excerpt(''.join(sorted(letters)))}"
    if changed > len(foreign) / 2:
        reason += (
            ", the same letters in another case: write it in that case (for a language model "
            "python -m w2v_jax.build_ngram --checkpoint=... does)"
        )
    raise UserError(
        f"{where}: {len(foreign)} of {len(words)} words cannot be written by the model, such as "
        f"{quoted(foreign[:SOME])}; {reason}"
    )


def check_known(unknown: Collection[str], total: int, lm: str, *, is_closed: bool) -> None:
    """Names the words of a lexicon that a language model lacks in the log.

    is_closed: whether it lacks <unk>, too. Raises UserError where it knows less than half of the
    `total` words.
    """
    known = total - len(unknown)
    if known < (1 - MAX_FOREIGN) * total:
        raise UserError(
            f"{lm} knows {known} of the {total} words of the lexicon, and not "
            f"{quoted(sorted(unknown)[:SOME])}: is one of them in another case?"
        )
    if unknown:
        log.warning(
            "%s knows %d of the %d words of the lexicon; the others, such as %s, count as <unk>%s",
            lm, known, total, quoted(sorted(unknown)[:SOME]), CLOSED if is_closed else "",
        )  # fmt: skip
