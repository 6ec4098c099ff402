"""Represent texts by hashes: words, n-grams and MinHash bands.

Two signatures agree in one value with a probability equal to the Jaccard similarity of the shingle
sets (Broder 1997). Signatures are cut into bands. Two texts become a candidate pair if all values
of a band agree; they count as near-duplicates only if the exact similarity of their shingle sets
reaches the threshold.

Many people type without accents, so texts are compared without them.
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
Indices = NDArray[numpy.int64]
Splits = NDArray[numpy.int16]
Flags = NDArray[numpy.bool_]
Shingles = set[tuple[str, ...]]

SEED = 20261122
# Odd constants of splitmix64 (Steele et al. 2014); a product with them spreads every bit.
WORD_FACTOR = numpy.uint64(0x9E3779B97F4A7C15)
MIX_FACTORS = (numpy.uint64(0xBF58476D1CE4E5B9), numpy.uint64(0x94D049BB133111EB))
# The shifts keep the high bits of a 64-bit product in its low bits too.
NGRAM_SHIFT = numpy.uint64(31)
BAND_SHIFT = numpy.uint64(29)
# Hashes of known words. Portuguese health text has fewer words than the limit, typos included.
VOCABULARY: dict[str, int] = {}
VOCABULARY_LIMIT = 500_000
# Unicode's blocks of combining marks.
MARKS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")


def strip_accents(text: str) -> str:
    """Return the text without accents and cedillas, for comparisons only."""
    if text.isascii():
        return text
    return MARKS.sub("", unicodedata.normalize("NFD", text))


def hash64(text: str) -> int:
    """Return 64 bits of BLAKE2b."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def comparison_hash(text: str) -> int:
    """Return a hash that ignores case, accents, punctuation and spacing."""
    return hash64(comparison_key(strip_accents(text)))


def word_hashes(texts: list[str]) -> tuple[Hashes, Indices]:
    """Return the hashes of all words, and the offset of each text.

    The offsets have one entry more than there are texts.
    """
    if len(VOCABULARY) > VOCABULARY_LIMIT:
        VOCABULARY.clear()
    flat = []
    offsets = [0]
    for text in texts:
        for word in words(strip_accents(text)):
            if word not in VOCABULARY:
                VOCABULARY[word] = hash64(word)
            flat.append(VOCABULARY[word])
        offsets.append(len(flat))
    return numpy.array(flat, dtype=numpy.uint64), numpy.array(offsets, dtype=numpy.int64)


def ngram_hashes(flat: Hashes, offsets: Indices, size: int) -> tuple[Hashes, Indices]:
    """Return the hash of every n-gram, and the index of its text.

    An n-gram has `size` words, so a shorter text has none. `flat` and `offsets` come from
    `word_hashes`.
    """
    if len(flat) < size:
        return numpy.empty(0, numpy.uint64), numpy.empty(0, numpy.int64)
    owner = numpy.repeat(numpy.arange(len(offsets) - 1), numpy.diff(offsets))
    count = len(flat) - size + 1
    value = numpy.zeros(count, numpy.uint64)
    for step in range(size):
        # The overflow is intended: the arithmetic is modulo 2**64.
        value = value * WORD_FACTOR + flat[step : count + step]
    value ^= value >> NGRAM_SHIFT
    hashes = value * MIX_FACTORS[0]
    first_owner = owner[:count]
    last_owner = owner[size - 1 :]
    inside = first_owner == last_owner
    return hashes[inside], first_owner[inside]


def band_hashes(texts: list[str], settings: NearDuplicates) -> Hashes:
    """Return the band hashes of texts, shape (bands, texts)."""
    shape = (len(texts), settings.bands, settings.band_rows)
    hashes, owner = _shingle_hashes(texts, settings.shingle_words)
    offsets = numpy.searchsorted(owner, numpy.arange(len(texts) + 1))
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes,
        offsets.astype(numpy.uint64),
        settings.bands * settings.band_rows,
        SEED,
    )
    values = numpy.array(matrix.to_rows(), dtype=numpy.uint64)
    values = values.reshape(shape)
    band = numpy.zeros(shape[:2], numpy.uint64)
    for row in range(settings.band_rows):
        band ^= values[:, :, row]
        band *= MIX_FACTORS[row % 2]
        band ^= band >> BAND_SHIFT
    return numpy.ascontiguousarray(band.T)


def _shingle_hashes(texts: list[str], size: int) -> tuple[Hashes, Indices]:
    """Return the hash of every shingle, and the index of its text.

    The indices ascend. A text shorter than a shingle is a single shingle.
    """
    flat, offsets = word_hashes(texts)
    hashes, owner = ngram_hashes(flat, offsets, size)
    lengths = numpy.diff(offsets)
    short = numpy.flatnonzero(lengths < size)
    if not len(short):
        return hashes, owner
    values = [comparison_hash(texts[index]) for index in short]
    short_hashes = numpy.array(values, dtype=numpy.uint64)
    hashes = numpy.concatenate([hashes, short_hashes])
    owner = numpy.concatenate([owner, short])
    order = numpy.argsort(owner, kind="stable")
    return hashes[order], owner[order]


def shingles(text: str, size: int) -> Shingles:
    """Return the set of word n-grams without accents.

    A text of fewer than `size` words is a single shingle.
    """
    plain = strip_accents(text)
    return set(ngrams(plain, size)) or {tuple(words(plain))}


def jaccard_similarity(one: Shingles, other: Shingles) -> float:
    """Return the size of the intersection over the union."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def is_first_of_run(values: NDArray[numpy.generic]) -> NDArray[numpy.bool_]:
    """Return for each element whether it differs from the element before it."""
    differs = values[1:] != values[:-1]
    return numpy.append(True, differs)[: len(values)]


def candidate_pairs(
    key: Hashes, split: Splits, reach: int, within_split: bool
) -> Iterator[tuple[Indices, Indices]]:
    """Yield index pairs (earlier, later) of texts with equal keys.

    The texts are in rank order, so splits ascend. Each text is paired with the first `reach` equal
    texts of every earlier split, so that no split hides another. If `within_split`, each text is
    also paired with the `reach` equal texts before it in its own split and the first `reach` there.
    All pairs of a thousand equal texts would be half a million.
    """
    order = numpy.argsort(key, kind="stable")
    place = numpy.arange(len(key))
    # A run contains all texts of one key; a block contains the texts of one key and one split.
    first_of_run = is_first_of_run(key[order])
    first_of_block = first_of_run | is_first_of_run(split[order])
    run_start = numpy.where(first_of_run, place, 0)
    run_start = numpy.maximum.accumulate(run_start)
    block_start = numpy.where(first_of_block, place, 0)
    block_start = numpy.maximum.accumulate(block_start)
    if within_split:
        for earlier, later in _pairs_in_block(block_start, reach):
            yield order[earlier], order[later]
    for earlier, later in _pairs_across_blocks(run_start, block_start, reach):
        yield order[earlier], order[later]


def _pairs_in_block(block_start: Indices, reach: int) -> Iterator[tuple[Indices, Indices]]:
    """Yield pairs of places within one block.

    Each place is paired with the `reach` places before it and with the first `reach` places.
    """
    place = numpy.arange(len(block_start))
    depth = place - block_start
    for step in range(1, reach + 1):
        later = place[depth >= step]
        yield later - step, later
        # Places of a lower depth were paired with this first place already.
        later = place[depth >= reach + step]
        yield block_start[later] + step - 1, later


def _pairs_across_blocks(
    run_start: Indices, block_start: Indices, reach: int
) -> Iterator[tuple[Indices, Indices]]:
    """Yield pairs of places in different blocks of one run.

    Each place is paired with the first `reach` places of every earlier block.
    """
    later = numpy.flatnonzero(block_start > run_start)
    block = block_start[later]
    while len(later):
        # The block before this one ends right before this one starts.
        earlier_block = block_start[block - 1]
        for step in range(reach):
            earlier = earlier_block + step
            exists = earlier < block
            yield earlier[exists], later[exists]
        has_more = earlier_block > run_start[later]
        later = later[has_more]
        block = earlier_block[has_more]
