"""Store each verdict in a ledger, so no call is paid twice.

Two files lie side by side: verdicts, and the cost of calls that failed. A failure is never read as
a verdict, so a later run asks again.
"""

import asyncio
import fcntl
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from bula.errors import UserError
from bula.files import sha256_values
from bula.judge_limits import UNUSED, Prices, Usage, missing, prices_of, to_usd, total
from bula.judge_outcomes import Failure, Outcome
from bula.judge_prompt import Message, Verdict, verdict_schema
from bula.params import Judge
from bula.records import Row, json_line

LEDGER = Path(".bula/ledger.jsonl")
FAILURES = "judge_failures.jsonl"
DIALECTS = "judge_dialects.json"
LOCK = "judge.lock"
MARK = "judge_mark.json"
VERSION = 2

Verdicts = dict[str, Verdict]
Write = Callable[[Path, Row], None]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Entry(BaseModel):
    """The fields of a ledger line that a later run needs.

    Lines of version 1 have neither a version nor a usage, and their keys match no prompt of today.
    """

    version: Literal[1, 2] = 1
    key: str
    judge: str
    verdict: Verdict
    usage: Usage = UNUSED
    usd: Dollars | None = None
    """The price when the call was made; None in lines of earlier versions."""


class FailedCall(BaseModel):
    """The cost of a call without a verdict."""

    judge: str
    usage: Usage
    usd: Dollars | None = None
    """The price when the call was made; None in lines of earlier versions."""


class StoredMark(BaseModel):
    """The largest usage that the ledger may have after a run."""

    judge: str
    usage: Usage
    prices: Prices | None = None
    """The prices of the run; None in marks of earlier versions."""


class BatchLine(BaseModel):
    """The key and the batch of a line of either file."""

    key: str
    batch: str


class PulledVerdict(BaseModel):
    """The fields of a row of data/verdicts that form a verdict."""

    key: str
    reason: str
    accuracy: Literal[1, 2, 3] | None
    style: Literal[1, 2, 3] | None

    @model_validator(mode="after")
    def _has_reason(self) -> Self:
        if not self.reason:
            raise ValueError("the verdict has no reason")
        return self


class Known(NamedTuple):
    """Verdicts and usage of earlier runs in the ledger."""

    verdicts: Verdicts
    """Verdicts by key."""
    spent: Usage
    """Tokens of all recorded calls to this judge."""
    usd: float
    """US dollars that these calls cost when they were made, as far as it is recorded."""
    unpriced: int
    """Lines of this judge that record no price."""
    unpriced_usage: Usage
    """Tokens of these lines."""
    skipped: int
    """Lines that could not be read."""


def ledger_key(identity: str, messages: list[Message], settings: Judge, repeat: int = 0) -> str:
    """Return the hash of everything that shapes a verdict, and of nothing else.

    `identity` is the hash of a local judge's model file, or an empty text. The address of a server
    and the token limit do not shape a verdict: a reply that the limit cuts is no verdict.
    `repeat` counts earlier questions with the same prompt that need verdicts of their own.
    """
    schema = verdict_schema(settings)
    repeats = [repeat] if repeat else []
    return sha256_values(VERSION, identity, settings.model, messages, schema, *repeats)


def verdict_line(key: str, judge: str, verdict: Verdict, usage: Usage, usd: float) -> Row:
    """Return the ledger line of one verdict."""
    return {
        "version": VERSION,
        "key": key,
        "judge": judge,
        "verdict": verdict.model_dump(),
        "usage": usage,
        "usd": usd,
    }


def failure_line(key: str, judge: str, reason: str, usage: Usage, usd: float | None) -> Row:
    """Return the line of one failed call, without any text of the server."""
    return {
        "version": VERSION,
        "key": key,
        "judge": judge,
        "failed": reason,
        "usage": usage,
        "usd": usd,
    }


def ledger_line(key: str, outcome: Outcome, settings: Judge, ledger: Path) -> tuple[Path, Row]:
    """Return the file and the line in which one outcome is kept."""
    result, usage, usd = outcome
    if isinstance(result, Failure):
        failures = ledger.with_name(FAILURES)
        return failures, failure_line(key, settings.model, result.reason, usage, usd)
    return ledger, verdict_line(key, settings.model, result, usage, usd)


def read_ledger(path: Path, judge: str) -> Known:
    """Return what the ledger knows.

    Lines that are damaged or of another schema are skipped and counted. The tokens and the money
    are those of `judge`.
    """
    verdicts = {}
    calls: list[Entry | FailedCall] = []
    skipped = 0
    for line in _read_lines(path):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError:
            skipped += 1
            continue
        verdicts[entry.key] = entry.verdict
        if entry.judge == judge:
            calls.append(entry)
    calls += _read_failures(path.with_name(FAILURES), judge)
    unpriced = [call.usage for call in calls if call.usd is None]
    return Known(
        verdicts,
        spent=total([call.usage for call in calls]),
        usd=math.fsum(call.usd for call in calls if call.usd is not None),
        unpriced=len(unpriced),
        unpriced_usage=total(unpriced),
        skipped=skipped,
    )


def spent_usd(known: Known, settings: Judge) -> float:
    """Return the money of all recorded calls to a judge, in US dollars.

    Each call has the price of its time. Calls without a recorded price have today's price.
    """
    return known.usd + to_usd(known.unpriced_usage, prices_of(settings))


def keys_of_batch(path: Path, batch: str) -> set[str]:
    """Return the keys of the lines that one batch left in a file."""
    keys = set()
    for line in _read_lines(path):
        try:
            found = BatchLine.model_validate_json(line)
        except ValidationError:
            continue
        if found.batch == batch:
            keys.add(found.key)
    return keys


def _read_failures(path: Path, judge: str) -> list[FailedCall]:
    """Return all failed calls to a judge."""
    calls = []
    for line in _read_lines(path):
        try:
            call = FailedCall.model_validate_json(line)
        except ValidationError:
            continue
        if call.judge == judge:
            calls.append(call)
    return calls


def _read_lines(path: Path) -> list[bytes]:
    """Return the lines of a file; a missing file has none."""
    if not path.exists():
        return []
    return path.read_bytes().splitlines()


def read_pulled(folder: Path) -> Verdicts:
    """Return the verdicts in the pipeline's outputs, which another machine may have paid.

    Rows without a verdict are skipped: failed calls, and rows of earlier versions.
    """
    verdicts = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in _read_lines(path):
            try:
                row = PulledVerdict.model_validate_json(line)
            except ValidationError:
                continue
            verdicts[row.key] = Verdict(reason=row.reason, accuracy=row.accuracy, style=row.style)
    return verdicts


@contextmanager
def lock_ledger(path: Path) -> Iterator[None]:
    """Hold the lock of a ledger, and wait while another process holds it.

    The lock ends with the process, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("judge: waiting for another run that uses the judge", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_mark(ledger: Path, judge: str, usage: Usage, prices: Prices) -> None:
    """Keep the largest usage that the ledger may have after this run.

    `prices` are those of this run. The file is written often, and must survive a killed process
    only, so it is replaced at once and not fsynced.
    """
    path = ledger.with_name(MARK)
    temporary = path.with_suffix(".tmp")
    marked = StoredMark(judge=judge, usage=usage, prices=prices)
    temporary.write_text(marked.model_dump_json(), encoding="utf-8")
    temporary.replace(path)


def settle_mark(ledger: Path) -> None:
    """Add the unrecorded cost of a killed run to the ledger.

    The calls have the prices of that run. Raise UserError if the mark is damaged, because the cost
    is then unknown.
    """
    path = ledger.with_name(MARK)
    if not path.exists():
        return
    try:
        marked = StoredMark.model_validate_json(path.read_bytes())
    except ValidationError:
        what = "it is damaged, so calls of a killed run may be missing from the ledger"
        fix = (
            "look up at your provider what they cost, lower judge.max_usd by that, and delete "
            "this file"
        )
        raise UserError(path, what, fix) from None
    lost = missing(marked.usage, read_ledger(ledger, marked.judge).spent)
    if lost != UNUSED:
        usd = None if marked.prices is None else to_usd(lost, marked.prices)
        line_of_calls = failure_line("", marked.judge, "Killed", lost, usd)
        append_rows(ledger.with_name(FAILURES), [line_of_calls])
    clear_mark(ledger)


def clear_mark(ledger: Path) -> None:
    """Remove the mark, because the ledger has all calls."""
    ledger.with_name(MARK).unlink(missing_ok=True)


@asynccontextmanager
async def ledger_writer() -> AsyncIterator[Write]:
    """Yield a function that appends a line to a file without blocking the calls.

    A thread writes and fsyncs the lines that have arrived. All lines are on the disk when the
    block ends. A failed write is raised by the next line, so that no further call is paid.
    """
    queue: asyncio.Queue[tuple[Path, Row] | None] = asyncio.Queue()
    writing = asyncio.create_task(_write_lines(queue))

    def write(path: Path, row: Row) -> None:
        if writing.done():
            writing.result()
        queue.put_nowait((path, row))

    try:
        yield write
    finally:
        queue.put_nowait(None)
        await writing


async def _write_lines(queue: "asyncio.Queue[tuple[Path, Row] | None]") -> None:
    """Write the lines of a queue until it contains None."""
    ended = False
    while not ended:
        items = [await queue.get()]
        while not queue.empty():
            items.append(queue.get_nowait())
        ended = None in items
        by_path: dict[Path, list[Row]] = {}
        for item in items:
            if item is not None:
                by_path.setdefault(item[0], []).append(item[1])
        for path, rows in by_path.items():
            await asyncio.to_thread(append_rows, path, rows)


def append_rows(path: Path, rows: list[Row]) -> None:
    """Append objects to a JSON Lines file, and fsync it.

    A last line that a full disk cut short is ended first, so that it damages no further line.
    Raise OSError if the disk takes only a part of the objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json_line(row) for row in rows)
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                text = "\n" + text
        left = text.encode()
        while left:
            # A nearly full disk takes a part without an error, and refuses the next write.
            left = left[file.write(left) :]
        os.fsync(file.fileno())
