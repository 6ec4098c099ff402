"""Print streams of answers to a terminal or a pipe."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from bula.degeneration import is_degenerate
from bula.emergency.answers import DISCLAIMER
from bula.escaping import terminal

if TYPE_CHECKING:
    from rich.table import Table

# Narrower columns than 45 characters are hard to read.
SIDE_BY_SIDE_COLUMNS = 100
HEADINGS = {"base": "Modelo de base", "tuned": "Modelo ajustado"}
EMPTY = "(o modelo não escreveu resposta)"
DEGENERATE = "Esta resposta se repete ou não tem palavras. Não a use."
# Answers so far, by the name of the variant.
Streams = dict[str, Iterator[str]]


def warn() -> None:
    """Print the medical warning, beside the answers if a program reads them."""
    target = sys.stdout if sys.stdout.isatty() else sys.stderr
    print(f"{DISCLAIMER}\n", file=target, flush=True)


def show_text(text: str) -> None:
    """Print a text and a blank line; an empty text prints nothing."""
    if text:
        print(f"{text}\n", flush=True)


def show_answers(streams: Streams, max_repeated_share: float) -> None:
    """Print the answers side by side on a wide terminal.

    Elsewhere they follow each other. An answer that repeats itself more than `max_repeated_share`
    is marked.
    """
    with ExitStack() as stack:
        for stream in streams.values():
            # A reader who leaves stops the model.
            stack.enter_context(closing(_closable(stream)))
        if len(streams) > 1 and _is_wide():
            for name, text in show_side_by_side(streams).items():
                show_mark(text, max_repeated_share, f"{HEADINGS[name]}: ")
            return
        for name, stream in streams.items():
            if name:
                print(f"{HEADINGS[name]}:")
            show_mark(show_stream(stream), max_repeated_share)


def show_mark(text: str, max_repeated_share: float, start: str = "") -> None:
    """Print a mark after a degenerate answer. An empty answer has one already."""
    if text and is_degenerate(text, max_repeated_share):
        show_text(f"{start}{DEGENERATE}")


def show_stream(answers: Iterator[str]) -> str:
    """Print each answer's new characters at once, and a blank line after the last.

    Return the complete answer.
    """
    shown = ""
    for text in answers:
        if not text.startswith(shown):
            # The end of reasoning has replaced the text.
            print()
            shown = ""
        print(terminal(text[len(shown) :], lines=True), end="", flush=True)
        shown = text
    print(f"{'' if shown else EMPTY}\n", flush=True)
    return shown


def show_side_by_side(streams: Streams) -> dict[str, str]:
    """Show the answers in columns, which grow at the same time, and return them."""
    from rich.console import Console
    from rich.live import Live

    from bula.asking import together

    texts = [""] * len(streams)
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        for texts in together(list(streams.values())):
            live.update(_to_table(list(streams), texts), refresh=True)
    print(flush=True)
    return dict(zip(streams, texts, strict=True))


def _to_table(names: list[str], texts: list[str]) -> "Table":
    """Return a table with one column per variant."""
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for name in names:
        table.add_column(HEADINGS[name], ratio=1)
    # Text reads no markup, so an answer cannot change the colours.
    table.add_row(*[Text(terminal(text or EMPTY, lines=True)) for text in texts])
    return table


def _is_wide() -> bool:
    """Return whether standard output is a terminal with room for two columns."""
    from rich.console import Console

    return sys.stdout.isatty() and Console().width >= SIDE_BY_SIDE_COLUMNS


def _closable(stream: Iterator[str]) -> Any:
    """Return a generator as itself; any other iterator has nothing to close."""
    return stream if hasattr(stream, "close") else (text for text in stream)
