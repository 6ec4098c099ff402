"""Start, wait for and stop OpenAI-compatible servers over a local model, as context managers that yield addresses.

An address is to be asked one request at a time; one that can take more stands in the list as often.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import xllamacpp
from openai import DefaultHttpxClient, OpenAI

from bula.processes import end_with_parent

START_SECONDS = 600
END_SECONDS = 60
# A proxy meant for the world outside must not be asked for this machine's own server.
LOCAL = build_opener(ProxyHandler({}))
# Lends a client to whoever asks one request, and waits while all are lent.
Lend = Callable[[], AbstractContextManager[OpenAI]]


@contextmanager
def serve_llama_cpp(model: Path, parallel: int, context_tokens: int) -> Iterator[list[str]]:
    """llama.cpp's servers over one GGUF file, of one slot of `context_tokens` each: `parallel` of them, but no more than processors.

    They live in this process and share the file's pages. One server with several slots would compute the requests that happen
    to be there together, in products of another shape: an answer would depend on when its neighbours came.
    ValueError if the file is missing or no GGUF model.
    """
    if not model.exists():
        raise ValueError(f"{model} does not exist; `dvc repro` writes it, `dvc pull` fetches it")
    processors = len(os.sched_getaffinity(0))
    count = min(parallel, processors)
    servers = [_llama_cpp(model, context_tokens, processors // count) for _ in range(count)]
    try:
        yield [f"{server.listening_address}/v1" for server in servers]
    finally:
        servers.clear()


def _llama_cpp(model: Path, context_tokens: int, threads: int) -> xllamacpp.Server:
    """One server with one slot; it ends when nothing refers to it. ValueError if the file is no GGUF model."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = 1
    params.n_ctx = context_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # A reused prompt prefix was computed in a batch of another shape: repeatable answers need it computed anew.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.verbosity = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ValueError(f"llama.cpp cannot load {model}: {error}") from error
    # One that is let go before it has begun to work never ends, and holds the program: wait for one token.
    body = json.dumps({"prompt": [1], "n_predict": 1}).encode()
    request = Request(f"{server.listening_address}/completion", body, {"Content-Type": "application/json"})
    with LOCAL.open(request, timeout=START_SECONDS):
        return server


@contextmanager
def serve_vllm(model: Path, parallel: int, context_tokens: int) -> Iterator[list[str]]:
    """vLLM's server over a model directory, on a GPU, as a child that ends with this block.

    ValueError if vLLM is not installed or the server ends before it answers.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", str(parallel), "--max-model-len", str(context_tokens)]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", model.name]
    server = subprocess.Popen([*command, *options], start_new_session=True, preexec_fn=end_with_parent)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, f"{url}/health")
        yield [f"{url}/v1"] * parallel
    finally:
        _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End a server and its whole session, since it has workers of its own: asked first, then killed."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        # Workers may be there still when the server itself is gone.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=END_SECONDS)


def _wait(server: "subprocess.Popen[bytes]", url: str) -> None:
    """Return once `url` answers; ValueError if the server ends first or takes longer than START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ValueError(f"vLLM ended with exit code {server.returncode} before it answered; is it installed, with a GPU?")
        try:
            with LOCAL.open(url, timeout=5):
                return
        except (URLError, TimeoutError):
            time.sleep(1)
    raise ValueError(f"vLLM did not answer within {START_SECONDS} s")


def connect(url: str, timeout_seconds: float = 600, retries: int = 0, api_key: str = "local") -> OpenAI:
    """A client for `url`; transport failures are repeated `retries` times, nothing else is."""
    outside = urlsplit(url).hostname not in ("127.0.0.1", "localhost")
    http = DefaultHttpxClient(trust_env=outside, timeout=timeout_seconds)
    return OpenAI(base_url=url, api_key=api_key, timeout=timeout_seconds, max_retries=retries, http_client=http)


@contextmanager
def connect_each(urls: list[str], timeout_seconds: float = 600, retries: int = 0, api_key: str = "local") -> Iterator[Lend]:
    """A client for each address, lent to one request at a time."""
    with ExitStack() as stack:
        free: SimpleQueue[OpenAI] = SimpleQueue()
        for url in urls:
            free.put(stack.enter_context(connect(url, timeout_seconds, retries, api_key)))

        @contextmanager
        def lend() -> Iterator[OpenAI]:
            client = free.get()
            try:
                yield client
            finally:
                free.put(client)

        yield lend
