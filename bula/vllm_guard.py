"""Let vLLM's server answer nobody without the key.

vLLM checks VLLM_API_KEY for some paths only: /invocations and /tokenize, for example, stay open. Its
option --middleware names this function, which sees every request first.
"""

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

Answer = Callable[[Any, Any, Any], Awaitable[None]]


async def refuse_strangers(request: Any, answer: Callable[[Any], Awaitable[Answer]]) -> Answer:
    """Answer a request that carries the key, and refuse every other one."""
    expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()
    given = request.headers.get("authorization", "").encode()
    return await answer(request) if hmac.compare_digest(given, expected) else _refuse


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    """Send status 401 without a body, as an ASGI application does."""
    await send(
        {"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})
