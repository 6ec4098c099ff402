"""Stand before a llama.cpp server as an OpenAI-compatible API with one key.

llama.cpp itself listens on a free loopback port with another key. The gate passes chat requests on:
it breaks control tokens in messages, which llama.cpp would read as the end of a turn, adds the
system prompt of training, and sets the decoding of params.yaml where a request leaves it open.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from bula.judge_prompt import as_data
from bula.params import Params
from bula.prompts import SYSTEM_PROMPT, TEMPLATE_VARIABLES
from bula.server_answers import llama_cpp_rules
from bula.serving import Endpoint

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MODEL = "bula"
MAX_BODY_BYTES = 1_000_000
TIMEOUT_SECONDS = 600
ROLES = ("system", "user", "assistant")
# The fields of OpenAI's chat API that the gate passes on.
FIELDS = {
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty", "user"),
}


class BadRequestError(Exception):
    """A request that the gate does not pass on; the message says why."""


def build_gate(endpoint: Endpoint, key: str, params: Params, *, has_system: bool) -> Starlette:
    """Return the application that checks requests and passes them to llama.cpp."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT_SECONDS) as client:
            app.state.client = client
            yield

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(request: Request) -> Response:
        if not has_key(request, key):
            return refusal(401, "the API key is missing or wrong")
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def chat(request: Request) -> Response:
        if not has_key(request, key):
            return refusal(401, "the API key is missing or wrong")
        try:
            body = prepare(await read_body(request), params, has_system=has_system)
        except BadRequestError as error:
            return refusal(400, str(error))
        return await forward(request.app.state.client, endpoint, body)

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def has_key(request: Request, key: str) -> bool:
    """Return whether a request has the key.

    The time does not depend on the key that was sent.
    """
    given = request.headers.get("authorization", "")
    return secrets.compare_digest(given.encode(), f"Bearer {key}".encode())


def refusal(status: int, message: str) -> Response:
    """Return an error in the form of OpenAI's API."""
    from starlette.responses import JSONResponse

    error = {"message": message, "type": "invalid_request_error", "code": status}
    return JSONResponse({"error": error}, status_code=status)


async def read_body(request: Request) -> bytes:
    """Return the body of a request; raise BadRequestError if it is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BadRequestError(f"the body has more than {MAX_BODY_BYTES} bytes")
    return body


def prepare(body: bytes, params: Params, *, has_system: bool) -> dict[str, Any]:
    """Return the request for llama.cpp.

    Raise BadRequestError if the body is not a plain chat.
    """
    try:
        found = json.loads(body)
        # Python reads NaN, infinities and halves of surrogate pairs, which no request may contain.
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise BadRequestError("the body is not JSON") from None
    if not isinstance(found, dict):
        raise BadRequestError("the body is not a JSON object")
    unknown = sorted(found.keys() - FIELDS)
    if unknown:
        raise BadRequestError(f"this server does not know the field {unknown[0]!r}")
    # A client that sends null leaves the field open.
    found = {name: value for name, value in found.items() if value is not None}
    limits = params.generate
    defaults = llama_cpp_rules(limits.decoding) | {"temperature": limits.decoding.temperature}
    if not found.keys() & {"max_tokens", "max_completion_tokens"}:
        defaults["max_tokens"] = limits.max_new_tokens
    messages = plain_messages(found.get("messages"))
    own = {
        "model": "model",
        "messages": with_system_prompt(messages, has_system=has_system),
        "chat_template_kwargs": TEMPLATE_VARIABLES,
    }
    return defaults | found | own


def plain_messages(messages: object) -> list[dict[str, str]]:
    """Return messages without control tokens.

    Raise BadRequestError for other content than text.
    """
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages is not a list of messages")
    found = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if role not in ROLES or not isinstance(content, str):
            raise BadRequestError(
                f"a message needs one of the roles {', '.join(ROLES)}, and a text"
            )
        found.append({"role": str(role), "content": as_data(content)})
    return found


def with_system_prompt(messages: list[dict[str, str]], *, has_system: bool) -> list[dict[str, str]]:
    """Return messages with a system prompt; the client's own one replaces that of training.

    Without a system role, the prompt is the first paragraph of the first message.
    """
    system = SYSTEM_PROMPT
    if messages[0]["role"] == "system":
        system = messages[0]["content"]
        messages = messages[1:]
    if has_system or not messages:
        return [{"role": "system", "content": system}, *messages]
    first = messages[0] | {"content": f"{system}\n\n{messages[0]['content']}"}
    return [first, *messages[1:]]


async def forward(client: httpx2.AsyncClient, endpoint: Endpoint, body: dict[str, Any]) -> Response:
    """Return the reply of llama.cpp, piece by piece as it arrives."""
    from starlette.background import BackgroundTask
    from starlette.responses import StreamingResponse

    headers = {"Authorization": f"Bearer {endpoint.key}"}
    request = client.build_request(
        "POST", f"{endpoint.url}/chat/completions", json=body, headers=headers
    )
    try:
        reply = await client.send(request, stream=True)
    except httpx2.HTTPError as error:
        return refusal(502, f"the model's server does not answer ({type(error).__name__})")
    kind = reply.headers.get("content-type", "application/json")
    return StreamingResponse(
        reply.aiter_bytes(),
        status_code=reply.status_code,
        media_type=kind,
        background=BackgroundTask(reply.aclose),
    )
