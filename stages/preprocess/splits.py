"""Assign each row to train, dev or a validation set."""

import hashlib

import numpy

from bula.params import Preprocess
from bula.question_groups import question_group
from bula.records import SET_NAMES, Row, Split
from stages.preprocess.minhash import Hashes, Splits

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


def split_numbers(hashes: Hashes, params: Preprocess) -> Splits:
    """Return the index in SPLITS that each hash chooses, in the shares of params.yaml."""
    position = hashes / 2.0**64
    sets = numpy.full(len(SET_NAMES), params.validation_share)
    # SPLITS begins with the sets; in the order of the shares, dev comes first.
    ends = params.dev_share + numpy.concatenate([[0.0], numpy.cumsum(sets)])
    index = numpy.searchsorted(ends, position, side="right")
    dev = SPLITS.index("dev")
    numbers = numpy.array([dev, *range(len(SET_NAMES)), SPLITS.index("train")])
    return numbers[index].astype(numpy.int16)
