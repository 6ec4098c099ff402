"""Send one prompt to the judge, and check its reply."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
from pydantic import BaseModel, Field, ValidationError

from bula.api_keys import LOCAL_KEY, LOOPBACK, hide, host_of, keep_plain_headers
from bula.errors import UserError
from bula.judge_prompt import Message, Verdict, verdict_type
from bula.params import Judge
from bula.serving import Endpoint


class ReplyMessage(BaseModel):
    """The text of the judge, or None if the judge refused."""

    content: str | None = None


class Choice(BaseModel):
    """One reply of the judge, and why it ended."""

    finish_reason: str | None = None
    message: ReplyMessage


class Reply(BaseModel):
    """The part of a chat completion that is used."""

    choices: list[Choice] = Field(min_length=1)


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
    host = host_of(endpoint.url)

    async def before_request(request: httpx2.Request) -> None:
        if host != "api.openai.com":
            keep_plain_headers(endpoint.key, request)

    async def after_response(response: httpx2.Response) -> None:
        # Never decompress: a small compressed reply may have any size afterwards.
        response.headers.pop("content-encoding", None)
        response.stream = BoundedStream(response.stream, settings.max_reply_bytes)

    http = openai.DefaultAsyncHttpxClient(
        timeout=settings.timeout_seconds,
        follow_redirects=False,
        trust_env=host not in LOOPBACK,
        event_hooks={"request": [before_request], "response": [after_response]},
    )
    return openai.AsyncOpenAI(
        base_url=endpoint.url,
        api_key=endpoint.key,
        max_retries=settings.retries,
        http_client=http,
        default_headers={"Accept-Encoding": "identity"},
    )


async def ask(
    client: openai.AsyncOpenAI, settings: Judge, messages: list[Message]
) -> Verdict | str:
    """Return the verdict on one prompt, or the name of the failure.

    Raise UserError for a failure that every later call would share. An error contains no text of
    the server, which may repeat the key or the prompt.
    """
    try:
        async with asyncio.timeout(settings.timeout_seconds):
            return await _ask(client, settings, messages)
    except (TimeoutError, openai.APITimeoutError):
        return "Timeout"
    except openai.AuthenticationError:
        raise _key_refused(client) from None
    except openai.APIStatusError as error:
        if 300 <= error.status_code < 400:
            raise _redirected(client, error.status_code) from None
        return type(error).__name__
    except openai.APIConnectionError as error:
        if settings.base_url == "local":
            # The judge's own process stopped, and serve_llama_cpp reports why.
            raise
        return type(error).__name__


async def _ask(
    client: openai.AsyncOpenAI, settings: Judge, messages: list[Message]
) -> Verdict | str:
    """Return the verdict on one prompt, or the name of the failure.

    Errors of the client pass through.
    """
    if settings.base_url == "local" and await _has_control_token(client, messages):
        return "ControlToken"
    request = to_request(settings, messages)
    reply = await client.chat.completions.with_raw_response.create(**request)
    verdict = _read_reply(reply.content, settings)
    if isinstance(verdict, Verdict):
        verdict.reason = hide(verdict.reason, client.api_key)
    return verdict


def to_request(settings: Judge, messages: list[Message]) -> dict[str, Any]:
    """Return the arguments of one call.

    OpenAI's API and llama.cpp both accept them.
    """
    schema = {
        "name": "Verdict",
        "strict": True,
        "schema": verdict_type(settings).model_json_schema(),
    }
    return {
        "model": settings.model,
        "messages": messages,
        "response_format": {"type": "json_schema", "json_schema": schema},
        "max_tokens": settings.max_tokens,
        "temperature": 0,
        "seed": 0,
    }


async def _has_control_token(client: openai.AsyncOpenAI, messages: list[Message]) -> bool:
    """Return whether llama.cpp would read a control token in a message."""
    for message in messages:
        as_text = await _tokenize(client, message["content"], parse_special=False)
        as_prompt = await _tokenize(client, message["content"], parse_special=True)
        if as_text != as_prompt:
            return True
    return False


async def _tokenize(client: openai.AsyncOpenAI, text: str, *, parse_special: bool) -> Any:
    """Return the tokens of a text, by llama.cpp's own API."""
    address = f"{str(client.base_url).removesuffix('/v1/')}/tokenize"
    body = {"content": text, "parse_special": parse_special}
    reply: Any = await client.post(address, cast_to=object, body=body)
    return reply["tokens"]


def _read_reply(content: bytes, settings: Judge) -> Verdict | str:
    """Return the verdict in a chat completion, or the failure's name."""
    if len(content) > settings.max_reply_bytes:
        return "ReplyTooLong"
    try:
        choice = Reply.model_validate_json(content).choices[0]
    except ValidationError:
        return "InvalidReply"
    if choice.finish_reason == "length":
        return "LengthFinishReasonError"
    if choice.message.content is None:
        return "Refusal"
    try:
        return verdict_type(settings).model_validate_json(choice.message.content)
    except ValidationError:
        return "ValidationError"


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
