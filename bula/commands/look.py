"""Describe a file or folder of rows, and propose its source entry.

The readers of files belong to the stage ingest, so the command runs them in a process of their own.

    python -m bula look data/sources/clinic.csv
"""

import subprocess
import sys
from typing import Annotated

import typer

from bula.errors import UserError


def look(path: Annotated[str, typer.Argument(help="File or folder with rows.")]) -> None:
    """Describe a file or folder of rows, and propose its entry in params.yaml."""
    if "://" in path:
        raise UserError(path, "it is an address", "download the file, and name it here")
    command = [sys.executable, "-m", "stages.ingest.look", "--", path]
    code = subprocess.call(command)
    if code:
        raise typer.Exit(code)
