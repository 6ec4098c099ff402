"""Decide which rows stay.

Repetitions leave, and rows that contain items of validation sets or benchmarks leave train. Of two
rows that repeat each other, the row with the lower rank stays (table.py defines ranks).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy

from bula.params import Preprocess
from bula.records import Row
from stages.preprocess.contamination import contamination_evidence, contamination_matrix
from stages.preprocess.conversations import Turns, continued_rows, load_turns, turn_matches
from stages.preprocess.minhash import Flags, Hashes, Indices, is_first_of_run
from stages.preprocess.near_duplicates import (
    Matches,
    concatenate_matches,
    equal_answers,
    equal_questions,
    near_duplicates,
)
from stages.preprocess.runs import SharedRuns, shared_runs
from stages.preprocess.semantic import same_meanings
from stages.preprocess.single_questions import single_matches
from stages.preprocess.table import Corpus, Table
from stages.preprocess.weights import write_weights

# The kinds of repetition, as reasons and evidence name them.
NEAR_QUESTION = "near-duplicate question"
NEAR_TEXT = "near-duplicate text"
SAME_ANSWER = "same answer"
SAME_MEANING = "same meaning"
SAME = (SAME_ANSWER, SAME_MEANING)


class Decision(NamedTuple):
    """The rows that stay, and the items that were found in train."""

    alive: Flags
    """For each rank, whether the row stays; false for benchmark items."""
    refused: dict[int, str]
    """The reason of each row that leaves, by rank."""
    matrix: dict[str, dict[str, int]]
    """For each benchmark and validation set, the counts of items found in train."""
    evidence: list[Row]
    """One record per contaminated training row and item."""


class _Survivors(NamedTuple):
    """The rows that stay so far, and the reason of each row that left."""

    alive: Flags
    refused: dict[int, str]

    def remove(self, rank: int, reason: str) -> None:
        """Remove a row, with the reason."""
        self.alive[rank] = False
        self.refused[rank] = reason


def deduplicate(corpus: Corpus, params: Preprocess) -> Decision:
    """Decide which rows stay and why the others leave."""
    table = corpus.table
    is_benchmark = table.split < table.set_a
    rows = _Survivors(~is_benchmark & ~is_later_piece(table), {})
    _remove_equal_texts(rows, table)
    turns = load_turns(corpus)
    matches = _find_matches(corpus, turns, rows.alive | is_benchmark, params)
    counted = _rows_with_own_answers(table, rows.alive, params.near_duplicates.max_paraphrases)
    runs = shared_runs(corpus, turns, rows.alive, counted, params.contamination)
    before = rows.alive.copy()
    for kind, pairs in matches.items():
        _remove_matches_of_items(rows, table, pairs, kind, params)
    if params.contamination.policy == "remove":
        _remove_shared_runs(rows, table, runs)
    for short, conversation in continued_rows(table, turns, rows.alive):
        rows.remove(short, f"near-duplicate text of {_label(table, conversation)} (its start)")
    _remove_repeated_texts(rows, table, matches[NEAR_TEXT], params.near_duplicates.paraphrases)
    all_matches = concatenate_matches(*matches.values())
    return Decision(
        alive=rows.alive,
        refused=rows.refused,
        matrix=contamination_matrix(table, all_matches, runs, before, rows.alive),
        evidence=contamination_evidence(table, matches, runs),
    )


def _find_matches(
    corpus: Corpus, turns: Turns, comparable: Flags, params: Preprocess
) -> dict[str, Matches]:
    """Return the pairs of rows that repeat each other, by the kind of repetition."""
    table = corpus.table
    settings = params.near_duplicates
    write_weights(corpus.work, corpus.parts + table.set_a, len(table.rank))
    questions = concatenate_matches(
        equal_questions(table, comparable),
        turn_matches(table, turns, "question", comparable),
        near_duplicates(corpus, "question", comparable, settings),
        single_matches(corpus, turns, comparable, settings),
    )
    texts = concatenate_matches(
        turn_matches(table, turns, "text", comparable),
        near_duplicates(corpus, "text", comparable, settings),
    )
    answers = equal_answers(
        table, comparable, params.contamination.run_words, settings.max_paraphrases
    )
    return {
        NEAR_QUESTION: questions,
        NEAR_TEXT: texts,
        SAME_ANSWER: answers,
        SAME_MEANING: same_meanings(corpus, comparable, params),
    }


def is_later_piece(table: Table) -> Flags:
    """Return which rows have the later part of an answer and are outside train.

    Rows are split before all wordings of an answer move to one split. The later part of an answer
    is no reference for the question, so only its first part stays there.
    """
    later: Flags = (table.piece > 0) & (table.split != table.train)
    return later


def first_occurrences(key: Hashes) -> Indices:
    """Return, for each row, the first row with the same key."""
    order = numpy.argsort(key, kind="stable")
    place = numpy.arange(len(key))
    run_start = numpy.where(is_first_of_run(key[order]), place, 0)
    run_start = numpy.maximum.accumulate(run_start)
    first = numpy.empty(len(key), numpy.int64)
    first[order] = order[run_start]
    return first


def _rows_with_own_answers(table: Table, alive: Flags, most: int) -> Flags:
    """Return the alive rows, of each answer only the first one.

    An answer of more than `most` rows is a stock answer, of which all rows are returned.
    Wordings of one question quote their own answer only, which does not make it boilerplate.
    """
    ranks = numpy.flatnonzero(alive)
    answers = table.answer[ranks]
    _, index, rows = numpy.unique(answers, return_inverse=True, return_counts=True)
    is_first = first_occurrences(answers) == numpy.arange(len(ranks))
    counted = numpy.zeros(len(alive), bool)
    counted[ranks[is_first | (rows[index] > most)]] = True
    return counted


def _remove_equal_texts(rows: _Survivors, table: Table) -> None:
    """Remove rows whose text equals an earlier text of the same split.

    Across splits an equal text stays here: it is a near-duplicate of similarity 1, which the
    contamination matrix counts.
    """
    first = first_occurrences(table.text)
    is_repeated = first != numpy.arange(len(first))
    same_split = table.split[first] == table.split
    wanted = is_repeated & same_split & rows.alive
    for rank in numpy.flatnonzero(wanted).tolist():
        label = _label(table, first[rank])
        rows.remove(rank, f"same text as {label}")


def _remove_matches_of_items(
    rows: _Survivors,
    table: Table,
    matches: Matches,
    kind: str,
    params: Preprocess,
) -> None:
    """Remove repetitions of rows in an earlier split.

    Benchmark items are never alive; they remove rows unless the policy is keep.
    """
    policy_removes = params.contamination.policy != "keep"
    for early, late, similarity in _in_rank_order(matches):
        is_benchmark = table.split[early] < table.set_a
        protects = rows.alive[early] or (is_benchmark and policy_removes)
        other_split = table.split[early] != table.split[late]
        if protects and other_split and rows.alive[late]:
            label = _label(table, early)
            word = "as" if kind in SAME else "of"
            rows.remove(late, f"{kind} {word} {label} ({similarity:.2f})")


def _remove_shared_runs(rows: _Survivors, table: Table, runs: SharedRuns) -> None:
    """Remove training rows that contain the text of an item."""
    columns = (runs.rows.tolist(), runs.item.tolist(), runs.share.tolist())
    for rank, item, share in zip(*columns, strict=True):
        if rows.alive[rank]:
            rows.remove(rank, f"contains the text of {_label(table, item)} ({share:.2f})")


def _remove_repeated_texts(
    rows: _Survivors, table: Table, matches: Matches, paraphrases: str
) -> None:
    """Remove near-duplicates of a row that stays in the same split.

    Training rows with one answer are wordings of one question, and `paraphrases` keeps them.
    """
    for early, late, similarity in _in_rank_order(matches):
        both_stay = rows.alive[early] and rows.alive[late]
        same_split = table.split[early] == table.split[late]
        is_wording = table.answer[early] == table.answer[late] and table.split[late] == table.train
        if is_wording and paraphrases == "keep":
            continue
        if both_stay and same_split:
            label = _label(table, early)
            rows.remove(late, f"near-duplicate text of {label} ({similarity:.2f})")


def _in_rank_order(matches: Matches) -> Iterator[tuple[int, int, float]]:
    """Yield (early, late, similarity) in the order of the later rank.

    Pairs with the same later rank are in the order of the earlier rank.
    """
    order = numpy.lexsort((matches.early, matches.late))
    columns = [column[order].tolist() for column in matches]
    yield from zip(*columns, strict=True)


def _label(table: Table, rank: int) -> str:
    """Return a row's id and split, as reasons name it."""
    name = table.names[table.split[rank]]
    return f"{int(table.id[rank]):016x} in {name}"
