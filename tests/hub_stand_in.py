"""A local stand-in for the HTTP interface of the hub.

It is not the Hugging Face hub. It answers the requests of huggingface_hub for an upload by git LFS,
and keeps what it received. The real hub may refuse what it accepts, and it takes large files by
another protocol (Xet).
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_stand_in"
COMMIT = "c" * 40
LARGE = (".safetensors", ".gguf")


class HubStandIn(ThreadingHTTPServer):
    """A server that keeps repositories, their files and the order of requests."""

    daemon_threads = True

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.metadata_error = ""
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: HubStandIn

    def do_GET(self) -> None:
        """Answer with the state of a repository."""
        self.server.requests.append(f"GET {self.path}")
        name = self.path.removeprefix("/api/").partition("?")[0]
        if name not in self.server.private:
            self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        identity = name.partition("/")[2]
        private = self.server.private[name]
        self.reply(200, {"id": identity, "private": private, "sha": COMMIT, "siblings": []})

    def do_PUT(self) -> None:
        """Keep a large file, which git LFS names by its SHA-256."""
        self.server.objects[self.path.rpartition("/")[2]] = self.body()
        self.reply(200, {})

    def do_POST(self) -> None:
        """Answer one step of an upload."""
        path = self.path.partition("?")[0]
        self.server.requests.append(f"POST {path}")
        content = self.body()
        if path == "/api/validate-yaml":
            self.validate()
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self.create(json.loads(content))
        elif path.endswith("/preupload/main"):
            self.choose_modes(json.loads(content))
        elif path.endswith("/objects/batch"):
            self.offer_places(json.loads(content))
        else:
            self.commit(path.removeprefix("/api/").removesuffix("/commit/main"), content)

    def validate(self) -> None:
        """Accept the metadata of a card, or refuse it as the test asks."""
        error = self.server.metadata_error
        if error:
            self.reply(400, {"error": error, "errors": [{"message": error}], "warnings": []})
        else:
            self.reply(200, {"errors": [], "warnings": []})

    def create(self, request: dict[str, Any]) -> None:
        """Create a repository; an existing one keeps its visibility."""
        owner = request["organization"]
        name = f"{request.get('type', 'model')}s/{owner}/{request['name']}"
        url = {"url": f"{self.server.url}/{name.removeprefix('models/')}"}
        if name in self.server.private:
            self.reply(409, {"error": "You already created this repo", **url})
            return
        self.server.private[name] = bool(
            request.get("private") or request.get("visibility") == "private"
        )
        self.reply(200, url)

    def choose_modes(self, request: dict[str, Any]) -> None:
        """Say which files are large."""
        found = []
        for file in request["files"]:
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self.reply(200, {"files": found})

    def offer_places(self, request: dict[str, Any]) -> None:
        """Name the address to which each large file is sent."""
        found = []
        for item in request["objects"]:
            href = f"{self.server.url}/lfs/{item['oid']}"
            found.append({**item, "actions": {"upload": {"href": href}}})
        self.reply(200, {"objects": found})

    def commit(self, name: str, content: bytes) -> None:
        """Keep the files of a commit."""
        files = self.server.files.setdefault(name, {})
        for line in content.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        url = f"{self.server.url}/{name}/commit/{COMMIT}"
        self.reply(200, {"commitUrl": url, "commitOid": COMMIT})

    def body(self) -> bytes:
        """Return the body of the request."""
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Send a JSON object."""
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def hub_stand_in() -> Iterator[HubStandIn]:
    """Start a stand-in, and stop it at the end."""
    server = HubStandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
