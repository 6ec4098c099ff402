"""Ask the judge by OpenAI's Batch API, at half the price.

A batch is paid once: its id stays in .bula/judge_batches.json until its verdicts are in the ledger,
so a run after a killed one continues to wait for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from bula.errors import UserError
from bula.judge_client import (
    FIRST_WAIT,
    Failure,
    Outcome,
    connect,
    may_be_billed,
    read_reply,
    status_failure,
)
from bula.judge_dialects import (
    FIRST,
    Dialect,
    next_dialect,
    read_dialect,
    record_dialect,
    to_request,
)
from bula.judge_ledger import (
    DIALECTS,
    append_rows,
    keys_of_batch,
    ledger_line,
    read_ledger,
)
from bula.judge_limits import UNUSED, Usage, to_usd, total, worst_case
from bula.judge_pending import (
    BATCHES,
    Identity,
    Pending,
    pending_usage,
    read_pending,
    write_pending,
)
from bula.judge_prompt import Message, Verdict
from bula.judge_words import server_words
from bula.params import Judge
from bula.records import Row
from bula.serving import Endpoint

if TYPE_CHECKING:
    import openai

ADDRESS: Final = "/v1/chat/completions"
# The only window that OpenAI offers.
WINDOW: Final = "24h"
# OpenAI's limits of one file: https://platform.openai.com/docs/guides/batch
MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
# A larger line of an output file holds more than a reply.
BYTES_PER_REPLY = 65_536
# Seconds before the second look at a batch. Each further wait is longer.
FIRST_POLL = 5.0
POLL_GROWTH = 1.5
LONGEST_POLL = 600.0
# A file of 200 MB may be slow; a connection that stalls ends by `judge.timeout_seconds`.
TRANSFER_SECONDS = 3600
# Batches of an account that are searched for one whose id was not recorded.
MOST_LISTED = 1000
FINAL = ("completed", "expired", "cancelled", "failed")
# Codes of requests that OpenAI did not run and does not bill.
NOT_RUN = {"batch_expired": "Expired", "batch_cancelled": "Cancelled"}
# Statuses of a refusal that may name a field.
REFUSED_FIELDS = ("HTTP400", "HTTP422")


class Counts(BaseModel):
    """The number of requests that have ended."""

    model_config = ConfigDict(from_attributes=True)

    completed: int = 0
    failed: int = 0


class State(BaseModel):
    """The part of a batch's description that is used."""

    model_config = ConfigDict(from_attributes=True)

    id: Identity
    status: str
    input_file_id: str
    output_file_id: Identity | None = None
    error_file_id: Identity | None = None
    request_counts: Counts | None = None
    errors: Any = None


class ItemResponse(BaseModel):
    """The response to one request."""

    status_code: int
    body: Any = None


class ItemError(BaseModel):
    """Why one request has no response."""

    code: str | None = None
    message: str | None = None


class Item(BaseModel):
    """One line of an output file or an error file."""

    custom_id: str
    response: ItemResponse | None = None
    error: ItemError | None = None


class Run(NamedTuple):
    """Objects that all steps share."""

    client: openai.AsyncOpenAI
    settings: Judge
    prompts: dict[str, list[Message]]
    ledger: Path

    @property
    def record(self) -> Path:
        """Return the file of pending batches."""
        return self.ledger.with_name(BATCHES)


Outcomes = dict[str, Outcome]


async def ask_by_batch(
    endpoint: Endpoint, prompts: dict[str, list[Message]], settings: Judge, ledger: Path
) -> Outcomes:
    """Return the outcome of each prompt, and append each to the ledger.

    Pending batches of earlier runs are finished first, and their outcomes are part of the result.
    Raise UserError if the server refuses the batch, or if its worst case exceeds `judge.max_usd`.
    """
    pending = _own_pending(ledger.with_name(BATCHES), settings)
    if not prompts and not pending:
        return {}
    sizes = [len(batch.worst) for batch in pending]
    largest = max([*sizes, min(len(prompts), MOST_REQUESTS)])
    most = max(settings.max_reply_bytes, largest * BYTES_PER_REPLY)
    wide = settings.model_copy(update={"max_reply_bytes": most})
    async with connect(endpoint, wide) as client:
        return await _ask_in_rounds(Run(client, settings, prompts, ledger))


async def _ask_in_rounds(run: Run) -> Outcomes:
    """Return the outcomes of all batches.

    Requests that the server refuses because of a field are sent again without it, in a new batch.
    """
    outcomes: Outcomes = {}
    recorded = read_dialect(run.ledger.with_name(DIALECTS), run.settings)
    dialect = recorded or FIRST
    tried: list[Dialect] = []
    while True:
        for batch in _own_pending(run.record, run.settings):
            outcomes |= await _finish(run, batch)
            dialect = batch.dialect
            tried.append(dialect)
        todo = [key for key in run.prompts if key not in outcomes]
        refused, other = _refused(run, outcomes, dialect)
        if other is not None and other not in tried:
            dialect = other
            todo += refused
        if not todo:
            return outcomes
        await _submit_all(run, todo, dialect)


def _own_pending(record: Path, settings: Judge) -> list[Pending]:
    """Return the pending batches of the judge at this address."""
    address = settings.base_url.rstrip("/")
    batches = read_pending(record, settings.model)
    return [batch for batch in batches if batch.base_url.rstrip("/") == address]


def _refused(run: Run, outcomes: Outcomes, dialect: Dialect) -> tuple[list[str], Dialect | None]:
    """Return the keys of requests whose fields were refused, and the next dialect."""
    keys = []
    other = None
    for key in run.prompts:
        result = outcomes[key].result if key in outcomes else None
        if not isinstance(result, Failure) or result.reason not in REFUSED_FIELDS:
            continue
        found = next_dialect(dialect, result.words)
        if found is not None:
            keys.append(key)
            other = other or found
    return keys, other


# Submission


async def _submit_all(run: Run, keys: list[str], dialect: Dialect) -> None:
    """Create the batches of some prompts.

    Raise UserError before the upload if their worst case exceeds `judge.max_usd`.
    """
    lines = {}
    worst = {}
    for key in keys:
        request = to_request(run.settings, run.prompts[key], dialect)
        worst[key] = worst_case(request, run.settings)
        line = {"custom_id": key, "method": "POST", "url": ADDRESS, "body": request}
        lines[key] = json.dumps(line, ensure_ascii=False).encode() + b"\n"
    _check_money(run, worst)
    for part in split(lines):
        await _submit(run, part, {key: worst[key] for key in part}, dialect)


def split(lines: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Yield the lines in parts that fit into one file of a batch."""
    part: dict[str, bytes] = {}
    size = 0
    for key, line in lines.items():
        if part and (len(part) >= MOST_REQUESTS or size + len(line) > MOST_BYTES):
            yield part
            part = {}
            size = 0
        part[key] = line
        size += len(line)
    if part:
        yield part


def _check_money(run: Run, worst: dict[str, Usage]) -> None:
    """Raise UserError if requests could exceed `judge.max_usd`."""
    settings = run.settings
    if settings.max_usd == 0:
        return
    spent = read_ledger(run.ledger, settings.model).spent
    held = pending_usage(run.ledger, settings.model)
    left = settings.max_usd - to_usd(total([spent, held]), settings)
    price = to_usd(total(list(worst.values())), settings)
    if price > left:
        what = (
            f"a batch of {len(worst)} requests could cost {price:.4f} dollars, and {left:.4f} of "
            f"{settings.max_usd} are left"
        )
        fix = "raise it, or lower judge.items_per_set; nothing was sent"
        raise UserError("judge.max_usd", what, fix)


async def _submit(
    run: Run, lines: dict[str, bytes], worst: dict[str, Usage], dialect: Dialect
) -> None:
    """Upload requests, record the file's id, and create their batch."""
    content = b"".join(lines.values())
    upload = run.client.files.create(file=("judge.jsonl", content), purpose="batch")
    file = _demand(run, "the upload of a batch", await _try(run, upload))
    try:
        pending = Pending(
            judge=run.settings.model,
            base_url=run.settings.base_url,
            file=getattr(file, "id", ""),
            dialect=dialect,
            worst=worst,
        )
    except ValidationError:
        raise _unusable(run, "the reply to the upload of a batch has no id") from None
    write_pending(run.record, pending, pending)
    await _create(run, pending)


async def _create(run: Run, pending: Pending) -> Pending:
    """Create the batch of an uploaded file, and record its id.

    A refused batch is forgotten. If the reply is lost, the record stays, and a later run searches
    for the batch.
    """
    request = run.client.batches.create(
        completion_window=WINDOW, endpoint=ADDRESS, input_file_id=pending.file
    )
    state = await _try_state(run, request)
    if isinstance(state, Failure) and state.wait is None:
        write_pending(run.record, pending, None)
    created: State = _demand(run, "the creation of a batch", state)
    return _confirm(run, pending, created)


def _confirm(run: Run, pending: Pending, state: State) -> Pending:
    """Record the id of a batch."""
    confirmed = pending.model_copy(update={"id": state.id})
    write_pending(run.record, pending, confirmed)
    print(f"judge: waiting for the batch {state.id} of {len(pending.worst)} requests", flush=True)
    return confirmed


async def _find(run: Run, pending: Pending) -> State | None:
    """Return the batch of an uploaded file, or None if it was never created."""

    async def search() -> State | None:
        listed = 0
        async for batch in run.client.batches.list(limit=100):
            if batch.input_file_id == pending.file:
                return State.model_validate(batch)
            listed += 1
            if listed == MOST_LISTED:
                break
        return None

    found: State | None = _demand(run, "the list of batches", await _try(run, search()))
    return found


# Collection


async def _finish(run: Run, pending: Pending) -> Outcomes:
    """Wait for a batch, and return the outcomes that are now in the ledger.

    Raise UserError if the server refused the complete batch, which then costs nothing.
    """
    if pending.id is None:
        state = await _find(run, pending)
        if state is None:
            pending = await _create(run, pending)
        else:
            pending = _confirm(run, pending, state)
    state = await _wait(run, pending)
    if state.status == "failed":
        write_pending(run.record, pending, None)
        words = server_words(_plain(state.errors), run.client.api_key, [])
        raise _unusable(run, f'it refused the batch {pending.id} (the server: "{words}")')
    items = await _download(run, state)
    outcomes = {
        key: _outcome(run, key, items.get(key), worst, state.status)
        for key, worst in pending.worst.items()
    }
    _keep(run, pending, outcomes)
    return outcomes


async def _wait(run: Run, pending: Pending) -> State:
    """Return the state of a batch when it has ended.

    A failed look is repeated, up to `judge.stop_after_failures` times in a row.
    """
    seconds = FIRST_POLL
    failures = 0
    with tqdm(total=len(pending.worst), desc="judge", unit="verdict") as progress:
        while True:
            state = await _try_state(run, run.client.batches.retrieve(str(pending.id)))
            if isinstance(state, Failure):
                failures += 1
                if state.wait is None or failures >= run.settings.stop_after_failures:
                    _demand(run, f"the batch {pending.id}", state)
            else:
                failures = 0
                counts = state.request_counts or Counts()
                progress.update(counts.completed + counts.failed - progress.n)
                if state.status in FINAL:
                    return state
            await asyncio.sleep(seconds)
            seconds = min(seconds * POLL_GROWTH, LONGEST_POLL)


async def _download(run: Run, state: State) -> dict[str, Item]:
    """Return the lines of a batch's output and error files by ledger key.

    Damaged lines are left out.
    """
    items: dict[str, Item] = {}
    for file in (state.output_file_id, state.error_file_id):
        if file is None:
            continue
        reply = await _try(run, run.client.files.content(file))
        content = _demand(run, f"the output of the batch {state.id}", reply).content
        for line in content.splitlines():
            try:
                item = Item.model_validate_json(line)
            except ValidationError:
                continue
            items.setdefault(item.custom_id, item)
    return items


def _outcome(run: Run, key: str, item: Item | None, worst: Usage, status: str) -> Outcome:
    """Return the outcome of one request.

    A request that was not run costs nothing. A request of unknown cost has its worst case.
    """
    if item is None:
        return Outcome(Failure("NoReply"), worst)
    if item.response is None:
        return _without_response(run, item.error or ItemError(), worst)
    code = item.response.status_code
    messages = run.prompts.get(key)
    if code == 200:
        content = json.dumps(item.response.body, ensure_ascii=False).encode()
        result, usage = read_reply(content, run.settings, run.client.api_key)
        return Outcome(result, worst if usage is None else usage)
    words = ""
    if messages is not None:
        words = server_words(item.response.body, run.client.api_key, messages)
    return Outcome(Failure(f"HTTP{code}", words), worst if may_be_billed(code) else UNUSED)


def _without_response(run: Run, error: ItemError, worst: Usage) -> Outcome:
    """Return the outcome of a request without a response."""
    code = error.code or ""
    if code in NOT_RUN:
        return Outcome(Failure(NOT_RUN[code]), UNUSED)
    return Outcome(Failure("NoReply"), worst)


def _keep(run: Run, pending: Pending, outcomes: Outcomes) -> None:
    """Write the outcomes of a batch to the ledger, and forget the batch.

    Each line has the id of the batch, so that the lines of a killed run are not written again.
    """
    by_path: dict[Path, list[Row]] = {}
    for key, outcome in outcomes.items():
        path, line = ledger_line(key, outcome, run.settings, run.ledger)
        by_path.setdefault(path, []).append(line | {"batch": pending.id})
    for path, lines in by_path.items():
        kept = keys_of_batch(path, str(pending.id))
        append_rows(path, [line for line in lines if line["key"] not in kept])
    if any(isinstance(outcome.result, Verdict) for outcome in outcomes.values()):
        record_dialect(run.ledger.with_name(DIALECTS), run.settings, pending.dialect)
    write_pending(run.record, pending, None)


# Requests


async def _try(run: Run, request: Awaitable[Any]) -> Any:
    """Return the reply to a request of the API, or a Failure."""
    import openai

    try:
        async with asyncio.timeout(TRANSFER_SECONDS):
            return await request
    except (TimeoutError, openai.APIConnectionError) as error:
        return Failure(type(error).__name__, wait=FIRST_WAIT)
    except openai.APIStatusError as error:
        return status_failure(run.client, error, [])
    except ValueError:
        # The reply is no JSON, or not of the expected form.
        return Failure("InvalidReply", wait=FIRST_WAIT)


async def _try_state(run: Run, request: Awaitable[Any]) -> State | Failure:
    """Return the state in the reply to a request, or a Failure."""
    reply = await _try(run, request)
    if isinstance(reply, Failure):
        return reply
    try:
        return State.model_validate(reply)
    except ValidationError:
        return Failure("InvalidReply", wait=FIRST_WAIT)


def _demand(run: Run, what: str, reply: Any) -> Any:
    """Return a reply, or raise UserError if it is a Failure."""
    if not isinstance(reply, Failure):
        return reply
    if reply.error is not None:
        raise reply.error
    words = f' (the server: "{reply.words}")' if reply.words else ""
    raise _unusable(run, f"{what} failed: {reply.reason}{words}")


def _unusable(run: Run, what: str) -> UserError:
    """Return the error of a batch that cannot be used."""
    where = f"the judge {run.settings.model} at {run.settings.base_url}"
    fix = (
        "correct what the server names; a later run continues with the batches in "
        f"{run.record}, and pays again only if you delete that file"
    )
    return UserError(where, what, fix)


def _plain(errors: Any) -> Any:
    """Return the errors of a batch as plain data."""
    data = getattr(errors, "data", None) or []
    return [{"message": str(getattr(error, "message", ""))} for error in data]
