"""Open a local page for questions to base and tuned model.

Run `python -m bula chat`.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from bula.answer_styles import STYLES
from bula.clean_exit import clean_exit
from bula.errors import UserError
from bula.local_web import address, bind, is_loopback, run_app
from bula.params import load_params

PORT = 7860
# Gradio reads these when it is imported: no usage report, and no address at gradio.live.
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SHARE": "False", "HF_HUB_OFFLINE": "1"}


def chat(
    model: Annotated[Path, typer.Option(help="The tuned model: a directory or GGUF file.")] = Path(
        "models/merged"
    ),
    base: Annotated[Path, typer.Option(help="The base model.")] = Path("models/base"),
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
) -> None:
    """Open a page that shows both models side by side, on this machine only.

    Emergencies are answered first, with 192 or 188. This is not medical advice.
    """
    if not is_loopback(host):
        what = "the page has no key, so only this machine may reach it"
        raise UserError(f"--host {host}", what, "use 127.0.0.1, or an SSH tunnel to it")
    os.environ.update(SETTINGS)
    # torch and Gradio are imported here, so that the other commands start without them.
    from bula.asking import open_models
    from bula.chat_page import build_app
    from bula.hardware import prepare_device, seed_everything

    params = load_params()
    tokens = max(params.generate.max_new_tokens, *(style.tokens for style in STYLES.values()))
    with clean_exit(), bind(host, port) as listening:
        prepare_device(params.device, params.dtype)
        seed_everything(params.seed)
        with open_models([base, model], params, tokens) as asks:
            app = build_app(dict(zip(("base", "tuned"), asks, strict=True)))
            print(f"chat: {address(listening)} (Ctrl-C stops the page)", flush=True)
            run_app(app, listening)
