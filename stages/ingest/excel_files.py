"""Read a sheet of an Excel file row by row.

openpyxl streams the rows of a sheet, so memory stays small even if a stray cell stands in the last
row. A reader that builds the complete rectangle of cells would need gigabytes for such a file.
"""

import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, BinaryIO

from bula.records import Row
from stages.ingest.headers import missing_columns, settle_names
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
)
# Sheets that a message names.
MOST_SHEETS = 10


def read_excel(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the rows of a sheet below its header, numbered as in Excel.

    The number of rows after damage is unknown, so damage refuses the file.
    """
    _check_size(path, options)
    numbered = enumerate(_cells_or_damage(path, options), start=1)
    header: list[str] | None = None
    for number, cells in numbered:
        if isinstance(cells, Refused):
            yield 0, cells
        elif not any(_text(cell).strip() for cell in cells):
            continue
        elif header is None:
            header = _read_header(cells, number, options)
        else:
            yield number, _row(cells, header, options)


def sheet_names(path: Path) -> list[str]:
    """Return the names of a file's sheets, or none if the file is damaged."""
    try:
        with path.open("rb") as file:
            return [sheet.title for sheet in _open_book(file).worksheets]
    except EXCEL_ERRORS:
        return []


def _check_size(path: Path, options: ReadOptions) -> None:
    """Raise UserError if an Excel file unpacks to too many bytes.

    zipfile reads no member beyond the size that its directory states.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except EXCEL_ERRORS:
        # Reading reports the damage.
        return
    if size > options.limits.unpacked_bytes:
        what = f"it unpacks to more than {options.limits.unpacked_bytes} bytes"
        raise options.error(what, "split the file, or raise ingest.limits.unpacked_bytes")


def _cells_or_damage(path: Path, options: ReadOptions) -> Iterator[tuple[Any, ...] | Refused]:
    """Yield the cells of each row, and a Refused for damage."""
    with path.open("rb") as file:
        try:
            book = _open_book(file)
        except EXCEL_ERRORS as error:
            yield Refused(f"not Excel ({type(error).__name__})", "")
            return
        sheet = _choose_sheet(book.worksheets, options)
        try:
            # Some programs store a wrong size of the sheet, and rows beyond it would be lost.
            sheet.reset_dimensions()
            yield from sheet.iter_rows(values_only=True)
        except EXCEL_ERRORS as error:
            yield Refused(f"the sheet is damaged ({type(error).__name__})", "")


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
