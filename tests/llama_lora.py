"""Answer prompts greedily by llama.cpp, with a LoRA adapter and then without it.

The test starts this program as a child process, because llama.cpp aborts its process on some files.
Without an adapter, the prompts are answered once.

    python tests/llama_lora.py MODEL.gguf [ADAPTER.gguf] < PROMPTS.json
"""

import json
import os
import sys
from typing import Any

import xllamacpp

from bula.llama_server import configure

TOKENS = 24


def main() -> None:
    """Print one JSON list of the answers, those without the adapter last."""
    settings = {"model": sys.argv[1], "key": "k", "context_tokens": 256, "threads": 1}
    params = configure({**settings, "float32": True, "gpu_layers": 0, "adapters": sys.argv[2:]})
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server: Any = xllamacpp.Server(params)
    options = {"temperature": 0, "max_tokens": TOKENS, "logprobs": 1, "ignore_eos": True}
    prompts = json.load(sys.stdin)
    requests = [{"prompt": prompt, **options} for prompt in prompts]
    if sys.argv[2:]:
        off = [{"id": 0, "scale": 0}]
        requests += [{"prompt": prompt, "lora": off, **options} for prompt in prompts]
    answers = [server.handle_completions(request) for request in requests]
    print(json.dumps(answers), file=output, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
