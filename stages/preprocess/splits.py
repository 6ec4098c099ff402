"""Assign each row to train, dev or a validation set."""

import hashlib

from bula.params import Preprocess
from bula.question_groups import question_group
from bula.records import SET_NAMES, Row, Split

# In the order of their rank: of two rows that repeat each other, the row of the first split stays.
SPLITS: tuple[Split, ...] = (*SET_NAMES, "dev", "train")


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
