"""Texts as numbers: word hashes, shingles, MinHash signatures and their bands, so that repetitions are found by sorting.

A signature's values agree with those of another text with the probability that equals the Jaccard similarity of their shingle
sets (Broder 1997). Signatures are cut into bands; two texts are looked at if a whole band agrees, and count as near-duplicates
only if the exact similarity of their shingle sets reaches the threshold: MinHash never decides alone.

People type without accents, so texts are compared without them: "pressao" is "pressão" here, and only here.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

import numpy
from numpy.typing import NDArray
from rensa import RMinHash

from bula.params import NearDuplicates
from bula.text import comparison_key, ngrams, words

Hashes = NDArray[numpy.uint64]

SEED = 20261122
# Odd constants of splitmix64 (Steele et al. 2014): multiplied in, they spread every bit.
ROUND = numpy.uint64(0x9E3779B97F4A7C15)
MIX = (numpy.uint64(0xBF58476D1CE4E5B9), numpy.uint64(0x94D049BB133111EB))
# Words remembered with their hash; Portuguese health text has fewer, typing errors included.
VOCABULARY: dict[str, int] = {}
VOCABULARY_LIMIT = 500_000
# Unicode's blocks of combining marks.
MARKS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")


def unaccented(text: str) -> str:
    """Text without accents and cedillas, to compare with and never to keep."""
    return text if text.isascii() else MARKS.sub("", unicodedata.normalize("NFD", text))


def key_hash(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def same_text_hash(text: str) -> int:
    """Two texts with the same hash differ only in case, accents, punctuation and spacing."""
    return key_hash(comparison_key(unaccented(text)))


def word_hashes(texts: list[str]) -> tuple[Hashes, NDArray[numpy.int64]]:
    """Hashes of all words of all texts in one array, and where each text starts in it (one entry more than texts)."""
    if len(VOCABULARY) > VOCABULARY_LIMIT:
        VOCABULARY.clear()
    flat: list[int] = []
    starts = [0]
    for text in texts:
        for word in words(unaccented(text)):
            if word not in VOCABULARY:
                VOCABULARY[word] = key_hash(word)
            flat.append(VOCABULARY[word])
        starts.append(len(flat))
    return numpy.array(flat, dtype=numpy.uint64), numpy.array(starts, dtype=numpy.int64)


def windows(
    flat: Hashes, starts: NDArray[numpy.int64], size: int
) -> tuple[Hashes, NDArray[numpy.int64]]:
    """Hashes of every run of `size` words that stays inside a text, and the text of each; shorter texts have none."""
    if len(flat) < size:
        return numpy.empty(0, numpy.uint64), numpy.empty(0, numpy.int64)
    owner = numpy.repeat(numpy.arange(len(starts) - 1), numpy.diff(starts))
    last = len(flat) - size + 1
    value = numpy.zeros(last, numpy.uint64)
    for offset in range(size):
        # Overflow is meant: arithmetic is modulo 2**64.
        value = value * ROUND + flat[offset : last + offset]
    value ^= value >> numpy.uint64(31)
    inside = owner[:last] == owner[size - 1 :]
    return (value * MIX[0])[inside], owner[:last][inside]


def signatures(texts: list[str], settings: NearDuplicates) -> Hashes:
    """Band hashes of texts, shape (bands, texts); a text shorter than a shingle is its own single shingle."""
    flat, starts = word_hashes(texts)
    hashes, owner = windows(flat, starts, settings.shingle_words)
    lengths = numpy.diff(starts)
    short = numpy.flatnonzero(lengths < settings.shingle_words)
    if len(short):
        own = numpy.array([same_text_hash(texts[index]) for index in short], dtype=numpy.uint64)
        order = numpy.argsort(numpy.concatenate([owner, short]), kind="stable")
        hashes = numpy.concatenate([hashes, own])[order]
        owner = numpy.concatenate([owner, short])[order]
    offsets = numpy.searchsorted(owner, numpy.arange(len(texts) + 1)).astype(numpy.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets, settings.bands * settings.band_rows, SEED
    )
    values = numpy.array(matrix.to_rows(), dtype=numpy.uint64).reshape(
        len(texts), settings.bands, settings.band_rows
    )
    band = numpy.zeros((len(texts), settings.bands), numpy.uint64)
    for row in range(settings.band_rows):
        band = (band ^ values[:, :, row]) * MIX[row % 2]
        band ^= band >> numpy.uint64(29)
    return numpy.ascontiguousarray(band.T)


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """The set of runs of `size` words without accents, or the whole text where it is shorter."""
    plain = unaccented(text)
    return set(ngrams(plain, size)) or {tuple(words(plain))}


def jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """Size of the intersection over size of the union."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def candidates(
    key: Hashes, split: NDArray[numpy.int16], reach: int, inside: bool
) -> Iterator[tuple[NDArray[numpy.int64], NDArray[numpy.int64]]]:
    """Index pairs (earlier, later) of texts with equal keys; texts are in rank order, so that splits ascend.

    Each text is paired with the first `reach` of every earlier split among its equals, so that no set hides another; and, if
    `inside`, with the `reach` before it in its own split and the first `reach` there. All pairs of a thousand equals would be
    half a million.
    """
    order = numpy.argsort(key, kind="stable")
    value, group = key[order], split[order]
    place = numpy.arange(len(key))
    fresh = numpy.append(True, value[1:] != value[:-1])[: len(key)]
    # A block is the equals of one split; `start` is where each text's block starts, `head` where its equals start.
    edge = fresh | numpy.append(True, group[1:] != group[:-1])[: len(key)]
    start = numpy.maximum.accumulate(numpy.where(edge, place, 0))
    head = numpy.maximum.accumulate(numpy.where(fresh, place, 0))
    if inside:
        depth = place - start
        for step in range(1, reach + 1):
            near = place[depth >= step]
            yield order[near - step], order[near]
            far = place[depth > reach + step - 1]
            yield order[start[far] + step - 1], order[far]
    # Blocks before one's own: the block that ends right before this one starts, and so on.
    late, block = place[start > head], start[start > head]
    while len(late):
        before = start[block - 1]
        for step in range(reach):
            valid = before + step < block
            yield order[before[valid] + step], order[late[valid]]
        further = before > head[late]
        late, block = late[further], before[further]
