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

# A function of the request that returns a status and a body.
Answer = Callable[[dict[str, Any]], tuple[int, bytes]]
# The content of a reply, an HTTP status, a complete body, a function, or None: the connection ends.
Reply = str | int | bytes | Answer | None


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
        if reply is None:
            self.close_connection = True
            return
        status, body = answer_of(reply, request)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{self.server.url}/chat/completions")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def answer_of(reply: str | int | bytes | Answer, request: dict[str, Any]) -> tuple[int, bytes]:
    """Return the status and the body of one reply."""
    if isinstance(reply, bytes):
        return 200, reply
    if isinstance(reply, int):
        return reply, error_body("no")
    if isinstance(reply, str):
        return 200, completion(reply, request["model"])
    return reply(request)


def error_body(message: str, **fields: str) -> bytes:
    """Return the body of an error in the form of OpenAI's API."""
    return json.dumps({"error": {"message": message, **fields}}).encode()


def completion(content: str, model: str = "judge-1", **fields: Any) -> bytes:
    """Return the body of a chat completion."""
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": model}
    return json.dumps(body | {"choices": choices} | fields).encode()


def verdict(accuracy: int, style: int) -> str:
    """Return the content of a reply with these scores."""
    return json.dumps({"reason": "Correta.", "accuracy": accuracy, "style": style})


def write_calibration(workspace: Path, **changes: Any) -> None:
    """Write the figures that the judge stage needs from calibrate, about its own judge."""
    judge = load_params(workspace / "params.yaml").judge
    figures: dict[str, Any] = {
        "judge": judge.model,
        "judge_kind": judge.kind,
        "labelled_by": "author",
    }
    for part in ("accuracy", "style"):
        figures[f"author_kappa_{part}"] = 0.5
        figures[f"author_kappa_{part}_low"] = 0.3
        figures[f"author_kappa_{part}_high"] = 0.7
    path = workspace / "metrics/calibrate.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures | changes), encoding="utf-8")


def point_to(workspace: Path, url: str) -> None:
    """Write params.yaml with the judge at `url`, called in sequence."""

    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"].update(base_url=url, model="judge-1", parallel=1, retries=0)

    edit_params(workspace / "params.yaml", edit)
    write_calibration(workspace)


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
