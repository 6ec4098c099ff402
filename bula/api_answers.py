"""Ask an OpenAI-compatible server for answers to chats.

Any server with the endpoint `chat/completions` fits: of this machine, or of a provider. It receives
the system prompt, the history and the question as messages, and applies its own chat template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2
from pydantic import BaseModel, Field, ValidationError

from bula.answers import BROKEN_REASONS
from bula.api_keys import KEY, LOCAL_KEY, LOOPBACK, host_of, keep_plain_headers, key_for
from bula.errors import UserError
from bula.params import Generate, Variant
from bula.serving import Endpoint

if TYPE_CHECKING:
    import openai
    from openai import OpenAI

ADDRESS = "/chat/completions"
# OpenAI's newer models refuse the older name of the limit, which all other servers know.
TOKEN_LIMITS = {"api.openai.com": "max_completion_tokens"}
TIMEOUT_SECONDS = 600.0
# Longest reply in bytes. An answer of 100,000 characters fits ten times.
LONGEST_REPLY = 10**7
# Statuses below 500 after which a request may succeed: timeout, conflict, rate limit.
REPEATABLE = (408, 409, 429)
# A server may ask for a wait of any length.
LONGEST_WAIT = 60.0
# Fields of an error that name its reason; they repeat no prompt.
SHORT_WORD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,60}")
# An empty text is an answer if the server says that it stopped the answer itself.
EMPTY_REASONS = ("length", "content_filter")
# Text, finish reason and number of tokens of one answer.
Parts = tuple[str, str, int]


class RequestError(Exception):
    """A request to a server ended without an answer."""

    def __init__(self, reason: str, wait: float | None = 0.0) -> None:
        """Keep the reason, and the least seconds until the next request.

        `wait` is None if another request would fail too.
        """
        super().__init__(reason)
        self.wait = wait


class ReplyMessage(BaseModel):
    """The text of an answer, or of a refusal."""

    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    """One answer, and why it ended."""

    finish_reason: str | None = None
    message: ReplyMessage


class ReplyUsage(BaseModel):
    """The length of an answer in tokens, as the server counts it."""

    completion_tokens: int = Field(ge=0)


class Reply(BaseModel):
    """The part of a chat completion that is used."""

    choices: list[Choice] = Field(min_length=1)
    usage: Any = None


class BoundedStream(httpx2.SyncByteStream):
    """The body of a reply, cut one byte after the limit."""

    def __init__(self, stream: Any) -> None:
        """Wrap the stream of a response."""
        self.stream = stream

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body in parts."""
        left = LONGEST_REPLY + 1
        for part in self.stream:
            yield part[:left]
            left -= len(part)
            if left <= 0:
                return

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()


@contextmanager
def use_server(url: str, parallel: int) -> Iterator[list[Endpoint]]:
    """Yield the endpoint of a running server, once per concurrent request.

    Raise UserError if no key may be sent to `url`.
    """
    yield [Endpoint(url, key_for(url))] * parallel


def connect(endpoint: Endpoint) -> OpenAI:
    """Return a client that sends its key to this endpoint only."""
    import openai
    from openai import OpenAI

    host = host_of(endpoint.url)
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [partial(keep_plain_headers, endpoint.key)],
        "response": [_bound],
    }
    http = openai.DefaultHttpxClient(
        timeout=TIMEOUT_SECONDS,
        follow_redirects=False,
        # No proxy may see the requests to this machine's own servers.
        trust_env=host not in LOOPBACK,
        event_hooks=hooks,
    )
    return OpenAI(
        base_url=endpoint.url,
        api_key=endpoint.key,
        timeout=TIMEOUT_SECONDS,
        max_retries=0,
        http_client=http,
        default_headers={"Accept-Encoding": "identity"},
    )


def _bound(response: httpx2.Response) -> None:
    """Limit the length of a reply.

    A reply is never decompressed, because a small one may have any size afterwards.
    """
    response.headers.pop("content-encoding", None)
    response.stream = BoundedStream(response.stream)


def chat_fields(variant: Variant, limits: Generate) -> dict[str, Any]:
    """Return the fields of every request, which state the decoding rules.

    The API has no other rule, so a server may apply only its own repetition penalty or top-k.
    """
    limit = TOKEN_LIMITS.get(host_of(variant.base_url or ""), "max_tokens")
    fields = {
        "model": variant.served_model,
        limit: limits.max_new_tokens,
        "temperature": limits.decoding.temperature,
    }
    if limits.decoding.temperature:
        fields["top_p"] = 1
    return fields


def ask_chat(client: OpenAI, body: dict[str, Any]) -> Parts:
    """Return the answer to one chat: its text, finish reason and tokens.

    Raise RequestError if there is no answer, and UserError if every request would fail so.
    """
    import openai

    try:
        reply = client.post(ADDRESS, cast_to=httpx2.Response, body=body)
    except openai.AuthenticationError:
        raise _key_refused(client) from None
    except openai.APIStatusError as error:
        if 300 <= error.status_code < 400:
            raise _redirected(client, error.status_code) from None
        # The message is not shown, because it may repeat the prompt.
        raise RequestError(_reason(error), _wait(error)) from None
    except openai.OpenAIError as error:
        raise RequestError(type(error).__name__) from None
    return _read_reply(reply.content)


def _read_reply(content: bytes) -> Parts:
    """Return the answer in a chat completion; raise RequestError without one."""
    if len(content) > LONGEST_REPLY:
        raise RequestError(f"a reply is longer than {LONGEST_REPLY:,} bytes")
    try:
        reply = Reply.model_validate_json(content)
    except ValidationError:
        raise RequestError("a reply contains no answer") from None
    first = reply.choices[0]
    check_finish_reason(first.finish_reason)
    texts = [text for text in (first.message.content, first.message.refusal) if text is not None]
    if not texts and first.finish_reason not in EMPTY_REASONS:
        raise RequestError("a reply contains no answer")
    text = max(texts, key=len, default="")
    return text.strip(), str(first.finish_reason), _tokens(reply.usage)


def check_finish_reason(reason: str | None) -> None:
    """Raise RequestError if a finish reason says that the server broke off."""
    if reason in BROKEN_REASONS:
        raise RequestError(f"a reply has finish_reason {reason}")


def _tokens(usage: Any) -> int:
    """Return the server's count of an answer's tokens, or 0 without one."""
    try:
        return ReplyUsage.model_validate(usage).completion_tokens
    except ValidationError:
        return 0


def _reason(error: openai.APIStatusError) -> str:
    """Return the status, the code and the field of an error."""
    words = [f"HTTP {error.status_code}"]
    for word in (error.code, error.param):
        if isinstance(word, str) and SHORT_WORD.fullmatch(word):
            words.append(word)
    return " ".join(words)


def _wait(error: openai.APIStatusError) -> float | None:
    """Return the seconds to wait before a repeat.

    The result is None if a repeat cannot succeed. The server may ask for at most LONGEST_WAIT.
    """
    is_repeatable = error.status_code in REPEATABLE or error.status_code >= 500
    if not is_repeatable or error.code == "insufficient_quota":
        return None
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    # The text may also be "nan", which no comparison fits.
    return min(seconds, LONGEST_WAIT) if seconds > 0 else 0.0


def _key_refused(client: OpenAI) -> UserError:
    """Return the error of a server that refuses the key."""
    fix = f"set {KEY} to a key of that server"
    if client.api_key == LOCAL_KEY:
        fix = "start that server without a key: servers on this machine receive none"
    return UserError(f"the server at {client.base_url}", "it refuses the key (HTTP 401)", fix)


def _redirected(client: OpenAI, status: int) -> UserError:
    """Return the error of a server at another address."""
    what = f"it redirects the request (HTTP {status}), and the key is not sent to another address"
    fix = "write the final address in the variant's base_url"
    return UserError(f"the server at {client.base_url}", what, fix)
