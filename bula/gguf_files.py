"""GGUF files: their header and tensors, each file read once and without a memory map's toll on every word of the vocabulary."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import gguf
import numpy as np


class Reader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf's own reader over a plain array that shares the file's memory.

    The reader cuts a slice for every word and merge, over a million for Llama 3, and a slice of a np.memmap costs far more than
    one of an array: 24 s for the header instead of 9.
    """

    @property
    def data(self) -> np.ndarray:
        """The file's bytes, uint8."""
        return self._data

    @data.setter
    def data(self, memory: np.ndarray) -> None:
        self._data = np.asarray(memory)


@lru_cache(maxsize=1)
def _read(path: Path, size: int, changed_ns: int) -> Reader:
    """A file in the state that size and time of change tell apart from its others."""
    return Reader(path)


def read_gguf(path: str | Path) -> Reader:
    """Fields and tensors of a file; the last one read is kept, as it was on disk then. ValueError if it is no GGUF file."""
    state = Path(path).stat()
    return _read(Path(path).absolute(), state.st_size, state.st_mtime_ns)


@contextmanager
def shared_reader() -> Iterator[None]:
    """Let other libraries read by `read_gguf`: transformers takes one file's header apart for config, weights and tokenizer anew."""
    own = gguf.GGUFReader
    gguf.GGUFReader = read_gguf
    try:
        yield
    finally:
        gguf.GGUFReader = own
