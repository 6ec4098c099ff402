"""Start, prove and stop OpenAI-compatible servers over a local model, as context managers.

Each server listens on the loopback interface alone and answers nobody without a random key. It is
asked to prove itself before it sees a prompt. An endpoint takes one request at a time; a server that
can take more stands in the list as often.
"""

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import openai
import psutil
from openai import DefaultHttpxClient, OpenAI

from bula import llama_server, vllm_guard
from bula.api_keys import keep_plain_headers
from bula.errors import UserError
from bula.escaping import terminal
from bula.processes import end_with_parent

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 600
END_SECONDS = 60
# Characters of what a server printed before it ended, from the beginning and from the end.
LAST_WORDS = 200
# A proxy meant for the world outside must not be asked for this machine's own server.
LOCAL = build_opener(ProxyHandler({}))
# What to check when a server ends by itself.
FIX = {
    "llama.cpp": "see that the file is complete",
    "vLLM": "see that vLLM is installed, on a machine with a GPU",
}
Process = subprocess.Popen[str]
# Lends a client to whoever asks one request, and waits while all are lent.
Lend = Callable[[], AbstractContextManager[OpenAI]]


class Endpoint(NamedTuple):
    """The address of a server, and the key that it asks for; it shows the address alone."""

    url: str
    key: str

    def __str__(self) -> str:
        """Return the address."""
        return self.url

    def __repr__(self) -> str:
        """Return the address, since a NamedTuple would show the key."""
        return self.url


class Server(NamedTuple):
    """A child process that serves a model, and the file that holds what it prints."""

    program: str
    model: Path
    key: str
    process: Process
    log: IO[bytes]


@contextmanager
def serve_llama_cpp(
    model: Path, parallel: int, context_tokens: int, *, float32: bool = False
) -> Iterator[list[Endpoint]]:
    """Serve a GGUF file by children with one slot of `context_tokens` each.

    There are `parallel` of them, but no more than processors; they share the file's pages. One server
    with several slots would compute the requests that happen to be there together, in matmuls of
    another shape: an answer would depend on when its neighbours came. `float32` computes attention in
    float32, for comparisons. UserError if the file is missing or llama.cpp cannot serve it.
    """
    if not model.is_file():
        raise UserError(
            model, "this file does not exist", "`dvc repro` writes it, `dvc pull` fetches it"
        )
    processors = len(os.sched_getaffinity(0))
    count = min(parallel, processors)
    settings = {
        "context_tokens": context_tokens,
        "threads": processors // count,
        "float32": float32,
    }
    with ExitStack() as stack:
        # All of them load at the same time.
        servers = [stack.enter_context(_llama_cpp(model, settings)) for _ in range(count)]
        deadline = time.monotonic() + START_SECONDS
        endpoints = [_wait_for_llama_cpp(server, deadline) for server in servers]
        with _last_words_of(servers):
            yield endpoints


@contextmanager
def _llama_cpp(model: Path, settings: dict[str, int]) -> Iterator[Server]:
    """Start one child, and hand it its settings and its key."""
    # -P: modules of bula/ must not stand in front of Python's own.
    command = [sys.executable, "-P", str(llama_server.__file__)]
    key = secrets.token_urlsafe(32)
    # On a failed assertion ggml would start a debugger that prints the arguments of every call.
    with _child("llama.cpp", model, key, command, {"GGML_NO_BACKTRACE": "1"}) as server:
        # A child that is gone already is noticed when its answer is read.
        with suppress(BrokenPipeError):
            print(
                json.dumps({**settings, "model": str(model), "key": key}),
                file=server.process.stdin,
                flush=True,
            )
        yield server


def _wait_for_llama_cpp(server: Server, deadline: float) -> Endpoint:
    """Return the endpoint that a child tells; UserError if it ends first or hangs."""
    answer = server.process.stdout
    assert answer
    readable, _, _ = select.select([answer], [], [], max(0.0, deadline - time.monotonic()))
    if not readable:
        raise _hung(server)
    address = answer.readline().strip()
    if not address:
        server.process.wait()
        raise _ended(server)
    endpoint = Endpoint(f"{address}/v1", server.key)
    _prove(endpoint)
    return endpoint


@contextmanager
def serve_vllm(model: Path, parallel: int, context_tokens: int) -> Iterator[list[Endpoint]]:
    """Serve a model directory by vLLM, on a GPU, as a child that ends with this block.

    UserError if vLLM is not installed or the server ends before it answers.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = _vllm_command(model, parallel, context_tokens, port)
    key = secrets.token_urlsafe(32)
    with _child("vLLM", model, key, command, _vllm_environment(key)) as server:
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", key)
        _wait_for_vllm(server, endpoint, port)
        with _last_words_of([server]):
            yield [endpoint] * parallel


def _vllm_command(model: Path, parallel: int, context_tokens: int, port: int) -> list[str]:
    """Return the command line of vLLM's server; other users can read it, so it holds no key."""
    options = {
        "--model": str(model),
        "--served-model-name": model.name,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--max-num-seqs": str(parallel),
        "--max-model-len": str(context_tokens),
        "--allowed-origins": "[]",
        "--middleware": f"{vllm_guard.__name__}.{vllm_guard.refuse_strangers.__name__}",
    }
    pairs = [part for option in options.items() for part in option]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *pairs]


def _vllm_environment(key: str) -> dict[str, str]:
    """Return vLLM's own variables: its key, loopback for its workers, no usage reports."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        "VLLM_API_KEY": key,
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": path,
    }


def _wait_for_vllm(server: Server, endpoint: Endpoint, port: int) -> None:
    """Return once the server answers and is ours; UserError if it ends first or hangs."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise _ended(server)
        # Another process may have taken the port: nothing is sent before our own child listens there.
        if (
            _listens(server.process, port)
            and _status(f"{endpoint.url}/models", endpoint.key) is not None
        ):
            _prove(endpoint)
            return
        time.sleep(0.5)
    raise _hung(server)


def _listens(process: Process, port: int) -> bool:
    """Tell whether a process or a child of it listens on a port of the loopback interface."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for member in (parent, *parent.children(recursive=True)):
            for found in member.net_connections("tcp4"):
                if found.status == psutil.CONN_LISTEN and found.laddr == ("127.0.0.1", port):
                    return True
    return False


@contextmanager
def _child(
    program: str, model: Path, key: str, command: list[str], environment: dict[str, str]
) -> Iterator[Server]:
    """Run a command as a child that ends with this block.

    The child inherits no variable of OpenAI's, which may be a key.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=inherited | environment,
            stdin=subprocess.PIPE,
            # vLLM writes its log there, and a pipe that nobody reads would stop it.
            stdout=log if program == "vLLM" else subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            yield Server(program, model, key, process, log)
        finally:
            _end(process)


def _end(server: Process) -> None:
    """End a server and its whole session, since it has workers of its own: asked first, then killed."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        # Workers may be there still when the server itself is gone.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=END_SECONDS)
    for pipe in (server.stdin, server.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def _prove(endpoint: Endpoint) -> None:
    """Check that a server knows its key and asks everybody for it; UserError otherwise.

    The true key travels last, so that a server that accepts everything never sees it.
    """
    found = [
        _status(f"{endpoint.url}/models", key)
        for key in ("", secrets.token_urlsafe(32), endpoint.key)
    ]
    if found != [401, 401, 200]:
        what = f"it answered {found} to no key, a wrong key and the right one, where [401, 401, 200] was expected"
        raise UserError(
            endpoint.url,
            what,
            "install the versions of requirements.lock, and look for another program on this port",
        )


def _status(url: str, key: str) -> int | None:
    """Return the HTTP status of a GET request, or None if nothing answers."""
    request = Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with LOCAL.open(request, timeout=5) as reply:
            return int(reply.status)
    except HTTPError as error:
        error.close()
        return error.code
    except (URLError, TimeoutError, ConnectionError):
        return None


@contextmanager
def _last_words_of(servers: list[Server]) -> Iterator[None]:
    """Raise a UserError in place of a failed connection, with the last words of a server that is gone."""
    try:
        yield
    except openai.APIConnectionError as error:
        for server in servers:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(timeout=1)
            if server.process.returncode is not None:
                raise _ended(server) from error
        what = f"a request to {servers[0].program} failed ({type(error).__name__})"
        raise UserError(servers[0].model, what, "run the stage again") from error


def _ended(server: Server) -> UserError:
    """Return the error of a server that is gone."""
    code = server.process.returncode
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    what = f"{server.program} ended with {how} ({_words(server)})"
    return UserError(
        server.model, what, f"{FIX[server.program]}; `dvc pull` fetches the model again"
    )


def _hung(server: Server) -> UserError:
    """Return the error of a server that never answers."""
    what = f"{server.program} did not answer within {START_SECONDS} s ({_words(server)})"
    return UserError(server.model, what, "use a smaller model or a faster machine")


def _words(server: Server) -> str:
    """Return the beginning and the end of what a server printed, harmless to a terminal."""
    server.log.seek(0)
    text = " ".join(terminal(server.log.read().decode("utf-8", "replace"), lines=True).split())
    if len(text) > 2 * LAST_WORDS:
        text = f"{text[:LAST_WORDS]} ... {text[-LAST_WORDS:]}"
    return text.replace(server.key, "[key]") or "it said nothing"


def open_client(endpoint: Endpoint, timeout_seconds: float = 600) -> OpenAI:
    """Return a client for a server on this machine, which no proxy and no redirect can lead away."""
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": [partial(keep_plain_headers, endpoint.key)]
    }
    http = DefaultHttpxClient(
        trust_env=False, follow_redirects=False, timeout=timeout_seconds, event_hooks=hooks
    )
    return OpenAI(
        base_url=endpoint.url,
        api_key=endpoint.key,
        timeout=timeout_seconds,
        max_retries=0,
        http_client=http,
    )


@contextmanager
def client_pool(endpoints: list[Endpoint], timeout_seconds: float = 600) -> Iterator[Lend]:
    """Yield a function that lends each endpoint's client to one request at a time."""
    with ExitStack() as stack:
        free: SimpleQueue[OpenAI] = SimpleQueue()
        for endpoint in endpoints:
            free.put(stack.enter_context(open_client(endpoint, timeout_seconds)))

        @contextmanager
        def lend() -> Iterator[OpenAI]:
            client = free.get()
            try:
                yield client
            finally:
                free.put(client)

        yield lend
