"""Read a text file line by line with bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stages.ingest.reading import CONTROL, ReadOptions, Refused, has_controls

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NumberedLine = tuple[int, str | Refused]


def read_lines(path: Path, options: ReadOptions) -> Iterator[NumberedLine]:
    """Yield the lines of a text file with their numbers.

    A line that is too long or cannot be decoded is a Refused. Line ends are kept, and a byte order
    mark is removed. A line over the limit is never held in memory.
    """
    longest = options.limits.row_bytes
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(longest + 1):
            number += 1
            if len(raw) > longest:
                _skip_rest_of_line(file, raw, longest + 1)
                yield number, Refused(f"line longer than {longest} bytes", "")
                continue
            if number == 1:
                raw = raw.removeprefix(BYTE_ORDER_MARK)
            yield number, _decode(raw, options)


def _skip_rest_of_line(file: BinaryIO, raw: bytes, size: int) -> None:
    """Read on to the end of the line that starts with `raw`."""
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(size)


def _decode(raw: bytes, options: ReadOptions) -> str | Refused:
    """Return the text of a line, or why it cannot be decoded."""
    encoding = options.encoding
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"not {encoding} (byte {error.start + 1} of the line){options.encoding_hint}"
        return Refused(reason, raw.decode(encoding, "replace"))
    if has_controls(text, encoding):
        return Refused(f"{CONTROL}{options.encoding_hint}", text)
    return text
