"""Weigh words by how few rows contain them.

A word in few rows says what a question is about: a drug, an exam, a dose. A word in most rows does
not. The weight is the inverse document frequency (Spärck Jones 1972). Words are counted by the
bucket of their hash, so that memory does not grow with the vocabulary.
"""

import math
from pathlib import Path

import numpy
from numpy.typing import NDArray

from bula.text import words
from stages.preprocess.minhash import Indices, hash64, is_first_of_run, strip_accents, word_hashes

# Two words in one bucket share their weight; health text has far fewer frequent words.
BUCKETS = 2**20
Words = set[str]


def count_words(texts: list[str]) -> Indices:
    """Return buckets of words and the number of texts with each, shape (2, buckets)."""
    flat, offsets = word_hashes(texts)
    owner = numpy.repeat(numpy.arange(len(texts)), numpy.diff(offsets))
    bucket = (flat % numpy.uint64(BUCKETS)).astype(numpy.int64)
    pairs = numpy.sort(owner * BUCKETS + bucket)
    once_per_text = numpy.sort(pairs[is_first_of_run(pairs)] % BUCKETS)
    first = numpy.flatnonzero(is_first_of_run(once_per_text))
    counts = numpy.diff(numpy.append(first, len(once_per_text)))
    return numpy.stack([once_per_text[first], counts])


def write_weights(work: Path, parts: int, rows: int) -> None:
    """Write the weight of each bucket to weights.npy.

    The weight of a word in d of n rows is log(1 + n / d). Words of no row weigh as words of one.
    """
    frequency = numpy.zeros(BUCKETS, numpy.int64)
    for number in range(parts):
        buckets, counts = numpy.load(work / f"{number}.words.npy")
        frequency[buckets] += counts
    weights = numpy.log1p(rows / numpy.maximum(frequency, 1))
    numpy.save(work / "weights.npy", weights.astype(numpy.float32))


class Weights:
    """The weights of words, read from the work folder."""

    def __init__(self, values: NDArray[numpy.float32]) -> None:
        """Keep the weight of each bucket."""
        self.values = values
        self.largest = float(values.max())
        self.known: dict[str, float] = {}

    def __getitem__(self, word: str) -> float:
        """Return the weight of a word.

        A number has the largest weight, because another number is another dose, age or date.
        """
        weight = self.known.get(word)
        if weight is None:
            bucket = hash64(word) % BUCKETS
            has_digit = any(map(str.isdigit, word))
            weight = self.largest if has_digit else float(self.values[bucket])
            self.known[word] = weight
        return weight

    def rows(self, word: str) -> int:
        """Return the number of rows with a word, or 1 for a number."""
        return round(math.expm1(self.largest) / math.expm1(self[word]))

    def are_light(self, chosen: Words, share: float) -> bool:
        """Return whether each word stands in at least this share of the rows."""
        # The sum of a float32 and its limit may differ in the last digit.
        limit = math.log1p(1 / share) + 1e-6
        return all(self[word] <= limit for word in chosen)

    def total(self, chosen: Words) -> float:
        """Return the exact sum of the weights, which no order of the words changes."""
        return math.fsum(self[word] for word in chosen)


def load_weights(work: Path) -> Weights:
    """Return the weights that `write_weights` wrote."""
    return Weights(numpy.load(work / "weights.npy"))


def distinct_words(text: str) -> Words:
    """Return the distinct words of a text without accents."""
    return set(words(strip_accents(text)))


def weighted_jaccard(one: Words, other: Words, weights: Weights) -> float:
    """Return the weight of the common words over the weight of all words."""
    union = weights.total(one | other)
    return weights.total(one & other) / union if union else 1.0
