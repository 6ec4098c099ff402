"""Answer questions with a local model.

Run `python -m bula ask "Posso tomar dipirona com ibuprofeno?"`.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.answer_styles import STYLES, StyleName, with_style
from bula.ask_terminal import show_answers, show_text, warn
from bula.clean_exit import clean_exit
from bula.errors import UserError
from bula.params import Params, load_params

if TYPE_CHECKING:
    from bula.asking import Ask

BASE = Path("models/base")
MERGED = Path("models/merged")


def read_questions(question: str | None) -> Iterator[str]:
    """Yield the question of the command line, or each line of standard input.

    Raise UserError if there is no question. A person who leaves the prompt needs no error.
    """
    asked = [question] if question is not None else read_lines()
    count = 0
    for text in asked:
        if text.strip():
            count += 1
            yield text
    if not count and (question is not None or not sys.stdin.isatty()):
        fix = 'write it in quotes, such as `python -m bula ask "Posso tomar sol?"`'
        raise UserError("bula ask", "no question was given", fix)


def read_lines() -> Iterator[str]:
    """Yield each line of standard input; a terminal shows a prompt."""
    while True:
        if sys.stdin.isatty():
            print("Pergunta (Ctrl-D encerra): ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.strip()


def refuse_undecodable(question: str) -> None:
    """Raise UserError if a question has bytes that are not UTF-8.

    The emergency rules may have missed its words, and no tokenizer reads them.
    """
    try:
        question.encode()
    except UnicodeEncodeError as error:
        what = "it has bytes that are not UTF-8"
        raise UserError("the question", what, "convert it by `iconv -t UTF-8`") from error


def refuse_no_model(path: Path) -> None:
    """Raise UserError for a path without a model, before anything is loaded.

    The loader itself refuses a missing output of the pipeline, and names the stage.
    """
    if not path.exists() and path not in (BASE, MERGED):
        raise UserError(path, "it does not exist", "name a model directory or a .gguf file")
    if path.is_dir() and any(path.glob("*.gguf")) and not (path / "config.json").exists():
        raise UserError(path, "it is a folder of GGUF files", "name a .gguf file in it")


def load(
    stack: ExitStack, models: dict[str, Path], params: Params, style: StyleName | None
) -> dict[str, "Ask"]:
    """Load the models until the stack closes.

    A terminal shows how long it took.
    """
    for path in models.values():
        refuse_no_model(path)
    # torch is imported here, so that the other commands start without it.
    from bula.asking import open_models
    from bula.hardware import prepare_device, seed_everything

    started = time.perf_counter()
    prepare_device(params.device, params.dtype)
    seed_everything(params.seed)
    tokens = STYLES[style].tokens if style else params.generate.max_new_tokens
    asks = stack.enter_context(open_models(list(models.values()), params, tokens))
    if sys.stderr.isatty():
        seconds = time.perf_counter() - started
        print(f"ask: loaded in {seconds:.1f} s", file=sys.stderr)
    return dict(zip(models, asks, strict=True))


def ask(
    question: Annotated[
        str | None,
        typer.Argument(help="A question in Portuguese; else one per line of standard input."),
    ] = None,
    model: Annotated[Path, typer.Option(help="A model directory or GGUF file.")] = MERGED,
    compare: Annotated[bool, typer.Option(help="Show the base model's answer beside.")] = False,
    base: Annotated[Path, typer.Option(help="The base model of --compare.")] = BASE,
    style: Annotated[StyleName | None, typer.Option(help="Form of the answer.")] = None,
) -> None:
    """Print the model's answer to each question, under generate.decoding of params.yaml.

    An emergency is answered first, with 192 or 188. This is not medical advice.
    """
    # Compiling the patterns takes a moment that the other commands need not spend.
    from bula.emergency.finding import answer_emergency, model_may_answer

    models = {"base": base, "tuned": model} if compare else {"": model}
    with clean_exit(), ExitStack() as stack:
        params = load_params()
        warn()
        asks: dict[str, Ask] = {}
        for asked in read_questions(question):
            show_text(answer_emergency(asked))
            if not model_may_answer(asked):
                continue
            refuse_undecodable(asked)
            asks = asks or load(stack, models, params, style)
            styled = with_style(asked, style)
            streams = {name: ask(styled) for name, ask in asks.items()}
            show_answers(streams, params.generate.max_repeated_share)
