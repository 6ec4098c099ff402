"""Find pairs of rows with nearly the same question or text.

MinHash finds candidate pairs, and their exact Jaccard similarity is computed. Questions of one form
("Posso beber álcool com NOME?") are similar too, so the weights of the words decide whether the
difference has content.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy
from numpy.typing import NDArray

from bula.params import NearDuplicates
from stages.preprocess.minhash import (
    Flags,
    Hashes,
    Indices,
    candidate_pairs,
    jaccard_similarity,
    shingles,
)
from stages.preprocess.parts import answer_text, full_text, question_core
from stages.preprocess.shards import each
from stages.preprocess.table import Corpus, Place, Table, read_places
from stages.preprocess.weights import (
    Weights,
    Words,
    distinct_words,
    load_weights,
    weighted_jaccard,
)

Field = Literal["question", "text"]
# Each text is compared with this many equal texts right before it, and as many first ones.
REACH = 4
# Pairs that a worker verifies at once.
CHUNK = 8_000


class Matches(NamedTuple):
    """Pairs of near-duplicates, one array per column."""

    early: Indices
    """The lower rank of each pair."""
    late: Indices
    """The higher rank of each pair."""
    similarity: NDArray[numpy.float64]
    """The Jaccard similarity of the shingle sets."""


def near_duplicates(
    corpus: Corpus, field: Field, alive: Flags, settings: NearDuplicates
) -> Matches:
    """Return all pairs of different rows that repeat each other.

    Their questions (or texts) reach the threshold, and no difference has content.
    """
    codes = _candidates(corpus, field, settings.bands, alive)
    early, late = numpy.divmod(codes, len(alive))
    _write_pairs(corpus, early, late)
    chunk_count = -(-len(codes) // CHUNK)
    results = each(
        corpus.pool,
        verify_chunk,
        list(range(chunk_count)),
        corpus.work,
        field,
        settings,
        what=f"near-duplicates ({field})",
    )
    values = [value for result in results for value in result]
    similarity = numpy.array(values, dtype=numpy.float64)
    is_near = similarity > 0
    return Matches(
        early[is_near],
        late[is_near],
        similarity[is_near],
    )


def _candidates(corpus: Corpus, field: Field, bands: int, alive: Flags) -> Indices:
    """Return the candidate pairs, each coded as early * rows + late.

    A pair is a candidate if a band agrees and the pair can remove a row. Two rows of one split are
    compared by their text only. Questions of one group are candidates too: they may have the same
    words in another order, of which the shingles differ.
    """
    table = corpus.table
    keep = numpy.flatnonzero(alive)
    found = numpy.empty(0, numpy.int64)
    for keys in _candidate_keys(corpus, field, bands):
        pairs = candidate_pairs(
            keys[keep],
            table.split[keep],
            REACH,
            within_split=field == "text",
        )
        codes = [found]
        for one, other in pairs:
            early = keep[one]
            late = keep[other]
            code = early * len(alive) + late
            codes.append(code[can_remove(table, early, late)])
        found = numpy.unique(numpy.concatenate(codes))
    return found


def _candidate_keys(corpus: Corpus, field: Field, bands: int) -> Iterator[Hashes]:
    """Yield keys of all rows in rank order.

    Rows with an equal key are candidates.
    """
    if field == "question":
        yield corpus.table.group
    for band in range(bands):
        yield _load_band(corpus, field, band)


def _load_band(corpus: Corpus, field: Field, band: int) -> Hashes:
    """Return one band hash per row, in rank order."""
    table = corpus.table
    part_keys = []
    for number in range(corpus.parts + table.set_a):
        # An open memory map keeps every band it has read in memory, so each band opens a new map.
        bands = numpy.load(corpus.work / f"{number}.{field}.npy", mmap_mode="r")
        part_keys.append(bands[band])
    keys = numpy.empty(len(table.rank), numpy.uint64)
    keys[table.rank] = numpy.concatenate(part_keys)
    return keys


def can_remove(table: Table, early: Indices, late: Indices) -> Flags:
    """Return for each pair whether it can remove a row.

    A benchmark item can remove training rows only.
    """
    is_example: Flags = table.split[early] >= table.set_a
    is_train: Flags = table.split[late] == table.train
    return is_example | is_train


def _write_pairs(corpus: Corpus, early: Indices, late: Indices) -> None:
    """Write the places of both rows of each pair to pairs.npy."""
    columns: list[NDArray[Any]] = []
    for ranks in (early, late):
        columns.append(corpus.table.part[ranks])
        columns.append(corpus.table.start[ranks])
        columns.append(corpus.table.size[ranks])
    pairs = numpy.stack(columns, axis=1).astype(numpy.int64)
    numpy.save(corpus.work / "pairs.npy", pairs)


class Compared(NamedTuple):
    """The distinct words of a row."""

    question: Words
    answer: Words


def verify_chunk(number: int, work: Path, field: Field, settings: NearDuplicates) -> list[float]:
    """Return the similarity of each pair of one chunk, or 0.

    The result is 0 if the rows of the pair do not repeat each other.

    The pairs are read from pairs.npy, and the weights of words from weights.npy.
    """
    pairs = numpy.load(work / "pairs.npy", mmap_mode="r")
    weights = load_weights(work)
    start = number * CHUNK
    chunk = pairs[start : start + CHUNK].tolist()
    early = [Place(*columns[:3]) for columns in chunk]
    late = [Place(*columns[3:]) for columns in chunk]
    texts = {}
    sets = {}
    for place, row in read_places(work, early + late).items():
        example = row["example"]
        question = question_core(example)
        answer = distinct_words(answer_text(example))
        texts[place] = Compared(distinct_words(question), answer)
        compared = question if field == "question" else full_text(example)
        sets[place] = shingles(compared, settings.shingle_words)
    similarities = []
    for one, other in zip(early, late, strict=True):
        similarity = jaccard_similarity(sets[one], sets[other])
        compare = compare_questions if field == "question" else compare_texts
        similarities.append(compare(texts[one], texts[other], similarity, weights, settings))
    return similarities


def compare_questions(
    one: Compared, other: Compared, similarity: float, weights: Weights, settings: NearDuplicates
) -> float:
    """Return the similarity of two rows if their questions repeat each other, or 0.

    The answers do not matter if the words that differ have no content, or hardly any weight.
    `similarity` is the Jaccard similarity of the shingles, which moved function words lower.
    """
    alike = weighted_jaccard(one.question, other.question, weights)
    differing = one.question ^ other.question
    is_light = weights.are_light(differing, settings.light_word_share)
    is_equal = alike >= settings.content_threshold
    is_equal = is_equal or (is_light and alike >= settings.words_threshold)
    if is_equal and not names_another_subject(one, other):
        return similarity if similarity >= settings.threshold else alike
    return compare_texts(one, other, similarity, weights, settings)


def compare_texts(
    one: Compared, other: Compared, similarity: float, weights: Weights, settings: NearDuplicates
) -> float:
    """Return the similarity of two rows if questions and answers are alike, or 0.

    `similarity` is the Jaccard similarity of the shingles of the texts or questions.
    """
    if similarity < settings.threshold or names_another_subject(one, other):
        return 0.0
    for words, other_words in zip(one, other, strict=True):
        if weighted_jaccard(words, other_words, weights) < settings.words_threshold:
            return 0.0
    return similarity


def names_another_subject(one: Compared, other: Compared) -> bool:
    """Return whether each answer repeats a word that only its own question has.

    The two rows then ask the same about different subjects, such as two drugs.
    """
    own = (one.question - other.question) & (one.answer - other.answer)
    others = (other.question - one.question) & (other.answer - one.answer)
    return bool(own) and bool(others)


def equal_questions(table: Table, alive: Flags) -> Matches:
    """Return rows of different splits with equal questions."""
    return _equal_keys(table, table.question, numpy.flatnonzero(alive))


def equal_answers(table: Table, alive: Flags, min_words: int, max_rows: int) -> Matches:
    """Return rows of different splits with equal answers of at least `min_words` words.

    An answer of more than `max_rows` rows is a stock answer, which reveals no item.
    """
    _, index, rows = numpy.unique(table.answer, return_inverse=True, return_counts=True)
    is_own = (rows[index] > 1) & (rows[index] <= max_rows)
    is_long = table.answer_words >= min_words
    return _equal_keys(table, table.answer, numpy.flatnonzero(alive & is_own & is_long))


def _equal_keys(table: Table, keys: Hashes, keep: Indices) -> Matches:
    """Return the pairs of the rows `keep` with one key in different splits.

    Each row is paired with the first equal row of every earlier split, whatever MinHash finds.
    """
    early_parts = [numpy.empty(0, numpy.int64)]
    late_parts = [numpy.empty(0, numpy.int64)]
    pairs = candidate_pairs(keys[keep], table.split[keep], reach=1, within_split=False)
    for one, other in pairs:
        early_parts.append(keep[one])
        late_parts.append(keep[other])
    early = numpy.concatenate(early_parts)
    late = numpy.concatenate(late_parts)
    counts = can_remove(table, early, late)
    similarity = numpy.ones(numpy.count_nonzero(counts))
    return Matches(early[counts], late[counts], similarity)


def concatenate_matches(*parts: Matches) -> Matches:
    """Return the pairs of all parts."""
    columns: list[NDArray[Any]] = []
    for arrays in zip(*parts, strict=True):
        columns.append(numpy.concatenate(arrays))
    return Matches(*columns)
