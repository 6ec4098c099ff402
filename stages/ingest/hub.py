"""Stream data sets from the Hugging Face hub.

The code of a data set never runs.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.params import HubSource, HubTask, Limits
from bula.records import Row
from stages.ingest.deadlines import within

# Most characters of a library's message that an error repeats.
MOST_CHARACTERS = 200


def hub_rows(source: HubSource | HubTask, limits: Limits) -> Iterator[Row]:
    """Yield the rows of a data set on the hub.

    UserError if the data set cannot be read, or takes longer than the time limit.
    """
    # The import of the libraries takes seconds, which must not count towards the time limit.
    from datasets import load_dataset

    failures = _hub_errors()
    where = f"data set {source.id} at revision {source.revision}"
    if Path(source.id).exists():
        what = "a local folder has this name and would be read in place of the hub"
        raise UserError(f"data set {source.id}", what, "rename the folder")
    elements = _open_and_read(load_dataset, source)
    rows: Iterator[Any] = within(limits.download_seconds, elements, where)
    opened = False
    try:
        # The first element is the data set itself.
        next(rows)
        opened = True
        yield from rows
    except failures as error:
        # The message of an error that comes after the opening may quote a row.
        detail = "" if opened else _first_line(error)
        what = f"it cannot be read ({type(error).__name__}{detail})"
        fix = "check id, revision, subset and split, the network, and HF_TOKEN for a gated data set"
        raise UserError(where, what, fix) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """Return the errors that reading from the hub may raise."""
    import httpx2
    import pyarrow
    from datasets.exceptions import DatasetsError

    libraries = (DatasetsError, httpx2.HTTPError, pyarrow.ArrowException, zipfile.BadZipFile)
    return (*libraries, OSError, ValueError, RuntimeError, EOFError)


def _open_and_read(load_dataset: Any, source: HubSource | HubTask) -> Iterator[Any]:
    """Yield an opened data set, then its rows.

    The prefix hf:// keeps the library from reading a local folder.
    """
    rows = load_dataset(
        f"hf://datasets/{source.id}",
        source.subset,
        split=source.split,
        revision=source.revision,
        streaming=True,
    )
    yield rows
    yield from rows


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message after a colon."""
    lines = str(error).splitlines()
    line = lines[0][:MOST_CHARACTERS] if lines else ""
    return f": {line}" if line else ""
