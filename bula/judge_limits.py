"""Keep the judge's calls below limits of rate and of money."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

from aiolimiter import AsyncLimiter

from bula.params import Judge

# The request's own tokens: roles, separators, and the frame of the schema.
FRAME_TOKENS = 64
# Portuguese has about four characters per token, so this estimate is on the safe side.
CHARACTERS_PER_TOKEN = 3


class Usage(NamedTuple):
    """Tokens that a server bills."""

    input_tokens: int
    output_tokens: int


# Wait until a call with this number of tokens may be sent.
Pace = Callable[[int], Awaitable[None]]
# Say what a call used.
Charge = Callable[[Usage], None]
# Hold the money of the worst case until the call has ended.
Reserve = Callable[[Usage], AbstractAsyncContextManager[Charge]]

UNUSED = Usage(0, 0)


class OutOfMoneyError(Exception):
    """The next call could exceed `judge.max_usd`."""


def total(usages: list[Usage]) -> Usage:
    """Return the sum of several usages."""
    return Usage(
        sum(usage.input_tokens for usage in usages), sum(usage.output_tokens for usage in usages)
    )


def to_usd(usage: Usage, settings: Judge) -> float:
    """Return the price of a usage in US dollars."""
    paid = usage.input_tokens * settings.usd_per_million_input
    paid += usage.output_tokens * settings.usd_per_million_output
    return paid / 1e6


def worst_case(request: dict[str, Any], settings: Judge) -> Usage:
    """Return the largest usage that a request can have.

    Every token has at least one byte, and the server ends the reply at `judge.max_tokens`.
    """
    text = json.dumps(request, ensure_ascii=False)
    return Usage(len(text.encode()) + FRAME_TOKENS, settings.max_tokens)


def likely_tokens(request: dict[str, Any], settings: Judge) -> int:
    """Return an estimate of the tokens that a rate limit counts for a request."""
    text = json.dumps(request["messages"], ensure_ascii=False)
    return len(text) // CHARACTERS_PER_TOKEN + settings.max_tokens


def make_pace(settings: Judge, largest_call: int) -> Pace:
    """Return the function that spaces calls evenly below both rates.

    A rate of 0 is no limit. `largest_call` is the number of tokens of the largest call, which may
    be sent at once.
    """
    requests = _limiter(settings.requests_per_minute, 1)
    tokens = _limiter(settings.tokens_per_minute, largest_call)

    async def pace(count: int) -> None:
        if requests is not None:
            await requests.acquire()
        if tokens is not None:
            await tokens.acquire(min(count, largest_call))

    return pace


def _limiter(per_minute: int, burst: int) -> AsyncLimiter | None:
    """Return a limiter that lets `burst` units through at once."""
    if per_minute == 0:
        return None
    return AsyncLimiter(burst, 60 * burst / per_minute)


def make_budget(settings: Judge, spent: Usage) -> Reserve:
    """Return the function that reserves the money of a call.

    `spent` was paid in earlier runs. A call waits while the calls in flight could still leave
    enough money for it, and raises OutOfMoneyError if they cannot. A call that names no usage
    costs its worst case. A limit of 0 is none.
    """
    paid = [to_usd(spent, settings)]
    held: dict[object, float] = {}
    changed = asyncio.Condition()

    def fits(usd: float) -> bool:
        limit = settings.max_usd
        return limit == 0 or sum(paid) + sum(held.values()) + usd <= limit

    @asynccontextmanager
    async def reserve(worst: Usage) -> AsyncIterator[Charge]:
        usd = to_usd(worst, settings)
        async with changed:
            await changed.wait_for(lambda: fits(usd) or not held)
            if not fits(usd):
                raise OutOfMoneyError
            call = object()
            held[call] = usd
        used = [worst]
        try:
            yield used.append
        finally:
            del held[call]
            paid[0] += to_usd(used[-1], settings)
            async with changed:
                changed.notify_all()

    return reserve
