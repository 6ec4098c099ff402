"""Observe the rows of a source: unread columns, repeated questions, dropped cells."""

from collections import Counter
from typing import NamedTuple

from bula.errors import UserError
from bula.params import ChatColumns, Columns, Tabular
from bula.records import Row
from stages.ingest.advice import flow, short_names
from stages.ingest.cells import is_empty, mapped_columns, question_columns

# Rows and columns whose values are compared. More rows would only cost memory.
COMPARED_ROWS = 10_000
MOST_COLUMNS = 200
# A column with fewer words in every cell has names or codes and no text.
TEXT_WORDS = 3
# With as many rows for each different question, an unread column may be the question.
ROWS_PER_QUESTION = 20
# The meaning of each count.
LEFT_OUT = {
    "answers_left_out": "further answers were left out; `answers: each` makes each a row",
    "delimiters_in_text": "rows have a delimiter without quotes, which a space marks as text",
    "merged_cells": "rows took the value of a merged cell that starts in a row above",
    "kind_not_text": "cells of `kind` are no text and were left out",
    "specialty_not_text": "cells of `specialty` are no text and were left out",
}


class Survey(NamedTuple):
    """The observations about the rows of one source."""

    unread: dict[str, set[int]]
    """Hashes of the different texts of each column that no key of `columns` reads."""
    texts: set[str]
    """The unread columns with texts of several words."""
    questions: set[int]
    """Hashes of the different questions."""
    counts: Counter[str]
    """Compared rows (`compared`), and cells and answers that were left out."""

    def notes(self) -> list[str]:
        """Return the sentences about this source for the terminal."""
        notes = []
        if self.unread:
            names = short_names(list(self.unread))
            notes.append(f"no key of `columns` reads these columns of the file: {names}")
        for name, count in left_out(self).items():
            notes.append(f"{count} {LEFT_OUT[name]}")
        return notes


def new_survey() -> Survey:
    """Return a survey of no rows."""
    return Survey({}, set(), set(), Counter())


def left_out(survey: Survey) -> dict[str, int]:
    """Return the number of cells and answers that were left out, by kind."""
    counts = {name: count for name, count in survey.counts.items() if name != "compared"}
    return dict(sorted(counts.items()))


def observe_names(survey: Survey, source: Tabular, names: list[str]) -> None:
    """Add the columns of a file that the source does not read."""
    read = {*mapped_columns(source.columns), *source.filter}
    roots = {column.split(".")[0] for column in read}
    for name in names:
        if name not in read and name not in roots and len(survey.unread) < MOST_COLUMNS:
            survey.unread.setdefault(name, set())


def observe_row(survey: Survey, source: Tabular, row: Row, mapped: Row) -> None:
    """Add a row of a file, and the row that it was mapped to."""
    observe_names(survey, source, [name for name in row if name not in survey.unread])
    if survey.counts["compared"] >= COMPARED_ROWS:
        return
    survey.counts["compared"] += 1
    survey.questions.add(hash(mapped.get("question")))
    observe_texts(survey, row)


def observe_texts(survey: Survey, row: Row) -> None:
    """Add the texts of a row's unread columns."""
    for name, values in survey.unread.items():
        value = row.get(name)
        if isinstance(value, str) and not is_empty(value):
            values.add(hash(value))
            if len(value.split()) >= TEXT_WORDS:
                survey.texts.add(name)


def check_questions(survey: Survey, source: Tabular) -> None:
    """Raise UserError if nearly all rows ask the same, but an unread column differs."""
    if isinstance(source.columns, ChatColumns):
        return
    rows = survey.counts["compared"]
    if rows < 2 or len(survey.questions) > max(1, rows // ROWS_PER_QUESTION):
        return
    fewest = 1 if len(survey.questions) == 1 else rows // 2
    others = [name for name in survey.texts if len(survey.unread[name]) > fewest]
    if not others:
        return
    richest = max(sorted(others), key=lambda name: len(survey.unread[name]))
    what = (
        f"its {rows} rows have {len(survey.questions)} different questions, and column "
        f"{short_names([richest])}, which no key of `columns` reads, has "
        f"{len(survey.unread[richest])} texts"
    )
    fix = f"write columns: {_with_question(source.columns, richest)} in params.yaml, "
    raise UserError(f"source {source.name}", what, fix + "or remove that column from the file")


def _with_question(columns: Columns, column: str) -> str:
    """Return the entry `columns` with one more column in the question."""
    entry = columns.model_dump(exclude_defaults=True)
    entry["question"] = [*question_columns(columns), column]
    return flow(entry)
