"""Show a refused row and the row that decided against it.

Run `python -m bula why file-001.csv:12`.
"""

import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Annotated

import typer

from bula.errors import UserError
from bula.escaping import terminal
from bula.records import Row, example_id, read_rows, turn_texts
from bula.text import strings, words

QUARANTINE = Path("data/quarantine.jsonl")
RAW = Path("data/raw")
BENCHMARKS = Path("data/benchmarks")
# Refused rows that one call shows.
MOST_ROWS = 5
# Fields of a raw row that say where it comes from.
ORIGIN = ("source", "license", "file", "line", "split")
# A file of data/raw or data/benchmarks, and the source's file and line.
Key = tuple[Path, str, int]
NOTE = "These rows are shown as they came, with any personal data. Keep them on this machine."


def refusals(place: str, source: str) -> list[Row]:
    """Return the quarantine records of an id or place.

    If no refused row has the id, return the records of the rows against which it decided. Raise
    UserError if there is no record.
    """
    own = []
    decided = []
    for record in read_rows(QUARANTINE):
        if source and record["source"] != source:
            continue
        if place in (record["id"], f"{record['file']}:{record['line']}"):
            own.append(record)
        elif record.get("decided_by", {}).get("id") == place:
            decided.append(record)
    if not own and not decided and not QUARANTINE.stat().st_size:
        what = "it is empty, because no row was refused"
        raise UserError(QUARANTINE, what, "look for the row in data/clean")
    if not own and not decided:
        where = f"{QUARANTINE} of source {source}" if source else QUARANTINE
        what = f"no refused row has the id or place {place}"
        raise UserError(where, what, f"take an `id`, or `file`:`line`, from {QUARANTINE}")
    return own or decided


def origin_path(origin: Row) -> Path:
    """Return the file of data/raw or data/benchmarks with the rows of an origin."""
    if "source" in origin:
        return RAW / f"{origin['source']}.jsonl"
    return BENCHMARKS / str(origin["file"])


def origin_key(origin: Row) -> Key:
    """Return the file of an origin here, its own file and its line."""
    return origin_path(origin), origin["file"], origin["line"]


def read_origins(origins: list[Row]) -> dict[Key, list[Row]]:
    """Return the rows of each origin. Each file is read once.

    Raise UserError if an origin has no row.
    """
    found: dict[Key, list[Row]] = {origin_key(origin): [] for origin in origins}
    for path in sorted({path for path, _, _ in found}):
        for line, row in enumerate(read_rows(path), start=1):
            # A benchmark item does not state its place.
            key = (path, row.get("file", path.name), row.get("line", line))
            if key in found:
                found[key].append(row)
    for (path, file, line), rows in found.items():
        if not rows:
            what = f"it has no row {file}:{line}, which {QUARANTINE} names"
            raise UserError(path, what, "run `dvc repro preprocess`")
    return found


def rows_of(origin: Row, found: dict[Key, list[Row]]) -> list[Row]:
    """Return the row of an origin, or all rows of its place.

    One row of a file may become several. If cleaning changed the id, all of them are returned.
    """
    rows = found[origin_key(origin)]
    name = origin.get("source", "")
    return [row for row in rows if example_id(name, *turn_texts(row)) == origin["id"]] or rows


def label(origin: Row) -> str:
    """Return one line with the source, set, place and id of a row."""
    source = f"source {origin['source']}" if "source" in origin else "benchmark"
    parts = [source, f"{origin['file']}:{origin['line']}", f"id {origin['id']}"]
    if "set" in origin:
        parts.insert(0, f"in {origin['set']}")
    return ", ".join(parts)


def field_lines(row: Row) -> Iterator[str]:
    """Yield the texts of a row, one line per field."""
    if "refused" in row:
        yield "  could not be read, so its words are only in the source's own file"
        return
    for turn in row.get("history") or []:
        yield f"  question: {turn['question']}"
        yield f"  answer: {turn['answer']}"
    first = [name for name in ("question", "answer") if name in row]
    others = sorted(row.keys() - {*first, *ORIGIN, "history"})
    for name in first + others:
        yield f"  {name}: {row[name]}"


def full_text(row: Row, origin: Row) -> str:
    """Return all words of a row in their order."""
    if "source" in origin:
        return " ".join(turn_texts(row))
    return " ".join(strings(row))


def longest_run(one: str, other: str) -> str:
    """Return the longest run of words that two texts share, ignoring case and accents."""
    mine = words(one)
    keys = [_without_accents(word) for word in mine]
    other_keys = [_without_accents(word) for word in words(other)]
    matcher = SequenceMatcher(None, keys, other_keys, autojunk=False)
    match = matcher.find_longest_match()
    return " ".join(mine[match.a : match.a + match.size])


def _without_accents(word: str) -> str:
    """Return a word without accents."""
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign))


def explanation(record: Row, found: dict[Key, list[Row]]) -> Iterator[str]:
    """Yield the lines on a refused row, its reason and the deciding row."""
    yield f"refused: {label(record)}"
    yield f"reason: {record['reason']}"
    rows = rows_of(record, found)
    for row in rows:
        yield from field_lines(row)
    decider = record.get("decided_by")
    if decider is None:
        yield "No other row decided."
        return
    yield f"decided by: {label(decider)}"
    others = rows_of(decider, found)
    for row in others:
        yield from field_lines(row)
    run = longest_run(full_text(rows[0], record), full_text(others[0], decider))
    yield f"longest run of words in both ({len(run.split())}): {run}"


def why(
    place: Annotated[str, typer.Argument(help="An id or FILE:LINE of data/quarantine.jsonl.")],
    source: Annotated[str, typer.Option(help="Only rows of this source.")] = "",
) -> None:
    """Show a refused row, the reason, and the row that decided against it.

    The command reads data/raw and data/benchmarks on this machine, and writes nothing.
    """
    records = refusals(place, source)
    shown = records[:MOST_ROWS]
    deciders = [record["decided_by"] for record in shown if "decided_by" in record]
    found = read_origins(shown + deciders)
    print(NOTE)
    for record in shown:
        print()
        for line in explanation(record, found):
            print(terminal(line, lines=True))
    if len(records) > MOST_ROWS:
        more = len(records) - MOST_ROWS
        print(f"\n{more} more refused rows have this id, place or deciding row.")
