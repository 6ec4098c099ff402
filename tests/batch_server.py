"""A server with OpenAI's Batch API and single calls: a judge in tests."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.judge_server import completion, error_body, verdict

# A function of a request's body that returns a line's response and error.
Answer = Callable[[dict[str, Any]], dict[str, Any]]
USAGE = {"prompt_tokens": 100, "completion_tokens": 20}


def answered(status: int, body: bytes) -> dict[str, Any]:
    """Return the fields of an output line with a response."""
    response = {"status_code": status, "request_id": "r", "body": json.loads(body)}
    return {"response": response, "error": None}


def not_run(code: str) -> dict[str, Any]:
    """Return the fields of an error line of a request that was not run."""
    return {"response": None, "error": {"code": code, "message": "It was not run."}}


def correct(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request with the scores 3 and 3."""
    return answered(200, completion(verdict(3, 3), request["model"], usage=USAGE))


def single(answer: Answer, content: bytes) -> Any:
    """Return the reply to a single call."""
    return answer(json.loads(content))["response"]["body"]


class BatchServer(ThreadingHTTPServer):
    """A server that ends each batch after some polls, and keeps what it received."""

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.answer: Answer = correct
        # The statuses of the next polls; the last one stays.
        self.statuses = ["validating", "in_progress", "completed"]
        # HTTP statuses of the next requests, by the start of "METHOD /path".
        self.faults: dict[str, list[int]] = {}
        # Whether the reply to the creation of a batch is lost.
        self.loses_creation = False
        super().__init__(("127.0.0.1", 0), BatchHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def count(self, start: str) -> int:
        """Return the number of requests whose method and path start like this."""
        return sum(call.startswith(start) for call in self.calls)

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests in all batches."""
        contents = [self.files[batch["input_file_id"]] for batch in self.batches.values()]
        return [json.loads(line) for content in contents for line in content.splitlines()]

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a new batch."""
        identity = f"batch_{len(self.batches)}"
        about = {"id": identity, "object": "batch", "status": "validating", "created_at": 0}
        self.batches[identity] = about | body
        return self.batches[identity]

    def poll(self, identity: str) -> dict[str, Any]:
        """Return a batch in its next status."""
        batch = self.batches[identity]
        batch["status"] = self.statuses[0]
        if len(self.statuses) > 1:
            self.statuses.pop(0)
        if batch["status"] in ("completed", "expired"):
            self.write_outputs(batch)
        return batch

    def write_outputs(self, batch: dict[str, Any]) -> None:
        """Write the output file and the error file of a batch."""
        outputs: dict[str, list[str]] = {"output": [], "error": []}
        for line in self.files[batch["input_file_id"]].splitlines():
            request = json.loads(line)
            fields = self.answer(request["body"])
            response = fields["response"]
            is_good = response is not None and response["status_code"] == 200
            name = "output" if is_good else "error"
            outputs[name].append(json.dumps({"custom_id": request["custom_id"], **fields}))
        for name, lines in outputs.items():
            if lines:
                batch[f"{name}_file_id"] = f"{name}_{batch['id']}"
                self.files[f"{name}_{batch['id']}"] = "\n".join(lines).encode()


class BatchHandler(BaseHTTPRequestHandler):
    server: BatchServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.has_fault():
            return
        if self.path == "/v1/files":
            identity = f"file-{len(self.server.files)}"
            assert b'name="purpose"\r\n\r\nbatch' in content
            self.server.files[identity] = part_of(content)
            self.reply({"id": identity, "object": "file"})
        elif self.path == "/v1/chat/completions":
            self.send(200, json.dumps(single(self.server.answer, content)).encode())
        elif self.server.loses_creation:
            self.server.create(json.loads(content))
            self.close_connection = True
        else:
            self.reply(self.server.create(json.loads(content)))

    def do_GET(self) -> None:
        if self.has_fault():
            return
        if self.path.startswith("/v1/files/"):
            identity = self.path.removeprefix("/v1/files/").removesuffix("/content")
            self.send(200, self.server.files[identity])
        elif self.path.startswith("/v1/batches?"):
            data = list(reversed(self.server.batches.values()))
            self.reply({"object": "list", "data": data, "has_more": False})
        else:
            self.reply(self.server.poll(self.path.removeprefix("/v1/batches/")))

    def has_fault(self) -> bool:
        """Note the request, and answer it with the next fault of its kind."""
        call = f"{self.command} {self.path.removeprefix('/v1')}"
        self.server.calls.append(call)
        for start, statuses in self.server.faults.items():
            if call.startswith(start) and statuses:
                self.send(statuses.pop(0), error_body("not now"))
                return True
        return False

    def reply(self, body: dict[str, Any]) -> None:
        """Send an object."""
        self.send(200, json.dumps(body).encode())

    def send(self, status: int, body: bytes) -> None:
        """Send a complete response."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def part_of(content: bytes) -> bytes:
    """Return the file in a form of several parts."""
    found = re.search(rb'filename="[^"]*".*?\r\n\r\n(.*?)\r\n--', content, re.DOTALL)
    assert found
    return found[1]


@contextmanager
def batch_server() -> Iterator[BatchServer]:
    """Yield a server that runs until the end of the block."""
    server = BatchServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
