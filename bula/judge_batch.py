"""Ask the judge by OpenAI's Batch API, at half the price.

A batch is paid once: its id stays in .bula/judge_batches.json until its verdicts are in the ledger,
so a run after a killed one continues to wait for it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from bula.errors import UserError
from bula.judge_batch_api import (
    ADDRESS,
    WINDOW,
    Item,
    ItemError,
    Run,
    State,
    demand,
    download_items,
    find_batch,
    plain_errors,
    try_request,
    try_state,
    unusable,
    wait_for_batch,
)
from bula.judge_client import connect, may_be_billed, read_reply
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
    spent_usd,
)
from bula.judge_limits import UNUSED, Usage, prices_of, to_usd, total, worst_case
from bula.judge_outcomes import Failure, Outcome, priced, quoted
from bula.judge_pending import BATCHES, Pending, pending_usd, read_pending, write_pending
from bula.judge_prompt import Message, Verdict
from bula.judge_words import server_words
from bula.params import Judge
from bula.records import Row
from bula.serving import Endpoint

# OpenAI's limits of one file: https://platform.openai.com/docs/guides/batch
MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
# A larger line of an output file holds more than a reply.
BYTES_PER_REPLY = 65_536
# Codes of requests that OpenAI did not run and does not bill.
NOT_RUN = {"batch_expired": "Expired", "batch_cancelled": "Cancelled"}
# Statuses of a refusal that may name a field.
REFUSED_FIELDS = ("HTTP400", "HTTP422")

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


def _check_money(run: Run, worst: dict[str, Usage], own: Pending | None = None) -> None:
    """Raise UserError if requests could exceed `judge.max_usd` at today's prices.

    `own` is the pending batch of these requests, if there is one. Its worst case is recorded, so
    only its removal from the record leads to smaller requests.
    """
    settings = run.settings
    if settings.max_usd == 0:
        return
    spent = spent_usd(read_ledger(run.ledger, settings.model), settings)
    held = pending_usd(run.ledger, settings, besides=own)
    left = settings.max_usd - spent - held
    price = to_usd(total(list(worst.values())), prices_of(settings))
    if price > left:
        what = (
            f"a batch of {len(worst)} requests could cost {price:.4f} dollars, and {left:.4f} of "
            f"{settings.max_usd} are left"
        )
        fix = "raise it, or lower judge.items_per_set; nothing was sent"
        if own is not None:
            fix = (
                f"raise it, or delete the entry of {own.file} from {run.record}; then the "
                "calls are made again"
            )
        raise UserError("judge.max_usd", what, fix)


async def _submit(
    run: Run, lines: dict[str, bytes], worst: dict[str, Usage], dialect: Dialect
) -> None:
    """Upload requests, record the file's id, and create their batch."""
    content = b"".join(lines.values())
    upload = run.client.files.create(file=("judge.jsonl", content), purpose="batch")
    file = demand(run, "the upload of a batch", await try_request(run, upload))
    try:
        pending = Pending(
            judge=run.settings.model,
            base_url=run.settings.base_url,
            file=getattr(file, "id", ""),
            dialect=dialect,
            worst=worst,
            prices=prices_of(run.settings),
        )
    except ValidationError:
        raise unusable(run, "the reply to the upload of a batch has no id") from None
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
    state = await try_state(run, request)
    if isinstance(state, Failure) and state.wait is None:
        write_pending(run.record, pending, None)
    created: State = demand(run, "the creation of a batch", state)
    return _confirm(run, pending, created)


async def _create_later(run: Run, pending: Pending) -> Pending:
    """Create the batch of a file that an earlier run uploaded, at today's prices.

    Raise UserError if its worst case exceeds `judge.max_usd`, because prices may have changed.
    """
    _check_money(run, pending.worst, own=pending)
    repriced = pending.model_copy(update={"prices": prices_of(run.settings)})
    write_pending(run.record, pending, repriced)
    return await _create(run, repriced)


def _confirm(run: Run, pending: Pending, state: State) -> Pending:
    """Record the id of a batch."""
    confirmed = pending.model_copy(update={"id": state.id})
    write_pending(run.record, pending, confirmed)
    print(f"judge: waiting for the batch {state.id} of {len(pending.worst)} requests", flush=True)
    return confirmed


# Collection


async def _finish(run: Run, pending: Pending) -> Outcomes:
    """Wait for a batch, and return the outcomes that are now in the ledger.

    Without `judge.batch`, an upload without a batch is forgotten, because it costs nothing. Raise
    UserError if the server refused the complete batch, which then costs nothing.
    """
    if pending.id is None:
        found = await find_batch(run, pending)
        if found is not None:
            pending = _confirm(run, pending, found)
        elif run.settings.batch:
            pending = await _create_later(run, pending)
        else:
            write_pending(run.record, pending, None)
            return {}
    state = await wait_for_batch(run, pending)
    if state.status == "failed":
        write_pending(run.record, pending, None)
        words = server_words(plain_errors(state.errors), run.client.api_key, [])
        raise unusable(run, f"it refused the batch {pending.id}{quoted(words)}")
    items = await download_items(run, state)
    if pending.prices is None:
        print(f"judge: no prices of the batch {pending.id} are recorded, so today's count")
    prices = pending.prices_or(prices_of(run.settings))
    outcomes = {}
    for key, worst in pending.worst.items():
        result, usage = _read_item(run, key, items.get(key), worst)
        outcomes[key] = priced(result, usage, prices)
    _keep(run, pending, outcomes)
    return outcomes


def _read_item(
    run: Run, key: str, item: Item | None, worst: Usage
) -> tuple[Verdict | Failure, Usage]:
    """Return the result and the usage of one request.

    A request that was not run costs nothing. A request of unknown cost has its worst case.
    """
    if item is None:
        return Failure("NoReply"), worst
    if item.response is None:
        return _without_response(item.error or ItemError(), worst)
    code = item.response.status_code
    if code == 200:
        content = json.dumps(item.response.body, ensure_ascii=False).encode()
        result, usage = read_reply(content, run.settings, run.client.api_key)
        return result, worst if usage is None else usage
    words = ""
    messages = run.prompts.get(key)
    if messages is not None:
        words = server_words(item.response.body, run.client.api_key, messages)
    return Failure(f"HTTP{code}", words), worst if may_be_billed(code) else UNUSED


def _without_response(error: ItemError, worst: Usage) -> tuple[Failure, Usage]:
    """Return the failure and the usage of a request without a response."""
    code = error.code or ""
    if code in NOT_RUN:
        return Failure(NOT_RUN[code]), UNUSED
    return Failure("NoReply"), worst


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
