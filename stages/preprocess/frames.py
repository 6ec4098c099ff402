"""Find questions that differ by one word, by hashes.

In a short question one word is a large share of the shingles, so MinHash misses such pairs. Each
question has one frame for each of its words: the hash of all other words. A question with one word
more has a frame that is the other question.
"""

from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from bula.text import words
from stages.preprocess.minhash import (
    MIX_FACTORS,
    NGRAM_SHIFT,
    VOCABULARY,
    VOCABULARY_LIMIT,
    WORD_FACTOR,
    Flags,
    Hashes,
    hash64,
    strip_accents,
)

# In longer questions one word is a small share, and MinHash finds the pair.
MOST_WORDS = 24
# One word of two says too little.
LEAST_WORDS = 3
# A typo in a word of so many letters leaves its first or its last letters equal.
TYPO_LETTERS = 6
EDGE_LETTERS = TYPO_LETTERS // 2
EDGES: dict[str, tuple[int, int]] = {}


class Frames(NamedTuple):
    """The frames of questions, one array per column."""

    text: NDArray[numpy.int64]
    """The index of the question."""
    key: Hashes
    """The frame, or a hash of the frame and of the first or last letters of the left-out word."""
    frame: Hashes
    """The hash of the other words."""

    @property
    def is_plain(self) -> Flags:
        """Return which keys are the frame itself."""
        plain: Flags = self.key == self.frame
        return plain


def find_frames(texts: list[str]) -> Frames:
    """Return the frames of all questions that have 2 to MOST_WORDS words."""
    by_length: dict[int, list[tuple[int, list[str]]]] = {}
    for number, text in enumerate(texts):
        found = words(strip_accents(text))
        if 1 < len(found) <= MOST_WORDS:
            by_length.setdefault(len(found), []).append((number, found))
    blocks = [Frames(*(numpy.empty(0, kind) for kind in (numpy.int64, "u8", "u8")))]
    for group in by_length.values():
        blocks += _frames_of_length(group)
    return Frames(*(numpy.concatenate(columns) for columns in zip(*blocks, strict=True)))


def _frames_of_length(group: list[tuple[int, list[str]]]) -> list[Frames]:
    """Return the frames of questions with one number of words, in blocks."""
    numbers = numpy.array([number for number, _ in group], numpy.int64)
    hashes = numpy.array([[_word_hash(word) for word in found] for _, found in group], numpy.uint64)
    edges = numpy.array([[_edges(word) for word in found] for _, found in group], numpy.uint64)
    count = hashes.shape[1]
    blocks = []
    if count >= LEAST_WORDS:
        complete = _sequence_hash(hashes)
        blocks.append(Frames(numbers, complete, complete))
    for place in range(count):
        frame = _sequence_hash(numpy.delete(hashes, place, axis=1))
        if count >= LEAST_WORDS:
            blocks.append(Frames(numbers, frame, frame))
        for side in (0, 1):
            edge = edges[:, place, side]
            has_edge = edge > 0
            key = (frame ^ edge) * MIX_FACTORS[side]
            blocks.append(Frames(numbers[has_edge], key[has_edge], frame[has_edge]))
    return blocks


def _sequence_hash(hashes: Hashes) -> Hashes:
    """Return the hash of each row of word hashes, in order."""
    value = numpy.zeros(len(hashes), numpy.uint64)
    for column in range(hashes.shape[1]):
        # The overflow is intended: the arithmetic is modulo 2**64.
        value = value * WORD_FACTOR + hashes[:, column]
    value ^= value >> NGRAM_SHIFT
    mixed: Hashes = value * MIX_FACTORS[0]
    return mixed


def _word_hash(word: str) -> int:
    """Return the hash of a word."""
    if len(VOCABULARY) > VOCABULARY_LIMIT:
        VOCABULARY.clear()
    if word not in VOCABULARY:
        VOCABULARY[word] = hash64(word)
    return VOCABULARY[word]


def _edges(word: str) -> tuple[int, int]:
    """Return the hashes of both ends of a long word, or zeros."""
    if len(word) < TYPO_LETTERS or not word.isalpha():
        return 0, 0
    if len(EDGES) > VOCABULARY_LIMIT:
        EDGES.clear()
    if word not in EDGES:
        EDGES[word] = (hash64(word[:EDGE_LETTERS]), hash64(word[-EDGE_LETTERS:]))
    return EDGES[word]


def is_one_edit(one: str, other: str) -> bool:
    """Return whether one letter more, less or other, or two swapped, part two words."""
    if len(one) > len(other):
        one, other = other, one
    start = 0
    while start < len(one) and one[start] == other[start]:
        start += 1
    if len(one) < len(other):
        return len(other) - len(one) == 1 and one[start:] == other[start + 1 :]
    if one[start + 1 :] == other[start + 1 :]:
        return True
    swapped = other[start : start + 2][::-1]
    return one[start : start + 2] == swapped and one[start + 2 :] == other[start + 2 :]
