"""Local servers answer this process alone, prove themselves first, and fail in a sentence."""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

import openai
import psutil
import pytest

from bula import serving, vllm_guard
from bula.errors import UserError
from bula.serving import LOCAL, Endpoint
from stages import quantize


@pytest.fixture(scope="module")
def file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny-SECRET-PATH.gguf"
    quantize.convert(tiny, "bf16", path)
    return path


@pytest.fixture(scope="module")
def endpoint(file: Path) -> Iterator[Endpoint]:
    with serving.serve_llama_cpp(file, 1, 64) as [endpoint]:
        yield endpoint


def send(
    url: str, headers: dict[str, str], method: str = "GET", body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of a request."""
    try:
        with LOCAL.open(Request(url, body, headers, method=method), timeout=20) as reply:
            return reply.status, dict(reply.headers), reply.read()
    except HTTPError as error:
        return error.code, dict(error.headers), error.read()


PATHS = ("props", "slots", "metrics", "v1/models", "models", "api/tags", "lora-adapters")
POSTS = (
    "completion",
    "v1/completions",
    "v1/chat/completions",
    "tokenize",
    "detokenize",
    "apply-template",
    "embedding",
    "infill",
)


@pytest.mark.parametrize("authorization", ["", "Bearer local", "Bearer ", "Basic Og=="])
def test_llama_cpp_answers_no_stranger(authorization: str, endpoint: Endpoint) -> None:
    root = endpoint.url.removesuffix("/v1")
    key = {"Content-Type": "application/json"}
    if authorization:
        key["Authorization"] = authorization
    for path in PATHS:
        assert send(f"{root}/{path}", key)[0] in (401, 404)
    for path in POSTS:
        status, _, body = send(f"{root}/{path}", key, "POST", b'{"prompt": [1], "content": "a"}')
        assert status in (401, 404)
        assert b"SECRET" not in body
    assert send(f"{root}/props", {"Host": "evil.example"})[0] == 401
    assert send(f"{root}/", key)[0] == 404
    assert send(f"{root}/health", key)[2] == b'{"status":"ok"}'


def test_llama_cpp_allows_no_web_page(endpoint: Endpoint) -> None:
    root = endpoint.url.removesuffix("/v1")
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for method, path in (("OPTIONS", "completion"), ("GET", "props"), ("GET", "health")):
        _, headers, _ = send(f"{root}/{path}", asked, method)
        assert headers.get("Access-Control-Allow-Origin", "") == ""
        assert headers.get("Access-Control-Allow-Credentials", "false") == "false"


def test_llama_cpp_listens_on_loopback_with_a_key_that_no_argument_shows(
    endpoint: Endpoint,
) -> None:
    port = int(endpoint.url.split(":")[2].removesuffix("/v1"))
    found = [
        child
        for child in psutil.Process().children()
        if "llama_server.py" in " ".join(child.cmdline())
    ]
    listening = {
        tuple(s.laddr)
        for child in found
        for s in child.net_connections()
        if s.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", port) in listening
    assert {address for address, _ in listening} == {"127.0.0.1"}
    for child in found:
        assert endpoint.key not in " ".join([*child.cmdline(), *child.environ().values()])
    assert len(endpoint.key) >= 43
    assert str(endpoint) == repr(endpoint) == f"{endpoint.url}"


def test_the_true_key_is_accepted_and_the_files_path_is_not_told(endpoint: Endpoint) -> None:
    assert endpoint.key
    status, _, body = send(f"{endpoint.url}/models", {"Authorization": f"Bearer {endpoint.key}"})
    assert status == 200
    assert json.loads(body)["data"]
    with serving.open_client(endpoint) as client:
        reply = client.completions.create(model="x", prompt=[1], max_tokens=2)
    assert b"SECRET" not in body + reply.model_dump_json().encode()


def test_each_start_has_another_key(file: Path, endpoint: Endpoint) -> None:
    with serving.serve_llama_cpp(file, 1, 64) as [other]:
        assert other.key != endpoint.key
        assert send(f"{other.url}/models", {"Authorization": f"Bearer {endpoint.key}"})[0] == 401


def test_children_inherit_no_variable_of_openai(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY")
    before = set(psutil.Process().children())
    with serving.serve_llama_cpp(file, 1, 64):
        [child] = set(psutil.Process().children()) - before
        assert "sk-CANARY" not in str(child.environ())


def damage(file: Path, name: bytes, value: int, target: Path) -> Path:
    """Write the file with another 32-bit value of one key of its header."""
    content = bytearray(file.read_bytes())
    place = content.index(name) + len(name) + 4
    content[place : place + 4] = struct.pack("<I", value)
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("name", "value"), [(b"llama.embedding_length", 0), (b"llama.attention.head_count", 0)]
)
def test_a_header_that_llama_cpp_refuses_is_a_sentence(
    name: bytes, value: int, file: Path, tmp_path: Path
) -> None:
    broken = damage(file, name, value, tmp_path / "broken.gguf")
    with (
        pytest.raises(UserError, match=r"broken\.gguf: llama\.cpp ended with "),
        serving.serve_llama_cpp(broken, 1, 64),
    ):
        pass


def test_an_abort_of_llama_cpp_is_a_sentence_with_its_last_words(
    file: Path, tmp_path: Path
) -> None:
    broken = damage(file, b"llama.block_count", 2**31 - 1, tmp_path / "broken.gguf")
    with (
        pytest.raises(UserError, match=r"llama\.cpp ended with signal 6 \(.*GGML_ASSERT") as error,
        serving.serve_llama_cpp(broken, 1, 64),
    ):
        pass
    # No debugger's output, which shows arguments.
    assert "LWP" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model \x1b[31m"])
def test_a_file_that_is_no_model_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "no.gguf"
    file.write_bytes(content)
    sentence = r"no\.gguf: llama\.cpp ended with exit code 1 \(.*gguf"
    with pytest.raises(UserError, match=sentence) as error, serving.serve_llama_cpp(file, 2, 64):
        pass
    assert "\x1b" not in str(error.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"none\.gguf: this file does not exist"),
        serving.serve_llama_cpp(tmp_path / "none.gguf", 1, 64),
    ):
        pass


def test_a_server_that_hangs_is_a_sentence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "START_SECONDS", 0)
    with (
        pytest.raises(UserError, match="did not answer within 0 s"),
        serving.serve_llama_cpp(file, 1, 64),
    ):
        pass


def test_a_server_that_ends_while_it_works_is_a_sentence(file: Path) -> None:
    before = set(psutil.Process().children())
    with (
        pytest.raises(UserError, match=r"llama\.cpp ended with signal 9"),
        serving.serve_llama_cpp(file, 1, 64) as [endpoint],
    ):
        [child] = set(psutil.Process().children()) - before
        child.kill()
        with serving.open_client(endpoint) as client:
            client.completions.create(model="x", prompt=[1], max_tokens=1)


def test_a_failed_connection_to_a_living_server_is_a_sentence(file: Path) -> None:
    with (
        pytest.raises(UserError, match=r"a request to llama\.cpp failed"),
        serving.serve_llama_cpp(file, 1, 64),
    ):
        raise openai.APIConnectionError(request=None)  # type: ignore[arg-type]


class Impostor(ThreadingHTTPServer):
    """Answers every request with one status, and keeps what keys it saw."""

    daemon_threads = True

    def __init__(self, statuses: list[int]) -> None:
        self.statuses, self.keys = statuses, []  # type: ignore[var-annotated]
        super().__init__(("127.0.0.1", 0), ImpostorHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ImpostorHandler(BaseHTTPRequestHandler):
    server: Impostor

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self.send_response(
            self.server.statuses[(len(self.server.keys) - 1) % len(self.server.statuses)]
        )
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.mark.parametrize("statuses", [[200], [401], [404], [500], [401, 200, 200], [401, 401, 500]])
def test_a_server_that_does_not_know_its_key_is_refused(statuses: list[int]) -> None:
    impostor = Impostor(statuses)
    endpoint = Endpoint(f"http://127.0.0.1:{impostor.server_address[1]}/v1", "true-key")
    try:
        with pytest.raises(UserError, match="to no key, a wrong key and the right one"):
            serving._prove(endpoint)
    finally:
        impostor.shutdown()
        impostor.server_close()


def test_nothing_is_sent_to_a_process_that_took_vllms_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor = Impostor([200])
    port = impostor.server_address[1]
    monkeypatch.setattr(serving, "START_SECONDS", 1)
    (tmp_path / "log").write_bytes(b"")
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True) as child,
        (tmp_path / "log").open("rb") as log,
    ):
        server = serving.Server("vLLM", Path("model"), "true-key", child, log)
        try:
            with pytest.raises(UserError, match="vLLM did not answer within 1 s"):
                serving._wait_for_vllm(
                    server, Endpoint(f"http://127.0.0.1:{port}/v1", "true-key"), port
                )
        finally:
            child.kill()
            impostor.shutdown()
            impostor.server_close()
    assert impostor.keys == []


def test_a_missing_vllm_is_a_sentence() -> None:
    sentence = (
        r"model: vLLM ended with exit code 1 \(.*No module named 'vllm'.*See that vLLM is installed"
    )
    with pytest.raises(UserError, match=sentence), serving.serve_vllm(Path("model"), 1, 64):
        pass


def test_vllms_key_is_no_argument_and_its_guard_is() -> None:
    command = serving._vllm_command(Path("models/merged"), 2, 64, 1234)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--allowed-origins") + 1] == "[]"
    module, _, name = command[command.index("--middleware") + 1].rpartition(".")
    assert (module, name) == (vllm_guard.__name__, vllm_guard.refuse_strangers.__name__)
    environment = serving._vllm_environment("true-key")
    assert environment["VLLM_API_KEY"] == "true-key"
    assert "true-key" not in " ".join(command)
    # The guard is imported by vLLM, wherever it runs.
    script = "import bula.vllm_guard, inspect; print(inspect.iscoroutinefunction(bula.vllm_guard.refuse_strangers))"
    env = os.environ | {"PYTHONPATH": environment["PYTHONPATH"]}
    found = subprocess.run(
        [sys.executable, "-c", script], cwd="/", env=env, capture_output=True, text=True, check=True
    )
    assert found.stdout == "True\n"


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [
        ("Bearer true-key", True),
        ("Bearer true-kez", False),
        ("true-key", False),
        ("", False),
        (None, False),
        ("Bearer tr\xfce", False),
    ],
)
def test_vllms_guard_asks_for_the_key_on_every_path(
    authorization: str | None, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "true-key")
    sent: list[dict[str, Any]] = []

    async def reply(scope: Any, receive: Any, send: Any) -> None:
        await send({"status": 200})

    async def answer(request: Any) -> vllm_guard.Answer:
        return reply

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)

    async def ask() -> None:
        headers = {} if authorization is None else {"authorization": authorization}
        response = await vllm_guard.refuse_strangers(SimpleNamespace(headers=headers), answer)
        await response({}, None, keep)

    asyncio.run(ask())
    assert sent[0]["status"] == (200 if allowed else 401)


def test_a_port_of_another_process_is_not_a_childs() -> None:
    with (
        socket.socket() as listener,
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True) as child,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        try:
            assert not serving._listens(child, listener.getsockname()[1])
        finally:
            child.kill()
