"""Serve one GGUF file by llama.cpp, as a child process of bula/serving.py.

llama.cpp aborts its whole process on some files, so it gets a process of its own. Settings arrive as
one JSON line on standard input, the key among them: other users can read a process's arguments. The
server's address leaves on standard output. The process ends when standard input is closed. It
imports nothing of this project, because it is started by its path.

    echo '{"model": "x.gguf", "key": "k", "context_tokens": 64, "threads": 1, "float32": false}' | python -P bula/llama_server.py
"""

import json
import os
import resource
import sys
from typing import Any

import xllamacpp


def configure(settings: dict[str, Any]) -> xllamacpp.CommonParams:
    """Return llama.cpp's parameters for one slot on a free loopback port."""
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.n_parallel = 1
    params.n_ctx = settings["context_tokens"]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    # A reused prompt prefix was computed in a batch of another shape: repeatable answers need it computed anew.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    # Errors alone.
    params.verbosity = 1
    if settings["float32"]:
        params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
        params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # Flash attention rounds to float16 whatever the cache holds.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    close_to_strangers(params, settings["key"])
    return params


def close_to_strangers(params: xllamacpp.CommonParams, key: str) -> None:
    """Answer nobody without the key, and no web page; /health says only that the server works."""
    params.hostnames = ["127.0.0.1"]
    # The kernel picks a free port while it binds: no other process can take it in between.
    params.port = 0
    params.api_keys = [key]
    params.cors_origins = ""
    params.cors_credentials = False
    params.endpoint_slots = False
    params.ui = False
    # Otherwise every reply names the file by its path.
    params.model_alias = {"model"}


def main() -> None:
    """Start the server, tell its address, and wait until the parent is done."""
    # A core file would hold the key and the prompts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whatever the library prints goes to standard error, so that standard output holds one line.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    try:
        server = xllamacpp.Server(configure(settings))
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    print(server.listening_address, file=answer, flush=True)
    sys.stdin.read()
    # A server destroyed before its first request never exits.
    os._exit(0)


if __name__ == "__main__":
    main()
