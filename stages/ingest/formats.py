"""Read a file of rows by its suffix and its content."""

from collections.abc import Iterator
from pathlib import Path, PurePath

from stages.ingest.csv_files import read_csv
from stages.ingest.encodings import check_encoding, looks_like_utf_16
from stages.ingest.headers import settle_row
from stages.ingest.json_files import read_json_array, read_json_lines
from stages.ingest.json_forms import has_json_lines
from stages.ingest.opening import COMPRESSIONS, WIDE_ENCODINGS, plain_file
from stages.ingest.reading import NumberedRow, ReadOptions, Refused

TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
BINARY_SUFFIXES = (".parquet", ".xlsx")
SUFFIXES = (*TEXT_SUFFIXES, *BINARY_SUFFIXES)
READABLE = f"{', '.join(SUFFIXES)}, or a text file with {', '.join(COMPRESSIONS)} after it"
# Bytes at the start of a text file in which zero bytes are counted.
HEAD_BYTES = 10_000
# Fewer zeros are damage to single rows.
MOST_ZERO_SHARE = 0.25


def file_suffix(name: str) -> str:
    """Return the suffix of a readable file, such as .csv or .csv.gz.

    Return an empty text if no reader knows the suffix.
    """
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    if last in SUFFIXES:
        return last
    if last in COMPRESSIONS and suffixes[0] in TEXT_SUFFIXES:
        return "".join(suffixes)
    return ""


def read_file(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the rows of a file.

    Raise UserError if the complete file cannot be a source.
    """
    suffix = file_suffix(path.name)
    if not suffix:
        raise options.error(f"only {READABLE} can be read", "convert the file")
    try:
        yield from _read_by_suffix(path, suffix, options)
    except OSError as error:
        # The message of an OSError contains the file's name.
        what = f"the file cannot be read ({error.strerror or type(error).__name__})"
        raise options.error(what, "check the disk and the file's permissions") from error


def _read_by_suffix(path: Path, suffix: str, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the rows of a file by the reader of its suffix."""
    if suffix == ".parquet":
        from stages.ingest.parquet_files import read_parquet

        yield from read_parquet(path, options)
    elif suffix == ".xlsx":
        from stages.ingest.excel_files import read_excel

        yield from read_excel(path, options)
    else:
        settings = check_encoding(path, options)
        with plain_file(path, settings) as (plain, plain_options):
            yield from _read_text(plain, suffix, plain_options)


def _read_text(path: Path, suffix: str, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the rows of an uncompressed text file."""
    if reason := _is_not_text(path):
        yield 0, Refused(reason, "")
    elif suffix.startswith((".csv", ".tsv")):
        yield from read_csv(path, options)
    else:
        for line, row in _read_json(path, suffix, options):
            yield line, settle_row(row, options)


def _read_json(path: Path, suffix: str, options: ReadOptions) -> Iterator[NumberedRow]:
    """Return the rows of a JSON file by its content."""
    is_named_array = suffix.split(".")[1] == "json"
    if not options.rows and has_json_lines(path, is_named_array, options):
        return read_json_lines(path, options)
    return read_json_array(path, options)


def _is_not_text(path: Path) -> str:
    """Return why a file is UTF-16 or binary, or an empty text."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.count(0) <= MOST_ZERO_SHARE * len(head):
        return ""
    form = looks_like_utf_16(head)
    if form in WIDE_ENCODINGS:
        return f"the file is UTF-16; write `encoding: {form}`, or save it as UTF-8"
    return "the file is UTF-16 or not text; save it as UTF-8"
