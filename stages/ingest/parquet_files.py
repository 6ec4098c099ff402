"""Read Parquet files batch by batch, including damaged files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from bula.errors import UserError
from bula.records import Row
from stages.ingest.cell_sizes import row_sizes
from stages.ingest.headers import missing_columns
from stages.ingest.memory import memory_limit
from stages.ingest.reading import (
    NumberedRow,
    ReadOptions,
    Refused,
    check_row,
    check_unique_columns,
)

# A batch has few rows, because a hostile file can make each row large.
BATCH_ROWS = 1000
# Reading also takes memory for stacks of threads and for an allocator's reserve.
SLACK_BYTES = 500_000_000
DICTIONARY_ENCODINGS = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
# What a damaged file makes pyarrow raise; an unknown time zone is a KeyError.
PARQUET_ERRORS = (
    pyarrow.ArrowException,
    OSError,
    ValueError,
    OverflowError,
    KeyError,
    MemoryError,
)


def read_parquet(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the rows of a Parquet file.

    A damaged row group refuses its own rows. A damaged footer refuses the file.
    """
    try:
        file = _open(path, options.columns)
        names = file.schema_arrow.names
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        group_rows = [group.num_rows for group in groups]
        chunks = list(_wanted_chunks(file, options.columns))
        unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
    except PARQUET_ERRORS as error:
        yield 0, Refused(f"not Parquet ({type(error).__name__})", "")
        return
    if unpacked > options.limits.unpacked_bytes:
        raise _too_large(options)
    _check_columns(options, names)
    yield from _read_groups(file, group_rows, options)


def column_names(path: Path) -> list[str]:
    """Return the columns of a Parquet file, or none if its footer is damaged."""
    try:
        return list(parquet.ParquetFile(path).schema_arrow.names)
    except PARQUET_ERRORS:
        return []


def _open(path: Path, columns: list[str]) -> parquet.ParquetFile:
    """Open a Parquet file so that memory contains repeated text once."""
    encodings: dict[str, set[str]] = {}
    for chunk in _wanted_chunks(parquet.ParquetFile(path), columns):
        encodings.setdefault(chunk.path_in_schema, set()).update(chunk.encodings)
    repeated = [column for column, found in encodings.items() if _is_dictionary(found)]
    return parquet.ParquetFile(path, read_dictionary=repeated)


def _is_dictionary(encodings: set[str]) -> bool:
    """Return whether pyarrow can read these encodings as a dictionary.

    It cannot read the delta encodings so.
    """
    has_delta = any(name.startswith("DELTA") for name in encodings)
    return bool(encodings & DICTIONARY_ENCODINGS) and not has_delta


def _wanted_chunks(file: parquet.ParquetFile, columns: list[str]) -> Iterator[Any]:
    """Yield the footer's entry for each chunk of the wanted columns."""
    for group_index in range(file.num_row_groups):
        group = file.metadata.row_group(group_index)
        for column_index in range(group.num_columns):
            chunk = group.column(column_index)
            if chunk.path_in_schema.split(".")[0] in columns:
                yield chunk


def _too_large(options: ReadOptions) -> UserError:
    """Return the error of a file that unpacks to too many bytes."""
    what = f"it unpacks to more than {options.limits.unpacked_bytes} bytes"
    return options.error(what, "split the file, or raise ingest.limits.unpacked_bytes")


def _check_columns(options: ReadOptions, names: list[str]) -> None:
    """Raise UserError unless each wanted column appears exactly once."""
    if any(column not in names for column in options.columns):
        raise missing_columns(names, options)
    check_unique_columns(options, names)


def _read_groups(
    file: parquet.ParquetFile, group_rows: list[int], options: ReadOptions
) -> Iterator[NumberedRow]:
    """Yield the rows of all row groups.

    The sizes in a footer can be wrong, so the bytes of the cells are summed while they are read.
    """
    number = 0
    total_bytes = 0
    for group, rows in enumerate(group_rows):
        last = number + rows
        try:
            for batch in _read_batches(file, group, options):
                sizes = row_sizes(batch)
                total_bytes += int(sizes.sum())
                if total_bytes > options.limits.unpacked_bytes:
                    raise _too_large(options)
                for row in _batch_rows(batch, sizes.tolist(), options):
                    number += 1
                    yield number, row
        except MemoryError as error:
            raise _too_large(options) from error
        except PARQUET_ERRORS as error:
            yield from _refuse_rows(number + 1, last, error)
        number = last


def _read_batches(
    file: parquet.ParquetFile, group: int, options: ReadOptions
) -> Iterator[pyarrow.RecordBatch]:
    """Yield the batches of a row group.

    Raise MemoryError if a batch takes more bytes than the file may.
    """
    batches = file.iter_batches(BATCH_ROWS, [group], options.columns, use_threads=False)
    most_bytes = options.limits.unpacked_bytes + SLACK_BYTES
    while True:
        try:
            with memory_limit(most_bytes):
                batch = next(batches, None)
        except pyarrow.ArrowException as error:
            # Arrow wraps the allocation errors of C++ containers.
            if "bad_alloc" in str(error) or "bad allocation" in str(error):
                raise MemoryError from error
            raise
        if batch is None:
            return
        yield batch


def _batch_rows(
    batch: pyarrow.RecordBatch, sizes: list[int], options: ReadOptions
) -> Iterator[Row | Refused]:
    """Yield each row of a batch, or why it is refused."""
    longest = options.limits.row_bytes
    for index, size in enumerate(sizes):
        if size > longest:
            yield Refused(f"row longer than {longest} bytes", "")
        else:
            yield _batch_row(batch, index, options.encoding)


def _batch_row(batch: pyarrow.RecordBatch, index: int, encoding: str) -> Row | Refused:
    """Return one row of a batch.

    Rows are converted singly, so that text in another encoding refuses its own row only. Some
    programs store text as bytes, which are decoded.
    """
    try:
        row = batch.slice(index, 1).to_pylist()[0]
        for column, cell in row.items():
            if isinstance(cell, bytes):
                row[column] = cell.decode(encoding)
        return check_row(row, "")
    except PARQUET_ERRORS as error:
        return Refused(f"row cannot be read ({type(error).__name__})", "")


def _refuse_rows(first: int, last: int, error: Exception) -> Iterator[NumberedRow]:
    """Yield a Refused for each row of a damaged row group.

    A row group may have a million rows, and all of them count as unreadable.
    """
    refused = Refused(f"row group cannot be read ({type(error).__name__})", "")
    for number in range(first, last + 1):
        yield number, refused
