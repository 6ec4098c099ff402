"""Assign each row to train, dev or a validation set."""

import hashlib
import unicodedata

from bula.params import Preprocess
from bula.records import SET_NAMES, Row, Split
from bula.text import comparison_key, words

# In the order of their rank: of two rows that repeat each other, the row of the first split stays.
SPLITS: tuple[Split, ...] = (*SET_NAMES, "dev", "train")
# Shorter words are mostly articles and prepositions, in which paraphrases differ.
MIN_LETTERS = 3


def question_group(question: str) -> str:
    """Return a key that paraphrases of a question share.

    The key consists of the question's words of three letters and more, without accents, order
    and repetition.
    """
    decomposed = unicodedata.normalize("NFD", question.lower())
    plain = "".join(sign for sign in decomposed if not unicodedata.combining(sign))
    distinct = {word for word in words(plain) if len(word) >= MIN_LETTERS}
    return " ".join(sorted(distinct)) or comparison_key(question)


def assign_split(row: Row, question: str, params: Preprocess) -> Split:
    """Return the row's own split, or else a split chosen by hash.

    The hash depends on the question's group only, so added rows move no other row.
    """
    for split in SPLITS:
        if row.get("split") == split:
            return split
    digest = hashlib.sha256(question_group(question).encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    if position < params.dev_share:
        return "dev"
    if not params.validation_share:
        return "train"
    index = int((position - params.dev_share) / params.validation_share)
    return SET_NAMES[index] if index < len(SET_NAMES) else "train"
