"""Find the text of items in training rows by shared runs.

One shared run proves nothing: a disclaimer, the title of a guideline and a proverb are longer than
13 words. So a run that many rows contain does not count, unless the complete text of an item is as
frequent: then the rows quote it. The runs that count must cover nearly the complete question or
answer of an item, or most of a long item. Llama 2 (Touvron et al. 2023, section A.6) measures the
same share.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from bula.params import Contamination
from bula.records import turn_texts
from stages.preprocess.conversations import Turns
from stages.preprocess.minhash import Flags, Hashes, Indices, ngram_hashes, word_hashes
from stages.preprocess.parts import full_text
from stages.preprocess.shards import each
from stages.preprocess.table import Corpus, Table, rows_at

# Items that are hashed at once.
BATCH_ITEMS = 20_000
# Each turn has two texts: its question, and its answer or all other texts of a benchmark item.
FIELDS = 2
# Share of a long item that its covered words must exceed.
MOST = 0.5
# Boilerplate stands in so many times the rows of the rarest run of a text that rows quote.
MORE_ROWS = 4
# A long answer of a validation set that stands in more rows is a stock answer.
QUOTING_ROWS = 50
Shares = NDArray[numpy.float64]


class RunIndex(NamedTuple):
    """All word runs of the items' texts."""

    hashes: Hashes
    """The distinct runs, sorted by hash."""
    run: Indices
    """For each occurrence, the index of the run."""
    text: Indices
    """For each occurrence, the index of the text."""
    place: Indices
    """For each occurrence, the place of its first word among the words of all texts."""
    offsets: Indices
    """The place of the first word of each text, and the number of all words."""


class Cover(NamedTuple):
    """Pairs of a training row and an item's text, one array per column."""

    row: Indices
    text: Indices
    covered: Indices
    """Words of the text that the shared runs cover, without boilerplate."""


class SharedRuns(NamedTuple):
    """The training rows that contain the text of an item."""

    rows: Indices
    """The rank of each row, ascending."""
    sets: Indices
    """For each row, the sets as bits."""
    item: Indices
    """For each row, the rank of the first item."""
    share: Shares
    """For each row, the covered share of that item's question or other text."""
    items: Indices
    """The ranks of all items that were found."""


def shared_runs(
    corpus: Corpus, turns: Turns, alive: Flags, counted: Flags, settings: Contamination
) -> SharedRuns:
    """Return the training rows that contain the text of an item.

    The rows `counted` decide which runs are boilerplate. Items are all rows of benchmarks, and the
    alive rows of A to E. Each turn of a conversation is searched by itself, because only the last
    answer is scored.
    """
    table = corpus.table
    is_benchmark = table.split < table.set_a
    is_item = table.split < table.dev
    items = numpy.flatnonzero(is_item & (alive | is_benchmark))
    index = index_runs(_item_texts(corpus, items), settings.run_words)
    numpy.save(corpus.work / "runs.npy", index.hashes)
    parts = list(range(corpus.parts))
    size = settings.run_words
    list(each(corpus.pool, scan_part, parts, corpus.work, size, what="shared runs"))
    frequency = _row_frequency(corpus, counted, len(index.hashes))
    turn_counts = numpy.bincount(turns.rank, minlength=len(table.rank))[items]
    owner = numpy.repeat(numpy.arange(len(items)), FIELDS * numpy.maximum(turn_counts, 1))
    most = most_rows(index, frequency, is_benchmark[items[owner]], settings)
    is_own = frequency[index.run] <= most[index.text]
    is_train = alive & (table.split == table.train)
    is_wanted = numpy.zeros(len(index.hashes), bool)
    is_wanted[index.run[is_own]] = True
    rows, runs = _found_runs(corpus, is_train, is_wanted)
    own = _own_words(index, is_own, size)
    cover = cover_texts(_select(index, is_own), own, rows, runs, size)
    return _items_found(table, items, owner, cover, _word_counts(index, own), settings)


def _item_texts(corpus: Corpus, ranks: Indices) -> Iterator[list[str]]:
    """Yield the texts of items in batches.

    The order is question, answer, question of the next turn and so on.
    """
    for start in range(0, len(ranks), BATCH_ITEMS):
        texts = []
        for row in rows_at(corpus.table, corpus.work, ranks[start : start + BATCH_ITEMS]):
            texts += turn_texts(row["example"])
        yield texts


def index_runs(batches: Iterable[list[str]], size: int) -> RunIndex:
    """Index all runs of `size` words of texts, which come in batches."""
    hash_parts = [numpy.empty(0, numpy.uint64)]
    text_parts = [numpy.empty(0, numpy.int64)]
    length_parts = [numpy.empty(0, numpy.int64)]
    first = 0
    for texts in batches:
        flat, offsets = word_hashes(texts)
        hashes, owner = ngram_hashes(flat, offsets, size)
        hash_parts.append(hashes)
        text_parts.append(owner + first)
        length_parts.append(numpy.diff(offsets))
        first += len(texts)
    text = numpy.concatenate(text_parts)
    distinct, run = numpy.unique(numpy.concatenate(hash_parts), return_inverse=True)
    offsets = numpy.concatenate([[0], numpy.cumsum(numpy.concatenate(length_parts))])
    # The runs of a text begin at its first word, its second word and so on.
    first_run = numpy.searchsorted(text, text)
    place = offsets[text] + numpy.arange(len(text)) - first_run
    return RunIndex(distinct, run, text, place, offsets)


def find_sorted(hashes: Hashes, known: Hashes) -> Indices:
    """Return the index of each hash among the sorted known hashes.

    The index of an unknown hash is -1.
    """
    if not len(known):
        return numpy.full(len(hashes), -1)
    place = numpy.searchsorted(known, hashes)
    place = numpy.minimum(place, len(known) - 1)
    return numpy.where(known[place] == hashes, place, -1)


def scan_part(number: int, work: Path, size: int) -> None:
    """Write the indexed runs in the rows of one part to NUMBER.runs.npy.

    The index is read from runs.npy. The result has the shape (2, pairs): the number of the row in
    the part, and the index of the run, each pair once.
    """
    known = numpy.load(work / "runs.npy", mmap_mode="r")
    with (work / f"{number}.jsonl").open("rb") as file:
        texts = [full_text(json.loads(line)["example"]) for line in file]
    flat, offsets = word_hashes(texts)
    hashes, row = ngram_hashes(flat, offsets, size)
    run = find_sorted(hashes, known)
    is_known = run >= 0
    count = max(1, len(known))
    codes = numpy.unique(row[is_known] * count + run[is_known])
    numpy.save(work / f"{number}.runs.npy", numpy.stack(numpy.divmod(codes, count)))


def _runs_of_parts(corpus: Corpus, alive: Flags) -> Iterator[tuple[Indices, Indices]]:
    """Yield the ranks of alive rows and the runs that `scan_part` found there."""
    table = corpus.table
    row_counts = numpy.bincount(table.part, minlength=corpus.parts)
    offsets = numpy.concatenate([[0], numpy.cumsum(row_counts)])
    for number in range(corpus.parts):
        row, run = numpy.load(corpus.work / f"{number}.runs.npy")
        rank = table.rank[offsets[number] + row]
        is_alive = alive[rank]
        yield rank[is_alive], run[is_alive]


def _row_frequency(corpus: Corpus, counted: Flags, runs: int) -> Indices:
    """Return the number of counted rows of all splits that contain each run."""
    frequency = numpy.zeros(runs, numpy.int64)
    for _, run in _runs_of_parts(corpus, counted):
        frequency += numpy.bincount(run, minlength=runs)
    return frequency


def most_rows(
    index: RunIndex, frequency: Indices, is_benchmark: Flags, settings: Contamination
) -> Indices:
    """Return for each text the most rows with a run without boilerplate.

    If each found run of a text stands in more than `max_run_rows` rows, rows quote the text, and
    its boilerplate stands in still more rows. This holds for the texts of benchmarks. In a
    validation set it holds for long texts in few rows, because the rows of one source may share a
    stock answer.
    """
    largest = numpy.iinfo(numpy.int64).max
    fewest = numpy.full(len(index.offsets) - 1, largest)
    # No row has a run in which the rest of a text meets its boilerplate.
    in_rows = frequency[index.run] > 0
    numpy.minimum.at(fewest, index.text[in_rows], frequency[index.run[in_rows]])
    fewest[fewest == largest] = 0
    is_long = numpy.diff(index.offsets) >= settings.passage_words
    is_quoted = is_benchmark | (is_long & (fewest <= QUOTING_ROWS))
    is_quoted &= fewest > settings.max_run_rows
    return numpy.where(is_quoted, MORE_ROWS * fewest, settings.max_run_rows)


def _select(index: RunIndex, wanted: Flags) -> RunIndex:
    """Return the index without the other occurrences."""
    return index._replace(run=index.run[wanted], text=index.text[wanted], place=index.place[wanted])


def _found_runs(corpus: Corpus, is_train: Flags, is_wanted: Flags) -> tuple[Indices, Indices]:
    """Return the ranks of training rows and the wanted runs in them."""
    ranks = [numpy.empty(0, numpy.int64)]
    runs = [numpy.empty(0, numpy.int64)]
    for rank, run in _runs_of_parts(corpus, is_train):
        ranks.append(rank[is_wanted[run]])
        runs.append(run[is_wanted[run]])
    return numpy.concatenate(ranks), numpy.concatenate(runs)


def _own_words(index: RunIndex, is_own: Flags, size: int) -> Flags:
    """Return for each word of the items whether no boilerplate covers it.

    `is_own` says which occurrences of runs are no boilerplate.
    """
    frequent = index.place[~is_own]
    change = numpy.zeros(index.offsets[-1] + 1, numpy.int64)
    numpy.add.at(change, frequent, 1)
    numpy.add.at(change, frequent + size, -1)
    own: Flags = numpy.cumsum(change)[:-1] == 0
    return own


def _word_counts(index: RunIndex, own: Flags) -> Indices:
    """Return the number of each text's own words."""
    before = numpy.concatenate([[0], numpy.cumsum(own)])
    return numpy.diff(before[index.offsets])


def cover_texts(index: RunIndex, own: Flags, rows: Indices, runs: Indices, size: int) -> Cover:
    """Count the own words of each text that one row covers.

    `rows` and `runs` are pairs of a training row and a run in it.
    """
    order = numpy.argsort(index.run, kind="stable")
    occurrences = numpy.bincount(index.run, minlength=len(index.hashes))
    first = numpy.cumsum(occurrences) - occurrences
    repeats = occurrences[runs]
    step = numpy.arange(repeats.sum()) - numpy.repeat(numpy.cumsum(repeats) - repeats, repeats)
    found = order[numpy.repeat(first[runs], repeats) + step]
    row = numpy.repeat(rows, repeats)
    text = index.text[found]
    place = index.place[found]
    in_order = numpy.lexsort((place, text, row))
    row, text, place = row[in_order], text[in_order], place[in_order]
    is_first = numpy.ones(len(row), bool)
    is_first[1:] = (row[1:] != row[:-1]) | (text[1:] != text[:-1])
    # A run covers its words up to the start of the next run in the same text.
    end = place + size
    same_text = ~is_first[1:]
    end[:-1] = numpy.where(same_text, numpy.minimum(end[:-1], place[1:]), end[:-1])
    before = numpy.concatenate([[0], numpy.cumsum(own)])
    starts = numpy.flatnonzero(is_first)
    covered = numpy.zeros(0, numpy.int64)
    if len(starts):
        covered = numpy.add.reduceat(before[end] - before[place], starts)
    return Cover(row[starts], text[starts], covered)


def _items_found(
    table: Table,
    items: Indices,
    owner: Indices,
    cover: Cover,
    words: Indices,
    settings: Contamination,
) -> SharedRuns:
    """Return the rows that cover enough of an item.

    `owner` and `words` have the index of the item and the number of own words of each text.
    """
    share = cover.covered / numpy.maximum(words[cover.text], 1)
    is_text = (cover.covered >= settings.run_words) & (share >= settings.min_share)
    item = owner[cover.text]
    item_words = numpy.zeros(len(items), numpy.int64)
    numpy.add.at(item_words, owner, words)
    is_item = _covers_most(cover, item, item_words[item], settings.passage_words)
    found = is_text | is_item
    row, item, share = cover.row[found], item[found], share[found]
    rows, first, index = numpy.unique(row, return_index=True, return_inverse=True)
    sets = numpy.zeros(len(rows), numpy.int64)
    bits = numpy.left_shift(1, table.split[items[item]].astype(numpy.int64))
    numpy.bitwise_or.at(sets, index, bits)
    return SharedRuns(rows, sets, items[item[first]], share[first], items[numpy.unique(item)])


def _covers_most(cover: Cover, item: Indices, words: Indices, passage_words: int) -> Flags:
    """Return for each pair whether the row covers most of a long item.

    `words` has the number of the item's words.
    """
    first = numpy.ones(len(item), bool)
    first[1:] = (cover.row[1:] != cover.row[:-1]) | (item[1:] != item[:-1])
    pair = numpy.cumsum(first) - 1
    covered = numpy.bincount(pair, weights=cover.covered)[pair] if len(pair) else cover.covered
    found: Flags = (covered >= passage_words) & (covered > MOST * words)
    return found
