"""A server with OpenAI's API that stands in for a judge in tests."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.clones import edit_params
from bula.params import Params, load_params

# The content of a reply, an HTTP status, or a complete body.
Reply = str | int | bytes


class JudgeServer(ThreadingHTTPServer):
    """A server that repeats a list of replies, and keeps the requests."""

    daemon_threads = True

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = replies
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = len(self.server.requests)
        reply = self.server.replies[number % len(self.server.replies)]
        self.server.requests.append(request)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        status = reply if isinstance(reply, int) else 200
        body = body_of(reply, request["model"])
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{self.server.url}/chat/completions")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def body_of(reply: Reply, model: str) -> bytes:
    """Return the body of one reply."""
    if isinstance(reply, bytes):
        return reply
    if isinstance(reply, int):
        return json.dumps({"error": {"message": "no"}}).encode()
    message = {"role": "assistant", "content": reply}
    completion = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }
    return json.dumps(completion).encode()


def verdict(accuracy: int, style: int) -> str:
    """Return the content of a reply with these scores."""
    return json.dumps({"reason": "Correta.", "accuracy": accuracy, "style": style})


def point_to(workspace: Path, url: str) -> None:
    """Write params.yaml with the judge at `url`, called in sequence."""

    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"].update(base_url=url, model="judge-1", parallel=1, retries=0)

    edit_params(workspace / "params.yaml", edit)


StartJudge = Callable[[list[Reply]], tuple[Params, JudgeServer]]


@contextmanager
def judge_servers(workspace: Path) -> Iterator[StartJudge]:
    """Yield a function that starts a server and points params.yaml to it."""
    servers: list[JudgeServer] = []

    def start(replies: list[Reply]) -> tuple[Params, JudgeServer]:
        server = JudgeServer(replies)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_to(workspace, server.url)
        return load_params(), server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
