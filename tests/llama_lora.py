"""Answer prompts greedily by llama.cpp, with or without a LoRA adapter.

The test starts this program as a child process, because llama.cpp aborts its process on some files.

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
    """Print the answers to the prompts as one JSON list."""
    settings = {"model": sys.argv[1], "key": "k", "context_tokens": 256, "threads": 1}
    params = configure({**settings, "float32": True, "gpu_layers": 0, "adapters": sys.argv[2:]})
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server: Any = xllamacpp.Server(params)
    options = {"temperature": 0, "max_tokens": TOKENS, "logprobs": 1, "ignore_eos": True}
    answers = []
    for prompt in json.load(sys.stdin):
        answers.append(server.handle_completions({"prompt": prompt, **options}))
    print(json.dumps(answers), file=output, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
