"""Find pairs of rows with nearly the same question or text.

MinHash finds candidate pairs, and their exact Jaccard similarity is computed. Questions of one form
("Posso beber álcool com NOME?") are similar too, so the weights of the words decide whether the
difference has content.
"""

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
from stages.preprocess.parts import answer_text, full_text, question_text
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
CHUNK = 20_000


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
    compared by their text only.
    """
    table = corpus.table
    keep = numpy.flatnonzero(alive)
    found = numpy.empty(0, numpy.int64)
    for band in range(bands):
        keys = _load_band(corpus, field, band)
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
    """The texts of a row."""

    question: str
    answer: str


def verify_chunk(number: int, work: Path, field: Field, settings: NearDuplicates) -> list[float]:
    """Return the Jaccard similarity of each pair of one chunk, or 0 if it is no repetition.

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
        texts[place] = Compared(question_text(example), answer_text(example))
        compared = texts[place].question if field == "question" else full_text(example)
        sets[place] = shingles(compared, settings.shingle_words)
    similarities = []
    for one, other in zip(early, late, strict=True):
        similarity = jaccard_similarity(sets[one], sets[other])
        is_near = similarity >= settings.threshold
        is_near = is_near and is_repetition(texts[one], texts[other], field, weights, settings)
        similarities.append(similarity if is_near else 0.0)
    return similarities


def is_repetition(
    one: Compared, other: Compared, field: Field, weights: Weights, settings: NearDuplicates
) -> bool:
    """Return whether two rows with similar words ask the same.

    Question and answer must both be alike by the weights of their words. Of two similar questions,
    the answers do not matter if the words that differ have hardly any weight.
    """
    question = distinct_words(one.question)
    other_question = distinct_words(other.question)
    answer = distinct_words(one.answer)
    other_answer = distinct_words(other.answer)
    if _follows(question - other_question, answer - other_answer) and _follows(
        other_question - question, other_answer - answer
    ):
        return False
    alike = weighted_jaccard(question, other_question, weights)
    if field == "question" and alike >= settings.content_threshold:
        return True
    if alike < settings.threshold:
        return False
    return weighted_jaccard(answer, other_answer, weights) >= settings.threshold


def _follows(question: Words, answer: Words) -> bool:
    """Return whether an answer repeats a word that only its question has.

    The arguments are the words that one row of a pair has and the other row lacks. If this is true
    for both rows, the word is the subject: each answer is about another drug.
    """
    return not question.isdisjoint(answer)


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
