"""Serve one GGUF file by llama.cpp, as a child process of bula/serving.py.

llama.cpp aborts its process on some files, so it runs in a separate process. The settings arrive as
one JSON line on standard input, because other users can read a process's arguments and the settings
contain the key. The server's address is printed to standard output. The process exits when standard
input is closed. It imports nothing of this project, because it is started by its path.

    (jq -c . settings.json; sleep 60) | python -P bula/llama_server.py
"""

import json
import os
import resource
import sys
from typing import Any

import xllamacpp

# Exit code of a server that shall compute on a GPU and finds none.
NO_GPU = 3
# More layers than any model has.
ALL_LAYERS = 9999


def finds_gpu() -> bool:
    """Return whether this build of llama.cpp finds a GPU.

    A build for CPUs finds none, and neither does a CUDA build without a working driver.
    """
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    return any(device["type"] in gpus for device in xllamacpp.get_device_info())


def configure(settings: dict[str, Any]) -> xllamacpp.CommonParams:
    """Return llama.cpp's parameters for one slot on a free loopback port."""
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.n_parallel = 1
    params.n_ctx = settings["context_tokens"]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    # A cached prefix was computed in another batch, so that reusing it would change answers.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    # Level 1 logs only errors.
    params.verbosity = 1
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path) for path in settings["adapters"]]
    place_layers(params, settings["gpu_layers"])
    if settings["float32"]:
        compute_attention_in_float32(params)
    restrict_access(params, settings["key"])
    return params


def place_layers(params: xllamacpp.CommonParams, gpu_layers: int | str) -> None:
    """Compute this number of layers, or "all", on the GPU.

    llama.cpp would otherwise choose the number by the memory that is free at the moment, and the
    rounding of an answer with it. With 0 layers a CUDA build would still send large matmuls to the
    GPU.
    """
    params.fit_params = False
    params.n_gpu_layers = ALL_LAYERS if gpu_layers == "all" else gpu_layers
    params.no_op_offload = gpu_layers == 0


def compute_attention_in_float32(params: xllamacpp.CommonParams) -> None:
    """Store the KV cache in float32, and turn off flash attention."""
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    # Flash attention rounds to float16, whatever the cache's type.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED


def restrict_access(params: xllamacpp.CommonParams, key: str) -> None:
    """Answer only requests that have the key, and no web page.

    /health is open, but it says only that the server works.
    """
    params.hostnames = ["127.0.0.1"]
    # With port 0 the kernel chooses a port while it binds, and no other process can take it first.
    params.port = 0
    params.api_keys = [key]
    params.cors_origins = ""
    params.cors_credentials = False
    params.endpoint_slots = False
    params.ui = False
    # Without an alias, every reply would contain the file's path.
    params.model_alias = {"model"}


def main() -> None:
    """Start the server, print its address, and wait for the parent."""
    # A core file would contain the key and the prompts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The library prints to standard error, so that standard output contains only the address.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    if settings["gpu_layers"] != 0 and not finds_gpu():
        raise SystemExit(NO_GPU)
    try:
        server = xllamacpp.Server(configure(settings))
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    print(server.listening_address, file=output, flush=True)
    sys.stdin.read()
    # A server destroyed before its first request never exits.
    os._exit(0)


if __name__ == "__main__":
    main()
