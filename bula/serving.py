"""Run OpenAI-compatible servers over a local model, as context managers.

A server is a child process that listens on the loopback interface only and requires a random key.
The key check is tested before the first prompt is sent. An endpoint takes one request at a time; a
server that takes several requests at once appears several times in the list of endpoints.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import psutil

from bula import llama_server, vllm_guard
from bula.api_keys import keep_plain_headers
from bula.errors import UserError
from bula.escaping import terminal
from bula.processes import end_with_parent

if TYPE_CHECKING:
    from openai import OpenAI

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 600
END_SECONDS = 60
POLL_SECONDS = 0.5
# Error messages show this many characters from both ends of a server's log.
LOG_CHARACTERS = 200
# No proxy may see the requests to this machine's own servers.
WITHOUT_PROXY = build_opener(ProxyHandler({}))
# What a user can check when a server exits unexpectedly.
FIXES = {
    "llama.cpp": "check that the file is complete",
    "vLLM": "check that vLLM is installed (`make gpu`), on a machine with a GPU",
}
# What a user can change when a server has too little memory.
MEMORY_FIXES = {
    "llama.cpp": (
        "lower `parallel` in this stage's section of params.yaml; on a GPU also `gpu_servers` or "
        "`gpu_layers`"
    ),
    "vLLM": (
        "end other programs on the GPU, or lower `generate.parallel` (benchmark: "
        "`benchmark.batch_size`); vLLM's share of the memory is `generate.gpu_memory_share` "
        "(benchmark: `benchmark.backend.gpu_memory_utilization`): lower it if the GPU is full, "
        "raise it if vLLM's cache has too little"
    ),
}
# Words for missing memory in the logs of llama.cpp, torch, vLLM 0.32 and the C++ library.
OUT_OF_MEMORY = re.compile(
    r"""
    out\ of\ memory
    | (unable|failed)\ to\ allocate
    | bad_alloc
    | Cannot\ allocate\ memory
    | less\ than\ desired\ GPU\ memory\ utilization
    | No\ available\ memory\ for\ the\ cache
    | cache\ is\ needed,\ which\ is\ larger
    """,
    re.VERBOSE | re.IGNORECASE,
)
Process = subprocess.Popen[str]
# Lends a client for one request, and waits while all clients are lent.
Lend: TypeAlias = "Callable[[], AbstractContextManager[OpenAI]]"


class Endpoint(NamedTuple):
    """A server's address and key; its text omits the key."""

    url: str
    key: str

    def __str__(self) -> str:
        """Return the address."""
        return self.url

    def __repr__(self) -> str:
        """Return the address; a NamedTuple's own text would show the key."""
        return self.url


class Server(NamedTuple):
    """A child process that serves a model, and its log."""

    program: str
    model: Path
    key: str
    process: Process
    log: IO[bytes]


class Placement(NamedTuple):
    """Where llama.cpp computes a model."""

    gpu_layers: int | Literal["all"]
    """Layers on the GPU, the last ones first; 0 computes on the CPU."""
    gpu_servers: int
    """Largest number of servers that share the GPU; each holds the weights of its layers."""


ON_CPU = Placement(0, 0)


@contextmanager
def serve_llama_cpp(
    model: Path,
    parallel: int,
    context_tokens: int,
    *,
    placement: Placement = ON_CPU,
    float32: bool = False,
    adapters: Sequence[Path] = (),
    threads: int = 0,
) -> Iterator[list[Endpoint]]:
    """Serve a GGUF file by llama.cpp children with one slot each.

    There are `parallel` children, but at most one per processor, and at most `gpu_servers` on a
    GPU. On the CPU they share the file's pages. A slot has `context_tokens` tokens. One server with
    several slots would batch the requests that happen to arrive together, and an answer would
    depend on them: on a GPU too, where the kernel of a matmul depends on the number of rows.
    `float32` computes attention in float32, for comparisons. `adapters` are GGUF files of LoRA
    adapters, which the server adds to the model. `threads` is the number of threads per child; with
    0 the children share the processors. Raise a UserError if the file is missing or llama.cpp
    cannot serve it.
    """
    if not model.is_file():
        fix = "`dvc repro` writes it, `dvc pull` fetches it"
        raise UserError(model, "this file does not exist", fix)
    processors = len(os.sched_getaffinity(0))
    count = count_servers(parallel, processors, placement)
    settings = {
        "context_tokens": context_tokens,
        "threads": threads or processors // count,
        "float32": float32,
        "gpu_layers": placement.gpu_layers,
        "adapters": [str(adapter) for adapter in adapters],
    }
    with ExitStack() as stack:
        # All children load the model at the same time.
        servers = [stack.enter_context(_llama_cpp(model, settings)) for _ in range(count)]
        deadline = time.monotonic() + START_SECONDS
        endpoints = [_wait_for_llama_cpp(server, deadline) for server in servers]
        with _explain_failures(servers):
            yield endpoints


def count_servers(parallel: int, processors: int, placement: Placement) -> int:
    """Return the number of llama.cpp servers."""
    count = min(parallel, processors)
    return count if placement.gpu_layers == 0 else min(count, placement.gpu_servers)


@contextmanager
def _llama_cpp(model: Path, settings: dict[str, Any]) -> Iterator[Server]:
    """Start one child, and send it the settings and a key."""
    # -P: modules of bula/ must not hide Python's own modules.
    command = [sys.executable, "-P", str(llama_server.__file__)]
    key = secrets.token_urlsafe(32)
    # On a failed assertion ggml would start a debugger, which prints the arguments of every call.
    environment = {"GGML_NO_BACKTRACE": "1"}
    message = json.dumps({**settings, "model": str(model), "key": key})
    with _child("llama.cpp", model, key, command, environment) as server:
        # _wait_for_llama_cpp reports a child that has already exited.
        with suppress(BrokenPipeError):
            print(message, file=server.process.stdin, flush=True)
        yield server


def _wait_for_llama_cpp(server: Server, deadline: float) -> Endpoint:
    """Return the endpoint that a child prints.

    Raise a UserError if the child exits first or hangs.
    """
    output = server.process.stdout
    assert output
    seconds = max(0.0, deadline - time.monotonic())
    readable, _, _ = select.select([output], [], [], seconds)
    if not readable:
        raise _timeout_error(server)
    address = output.readline().strip()
    if not address:
        server.process.wait()
        raise _exit_error(server)
    endpoint = Endpoint(f"{address}/v1", server.key)
    _check_authentication(endpoint)
    return endpoint


class VllmSettings(NamedTuple):
    """The options of vLLM's server that params.yaml determines."""

    parallel: int
    """Concurrent requests."""
    context_tokens: int
    """Longest prompt and answer together, in tokens."""
    dtype: str
    """Precision of weights and arithmetic."""
    seed: int
    """Seed of vLLM; a greedy answer draws nothing."""
    gpu_memory_share: float
    """Share of the GPU's memory that vLLM takes."""
    gpus: int
    """GPUs that share one model."""


@contextmanager
def serve_vllm(model: Path, settings: VllmSettings) -> Iterator[list[Endpoint]]:
    """Serve a model directory by vLLM on a GPU.

    One server batches all requests. Its batch-invariant kernels give each answer the same bits in
    any batch, and no prefix is cached, because a cached prefix was computed in another batch. Raise
    a UserError if vLLM is not installed or the server exits before it answers.
    """
    port = _free_port()
    command = _vllm_command(model, settings, port)
    key = secrets.token_urlsafe(32)
    with _child("vLLM", model, key, command, _vllm_environment(key)) as server:
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", key)
        _wait_for_vllm(server, endpoint, port)
        with _explain_failures([server]):
            yield [endpoint] * settings.parallel


def _free_port() -> int:
    """Return a port of the loopback interface that no process listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def vllm_python() -> str:
    """Return the Python interpreter that has vLLM.

    vLLM pins older versions of shared libraries, so `make gpu` installs it in an environment of its
    own. A clone or a copy of the repository has no such environment, but it runs in the .venv of
    the repository.
    """
    for folder in (Path(sys.prefix).parent, ROOT):
        own = folder / ".venv-vllm/bin/python"
        if own.exists():
            return str(own)
    return sys.executable


def _vllm_command(model: Path, settings: VllmSettings, port: int) -> list[str]:
    """Return the command line of vLLM's server.

    It contains no key, because other users can read command lines.
    """
    middleware = f"{vllm_guard.__name__}.{vllm_guard.require_key.__name__}"
    options = {
        "--model": str(model),
        "--served-model-name": model.name,
        # The directory's generation_config.json could change the answers, by a penalty for example.
        "--generation-config": "vllm",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": settings.dtype,
        "--seed": str(settings.seed),
        "--max-num-seqs": str(settings.parallel),
        "--max-model-len": str(settings.context_tokens),
        "--gpu-memory-utilization": str(settings.gpu_memory_share),
        "--tensor-parallel-size": str(settings.gpus),
        "--allowed-origins": "[]",
        "--middleware": middleware,
    }
    pairs = [part for option in options.items() for part in option]
    program = [vllm_python(), "-m", "vllm.entrypoints.openai.api_server"]
    return [*program, "--no-enable-prefix-caching", *pairs]


def _vllm_environment(key: str) -> dict[str, str]:
    """Return vLLM's own environment variables.

    They set the key, keep its workers on the loopback interface, turn off usage reports, and select
    kernels whose results do not depend on the batch.
    """
    folders = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        "VLLM_API_KEY": key,
        "VLLM_BATCH_INVARIANT": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
    }


def _wait_for_vllm(server: Server, endpoint: Endpoint, port: int) -> None:
    """Wait until the server answers and its key check works.

    Raise a UserError if the server exits first or hangs.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise _exit_error(server)
        # Another process may have taken the port, and it must not receive the key.
        if _listens(server.process, port) and _answers(endpoint):
            _check_authentication(endpoint)
            return
        time.sleep(POLL_SECONDS)
    raise _timeout_error(server)


def _answers(endpoint: Endpoint) -> bool:
    """Return whether a server answers requests, with any status."""
    return _status(f"{endpoint.url}/models", endpoint.key) is not None


def _listens(process: Process, port: int) -> bool:
    """Return whether a process or its children listen on a loopback port."""
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
    """Run a command as a child process until the block ends.

    The child inherits no variable of OpenAI's, because it may contain a key.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=inherited | environment,
            stdin=subprocess.PIPE,
            # vLLM logs to its standard output, and a pipe that nobody reads would stop it.
            stdout=log if program == "vLLM" else subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            yield Server(program, model, key, process, log)
        finally:
            _stop(process)


def _stop(process: Process) -> None:
    """Stop a server and the workers in its session.

    They receive SIGTERM first, and SIGKILL after END_SECONDS or when the server has exited.
    """
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        # SIGKILL follows in any case, because workers may outlive the server.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=END_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def _check_authentication(endpoint: Endpoint) -> None:
    """Raise a UserError unless a server accepts only its key.

    The correct key is sent last, so that a server that accepts every key never receives it.
    """
    wrong_key = secrets.token_urlsafe(32)
    keys = ("", wrong_key, endpoint.key)
    statuses = [_status(f"{endpoint.url}/models", key) for key in keys]
    expected = [401, 401, 200]
    if statuses != expected:
        asked = "no key, a wrong key and the correct key"
        what = f"it answered {statuses} to {asked}, where {expected} was expected"
        fix = "install the versions of requirements.lock, and free this port from other programs"
        raise UserError(endpoint.url, what, fix)


def _status(url: str, key: str) -> int | None:
    """Return the status of a GET request, or None without an answer."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = Request(url, headers=headers)
    try:
        with WITHOUT_PROXY.open(request, timeout=5) as reply:
            return int(reply.status)
    except HTTPError as error:
        error.close()
        return error.code
    except (URLError, TimeoutError, ConnectionError):
        return None


@contextmanager
def _explain_failures(servers: list[Server]) -> Iterator[None]:
    """Turn a failed connection into a UserError with the server's log."""
    import openai

    try:
        yield
    except openai.APIConnectionError as error:
        for server in servers:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(timeout=1)
            if server.process.returncode is not None:
                raise _exit_error(server) from error
        what = f"a request to {servers[0].program} failed ({type(error).__name__})"
        raise UserError(servers[0].model, what, "run the stage again") from error


def _exit_error(server: Server) -> UserError:
    """Return the UserError for a server that has exited."""
    code = server.process.returncode
    if server.program == "llama.cpp" and code == llama_server.NO_GPU:
        what = "`gpu_layers` asks for a GPU, and this build of llama.cpp finds none"
        fix = "install its CUDA build (`make gpu`), or set `gpu_layers` to 0"
        return UserError("params.yaml", what, fix)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    what = f"{server.program} stopped with {how} ({_log_excerpt(server)})"
    fix = f"{FIXES[server.program]}; `dvc pull` fetches the model again"
    # The kernel kills a process with SIGKILL when the machine's memory is full.
    if code == -signal.SIGKILL or OUT_OF_MEMORY.search(_log_text(server)):
        fix = f"it probably ran out of memory: {MEMORY_FIXES[server.program]}"
    return UserError(server.model, what, fix)


def _timeout_error(server: Server) -> UserError:
    """Return the UserError for a server that never answers."""
    what = f"{server.program} did not answer within {START_SECONDS} s ({_log_excerpt(server)})"
    return UserError(server.model, what, "use a smaller model or a faster machine")


def _log_text(server: Server) -> str:
    """Return a server's log without control characters."""
    server.log.seek(0)
    log = server.log.read().decode("utf-8", "replace")
    return " ".join(terminal(log, lines=True).split())


def _log_excerpt(server: Server) -> str:
    """Return the beginning and the end of a server's log, without the key."""
    text = _log_text(server)
    if len(text) > 2 * LOG_CHARACTERS:
        text = f"{text[:LOG_CHARACTERS]} ... {text[-LOG_CHARACTERS:]}"
    return text.replace(server.key, "[key]") or "its log is empty"


def open_client(endpoint: Endpoint, timeout_seconds: float = 600) -> OpenAI:
    """Return a client for a server on this machine.

    No proxy and no redirect can send its requests to another machine.
    """
    from openai import DefaultHttpxClient, OpenAI

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
def client_pool(
    endpoints: list[Endpoint], connect: Callable[[Endpoint], OpenAI] = open_client
) -> Iterator[Lend]:
    """Yield a function that lends a client for one request.

    Each endpoint has one client, which serves one request at a time.
    """
    with ExitStack() as stack:
        free: SimpleQueue[OpenAI] = SimpleQueue()
        for endpoint in endpoints:
            free.put(stack.enter_context(connect(endpoint)))

        @contextmanager
        def lend() -> Iterator[OpenAI]:
            client = free.get()
            try:
                yield client
            finally:
                free.put(client)

        yield lend
