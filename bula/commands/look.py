"""Describe a file or folder of rows, and propose its source entry.

The readers of files belong to the stage ingest, so the command runs them in a process of their own.

    python -m bula look data/sources/clinic.csv
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def look(path: Annotated[Path, typer.Argument(help="File or folder with rows.")]) -> None:
    """Describe a file or folder of rows, and propose its entry in params.yaml."""
    command = [sys.executable, "-m", "stages.ingest.look", "--", str(path)]
    code = subprocess.call(command)
    if code:
        raise typer.Exit(code)
