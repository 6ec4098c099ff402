"""Read a file of rows in the format that its suffix names."""

from collections.abc import Iterator
from pathlib import Path

from stages.ingest.csv_files import read_csv
from stages.ingest.json_files import read_json_array, read_json_lines
from stages.ingest.reading import NumberedRow, ReadOptions, Refused

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
# Bytes at the start of a text file in which zero bytes are counted.
HEAD_BYTES = 10_000
# Half of the bytes of Portuguese in UTF-16 are zero; fewer zeros are damage to single rows.
MOST_ZERO_SHARE = 0.25


def read_file(path: Path, options: ReadOptions) -> Iterator[NumberedRow]:
    """Yield the rows of a file.

    Raise UserError if the complete file cannot be a source.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise options.error(f"only {', '.join(SUFFIXES)} files can be read", "convert the file")
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
    elif _is_not_text(path):
        yield 0, Refused("the file is UTF-16 or not text; save it as UTF-8", "")
    elif suffix in (".csv", ".tsv"):
        yield from read_csv(path, options)
    elif suffix == ".json":
        yield from read_json_array(path, options)
    else:
        yield from read_json_lines(path, options)


def _is_not_text(path: Path) -> bool:
    """Return whether a file is UTF-16 or binary."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return head.count(0) > MOST_ZERO_SHARE * len(head)
