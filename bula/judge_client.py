"""Send one prompt to the judge, and check its reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
from pydantic import BaseModel, Field, ValidationError

from bula.answers import BROKEN_REASONS
from bula.api_keys import LOCAL_KEY, LOOPBACK, hide, host_of, keep_plain_headers
from bula.errors import UserError
from bula.judge_dialects import FIRST, Dialect, find_verdict, next_dialect, to_request
from bula.judge_limits import (
    UNUSED,
    OutOfMoneyError,
    Pace,
    Reserve,
    Usage,
    likely_tokens,
    worst_case,
)
from bula.judge_outcomes import Failure
from bula.judge_prompt import Message, Verdict, verdict_type
from bula.judge_words import server_words
from bula.params import Judge
from bula.serving import Endpoint

if TYPE_CHECKING:
    import openai

ADDRESS = "/chat/completions"
UNAUTHORIZED = 401
PAYMENT_REQUIRED = 402
# Statuses below 500 after which a call may succeed: timeout, conflict, rate limit.
REPEATABLE = (408, 409, 429)
# Statuses below 500 after which the server may have answered, and billed the answer.
MAYBE_BILLED = (408, 409)
# Errors of a request that may name a field.
REFUSED_FIELDS = ("BadRequestError", "UnprocessableEntityError")
# Seconds before the first repetition; each further wait is twice as long.
FIRST_WAIT = 0.5
# A server may ask for a wait of any length.
LONGEST_WAIT = 60.0


class ReplyMessage(BaseModel):
    """The text of the judge, or None if the judge refused."""

    content: str | None = None


class Choice(BaseModel):
    """One reply of the judge, and why it ended."""

    finish_reason: str | None = None
    message: ReplyMessage


class ReplyUsage(BaseModel):
    """The tokens that the server bills."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class Reply(BaseModel):
    """The part of a chat completion that is used."""

    choices: list[Choice] = Field(min_length=1)
    usage: Any = None

    @property
    def used(self) -> Usage | None:
        """Return the usage, or None if the server names none."""
        try:
            usage = ReplyUsage.model_validate(self.usage)
        except ValidationError:
            return None
        return Usage(usage.prompt_tokens, usage.completion_tokens)


class BoundedStream(httpx2.AsyncByteStream):
    """The body of a reply, cut one byte after the limit."""

    def __init__(self, stream: Any, limit: int) -> None:
        """Wrap the stream of a response; `limit` is in bytes."""
        self.stream = stream
        self.limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body in parts."""
        left = self.limit + 1
        async for part in self.stream:
            yield part[:left]
            left -= len(part)
            if left <= 0:
                return

    async def aclose(self) -> None:
        """Close the connection."""
        await self.stream.aclose()


def connect(endpoint: Endpoint, settings: Judge) -> openai.AsyncOpenAI:
    """Return a client for one endpoint.

    The client sends its key to this endpoint only, and limits the length of every reply.
    """
    import openai

    host = host_of(endpoint.url)

    async def before_request(request: httpx2.Request) -> None:
        if host != "api.openai.com":
            keep_plain_headers(endpoint.key, request)

    async def after_response(response: httpx2.Response) -> None:
        # Never decompress: a small compressed reply may have any size afterwards.
        response.headers.pop("content-encoding", None)
        response.stream = BoundedStream(response.stream, settings.max_reply_bytes)

    connections = httpx2.Limits(
        max_connections=settings.parallel, max_keepalive_connections=settings.parallel
    )
    http = openai.DefaultAsyncHttpxClient(
        timeout=settings.timeout_seconds,
        limits=connections,
        follow_redirects=False,
        trust_env=host not in LOOPBACK,
        event_hooks={"request": [before_request], "response": [after_response]},
    )
    return openai.AsyncOpenAI(
        base_url=endpoint.url,
        api_key=endpoint.key,
        # ask() repeats a call, because each repetition counts against the limits.
        max_retries=0,
        http_client=http,
        default_headers={"Accept-Encoding": "identity"},
    )


class Session(NamedTuple):
    """Objects that all calls of one run share."""

    settings: Judge
    pace: Pace
    reserve: Reserve
    stopped: asyncio.Event
    """Set when no further call may be sent."""
    dialects: list[Dialect]
    """Dialects that worked, the current one last; empty before the first reply."""


async def ask(
    client: openai.AsyncOpenAI, session: Session, messages: list[Message], used: list[Usage]
) -> Verdict | Failure:
    """Return the verdict on one prompt, or its failure.

    Append each request's usage to `used`, so that the caller knows it if the call is cancelled.
    Raise OutOfMoneyError if the first request could exceed `judge.max_usd`.
    """
    if session.settings.base_url == "local":
        plain = await _plain_or_none(client, messages)
        if plain is None:
            return Failure("ControlToken")
        messages = plain
    for attempt in range(session.settings.retries + 1):
        try:
            result = await _attempt(client, session, messages, used)
        except OutOfMoneyError:
            if not used:
                raise
            # The requests before this one may be billed, so their usage must reach the ledger.
            return Failure("OutOfMoney", is_final=True)
        if isinstance(result, Verdict) or result.wait is None or session.stopped.is_set():
            break
        if attempt < session.settings.retries:
            await asyncio.sleep(max(result.wait, FIRST_WAIT * 2**attempt))
    return result


async def _attempt(
    client: openai.AsyncOpenAI, session: Session, messages: list[Message], used: list[Usage]
) -> Verdict | Failure:
    """Send a prompt within the limits, and append each request's usage to `used`.

    A request that the server refuses because of a field is sent again without this field.
    """
    settings = session.settings
    dialect = session.dialects[-1] if session.dialects else FIRST
    tried = []
    while True:
        request = to_request(settings, messages, dialect)
        worst = worst_case(request, settings)
        if settings.tokens_per_minute or settings.requests_per_minute:
            await session.pace(likely_tokens(request, settings))
        if session.stopped.is_set():
            # Other calls ended the run while this one waited for its turn.
            return Failure("Stopped")
        async with session.reserve(worst) as charge:
            # A request that is cancelled costs its worst case.
            used.append(worst)
            result, usage = await _send(client, settings, request)
            if usage is not None:
                used[-1] = usage
            charge(used[-1])
        tried.append(dialect)
        if isinstance(result, Failure) and result.reason in REFUSED_FIELDS:
            other = next_dialect(dialect, result.words)
            if other is not None and other not in tried:
                dialect = other
                continue
        if isinstance(result, Verdict) and dialect not in session.dialects[-1:]:
            session.dialects.append(dialect)
        return result


async def _send(
    client: openai.AsyncOpenAI, settings: Judge, request: dict[str, Any]
) -> tuple[Verdict | Failure, Usage | None]:
    """Return the result of one request, and its usage if that is known."""
    import openai

    try:
        async with asyncio.timeout(settings.timeout_seconds):
            # The client's typed method would walk through every field of the request.
            reply = await client.post(ADDRESS, cast_to=httpx2.Response, body=request)
    except (TimeoutError, openai.APITimeoutError):
        return Failure("Timeout"), None
    except openai.APIStatusError as error:
        usage = None if may_be_billed(error.status_code) else UNUSED
        return status_failure(client, error, request["messages"]), usage
    except openai.APIConnectionError as error:
        if settings.base_url == "local":
            # The judge's own process stopped, and serve_llama_cpp reports why.
            raise
        return Failure(type(error).__name__, wait=FIRST_WAIT), None
    return read_reply(reply.content, settings, client.api_key)


def may_be_billed(status: int) -> bool:
    """Return whether a request with this HTTP status of an error may cost money.

    A refusal (4xx, a redirect, a rate limit) costs nothing. After a timeout, a conflict or an error
    of the server, the judge may have answered.
    """
    return status >= 500 or status in MAYBE_BILLED


async def _plain_or_none(
    client: openai.AsyncOpenAI, messages: list[Message]
) -> list[Message] | None:
    """Return messages without control tokens, or None if the server cannot find them.

    It may refuse a text, or its reply may be longer than `judge.max_reply_bytes`.
    """
    import openai

    try:
        return await _without_control_tokens(client, messages)
    except (openai.APIStatusError, ValueError):
        return None


async def _without_control_tokens(
    client: openai.AsyncOpenAI, messages: list[Message]
) -> list[Message] | None:
    """Return messages in which llama.cpp reads no control token.

    A space breaks each token after its first character, as in bula.judge_prompt. The result is
    None if a token remains.
    """
    found = []
    for message in messages:
        content = message["content"]
        for token in await _control_tokens(client, content):
            content = content.replace(token, f"{token[0]} {token[1:]}")
        if await _control_tokens(client, content):
            return None
        found.append(message | {"content": content})
    return found


async def _control_tokens(client: openai.AsyncOpenAI, text: str) -> list[str]:
    """Return the control tokens that llama.cpp would read in a text."""
    as_text = await _tokenize(client, text, parse_special=False)
    as_prompt = await _tokenize(client, text, parse_special=True)
    if as_text == as_prompt:
        return []
    special = []
    for piece in sorted(_pieces(as_prompt) - _pieces(as_text)):
        alone = await _tokenize(client, piece, parse_special=False)
        if alone != await _tokenize(client, piece, parse_special=True):
            special.append(piece)
    return special or [text]


def _pieces(tokens: Any) -> set[str]:
    """Return the texts of tokens.

    llama.cpp writes a part of a character as numbers.
    """
    return {token["piece"] for token in tokens if isinstance(token["piece"], str)}


async def _tokenize(client: openai.AsyncOpenAI, text: str, *, parse_special: bool) -> Any:
    """Return the tokens of a text with their pieces, by llama.cpp's own API."""
    address = f"{str(client.base_url).removesuffix('/v1/')}/tokenize"
    body = {"content": text, "parse_special": parse_special, "with_pieces": True}
    reply: Any = await client.post(address, cast_to=object, body=body)
    return reply["tokens"]


def read_reply(content: bytes, settings: Judge, key: str) -> tuple[Verdict | Failure, Usage | None]:
    """Return the result in a chat completion, and its usage if known."""
    if len(content) > settings.max_reply_bytes:
        return Failure("ReplyTooLong"), None
    try:
        reply = Reply.model_validate_json(content)
    except ValidationError:
        return Failure("InvalidReply"), None
    return _read_choice(reply.choices[0], settings, key), reply.used


def _read_choice(choice: Choice, settings: Judge, key: str) -> Verdict | Failure:
    """Return the verdict in one reply of the judge, or its failure."""
    if choice.finish_reason == "length":
        return Failure("LengthFinishReasonError")
    if choice.finish_reason in BROKEN_REASONS:
        return Failure("Incomplete")
    if choice.message.content is None:
        return Failure("Refusal")
    verdict = find_verdict(choice.message.content, verdict_type(settings))
    if verdict is None:
        return Failure("ValidationError")
    return verdict.model_copy(update={"reason": hide(verdict.reason, key)})


def status_failure(
    client: openai.AsyncOpenAI, error: openai.APIStatusError, messages: list[Message]
) -> Failure:
    """Return the failure of a reply with an HTTP status of an error."""
    status = error.status_code
    stopped = refusal(client, status)
    if stopped is not None:
        return Failure(_reason(error), is_final=True, error=stopped)
    words = server_words(error.body, client.api_key, messages)
    if status == PAYMENT_REQUIRED or error.code == "insufficient_quota":
        return Failure("InsufficientQuota", words, is_final=True)
    can_repeat = status in REPEATABLE or status >= 500
    return Failure(_reason(error), words, wait=_retry_after(error) if can_repeat else None)


def _reason(error: openai.APIStatusError) -> str:
    """Return the name of an error, else its HTTP status."""
    import openai

    if type(error) is openai.APIStatusError:
        return f"HTTP{error.status_code}"
    return type(error).__name__


def refusal(client: openai.AsyncOpenAI, status: int) -> UserError | None:
    """Return the error of a status that every call would get, else None."""
    if status == UNAUTHORIZED:
        return _key_refused(client)
    if 300 <= status < 400:
        return _redirected(client, status)
    return None


def _retry_after(error: openai.APIStatusError) -> float:
    """Return the seconds that a server asks to wait, at most LONGEST_WAIT."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return FIRST_WAIT
    return min(max(seconds, FIRST_WAIT), LONGEST_WAIT)


def _key_refused(client: openai.AsyncOpenAI) -> UserError:
    """Return the error of a judge that refuses the key."""
    fix = "set OPENAI_API_KEY to a key of that server"
    if client.api_key == LOCAL_KEY:
        fix = "start that server without a key: servers on this machine receive none"
    where = f"the judge at {client.base_url}"
    return UserError(where, "it refuses the key (HTTP 401)", fix)


def _redirected(client: openai.AsyncOpenAI, status: int) -> UserError:
    """Return the error of a judge at another address."""
    where = f"the judge at {client.base_url}"
    what = f"it redirects the request (HTTP {status}), and the key is not sent to another address"
    return UserError(where, what, "write the final address in judge.base_url")
