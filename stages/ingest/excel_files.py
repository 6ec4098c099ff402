"""Read a sheet of an Excel file row by row.

openpyxl streams the rows of a sheet, so memory stays small even if a stray cell stands in the last
row. A reader that builds the complete rectangle of cells would need gigabytes for such a file.
"""

import errno
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

from bula.errors import UserError
from bula.records import Row
from stages.ingest.excel_sheets import MergedCells, Sheet, survey_sheet
from stages.ingest.headers import missing_columns, settle_names
from stages.ingest.memory import memory_for_reading, memory_limit
from stages.ingest.reading import (
    NumberedRow,
    ReadOptions,
    Refused,
    check_row,
    check_unique_columns,
)

# What a damaged file makes openpyxl raise; errors of its XML parser are SyntaxErrors.
EXCEL_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    expat.ExpatError,
)
# The number of the last row that a sheet can have.
LAST_ROW = 1_048_576
# Sheets that a message names.
MOST_SHEETS = 10
# Rows that are read under one limit of memory; setting the limit takes time.
BLOCK_ROWS = 200


def read_excel(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the rows of a sheet below its header, numbered as in Excel.

    The number of rows after damage is unknown, so damage refuses the file.
    """
    _check_size(path, options)
    with path.open("rb") as file:
        opened = _open_sheet(file, path, options)
        if isinstance(opened, Refused):
            yield 0, opened
            return
        sheet, facts = opened
        numbered = enumerate(_cells_or_damage(sheet, options), start=1)
        yield from _rows(numbered, facts, options)


def _rows(
    numbered: Iterator[tuple[int, tuple[Any, ...] | Refused]], facts: Sheet, options: ReadOptions
) -> Iterator[NumberedRow]:
    """Yield the rows below the header, with the values of merged cells."""
    header: list[str] | None = None
    merged = MergedCells({})
    for number, cells in numbered:
        if number > LAST_ROW:
            # openpyxl fills gaps with empty rows, so a wrong number of a row would never end.
            yield 0, Refused(f"a row has a number above {LAST_ROW}, Excel's last", "")
            return
        if isinstance(cells, Refused):
            yield 0, cells
        elif header is None and any(_text(cell).strip() for cell in cells):
            header = _read_header(cells, number, options)
            # A header of two merged rows is no data.
            merged = MergedCells({row: m for row, m in facts.merged.items() if row > number})
        elif header is not None:
            row = _read_row(number, cells, header, facts, merged, options)
            if row is not None:
                yield number, row


def _read_row(
    number: int,
    cells: tuple[Any, ...],
    header: list[str],
    facts: Sheet,
    merged: MergedCells,
    options: ReadOptions,
) -> Row | Refused | None:
    """Return a row, why it is refused, or None for an empty row."""
    cells, filled = merged.fill(number, cells)
    unstored = _names(facts.unstored.get(number, []), header, options)
    if unstored:
        shown = ", ".join(unstored)
        reason = f"the formula in column {shown} has no stored value; open the file in Excel or"
        return Refused(f"{reason} LibreOffice and save it again", "")
    if not any(_text(cell).strip() for cell in cells):
        return None
    if _names(filled, header, options):
        options.count_repair("merged_cells")
    return _row(cells, header, options)


def _names(columns: list[int], header: list[str], options: ReadOptions) -> list[str]:
    """Return the names of those columns that the source reads."""
    names = [header[column] for column in columns if column < len(header)]
    return [name for name in names if name in options.columns]


def sheet_names(path: Path) -> list[str]:
    """Return the names of a file's sheets, or none if the file is damaged."""
    try:
        with path.open("rb") as file, _as_damage():
            return [sheet.title for sheet in _open_book(file).worksheets]
    except EXCEL_ERRORS:
        return []


def _check_size(path: Path, options: ReadOptions) -> None:
    """Raise UserError if an Excel file unpacks to too many bytes.

    zipfile reads no member beyond the size that its directory states.
    """
    try:
        with _as_damage(), zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except EXCEL_ERRORS:
        # Reading reports the damage.
        return
    if size > options.limits.unpacked_bytes:
        what = f"it unpacks to more than {options.limits.unpacked_bytes} bytes"
        raise options.error(what, "split the file, or raise ingest.limits.unpacked_bytes")


def _open_sheet(file: BinaryIO, path: Path, options: ReadOptions) -> tuple[Any, Sheet] | Refused:
    """Return the wanted sheet and its survey, or why the file is refused."""
    most = memory_for_reading(options.limits.unpacked_bytes)
    try:
        # openpyxl keeps all texts of a file, and a hostile file takes 20 times its size.
        with memory_limit(most), _as_damage():
            book = _open_book(file)
    except EXCEL_ERRORS as error:
        return Refused(f"not Excel ({type(error).__name__})", "")
    except MemoryError as error:
        raise _too_large(options, most) from error
    sheet = _choose_sheet(book.worksheets, options)
    try:
        with _as_damage():
            return sheet, survey_sheet(path, sheet._worksheet_path)
    except OverflowError as error:
        return Refused(str(error), "")
    except EXCEL_ERRORS as error:
        return Refused(f"the sheet is damaged ({type(error).__name__})", "")


def _too_large(options: ReadOptions, most: int) -> UserError:
    """Return the error of a file that takes too much memory."""
    what = f"reading it takes more than {most} bytes of memory"
    fix = "split the file, or save it as CSV, which is read line by line"
    return options.error(what, fix)


def _cells_or_damage(sheet: Any, options: ReadOptions) -> Iterator[tuple[Any, ...] | Refused]:
    """Yield the cells of each row, and a Refused for damage."""
    most = memory_for_reading(options.limits.unpacked_bytes)
    try:
        # Some programs store a wrong size of the sheet, and rows beyond it would be lost.
        sheet.reset_dimensions()
        rows = sheet.iter_rows(values_only=True)
        while True:
            with memory_limit(most), _as_damage():
                block = list(islice(rows, BLOCK_ROWS))
            yield from block
            if not block:
                return
    except EXCEL_ERRORS as error:
        yield Refused(f"the sheet is damaged ({type(error).__name__})", "")
    except MemoryError as error:
        raise _too_large(options, most) from error


@contextmanager
def _as_damage() -> Iterator[None]:
    """Raise BadZipFile in place of the OSError of a seek to a negative place.

    A damaged directory of a zip file can state any place of a member.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise zipfile.BadZipFile("a member has an impossible place") from error


def _open_book(file: BinaryIO) -> Any:
    """Open an Excel file so that its rows are streamed."""
    # Imported here, because few sources need it.
    from openpyxl import load_workbook

    with warnings.catch_warnings():
        # The library warns about styles and rules that it does not read.
        warnings.simplefilter("ignore", UserWarning)
        # A file object keeps the library from judging the suffix.
        return load_workbook(file, read_only=True, data_only=True, keep_links=False)


def _choose_sheet(sheets: list[Any], options: ReadOptions) -> Any:
    """Return the sheet that the source names, or the first one."""
    names = [sheet.title for sheet in sheets]
    shown = ", ".join(names[:MOST_SHEETS])
    if not options.sheet:
        if len(sheets) > 1:
            note = f"reads the first sheet; `sheet` chooses another one of {shown}"
            print(f"ingest: {options.source_name}: {options.file_name}: {note}", file=sys.stderr)
        return sheets[0]
    if options.sheet not in names:
        fix = f"correct `sheet` of source {options.source_name} in params.yaml"
        raise options.error(f"no sheet {options.sheet}; the sheets are {shown}", fix)
    return sheets[names.index(options.sheet)]


def _read_header(cells: tuple[Any, ...], number: int, options: ReadOptions) -> list[str]:
    """Return the names in a sheet's first row.

    Raise UserError if the wanted columns are missing or repeated.
    """
    names = settle_names([_text(cell) for cell in cells], options.columns)
    if any(column not in names for column in options.columns):
        if sum(map(bool, names)) == 1:
            what = "the first row with text has a single cell, and not the names of the columns"
            raise options.error(what, "delete the rows above these names", number)
        raise missing_columns(names, options, number)
    check_unique_columns(options, names)
    return names


def _row(cells: tuple[Any, ...], header: list[str], options: ReadOptions) -> Row | Refused:
    """Return the row of a sheet, or why it is refused.

    Cells without a name in the header are left out.
    """
    row = {name: _value(cell) for name, cell in zip(header, cells, strict=False) if name}
    for name in filter(None, header):
        row.setdefault(name, None)
    size = sum(len(_text(cell)) for cell in row.values())
    if size > options.limits.row_bytes:
        return Refused(f"row longer than {options.limits.row_bytes} bytes", "")
    return check_row(row, "")


def _value(cell: Any) -> Any:
    """Return a cell as a JSON scalar.

    Dates follow ISO 8601, and whole numbers have no point.
    """
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell)


def _text(cell: Any) -> str:
    """Return the text of a cell; an empty cell has an empty text."""
    return "" if cell is None else str(_value(cell))
