"""Measure the answers with the compressors of the standard library."""

import bz2
import gzip
import lzma
from collections.abc import Callable, Sequence

BITS_PER_BYTE = 8
Compress = Callable[[bytes], bytes]


def compress_gzip(data: bytes) -> bytes:
    """Return a gzip file without the time."""
    return gzip.compress(data, compresslevel=9, mtime=0)


COMPRESSORS: dict[str, Compress] = {
    "gzip": compress_gzip,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def compressed_bits(compress: Compress, texts: Sequence[str]) -> int:
    """Return the size of the compressed texts in bits.

    A line feed follows each text.
    """
    joined = "".join(text + "\n" for text in texts)
    return BITS_PER_BYTE * len(compress(joined.encode()))


def added_bits(compress: Compress, train: Sequence[str], answers: Sequence[str]) -> int:
    """Return the bits that the answers add to the compressed training answers."""
    before = compressed_bits(compress, train)
    return compressed_bits(compress, [*train, *answers]) - before
