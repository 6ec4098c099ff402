"""Read a user's files row by row: JSON Lines, JSON arrays, CSV and Parquet.

A damaged file costs neither its good rows nor a traceback: a row that cannot be read becomes a
Refused with its line and reason, and reading continues at the next row. Text is never repaired by
guessing: no byte is replaced and no quote is added.

A file may hold patients' words, and its name may be a patient's name. So no message repeats text
of a row, a file is called by its number, and errors of libraries are named by their class alone.
"""

import csv
import io
import json
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute, parquet

from bula.errors import UserError
from bula.params import Limits
from bula.records import Row
from bula.text import mask

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
# A CSV record may span lines, but not more than this: else one stray quote would swallow the file before it is given up.
RECORD_LINES = 1000
# Half of the bytes of Portuguese in UTF-16 are zero; a few in a text file are damage to a row or two.
HEAD = 10_000
# Rows of a Parquet file that are held at once; few, since a hostile file can make each of them large.
BATCH = 1000
# What reading takes beside the data: stacks of threads, and memory that an allocator reserves.
SLACK = 500_000_000
SURROGATE = re.compile("[\ud800-\udfff]")
TEXT_KINDS = (
    pyarrow.types.is_string,
    pyarrow.types.is_large_string,
    pyarrow.types.is_binary,
    pyarrow.types.is_large_binary,
)
DICTIONARY = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
# What a damaged Parquet file makes pyarrow raise; an unknown time zone is a KeyError.
PARQUET_ERRORS = (
    pyarrow.ArrowException,
    OSError,
    ValueError,
    OverflowError,
    KeyError,
    MemoryError,
)


class Refused(NamedTuple):
    """Why a row could not be read, and its text, which is masked before it is written."""

    reason: str
    text: str


class Reading(NamedTuple):
    """How one file of a source is read."""

    source: str
    """Name of the source."""
    name: str
    """The file's neutral name in messages and records, such as file-003.csv."""
    encoding: str
    """Text encoding of JSON and CSV."""
    columns: list[str]
    """Columns that a table must have."""
    limits: Limits
    """Sizes at which reading stops."""

    def error(self, what: str, fix: str, line: int = 0) -> UserError:
        """Return the error that names this file, and a line if there is one."""
        where = f"{self.name}:{line}" if line else self.name
        return UserError(f"source {self.source}: {where}", what, fix)


# What a file gives for one row: its line (the row's number in Parquet, 0 for the file as a whole), and the row or why not.
Item = tuple[int, Row | Refused]


def read_file(path: Path, reading: Reading) -> Iterator[Item]:
    """Yield the rows of a file; UserError if the file as a whole cannot be a source."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise reading.error(f"only {', '.join(SUFFIXES)} files can be read", "convert the file")
    try:
        yield from _read_by_suffix(path, suffix, reading)
    except OSError as error:
        # Not the error's own words, which hold the file's name.
        what = f"the file cannot be read ({error.strerror or type(error).__name__})"
        raise reading.error(what, "check the disk and the file's permissions") from error


def _read_by_suffix(path: Path, suffix: str, reading: Reading) -> Iterator[Item]:
    """Yield the rows of a file in the form that its suffix names."""
    if suffix == ".parquet":
        yield from read_parquet(path, reading)
        return
    with path.open("rb") as file:
        start = file.read(HEAD)
    if start.count(0) > len(start) / 4:
        yield 0, Refused("the file is UTF-16 or no text; save it as UTF-8", "")
    elif suffix in (".csv", ".tsv"):
        yield from read_csv(path, reading)
    elif suffix == ".json":
        yield from read_json_array(path, reading)
    else:
        yield from read_json_lines(path, reading)


def read_lines(path: Path, reading: Reading) -> Iterator[tuple[int, str | Refused]]:
    """Yield lines with their numbers; a line that cannot be text is a Refused.

    Line ends are kept, the byte order mark is not. A line over the limit is never held in memory.
    """
    longest = reading.limits.row_bytes
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(longest + 1):
            number += 1
            if len(raw) > longest:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(longest + 1)
                yield number, Refused(f"line longer than {longest} bytes", "")
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            yield number, _decode(raw, reading.encoding)


def _decode(raw: bytes, encoding: str) -> str | Refused:
    """Return a line's text, or why it is none."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"not {encoding} (byte {error.start + 1} of the line)"
        return Refused(reason, raw.decode(encoding, "replace"))


def parse_object(text: str) -> Row | Refused:
    """One JSON object, or why the text is none."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except (ValueError, RecursionError) as error:
        return Refused(f"not JSON ({getattr(error, 'msg', error)})", text)
    return check_object(value, text)


def check_object(value: object, text: str) -> Row | Refused:
    """A parsed value if it is an object whose text can be written as UTF-8."""
    if not isinstance(value, dict):
        return Refused(f"a JSON object is expected, found {type(value).__name__}", text)
    # A \ud83d without its partner is allowed in JSON and is no character.
    if any(
        isinstance(part, str) and SURROGATE.search(part) for pair in value.items() for part in pair
    ):
        return Refused(
            "holds half a surrogate pair or bytes of another encoding", SURROGATE.sub("?", text)
        )
    return value


def _refuse_constant(name: str) -> None:
    """NaN and infinities are no JSON, whatever Python's reader thinks."""
    raise ValueError(f"{name} is no JSON value")


def _refuse_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two answers under one key, Python's reader would take the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def read_json_lines(path: Path, reading: Reading) -> Iterator[Item]:
    """Yield one object per line; blank lines are skipped."""
    for number, line in read_lines(path, reading):
        if isinstance(line, Refused):
            yield number, line
        elif line.strip():
            yield number, parse_object(line)


def read_json_array(path: Path, reading: Reading) -> Iterator[Item]:
    """Yield the objects of one array, which is held in memory.

    After damage, reading continues at the next object that has the wanted columns.
    """
    text = _array_text(path, reading)
    decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    place = _skip(text, 0)
    damaged = text[place : place + 1] != "["
    if damaged:
        yield 1, Refused("a JSON array is expected", text[place : place + 60])
    line, counted = 1, 0
    place = place if damaged else _skip(text, place + 1)
    # A bracket that closes the array in the middle of the file is damage too.
    while place < len(text) and not (text[place] == "]" and not text[place + 1 :].strip()):
        line, counted = line + text.count("\n", counted, place), place
        start = text[place : place + 60]
        try:
            value, end = decoder.raw_decode(text, place)
            yield line, _short_object(value, start, end - place, reading.limits.row_bytes)
            damaged = False
        except (ValueError, RecursionError) as error:
            reason = f"not JSON ({getattr(error, 'msg', error)})"
            yield line, Refused(reason, SURROGATE.sub("?", start))
            end, damaged = _next_object(text, place + 1, decoder, reading.columns), True
        place = _skip(text, end)
    if place >= len(text) and not damaged:
        # The file was cut between two objects, as by a download that broke off.
        yield line, Refused("the array is never closed", "")


def _array_text(path: Path, reading: Reading) -> str:
    """Return the text of a JSON array's file; UserError if it is too large to be held in memory."""
    largest = reading.limits.unpacked_bytes
    if path.stat().st_size > largest:
        what = f"a JSON array of more than {largest} bytes (ingest.limits.unpacked_bytes)"
        raise reading.error(what, "save it as JSON Lines, which is read line by line")
    # Bytes that do not fit become half surrogates, which check_object refuses where they stand.
    return (
        path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode(reading.encoding, "surrogateescape")
    )


def _short_object(value: object, text: str, length: int, longest: int) -> Row | Refused:
    """Return a parsed value if it is a good object of at most `longest` characters."""
    if length > longest:
        return Refused(f"object longer than {longest} bytes", "")
    return check_object(value, text)


def _skip(text: str, place: int) -> int:
    """Past white space and commas."""
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place


def _next_object(text: str, place: int, decoder: json.JSONDecoder, columns: list[str]) -> int:
    """Where the next readable object with the wanted columns starts, or the end of the text."""
    while (place := text.find("{", place)) >= 0:
        try:
            value, _ = decoder.raw_decode(text, place)
            if isinstance(value, dict) and all(column in value for column in columns):
                return place
        except (ValueError, RecursionError):
            pass
        place += 1
    return len(text)


def parse_record(text: str, delimiter: str) -> list[str] | Refused:
    """Return the fields of one CSV record; strict, so that a stray quote is seen."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return Refused(f"not CSV ({error})", text)
    return (
        rows[0]
        if len(rows) == 1
        else Refused(f"not CSV (one record expected, found {len(rows)})", text)
    )


def choose_delimiter(header: str, columns: list[str]) -> tuple[str, list[str]] | None:
    """Return the delimiter under which a header has all `columns`, and its names, or None."""
    for delimiter in DELIMITERS:
        names = parse_record(header, delimiter)
        if isinstance(names, list) and all(column in names for column in columns):
            return delimiter, names
    return None


def _refuse_repeated(reading: Reading, names: list[str]) -> None:
    """Raise UserError if a wanted column stands twice: nobody can tell which of them is meant."""
    repeated = [column for column in reading.columns if names.count(column) > 1]
    if repeated:
        what = f"column {', '.join(repeated)} stands there more than once"
        raise reading.error(what, "rename or remove the others", 1)


def read_csv(path: Path, reading: Reading) -> Iterator[Item]:
    """Yield the records of a CSV file, which may span lines in quotes.

    After a damaged record, reading continues at the line after its first.
    """
    csv.field_size_limit(reading.limits.row_bytes)
    lines = read_lines(path, reading)
    first = next(lines, (1, ""))[1]
    if isinstance(first, Refused):
        yield 1, first
        return
    chosen = choose_delimiter(first, reading.columns)
    if chosen is None:
        # The first line may be a patient's row, where a file has no header: its words stay here.
        what = f"no column {', '.join(reading.columns)} together; the first line looks like {mask(first.strip())!r}"
        raise reading.error(what, f"correct `columns` of source {reading.source} in params.yaml", 1)
    delimiter, names = chosen
    _refuse_repeated(reading, names)
    waiting: list[tuple[int, str | Refused]] = []
    while True:
        if not waiting and (item := next(lines, None)):
            waiting.append(item)
        if not waiting:
            return
        number, start = waiting[0]
        if isinstance(start, Refused) or not start.strip():
            waiting.pop(0)
            if isinstance(start, Refused):
                yield number, start
            continue
        used, record = take_record(waiting, lines, reading.limits.row_bytes)
        fields = (
            parse_record(record, delimiter)
            if used
            else Refused("not CSV (a quote is never closed)", start)
        )
        if isinstance(fields, list) and len(fields) == len(names):
            del waiting[:used]
            yield number, dict(zip(names, fields, strict=True))
        else:
            del waiting[0]
            yield (
                number,
                fields
                if isinstance(fields, Refused)
                else Refused(f"{len(fields)} fields instead of {len(names)}", start),
            )


def take_record(
    waiting: list[tuple[int, str | Refused]],
    lines: Iterator[tuple[int, str | Refused]],
    longest: int,
) -> tuple[int, str]:
    """Return the record that starts at the first waiting line: lines until quotes are even.

    The number of lines is 0 if they never are, or not within `longest` characters.
    """
    quotes, size, parts = 0, 0, []
    for used in range(1, RECORD_LINES + 1):
        if len(waiting) < used:
            if (item := next(lines, None)) is None:
                return 0, ""
            waiting.append(item)
        line = waiting[used - 1][1]
        if isinstance(line, Refused):
            return 0, ""
        quotes, size = quotes + line.count('"'), size + len(line)
        parts.append(line)
        if quotes % 2 == 0:
            return used, "".join(parts)
        if size > longest:
            return 0, ""
    return 0, ""


def read_parquet(path: Path, reading: Reading) -> Iterator[Item]:
    """Yield the rows of a Parquet file, some at a time.

    A damaged row group costs itself alone, a damaged footer the file.
    """
    try:
        file = _open_parquet(path, reading.columns)
        names = file.schema_arrow.names
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        unpacked = sum(chunk.total_uncompressed_size for chunk in _chunks(file, reading.columns))
    except PARQUET_ERRORS as error:
        yield 0, Refused(f"not Parquet ({type(error).__name__})", "")
        return
    if unpacked > reading.limits.unpacked_bytes:
        raise _too_large(reading)
    _refuse_columns(reading, names)
    number, total = 0, 0
    for group, size in enumerate(sizes):
        done = 0
        try:
            for batch in _batches(file, group, reading):
                lengths = row_lengths(batch)
                total += int(lengths.sum())
                if total > reading.limits.unpacked_bytes:
                    raise _too_large(reading)
                for place, length in enumerate(lengths.tolist()):
                    done += 1
                    yield (
                        number + done,
                        _parquet_row(batch, place, length, reading.limits.row_bytes),
                    )
        except MemoryError as error:
            raise _too_large(reading) from error
        except PARQUET_ERRORS as error:
            # Each row is refused by itself: a group may be a million rows, and counts as many.
            refused = Refused(f"row group cannot be read ({type(error).__name__})", "")
            yield from ((number + n, refused) for n in range(done + 1, size + 1))
        number += size


def _open_parquet(path: Path, columns: list[str]) -> parquet.ParquetFile:
    """Open a Parquet file; text that many rows repeat stays one copy in memory."""
    encodings: dict[str, set[str]] = {}
    for chunk in _chunks(parquet.ParquetFile(path), columns):
        encodings.setdefault(chunk.path_in_schema, set()).update(chunk.encodings)
    # pyarrow cannot read the delta encodings as a dictionary.
    repeated = [
        column
        for column, found in encodings.items()
        if found & DICTIONARY and not any(name.startswith("DELTA") for name in found)
    ]
    return parquet.ParquetFile(path, read_dictionary=repeated)


def _chunks(file: parquet.ParquetFile, columns: list[str]) -> Iterator[Any]:
    """Yield what the footer says of each chunk of the wanted columns."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema.split(".")[0] in columns:
                yield chunk


def _batches(
    file: parquet.ParquetFile, group: int, reading: Reading
) -> Iterator[pyarrow.RecordBatch]:
    """Yield the batches of a row group; MemoryError if one takes more than the file may."""
    batches = file.iter_batches(BATCH, [group], reading.columns, use_threads=False)
    while True:
        try:
            with memory_limit(reading.limits.unpacked_bytes + SLACK):
                batch = next(batches, None)
        except pyarrow.ArrowException as error:
            # C++ containers say it in their own words.
            if "bad_alloc" in str(error) or "bad allocation" in str(error):
                raise MemoryError from error
            raise
        if batch is None:
            return
        yield batch


@contextmanager
def memory_limit(size: int) -> Iterator[None]:
    """Let this process allocate at most `size` bytes in the block, where the system can say so.

    The sizes in a footer and in page headers are claims of whoever wrote the file.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        # Only Linux has it; elsewhere the sizes are looked at before and after a batch.
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + size
    bounds = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *bounds]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_large(reading: Reading) -> UserError:
    """Return the error of a Parquet file that holds more than it may."""
    what = f"it unpacks to more than {reading.limits.unpacked_bytes} bytes"
    return reading.error(what, "split the file, or raise ingest.limits.unpacked_bytes")


def _refuse_columns(reading: Reading, names: list[str]) -> None:
    """Raise UserError unless each wanted column stands in a table exactly once."""
    if missing := [column for column in reading.columns if column not in names]:
        what = f"no column {', '.join(missing)}; its {len(names)} columns have other names"
        raise reading.error(what, f"correct `columns` of source {reading.source} in params.yaml")
    _refuse_repeated(reading, names)


def row_lengths(batch: pyarrow.RecordBatch) -> NDArray[numpy.int64]:
    """Return how many bytes the cells of each row hold."""
    lengths = numpy.zeros(len(batch), numpy.int64)
    for column in batch.columns:
        lengths += _cell_lengths(column)
    return lengths


def _cell_lengths(column: pyarrow.Array) -> NDArray[numpy.int64]:
    """Return how many bytes each cell of a column holds."""
    if isinstance(column, pyarrow.DictionaryArray):
        # A cell without a value takes the zero that is appended.
        own = numpy.append(_cell_lengths(column.dictionary), 0)
        places = column.indices.fill_null(len(own) - 1).to_numpy(zero_copy_only=False)
        lengths: NDArray[numpy.int64] = numpy.take(own, places)
        return lengths
    if pyarrow.types.is_primitive(column.type):
        return numpy.full(len(column), column.type.bit_width // 8, numpy.int64)
    if any(is_kind(column.type) for is_kind in TEXT_KINDS):
        sizes = compute.binary_length(column).fill_null(0)
        return numpy.asarray(sizes.to_numpy(zero_copy_only=False), numpy.int64)
    return numpy.array([column.slice(n, 1).nbytes for n in range(len(column))], numpy.int64)


def _parquet_row(
    batch: pyarrow.RecordBatch, place: int, length: int, longest: int
) -> Row | Refused:
    """Return one row of a batch; text in another encoding refuses its own row alone."""
    if length > longest:
        return Refused(f"row longer than {longest} bytes", "")
    try:
        return check_object(batch.slice(place, 1).to_pylist()[0], "")
    except PARQUET_ERRORS as error:
        return Refused(f"row cannot be read ({type(error).__name__})", "")
