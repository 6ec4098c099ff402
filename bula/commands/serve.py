"""Serve a quantized model to programs that speak OpenAI's API.

Run `python -m bula serve`.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from bula.clean_exit import clean_exit
from bula.emergency.answers import DISCLAIMER
from bula.errors import UserError
from bula.local_web import address, bind, is_loopback, run_app
from bula.params import load_params

KEY = "BULA_API_KEY"
# Characters of a key that nobody guesses.
SHORTEST_KEY = 20
PORT = 8080
QUESTION = "Posso tomar dipirona com ibuprofeno?"


def choose_key(host: str, *, public: bool) -> str:
    """Return the key of the environment, or an empty text.

    Raise UserError if other machines could reach the server without both --public and a key.
    """
    key = os.environ.get(KEY, "")
    if key and (len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable()):
        what = f"a key needs at least {SHORTEST_KEY} ASCII characters"
        raise UserError(KEY, what, "python -c 'import secrets; print(secrets.token_urlsafe(32))'")
    if is_loopback(host):
        return key
    if not public:
        what = "other machines could reach the server"
        raise UserError(f"--host {host}", what, f"add --public, and set {KEY}, if you want that")
    if not key:
        what = "a server for other machines needs a key of your own"
        raise UserError(KEY, what, "set it in the environment")
    return key


def describe(url: str, shown_key: str) -> str:
    """Return the address of the API, its key, and an example of a request."""
    body = f'{{"messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    return (
        f"serve: base URL  {url}/v1\n"
        f"serve: API key   {shown_key}\n"
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f'  -H "Authorization: Bearer {shown_key}" \\\n'
        f"  -d '{body}'\n"
        "serve: Ctrl-C stops the server"
    )


def serve(
    model: Annotated[Path, typer.Option(help="A GGUF file.")] = Path("models/gguf/q4_k_m.gguf"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    public: Annotated[bool, typer.Option(help="Allow a --host that others reach.")] = False,
    context: Annotated[int, typer.Option(min=64, help="Tokens of prompt and answer.")] = 2048,
) -> None:
    """Serve a GGUF file as an OpenAI-compatible API on this machine.

    The environment variable BULA_API_KEY contains the key; without it, a new key is printed. There
    is no TLS. The API answers no emergency by itself: a program that shows answers to people must
    do so.
    """
    if model.suffix != ".gguf":
        fix = "name a GGUF file, such as models/gguf/q4_k_m.gguf"
        raise UserError(model, "llama.cpp serves only GGUF files", fix)
    own_key = choose_key(host, public=public)
    # transformers is imported here, so that the other commands start without it.
    from bula.api_gate import build_gate
    from bula.models import load_tokenizer
    from bula.prompts import has_system_role
    from bula.serving import Placement, serve_llama_cpp

    params = load_params()
    limits = params.generate
    placement = Placement(limits.gpu_layers, limits.gpu_servers)
    with clean_exit(), bind(host, port) as listening:
        has_system = has_system_role(load_tokenizer(model))
        with serve_llama_cpp(model, 1, context, placement=placement) as [endpoint]:
            key = own_key or secrets.token_urlsafe(32)
            print(DISCLAIMER, file=sys.stderr)
            print(describe(address(listening), f"${KEY}" if own_key else key), flush=True)
            run_app(build_gate(endpoint, key, params, has_system=has_system), listening)
