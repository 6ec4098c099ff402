"""Require the API key for every path of vLLM's server.

vLLM checks VLLM_API_KEY for some paths only: /invocations and /tokenize, for example, stay open.
bula/serving.py names `require_key` in vLLM's option --middleware, so that it sees each request
first.
"""

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

Answer = Callable[[Any, Any, Any], Awaitable[None]]


async def require_key(request: Any, answer: Callable[[Any], Awaitable[Answer]]) -> Answer:
    """Answer a request that has the key, and refuse all other requests."""
    expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()
    received = request.headers.get("authorization", "").encode()
    if hmac.compare_digest(received, expected):
        return await answer(request)
    return _refuse


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    """Send status 401 without a body, as an ASGI application does."""
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
