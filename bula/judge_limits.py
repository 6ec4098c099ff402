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

# Number of calls that may be sent before the next mark is written.
CALLS_PER_MARK = 32


class Usage(NamedTuple):
    """Tokens that a server bills."""

    input_tokens: int
    output_tokens: int


class Prices(NamedTuple):
    """US dollars per million tokens."""

    input: float
    output: float


# Wait until a call with this number of tokens may be sent.
Pace = Callable[[int], Awaitable[None]]
# Say what a call used.
Charge = Callable[[Usage], None]
# Keep a usage that the run has not exceeded.
Mark = Callable[[Usage], None]
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


def prices_of(settings: Judge) -> Prices:
    """Return the prices in params.yaml."""
    return Prices(settings.usd_per_million_input, settings.usd_per_million_output)


def to_usd(usage: Usage, prices: Prices) -> float:
    """Return the price of a usage in US dollars."""
    paid = usage.input_tokens * prices.input
    paid += usage.output_tokens * prices.output
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


def make_budget(settings: Judge, spent: float, mark: Mark) -> Reserve:
    """Return the function that reserves the money of a call.

    `spent` is the money of earlier runs in US dollars, at the prices of their time. A call waits
    while the calls in flight could still leave enough money for it, and raises OutOfMoneyError if
    they cannot. A call that names no usage costs its worst case. `mark` receives a usage that this
    run has not exceeded yet, before a call could exceed the last one. With a limit of 0 no call
    waits, and the marks are the same.
    """
    prices = prices_of(settings)
    paid = held = marked = UNUSED
    in_flight = 0
    changed = asyncio.Condition()

    def fits(worst: Usage) -> bool:
        if settings.max_usd == 0:
            return True
        possible = to_usd(total([paid, held, worst]), prices)
        return spent + possible <= settings.max_usd

    @asynccontextmanager
    async def reserve(worst: Usage) -> AsyncIterator[Charge]:
        nonlocal paid, held, marked, in_flight
        async with changed:
            await changed.wait_for(lambda: fits(worst) or in_flight == 0)
            if not fits(worst):
                raise OutOfMoneyError
            in_flight += 1
            held = total([held, worst])
        possible = total([paid, held])
        if _exceeds(possible, marked):
            marked = total([possible, *[worst] * CALLS_PER_MARK])
            mark(marked)
        used = [worst]
        try:
            yield used.append
        finally:
            in_flight -= 1
            held = _minus(held, worst)
            paid = total([paid, used[-1]])
            async with changed:
                changed.notify_all()

    return reserve


def _exceeds(usage: Usage, limit: Usage) -> bool:
    """Return whether either number of tokens exceeds its limit."""
    return usage.input_tokens > limit.input_tokens or usage.output_tokens > limit.output_tokens


def _minus(usage: Usage, other: Usage) -> Usage:
    """Return the difference of two usages."""
    return Usage(usage.input_tokens - other.input_tokens, usage.output_tokens - other.output_tokens)


def missing(marked: Usage, recorded: Usage) -> Usage:
    """Return the tokens that may be billed and are not recorded."""
    difference = _minus(marked, recorded)
    return Usage(max(0, difference.input_tokens), max(0, difference.output_tokens))
