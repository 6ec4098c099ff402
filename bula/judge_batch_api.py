"""Call OpenAI's Batch API, and check its replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from bula.errors import UserError
from bula.judge_client import FIRST_WAIT, status_failure
from bula.judge_outcomes import Failure, judge_error, quoted
from bula.judge_pending import BATCHES, Identity, Pending
from bula.judge_prompt import Message
from bula.params import Judge

if TYPE_CHECKING:
    import openai

ADDRESS: Final = "/v1/chat/completions"
# The only window that OpenAI offers.
WINDOW: Final = "24h"
# Seconds before the second look at a batch. Each further wait is longer.
FIRST_POLL = 5.0
POLL_GROWTH = 1.5
LONGEST_POLL = 600.0
# A file of 200 MB may be slow; a connection that stalls ends by `judge.timeout_seconds`.
TRANSFER_SECONDS = 3600
# Batches of an account that are searched for one whose id was not recorded.
MOST_LISTED = 1000
FINAL = ("completed", "expired", "cancelled", "failed")


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


async def find_batch(run: Run, pending: Pending) -> State | None:
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

    found: State | None = demand(run, "the list of batches", await try_request(run, search()))
    return found


async def wait_for_batch(run: Run, pending: Pending) -> State:
    """Return the state of a batch when it has ended.

    A failed look is repeated, up to `judge.stop_after_failures` times in a row.
    """
    seconds = FIRST_POLL
    failures = 0
    with tqdm(total=len(pending.worst), desc="judge", unit="verdict") as progress:
        while True:
            state = await try_state(run, run.client.batches.retrieve(str(pending.id)))
            if isinstance(state, Failure):
                failures += 1
                if state.wait is None or failures >= run.settings.stop_after_failures:
                    demand(run, f"the batch {pending.id}", state)
            else:
                failures = 0
                counts = state.request_counts or Counts()
                progress.update(counts.completed + counts.failed - progress.n)
                if state.status in FINAL:
                    return state
            await asyncio.sleep(seconds)
            seconds = min(seconds * POLL_GROWTH, LONGEST_POLL)


async def download_items(run: Run, state: State) -> dict[str, Item]:
    """Return the lines of a batch's output and error files by ledger key.

    Damaged lines are left out.
    """
    items: dict[str, Item] = {}
    for file in (state.output_file_id, state.error_file_id):
        if file is None:
            continue
        reply = await try_request(run, run.client.files.content(file))
        content = demand(run, f"the output of the batch {state.id}", reply).content
        for line in content.splitlines():
            try:
                item = Item.model_validate_json(line)
            except ValidationError:
                continue
            items.setdefault(item.custom_id, item)
    return items


async def try_request(run: Run, request: Awaitable[Any]) -> Any:
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


async def try_state(run: Run, request: Awaitable[Any]) -> State | Failure:
    """Return the state in the reply to a request, or a Failure."""
    reply = await try_request(run, request)
    if isinstance(reply, Failure):
        return reply
    try:
        return State.model_validate(reply)
    except ValidationError:
        return Failure("InvalidReply", wait=FIRST_WAIT)


def demand(run: Run, what: str, reply: Any) -> Any:
    """Return a reply, or raise UserError if it is a Failure."""
    if not isinstance(reply, Failure):
        return reply
    if reply.error is not None:
        raise reply.error
    raise unusable(run, f"{what} failed: {reply.reason}{quoted(reply.words)}")


def unusable(run: Run, what: str) -> UserError:
    """Return the error of a batch that cannot be used."""
    fix = (
        "correct what the server names; a later run continues with the batches in "
        f"{run.record}, and pays again only if you delete that file"
    )
    return judge_error(run.settings, what, fix)


def plain_errors(errors: Any) -> Any:
    """Return the errors of a batch as plain data."""
    data = getattr(errors, "data", None) or []
    return [{"message": str(getattr(error, "message", ""))} for error in data]
