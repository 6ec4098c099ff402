"""Read every source: filter its rows, map them to one set of names, and keep its losses in sight."""

import math
import sys
import tempfile
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.params import (
    DataSource,
    DemoSource,
    FilesSource,
    HubSource,
    HubTask,
    Limits,
    LocalTask,
    Tabular,
    TaskSource,
    UrlSource,
)
from bula.records import Row, read_rows
from bula.text import mask
from stages.ingest.fetch import download, public_address, within
from stages.ingest.files import SUFFIXES, Item, Reading, Refused, read_file

DEMO_SPLITS = (
    "train",
    "dev",
    "validation/A",
    "validation/B",
    "validation/C",
    "validation/D",
    "validation/E",
)
# Files beside a user's data that hold no rows; a folder that DVC tracks has some of them.
NO_DATA = ("", ".dvc", ".md")


def read_source(source: DataSource, limits: Limits) -> Iterator[Row]:
    """Yield the rows of one source, each with the source's name and license.

    A row that could not be read has `refused` (the reason) and `excerpt` (masked) in place of
    question and answer. UserError if the source as a whole is not what params.yaml says.
    """
    if isinstance(source, DemoSource):
        rows = read_demo(source, limits)
    elif isinstance(source, FilesSource):
        rows = read_files(source, limits)
    elif isinstance(source, UrlSource):
        rows = read_url(source, limits)
    else:
        rows = read_hub(source, limits)
    for row in rows:
        yield row | {"source": source.name, "license": source.license}


def read_demo(source: DemoSource, limits: Limits) -> Iterator[Row]:
    """Yield the rows of the demo corpus, with the split that their file gives them."""
    for split in DEMO_SPLITS:
        path = Path(source.path) / f"{split}.jsonl"
        if not path.is_file():
            raise UserError(path, "the file does not exist", "take it from git again")
        reading = Reading(source.name, f"{split}.jsonl", "utf-8", ["question", "answer"], limits)
        for line, row in read_file(path, reading):
            where = {
                "split": split.removeprefix("validation/"),
                "file": f"{split}.jsonl",
                "line": line,
            }
            yield where | (refusal(row) if isinstance(row, Refused) else row)


def read_files(source: FilesSource, limits: Limits) -> Iterator[Row]:
    """Yield the mapped rows of a user's files, in the order of their paths."""
    files = data_files(source)
    items = (
        (name, item)
        for name, file in files.items()
        for item in read_file(file, reading_of(source, name, limits))
    )
    yield from map_rows(source, items, limits)


def data_files(source: FilesSource) -> dict[str, Path]:
    """Return the files of a source by neutral names, in the order of paths: file-001.csv first.

    A file's own name may be a patient's, and quarantine, metrics and logs are shared.
    """
    root = Path(source.path)
    if not root.exists():
        raise UserError(
            root, "it does not exist", f"correct `path` of source {source.name} in params.yaml"
        )
    found = [root]
    if root.is_dir():
        found = [file for file in root.rglob("*") if file.is_file() and not _is_hidden(file, root)]
        # The order of `LC_ALL=C sort`, by which a person finds a file from its number.
        found.sort(key=lambda file: file.relative_to(root).as_posix())
    good = [file for file in found if file.suffix.lower() in SUFFIXES]
    if not good:
        what = f"no {', '.join(SUFFIXES)} file is there"
        raise UserError(root, what, f"correct `path` of source {source.name} in params.yaml")
    if others := sum(
        file.suffix not in (*SUFFIXES, *NO_DATA) for file in found if file not in set(good)
    ):
        print(
            f"ingest: {source.name}: left out {others} files that are none of {', '.join(SUFFIXES)}",
            file=sys.stderr,
        )
    return {
        f"file-{number:03d}{file.suffix.lower()}": file for number, file in enumerate(good, start=1)
    }


def _is_hidden(file: Path, root: Path) -> bool:
    """Return whether a file or a folder above it is hidden, as editors' copies are."""
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def reading_of(source: FilesSource | UrlSource, name: str, limits: Limits) -> Reading:
    """Return how a file of a source is read."""
    return Reading(source.name, name, source.encoding, wanted(source), limits)


def read_url(source: UrlSource, limits: Limits) -> Iterator[Row]:
    """Yield the mapped rows of a file behind an address, if its checksum is the pinned one."""
    suffix = Path(urllib.parse.urlsplit(source.url).path).suffix.lower()
    if suffix not in SUFFIXES:
        where, fix = (
            public_address(source.url),
            f"correct `url` of source {source.name} in params.yaml",
        )
        raise UserError(where, f"its path ends in none of {', '.join(SUFFIXES)}", fix)
    name = f"file-001{suffix}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        download(source.url, source.sha256, path, limits)
        items = ((name, item) for item in read_file(path, reading_of(source, name, limits)))
        yield from map_rows(source, items, limits)


def read_hub(source: HubSource, limits: Limits) -> Iterator[Row]:
    """Yield the mapped rows of a data set on the hub, streamed."""
    rows = enumerate(hub_rows(source, limits), start=1)
    items = ((source.id, (line, _short_row(row, wanted(source), limits))) for line, row in rows)
    yield from map_rows(source, items, limits)


def _short_row(row: Row, columns: list[str], limits: Limits) -> Row | Refused:
    """Return a row whose text in the wanted columns is within the limit."""
    if (
        sum(len(value) for column in columns if isinstance(value := row.get(column), str))
        > limits.row_bytes
    ):
        return Refused(f"row longer than {limits.row_bytes} bytes", "")
    return row


def hub_rows(source: HubSource | HubTask, limits: Limits) -> Iterator[Row]:
    """Yield the rows of a data set on the hub within the time limit; its code is never run."""
    import httpx2
    import pyarrow
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    if Path(source.id).exists():
        what = "a folder of this name lies here, which would be read in place of the hub"
        raise UserError(f"data set {source.id}", what, "rename the folder")
    failures = (
        DatasetsError, httpx2.HTTPError, pyarrow.ArrowException, OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile
    )  # fmt: skip
    where, shown = f"data set {source.id} at revision {source.revision}", True
    try:
        rows: Iterator[Any] = within(limits.download_seconds, _opened(load_dataset, source), where)
        # The first item is the data set itself.
        next(rows)
        # From here on, a library's words may quote a row.
        shown = False
        yield from rows
    except failures as error:
        reason = (str(error).splitlines() or [""])[0][:200] if shown else ""
        what = f"it cannot be read ({type(error).__name__}{': ' if reason else ''}{reason})"
        fix = "check id, revision, subset and split, the network, and HF_TOKEN for a gated data set"
        raise UserError(where, what, fix) from error


def _opened(load: Any, source: HubSource | HubTask) -> Iterator[Any]:
    """Yield a data set once it is open, then its rows; with hf:// no local folder is looked at."""
    address = f"hf://datasets/{source.id}"
    rows = load(
        address, source.subset, split=source.split, revision=source.revision, streaming=True
    )
    yield rows
    yield from rows


def wanted(source: Tabular) -> list[str]:
    """Return the columns that a row must have: those of the mapping and of the filter."""
    return sorted(
        {column for column in source.columns.model_dump().values() if column} | set(source.filter)
    )


def map_rows(source: Tabular, items: Iterator[tuple[str, Item]], limits: Limits) -> Iterator[Row]:
    """Yield the rows that pass the filter, under this project's names, at most `limit` of them.

    Rows that could not be read are yielded as refused.
    """
    good, filtered, first, absent = 0, 0, "", optional(source)
    where = f"source {source.name}"
    for count, (file, (line, row)) in enumerate(items, start=1):
        if count > limits.rows:
            what = f"it has more than {limits.rows} rows (ingest.limits.rows)"
            raise UserError(where, what, "raise the limit, or set the source's `limit`")
        if isinstance(row, dict) and not passes(source, row):
            filtered += 1
            continue
        mapped = row if isinstance(row, Refused) else map_columns(row, source)
        place = {"file": file, "line": line} | (
            {"split": source.role} if source.role != "split" else {}
        )
        if isinstance(mapped, Refused):
            if line == 0:
                # A whole file is no single row: how many are lost cannot be told.
                raise UserError(
                    f"{where}: {file}",
                    f"the file cannot be read: {mapped.reason}",
                    "repair the file or remove it",
                )
            first = first or f"{file}:{line}: {mapped.reason}"
            yield place | refusal(mapped)
        else:
            good, absent = good + 1, absent - set(row)
            yield place | mapped
        if good == source.limit > 0:
            break
    if not good:
        why = first or ("its filter lets none through" if filtered else "nothing in it holds one")
        raise UserError(
            where, f"no row could be used: {why}", "correct the source in params.yaml, or its files"
        )
    if absent:
        raise UserError(
            where,
            f"no row has a column {', '.join(sorted(absent))}",
            "correct its `columns` in params.yaml",
        )


def optional(source: Tabular) -> set[str]:
    """Return the mapped columns that a row may lack, though not every row."""
    return {column for column in (source.columns.specialty, source.columns.kind) if column}


def passes(source: Tabular, row: Row) -> bool:
    """Return whether a row passes the filter; one that lacks a column passes, and is refused later."""
    return all(
        column not in row or str(row[column]) in values for column, values in source.filter.items()
    )


def refusal(refused: Refused) -> Row:
    """Return the record of a row that could not be read, without its words."""
    return {"refused": refused.reason, "excerpt": mask(refused.text)}


def plain(value: object) -> str | int | float | bool | None:
    """Return a cell as JSON can hold it; NaN, lists and objects become null."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | bool) else None


def map_columns(row: Row, source: Tabular) -> Row | Refused:
    """Return the row under this project's names, or a reason that names columns and no value."""
    missing = [
        column for column in wanted(source) if column not in row and column not in optional(source)
    ]
    if missing:
        return Refused(f"no column {', '.join(missing)}", "")
    names = {field: column for field, column in source.columns.model_dump().items() if column}
    nested = [
        column
        for field, column in names.items()
        if field in ("question", "answer") and isinstance(row[column], list | dict)
    ]
    if nested:
        return Refused(f"{nested[0]} is no text but a {type(row[nested[0]]).__name__}", "")
    return {field: plain(row.get(column)) for field, column in names.items()}


def read_task(source: TaskSource, limits: Limits) -> Iterator[Row]:
    """Yield the items of one benchmark in the task's own form.

    A damaged file stops here, since a score over fewer items is another score.
    """
    rows = (
        read_rows(Path(source.path)) if isinstance(source, LocalTask) else hub_rows(source, limits)
    )
    for count, row in enumerate(rows, start=1):
        if count > limits.rows:
            what = f"it has more than {limits.rows} items (ingest.limits.rows)"
            raise UserError(
                f"benchmark {source.name}", what, "raise the limit, or name a smaller split"
            )
        yield row
