"""Find pairs of rows with nearly the same question or text.

MinHash finds candidate pairs, and the exact Jaccard similarity decides.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy
from numpy.typing import NDArray

from bula.params import NearDuplicates
from bula.records import Row
from stages.preprocess.minhash import (
    Hashes,
    Indices,
    candidate_pairs,
    jaccard_similarity,
    shingles,
)
from stages.preprocess.parts import full_text, question_text
from stages.preprocess.shards import each
from stages.preprocess.table import Corpus, Flags, Place, Table, read_places

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
    """Return all pairs whose question (or text) reaches the threshold."""
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
        settings.shingle_words,
        what=f"near-duplicates ({field})",
    )
    values = [value for result in results for value in result]
    similarity = numpy.array(values, dtype=numpy.float64)
    is_near = similarity >= settings.threshold
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


def verify_chunk(number: int, work: Path, field: Field, size: int) -> list[float]:
    """Return the Jaccard similarity of each pair of one chunk.

    The pairs are read from pairs.npy; a shingle has `size` words.
    """
    pairs = numpy.load(work / "pairs.npy", mmap_mode="r")
    start = number * CHUNK
    chunk = pairs[start : start + CHUNK].tolist()
    early = [Place(*columns[:3]) for columns in chunk]
    late = [Place(*columns[3:]) for columns in chunk]
    sets = {}
    for place, row in read_places(work, early + late).items():
        sets[place] = shingles(_field_text(row, field), size)
    similarities = []
    for one, other in zip(early, late, strict=True):
        similarities.append(jaccard_similarity(sets[one], sets[other]))
    return similarities


def _field_text(row: Row, field: Field) -> str:
    """Return the questions of a row, or its questions and answers."""
    example = row["example"]
    return question_text(example) if field == "question" else full_text(example)


def equal_questions(table: Table, alive: Flags) -> Matches:
    """Return rows of different splits with equal questions.

    Each row is paired with the first equal row of every earlier split, whatever MinHash finds.
    """
    keep = numpy.flatnonzero(alive)
    early_parts = [numpy.empty(0, numpy.int64)]
    late_parts = [numpy.empty(0, numpy.int64)]
    pairs = candidate_pairs(
        table.question[keep],
        table.split[keep],
        reach=1,
        within_split=False,
    )
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
