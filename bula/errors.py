"""Errors that a user must fix, and the one wrapper that turns them into a sentence.

Any other exception is a bug in this project or in a library, and keeps its traceback.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from bula.escaping import terminal


class UserError(Exception):
    """Report what a user must fix: where it is, what is wrong there, and what to do."""

    def __init__(self, where: str | Path, what: str, fix: str) -> None:
        """Keep the three parts; `where` names a file, a parameter or a stage."""
        super().__init__(str(where), what, fix)
        self.where, self.what, self.fix = str(where), what, fix

    def __str__(self) -> str:
        """Return the three parts as two sentences; a list of faults keeps its lines."""
        gap = "\n" if "\n" in self.what else ". "
        return f"{self.where}: {self.what}{gap}{self.fix[:1].upper()}{self.fix[1:]}."


def run_stage(command: Callable[..., Any]) -> None:
    """Run a command line; a UserError ends it with a sentence and exit code 1.

    Typer's own tracebacks are switched off, since they show the values of local variables.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_app(app)


def run_app(app: Callable[[], Any]) -> None:
    """Call an application; a UserError ends it with a sentence and exit code 1."""
    try:
        app()
    except UserError as error:
        raise SystemExit(terminal(str(error), lines=True)) from None
