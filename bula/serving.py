"""Start, wait for and stop an OpenAI-compatible server over a local model, as a context manager that yields its URL."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import xllamacpp
from openai import DefaultHttpxClient, OpenAI

START_SECONDS = 600


@contextmanager
def serve_llama_cpp(model: Path, parallel: int, context_tokens: int) -> Iterator[str]:
    """llama.cpp's server over one GGUF file: `parallel` slots of `context_tokens` each; it lives in this process.

    ValueError if the file is missing or no GGUF model.
    """
    if not model.exists():
        raise ValueError(f"{model} does not exist; `dvc repro` writes it, `dvc pull` fetches it")
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = parallel
    params.n_ctx = parallel * context_tokens
    # Without its own share a slot may take another's memory, and an answer would depend on its neighbours' lengths.
    params.kv_unified = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    # A reused prompt prefix was computed in a batch of another shape: repeatable answers need it computed anew.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.verbosity = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ValueError(f"llama.cpp cannot load {model}: {error}") from error
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server


@contextmanager
def serve_vllm(model: Path, parallel: int, context_tokens: int) -> Iterator[str]:
    """vLLM's server over a model directory, on a GPU, as a child that ends with this block.

    ValueError if vLLM is not installed or the server ends before it answers.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", str(parallel), "--max-model-len", str(context_tokens)]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", model.name]
    server = subprocess.Popen([*command, *options], start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, f"{url}/health")
        yield f"{url}/v1"
    finally:
        # vLLM has workers of its own: the whole session goes.
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def _wait(server: "subprocess.Popen[bytes]", url: str) -> None:
    """Return once `url` answers; ValueError if the server ends first or takes longer than START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ValueError(f"vLLM ended with exit code {server.returncode} before it answered; is it installed, with a GPU?")
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, TimeoutError):
            time.sleep(1)
    raise ValueError(f"vLLM did not answer within {START_SECONDS} s")


def connect(url: str, timeout_seconds: float = 600, retries: int = 0, api_key: str = "local") -> OpenAI:
    """A client for `url`; transport failures are repeated `retries` times, nothing else is."""
    # A proxy meant for the world outside must not be asked for this machine's own server.
    outside = urlsplit(url).hostname not in ("127.0.0.1", "localhost")
    http = DefaultHttpxClient(trust_env=outside, timeout=timeout_seconds)
    return OpenAI(base_url=url, api_key=api_key, timeout=timeout_seconds, max_retries=retries, http_client=http)
