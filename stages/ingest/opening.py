"""Unpack compressed files, and convert UTF-16 to UTF-8.

Both happen in a temporary file, so that every reader sees a plain file, and so that damage is found
before the first row is read.
"""

import bz2
import codecs
import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bula.errors import UserError
from stages.ingest.reading import ReadOptions

COMPRESSIONS = (".gz", ".bz2", ".zst")
# Encodings in which a line feed takes more than one byte.
WIDE_ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be")
CHUNK_BYTES = 1_000_000
# A line feed of UTF-16 that is read one byte late. Unicode assigns no character to this code point.
SHIFTED_LINE_FEED = "\u0a00"


@contextmanager
def plain_file(path: Path, options: ReadOptions) -> Iterator[tuple[Path, ReadOptions]]:
    """Yield an uncompressed file, and the options with which it is read.

    Raise UserError if the file is damaged, or larger than ingest.limits.unpacked_bytes.
    """
    compression = path.suffix.lower()
    is_wide = options.encoding in WIDE_ENCODINGS
    if compression not in COMPRESSIONS and not is_wide:
        yield path, options
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        chunks = _chunks(path, compression, options)
        if is_wide:
            chunks = _to_utf_8(chunks, options)
            options = options._replace(encoding="utf-8")
        with plain.open("wb") as file:
            file.writelines(chunks)
        yield plain, options


def unpacked_head(path: Path, size: int, options: ReadOptions) -> bytes:
    """Return the first `size` bytes of a file after decompression."""
    content = b""
    for chunk in _chunks(path, path.suffix.lower(), options):
        content += chunk
        if len(content) >= size:
            break
    return content[:size]


def _chunks(path: Path, compression: str, options: ReadOptions) -> Iterator[bytes]:
    """Yield the decompressed content of a file."""
    largest = options.limits.unpacked_bytes
    size = 0
    with _open(path, compression) as file:
        while chunk := _read_chunk(file, compression, options):
            size += len(chunk)
            if size > largest and compression in COMPRESSIONS:
                what = f"it unpacks to more than {largest} bytes"
                fix = "split the file, or raise ingest.limits.unpacked_bytes"
                raise options.error(what, fix)
            yield chunk


def _open(path: Path, compression: str) -> BinaryIO:
    """Open a file for reading its decompressed bytes."""
    match compression:
        case ".gz":
            return gzip.open(path)  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(path)  # type: ignore[return-value]
        case ".zst":
            from backports import zstd

            return zstd.open(path)  # type: ignore[return-value]
    return path.open("rb")


def _read_chunk(file: BinaryIO, compression: str, options: ReadOptions) -> bytes:
    """Return the next bytes of a file; raise UserError if its compression is damaged."""
    if compression not in COMPRESSIONS:
        return file.read(CHUNK_BYTES)
    try:
        return file.read(CHUNK_BYTES)
    except _library_errors(compression) as error:
        raise _damaged(error, options) from error
    except OSError as error:
        # An error of the disk has a number; the libraries raise theirs without one.
        if error.errno is not None:
            raise
        raise _damaged(error, options) from error


def _library_errors(compression: str) -> tuple[type[Exception], ...]:
    """Return what the library of a compression raises, besides OSError."""
    if compression != ".zst":
        return (EOFError, zlib.error)
    from backports.zstd import ZstdError

    return (EOFError, ZstdError)


def _damaged(error: Exception, options: ReadOptions) -> UserError:
    """Return the error of a file whose compression is damaged.

    The number of lost rows is unknown, so the complete file is refused.
    """
    what = f"the file cannot be read: its compression is damaged ({type(error).__name__})"
    return options.error(what, "copy or compress the file again")


def _to_utf_8(chunks: Iterator[bytes], options: ReadOptions) -> Iterator[bytes]:
    """Yield text in UTF-16 as UTF-8.

    A pair of bytes that is no character becomes U+FFFD, and preprocess refuses its row.
    """
    decoder = codecs.getincrementaldecoder(options.encoding)("replace")
    for chunk in chunks:
        yield _encode(decoder.decode(chunk), options)
    yield _encode(decoder.decode(b"", final=True), options)


def _encode(text: str, options: ReadOptions) -> bytes:
    """Return text as UTF-8; raise UserError if a byte before it is missing."""
    if SHIFTED_LINE_FEED in text:
        what = f"the file cannot be read: a byte is missing, so it is no {options.encoding}"
        raise options.error(what, "copy the file again, or save it as UTF-8")
    return text.encode("utf-8")
