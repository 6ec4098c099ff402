"""Read each kind of source, and the items of benchmarks."""

import tempfile
import urllib.parse
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
    TaskSource,
    UrlSource,
    UrlTask,
)
from bula.records import SET_NAMES, Row, read_rows
from stages.ingest.cells import find_cell
from stages.ingest.fetch import download, public_address
from stages.ingest.formats import READABLE, file_suffix, read_file
from stages.ingest.hub import hub_rows
from stages.ingest.mapping import map_rows, optional_columns, refusal, wanted_columns
from stages.ingest.parquet_columns import column_names, first_texts
from stages.ingest.reading import FileRow, NumberedRow, ReadOptions, Refused
from stages.ingest.survey import COMPARED_ROWS, Survey, new_survey, observe_names, observe_texts
from stages.ingest.task_items import map_items, wanted_task_columns
from stages.ingest.user_files import data_files

DEMO_FILES = ("train", "dev", *(f"validation/{name}" for name in SET_NAMES))


def read_source(source: DataSource, limits: Limits, survey: Survey | None = None) -> Iterator[Row]:
    """Yield the rows of one source with its name and license.

    A row that could not be read has `refused` (the reason) and `excerpt` (masked) in place of
    question and answer. `survey` receives observations about the rows of a table. Raise UserError
    if the complete source differs from what params.yaml says.
    """
    for row in _rows_by_kind(source, limits, new_survey() if survey is None else survey):
        yield row | {"source": source.name, "license": source.license}


def _rows_by_kind(source: DataSource, limits: Limits, survey: Survey) -> Iterator[Row]:
    """Return the rows of a source by the reader of its kind."""
    if isinstance(source, DemoSource):
        return read_demo(source, limits)
    if isinstance(source, FilesSource):
        return read_files(source, limits, survey)
    if isinstance(source, UrlSource):
        return read_url(source, limits, survey)
    return read_hub(source, limits, survey)


def read_demo(source: DemoSource, limits: Limits) -> Iterator[Row]:
    """Yield the rows of the demo corpus.

    A row's file determines its split.
    """
    for stem in DEMO_FILES:
        name = f"{stem}.jsonl"
        split = stem.removeprefix("validation/")
        path = Path(source.path) / name
        if not path.is_file():
            raise UserError(path, "the file does not exist", "restore it from git")
        options = ReadOptions(source.name, name, "utf-8", ["question", "answer"], limits)
        for line, row in read_file(path, options):
            place: Row = {"split": split, "file": name, "line": line}
            fields = refusal(row) if isinstance(row, Refused) else row
            yield place | fields


def read_files(source: FilesSource, limits: Limits, survey: Survey) -> Iterator[Row]:
    """Yield the mapped rows of a user's files."""
    rows = _rows_of_files(source, data_files(source), limits, survey)
    yield from map_rows(source, rows, limits, survey)


def read_url(source: UrlSource, limits: Limits, survey: Survey) -> Iterator[Row]:
    """Yield the mapped rows of a file behind an address.

    Raise UserError if the file does not have the pinned checksum.
    """
    suffix = _suffix_of(source.url, f"source {source.name}")
    name = f"file-001{suffix}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        download(source.url, source.sha256, path, limits)
        rows = _rows_of_files(source, {name: path}, limits, survey)
        yield from map_rows(source, rows, limits, survey)


def _suffix_of(url: str, owner: str) -> str:
    """Return the suffix of an address, which names the format of its file."""
    suffix = file_suffix(urllib.parse.urlsplit(url).path)
    if not suffix:
        what = f"its path does not end like {READABLE}"
        fix = f"correct `url` of {owner} in params.yaml"
        raise UserError(public_address(url), what, fix)
    return suffix


def _rows_of_files(
    source: FilesSource | UrlSource, files: dict[str, Path], limits: Limits, survey: Survey
) -> Iterator[FileRow]:
    """Yield the rows of files by neutral names."""
    for name, path in files.items():
        columns = _columns_of_file(source, path, survey)
        options = ReadOptions(source.name, name, source.encoding, columns, limits)
        options = options._replace(
            rows=source.rows or "", sheet=source.sheet or "", counts=survey.counts
        )
        for row in read_file(path, options):
            yield name, row


def _columns_of_file(source: FilesSource | UrlSource, path: Path, survey: Survey) -> list[str]:
    """Return the columns that the reader of a file must find at its top.

    A name with dots may name a field of a nested object, and objects of JSON may lack an optional
    column. Rows of a Parquet file contain only the wanted columns, so the survey learns of the
    others here.
    """
    wanted = wanted_columns(source)
    if path.suffix.lower() == ".parquet":
        names = column_names(path)
        observe_names(survey, source, names)
        unread = [name for name in names if name in survey.unread]
        for row in first_texts(path, unread, COMPARED_ROWS):
            observe_texts(survey, row)
        return sorted({name if name in names else name.split(".")[0] for name in wanted})
    if file_suffix(path.name).split(".")[1] == "json":
        optional = optional_columns(source)
        return [name for name in wanted if "." not in name and name not in optional]
    return wanted


def read_hub(source: HubSource, limits: Limits, survey: Survey) -> Iterator[Row]:
    """Yield the mapped rows of a data set on the hub, streamed."""
    yield from map_rows(source, _rows_of_hub(source, limits), limits, survey)


def _rows_of_hub(source: HubSource, limits: Limits) -> Iterator[FileRow]:
    """Yield the rows of a data set on the hub.

    The id of the data set stands for the name of a file.
    """
    columns = wanted_columns(source)
    for number, row in enumerate(hub_rows(source, limits), start=1):
        checked = _refuse_long_row(row, columns, limits.row_bytes)
        yield source.id, (number, checked)


def _refuse_long_row(row: Row, columns: list[str], longest: int) -> Row | Refused:
    """Return a row unless its wanted columns exceed `longest` characters."""
    characters = sum(_count_characters(find_cell(row, column)) for column in columns)
    if characters > longest:
        return Refused(f"row longer than {longest} bytes", "")
    return row


def _count_characters(cell: Any) -> int:
    """Return the number of characters of all texts in a cell, at any depth."""
    if isinstance(cell, str):
        return len(cell)
    if isinstance(cell, dict):
        return sum(map(_count_characters, cell.values()))
    if isinstance(cell, list):
        return sum(map(_count_characters, cell))
    return 0


def read_task(source: TaskSource, limits: Limits) -> Iterator[Row]:
    """Yield the items of one benchmark in the task's own form.

    A damaged file raises UserError, since a score over fewer items is another score.
    """
    rows = bounded_items(source, limits)
    if source.columns is None:
        yield from (row for _, row in rows)
    else:
        yield from map_items(source.name, source.columns, rows)


def bounded_items(source: TaskSource, limits: Limits) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a benchmark with their lines.

    Raise UserError if a row cannot be read, or if there are too many.
    """
    for count, (line, row) in enumerate(_rows_of_task(source, limits), start=1):
        if count > limits.rows:
            what = f"it has more than {limits.rows} items (ingest.limits.rows)"
            fix = "raise the limit, or name a smaller split"
            raise UserError(f"benchmark {source.name}", what, fix)
        if isinstance(row, Refused):
            where = f"benchmark {source.name}: item {line}"
            raise UserError(where, f"it cannot be read: {row.reason}", "repair the file")
        yield line, row


def _rows_of_task(source: TaskSource, limits: Limits) -> Iterator[NumberedRow]:
    """Return the rows of a benchmark by the reader of its kind."""
    if isinstance(source, UrlTask):
        return _task_at_address(source, limits)
    if isinstance(source, HubTask):
        return enumerate(hub_rows(source, limits), start=1)
    path = Path(source.path)
    if source.columns is None:
        return enumerate(read_rows(path), start=1)
    return read_file(path, _task_options(source, limits))


def _task_at_address(source: UrlTask, limits: Limits) -> Iterator[NumberedRow]:
    """Yield the rows of a benchmark's file behind an address."""
    suffix = _suffix_of(source.url, f"benchmark {source.name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"items{suffix}"
        download(source.url, source.sha256, path, limits)
        yield from read_file(path, _task_options(source, limits))


def _task_options(source: LocalTask | UrlTask, limits: Limits) -> ReadOptions:
    """Return how the file of a benchmark is read."""
    columns = [] if source.columns is None else wanted_task_columns(source.columns)
    return ReadOptions(source.name, "items", "utf-8", columns, limits)
