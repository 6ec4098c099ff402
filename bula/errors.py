"""Define errors that a user must fix, and print them as sentences.

Any other exception is a bug in this project or in a library, and keeps its traceback.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from bula.escaping import terminal


class UserError(Exception):
    """An error that the user must fix: where, what, and the fix."""

    def __init__(self, where: str | Path, what: str, fix: str) -> None:
        """Keep the three parts of the message.

        `where` names a file, a parameter or a stage.
        """
        super().__init__(str(where), what, fix)
        self.where = str(where)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        """Return the three parts as two sentences.

        If `what` has several lines, the fix starts on a new line.
        """
        gap = "\n" if "\n" in self.what else ". "
        fix = self.fix[:1].upper() + self.fix[1:]
        return f"{self.where}: {self.what}{gap}{fix}."


def run_stage(command: Callable[..., Any]) -> None:
    """Run the command line of a stage.

    A UserError prints a sentence and exits with code 1. Typer's own tracebacks are switched off,
    because they show the values of local variables.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_app(app)


def run_app(app: Callable[[], Any]) -> None:
    """Call an application, and report a UserError as a sentence.

    The exit code is then 1.
    """
    try:
        app()
    except UserError as error:
        raise SystemExit(terminal(str(error), lines=True)) from None
