"""Find training rows with the meaning of an item.

Paraphrases and translations share no runs of words, so an encoder compares them. A row is one
vector of its question and its answer. The similarity of two rows is the mean of two cosines, after
the mean of the training rows is subtracted (Mu and Viswanath 2018). A similarity says little
alone, because a usual question is near to many rows, so the margin over the nearest rows of an item
decides (Conneau et al. 2018; Artetxe and Schwenk 2019).
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from bula.params import NoEncoder, Preprocess
from bula.records import Row
from stages.preprocess.encoders import Embed, Vectors, open_encoder, to_unit
from stages.preprocess.minhash import Flags, Indices, is_first_of_run
from stages.preprocess.near_duplicates import Matches, concatenate_matches
from stages.preprocess.parts import answer_text, question_text
from stages.preprocess.table import Corpus, rows_at

# Rows that are embedded, or compared with all items, at once.
BLOCK_ROWS = 1024
# The training rows around an item that its margin is measured from. A large number keeps several
# paraphrases of one item from hiding each other.
NEIGHBOURS = 16


class Nearest(NamedTuple):
    """Rows of a block that reach the margin, their items and their margins."""

    rows: Indices
    items: Indices
    margin: NDArray[numpy.float64]


def same_meanings(corpus: Corpus, comparable: Flags, params: Preprocess) -> Matches:
    """Return the training rows that have the meaning of an item.

    Each row is paired with the item of each set that has the largest margin, if it is large enough.
    Items are the rows of benchmarks and of A to E. There are no pairs without an encoder.
    """
    table = corpus.table
    is_item = table.split < table.dev
    items = numpy.flatnonzero(comparable & is_item)
    train = numpy.flatnonzero(comparable & (table.split == table.train))
    if isinstance(params.encoder, NoEncoder) or not len(items) or not len(train):
        return no_matches()
    embed = open_encoder(params.encoder)
    item_vectors = numpy.concatenate(list(_embed_ranks(embed, corpus, items)))
    file = corpus.work / "meanings.npy"
    _write_vectors(file, _embed_ranks(embed, corpus, train), (len(train), *item_vectors.shape[1:]))
    # Items are in rank order, so each set is one block.
    set_starts = numpy.flatnonzero(is_first_of_run(table.split[items]))
    sets = list(pairwise([*set_starts.tolist(), len(items)]))
    blocks = []
    done = 0
    for margins in item_margins(file, item_vectors):
        for start, end in sets:
            found = nearest(margins[:, start:end], params.contamination.meaning_margin)
            late = train[done + found.rows]
            blocks.append(Matches(items[start + found.items], late, found.margin))
        done += len(margins)
    return concatenate_matches(*blocks)


def no_matches() -> Matches:
    """Return no pair."""
    nothing = numpy.empty(0, numpy.int64)
    return Matches(nothing, nothing, numpy.empty(0))


def embed_rows(embed: Embed, examples: list[Row]) -> Vectors:
    """Return the embeddings of questions and answers, shape (rows, 2, width).

    An item without an answer is compared by its question alone.
    """
    questions = [question_text(example) for example in examples]
    answers = []
    for example, question in zip(examples, questions, strict=True):
        answers.append(answer_text(example) or question)
    return numpy.stack([embed(questions), embed(answers)], axis=1)


def _embed_ranks(embed: Embed, corpus: Corpus, ranks: Indices) -> Iterator[Vectors]:
    """Yield the embeddings of the rows of the given ranks in blocks."""
    for start in range(0, len(ranks), BLOCK_ROWS):
        rows = rows_at(corpus.table, corpus.work, ranks[start : start + BLOCK_ROWS])
        yield embed_rows(embed, [row["example"] for row in rows])


def _write_vectors(file: Path, blocks: Iterator[Vectors], shape: tuple[int, ...]) -> None:
    """Write blocks of embeddings as one array of 16 bits.

    They may exceed the memory.
    """
    array = numpy.lib.format.open_memmap(file, mode="w+", dtype=numpy.float16, shape=shape)
    done = 0
    for block in blocks:
        array[done : done + len(block)] = block
        done += len(block)
    array.flush()


def item_margins(file: Path, items: Vectors) -> Iterator[Vectors]:
    """Yield the margins of training rows and items, in blocks of shape (rows, items).

    `file` has the embeddings of the training rows, shape (rows, 2, width), and `items` those of the
    items.
    """
    centre = _centre(file)
    item_vectors = _join(items, centre)
    neighbourhood: Vectors = numpy.zeros((NEIGHBOURS, len(items)), numpy.float32)
    for block in _read_blocks(file):
        candidates = numpy.concatenate([neighbourhood, _join(block, centre) @ item_vectors.T])
        neighbourhood = numpy.partition(candidates, -NEIGHBOURS, axis=0)[-NEIGHBOURS:]
    usual = neighbourhood.mean(axis=0)
    for block in _read_blocks(file):
        yield _join(block, centre) @ item_vectors.T - usual


def _read_blocks(file: Path) -> Iterator[Vectors]:
    """Yield the embeddings of a file in blocks."""
    array = numpy.load(file, mmap_mode="r")
    for start in range(0, len(array), BLOCK_ROWS):
        yield array[start : start + BLOCK_ROWS].astype(numpy.float32)


def _centre(file: Path) -> Vectors:
    """Return the mean embedding of the training rows, shape (2, width).

    A few rows do not show the mean of a language, so the mean of a small corpus is smaller.
    """
    total = numpy.zeros(numpy.load(file, mmap_mode="r").shape[1:], numpy.float32)
    rows = 0
    for block in _read_blocks(file):
        total += block.sum(axis=0)
        rows += len(block)
    centre: Vectors = (total / (rows + NEIGHBOURS)).astype(numpy.float32)
    return centre


def _join(vectors: Vectors, centre: Vectors) -> Vectors:
    """Return one vector per row.

    Its dot product with another one is the mean of the cosines of both parts.
    """
    centred = to_unit(vectors - centre)
    joined: Vectors = centred.reshape(len(vectors), -1) / numpy.float32(numpy.sqrt(2))
    return joined


def nearest(margins: Vectors, smallest: float) -> Nearest:
    """Return the rows that reach the smallest margin, with their best items.

    `margins` has the shape (rows, items).
    """
    best = margins.argmax(axis=1)
    margin = margins[numpy.arange(len(best)), best].astype(numpy.float64)
    rows = numpy.flatnonzero(margin >= smallest)
    return Nearest(rows, best[rows], margin[rows])
