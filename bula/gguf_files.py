"""GGUF files: a strict check of the header, and one shared reader.

The check bounds every count, length and offset by the file's size before another library believes
it. The reader opens each file once, and without a memory map's cost for each word.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np

from bula.errors import UserError

FETCH_AGAIN = "replace it: `dvc repro` writes the pipeline's own files, `dvc pull` fetches them"
# Versions 2 and 3 have the same layout; version 1 counts in 32 bits.
VERSIONS = (2, 3)
# struct's letters of the scalar types 0 to 12, of which two are none.
STRING, ARRAY = 8, 9
SCALARS = {kind: letter for kind, letter in enumerate("BbHhIif?..Qqd") if letter != "."}
# Gemma 3's header, the largest known, has 1.3 million array items. gguf's reader takes 20 s for 2
# million.
MOST_ITEMS = 2_000_000
# Models with hundreds of experts have some thousand tensors and about a hundred keys.
MOST_ENTRIES = 65_536
# The longest text is a chat template; Llama 3.2's has 3,827 characters.
MOST_TEXT_BYTES = 1_000_000
# Arrays up to this length hold one number for each layer, and are kept.
MOST_LAYERS = 4_096
MOST_DIMENSIONS = 4
LAYER = re.compile(r"blk\.([0-9]{1,6})\.")
# Alignment of tensor data where a file does not say another one.
ALIGNMENT = 32
# Tensors that belong to no matrix of the model: factors of the rotary frequencies.
ROPE_TENSORS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


class Items(NamedTuple):
    """The length of an array, and its values if they are few numbers."""

    length: int
    values: tuple[int | float, ...]


Value = int | float | bool | str | Items


class Header(NamedTuple):
    """Keys and tensor shapes of a GGUF file; a shape starts with the fastest dimension."""

    fields: dict[str, Value]
    tensors: dict[str, tuple[int, ...]]


class _Bytes(NamedTuple):
    """The bytes of a file under check."""

    path: Path
    data: mmap.mmap
    size: int


def _broken(path: Path, what: str) -> UserError:
    """Return the error of a file whose header cannot be believed."""
    return UserError(path, f"the GGUF file is broken: {what}", FETCH_AGAIN)


def _unpack(file: _Bytes, form: str, at: int) -> tuple[tuple[int | float, ...], int]:
    """Return the numbers of a struct format at an offset, and the offset after them."""
    end = at + struct.calcsize(form)
    if end > file.size:
        raise _broken(file.path, "it ends inside its header")
    return struct.unpack_from(form, file.data, at), end


def _count(file: _Bytes, form: str, at: int, most: int, name: str) -> tuple[int, int]:
    """Return a count of at most `most`, and the offset after it."""
    (found,), end = _unpack(file, form, at)
    if found > most:
        raise _broken(file.path, f"{name} is {found}, more than {most}")
    return int(found), end


def _text(file: _Bytes, at: int) -> tuple[str, int]:
    """Return a text, and the offset after it."""
    length, start = _count(file, "<Q", at, MOST_TEXT_BYTES, "the length of a text")
    if start + length > file.size:
        raise _broken(file.path, "it ends inside a text")
    try:
        return file.data[start : start + length].decode("utf-8"), start + length
    except UnicodeDecodeError as error:
        raise _broken(file.path, "a text is not UTF-8") from error


def _skip_texts(file: _Bytes, count: int, at: int) -> int:
    """Return the offset after `count` texts."""
    unpack = struct.Struct("<Q").unpack_from
    for _ in range(count):
        if at + 8 > file.size:
            raise _broken(file.path, "it ends inside an array of texts")
        at += 8 + unpack(file.data, at)[0]
    if at > file.size:
        raise _broken(file.path, "it ends inside an array of texts")
    return at


def _array(file: _Bytes, at: int) -> tuple[Items, int]:
    """Return an array, and the offset after it; no known key nests arrays."""
    (kind,), at = _unpack(file, "<I", at)
    count, at = _count(file, "<Q", at, MOST_ITEMS, "the length of an array")
    if kind == STRING:
        return Items(count, ()), _skip_texts(file, count, at)
    if kind not in SCALARS:
        raise _broken(file.path, f"an array holds items of type {kind}")
    form = f"<{count}{SCALARS[int(kind)]}"
    if count <= MOST_LAYERS:
        values, end = _unpack(file, form, at)
        return Items(count, values), end
    end = at + struct.calcsize(form)
    if end > file.size:
        raise _broken(file.path, "it ends inside an array")
    return Items(count, ()), end


def _value(file: _Bytes, at: int) -> tuple[Value, int]:
    """Return a typed value, and the offset after it."""
    (kind,), at = _unpack(file, "<I", at)
    if kind == STRING:
        return _text(file, at)
    if kind == ARRAY:
        return _array(file, at)
    if kind not in SCALARS:
        raise _broken(file.path, f"a value has the unknown type {kind}")
    (value,), at = _unpack(file, f"<{SCALARS[int(kind)]}", at)
    return value, at


def _fields(file: _Bytes, count: int, at: int) -> tuple[dict[str, Value], int]:
    """Return the keys with their values, and the offset after them."""
    fields: dict[str, Value] = {}
    items = 0
    for _ in range(count):
        key, at = _text(file, at)
        if key in fields:
            # Two readers could each believe another one of them.
            raise _broken(file.path, "a key stands in it twice")
        fields[key], at = _value(file, at)
        found = fields[key]
        items += found.length if isinstance(found, Items) else 0
        if items > MOST_ITEMS:
            raise _broken(file.path, f"its arrays have more than {MOST_ITEMS} items")
    return fields, at


def _tensor(file: _Bytes, at: int) -> tuple[str, tuple[int, ...], int, int, int]:
    """Return name, shape, size in bytes and offset of a tensor, and the offset after its entry."""
    name, at = _text(file, at)
    rank, at = _count(file, "<I", at, MOST_DIMENSIONS, "the number of a tensor's dimensions")
    found, at = _unpack(file, f"<{rank}Q", at)
    (kind, start), at = _unpack(file, "<IQ", at)
    shape = tuple(int(length) for length in found)
    if not shape or min(shape) == 0 or prod(shape) > file.size * 64:
        raise _broken(file.path, "a tensor is empty, or larger than the file")
    if kind not in gguf.GGML_QUANT_SIZES:
        raise _broken(file.path, f"a tensor has the unknown type {kind}")
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if shape[0] % block:
        raise _broken(file.path, f"the rows of a tensor are no multiple of {block}")
    return name, shape, prod(shape) // block * block_bytes, int(start), at


def _tensors(
    file: _Bytes, count: int, at: int, alignment: int
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return shapes by name, and the size that the file must have, less at most one padding."""
    shapes: dict[str, tuple[int, ...]] = {}
    expected = last = 0
    for _ in range(count):
        name, shape, size, start, at = _tensor(file, at)
        if name in shapes:
            raise _broken(file.path, "a tensor stands in it twice")
        if start != expected:
            # As llama.cpp demands: no gap, no overlap, no tensor outside the file.
            raise _broken(file.path, "a tensor does not start where the one before it ends")
        shapes[name] = shape
        last = start + size
        expected = -(-last // alignment) * alignment
    data = -(-at // alignment) * alignment
    return shapes, data + last if shapes else at


def check_gguf(path: Path) -> Header:
    """Return the header of a GGUF file; UserError if it contradicts itself or the file's size."""
    state = path.stat()
    return _checked(path.absolute(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _checked(path: Path, size: int, changed_ns: int) -> Header:
    """Check a file in the state that size and time of change identify."""
    if size < 24:
        raise _broken(path, "it is shorter than the smallest header")
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        file = _Bytes(path, data, size)
        if data[:4] != b"GGUF":
            raise _broken(path, "it does not begin with the magic letters GGUF")
        (version,), at = _unpack(file, "<I", 4)
        if version not in VERSIONS:
            raise _broken(path, f"version {version} is unknown (known: 2 and 3, little-endian)")
        tensors, at = _count(file, "<Q", at, MOST_ENTRIES, "the number of tensors")
        keys, at = _count(file, "<Q", at, MOST_ENTRIES, "the number of keys")
        fields, at = _fields(file, keys, at)
        alignment = fields.get("general.alignment", ALIGNMENT)
        if alignment not in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise _broken(path, "general.alignment is no power of two from 8 to 4096")
        shapes, end = _tensors(file, tensors, at, int(alignment))
    if end > size:
        raise _broken(path, f"it has {size} bytes, and its tensors need {end}")
    return Header(fields, shapes)


def check_gguf_model(path: Path) -> Header:
    """Return the header of a model's GGUF file; UserError if its numbers contradict its tensors."""
    header = check_gguf(path)
    fields, tensors = header
    family = fields.get("general.architecture")
    if not isinstance(family, str):
        raise _broken(path, "general.architecture is missing")
    if "token_embd.weight" not in tensors or len(tensors["token_embd.weight"]) != 2:
        raise _broken(path, "it has no matrix of embeddings (token_embd.weight)")
    layers = {int(match[1]) for name in tensors if (match := LAYER.match(name))}
    if fields.get(f"{family}.block_count") != len(layers) or layers != set(range(len(layers))):
        raise _broken(path, f"{family}.block_count is not the number of layers that it holds")
    _check_dimensions(path, family, header)
    _check_vocabulary(path, family, header)
    return header


def _check_dimensions(path: Path, family: str, header: Header) -> None:
    """Raise a UserError if a size is not positive, or larger than any tensor."""
    width, _ = header.tensors["token_embd.weight"]
    if header.fields.get(f"{family}.embedding_length") != width:
        raise _broken(path, f"{family}.embedding_length is not the width of its embeddings")
    largest = max(max(shape) for shape in header.tensors.values())
    heads = f"{family}.attention.head_count"
    if heads not in header.fields:
        raise _broken(path, f"{heads} is missing")
    sizes = (heads, f"{heads}_kv", f"{family}.feed_forward_length", f"{family}.context_length")
    for key in (*sizes, f"{family}.attention.key_length", f"{family}.rope.dimension_count"):
        found = header.fields.get(key, 1)
        # Some families have one number for each layer; a layer without attention has 0.
        values = found.values if isinstance(found, Items) else (found,)
        most = 2**31 - 1 if key.endswith("context_length") else largest
        whole = all(isinstance(value, int) and 0 <= value <= most for value in values)
        if not whole or not any(values):
            raise _broken(path, f"{key} is no positive number that fits its tensors")


def _check_vocabulary(path: Path, family: str, header: Header) -> None:
    """Raise a UserError if tokens and rows of the embeddings are not equally many."""
    _, rows = header.tensors["token_embd.weight"]
    for name in ("tokens", "scores", "token_type"):
        found = header.fields.get(f"tokenizer.ggml.{name}")
        if name == "tokens" and not isinstance(found, Items):
            raise _broken(path, "tokenizer.ggml.tokens is missing")
        if found is not None and (not isinstance(found, Items) or found.length != rows):
            what = f"tokenizer.ggml.{name} has not one item for each of {rows} embeddings"
            raise _broken(path, what)
    if header.fields.get(f"{family}.vocab_size", rows) != rows:
        raise _broken(path, f"{family}.vocab_size is not the number of its embeddings")
    for name in ("bos", "eos", "padding", "unknown"):
        token = header.fields.get(f"tokenizer.ggml.{name}_token_id", 0)
        if not isinstance(token, int) or not 0 <= token < rows:
            raise _broken(path, f"tokenizer.ggml.{name}_token_id is no token of its vocabulary")


class Reader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf's own reader over a plain array that shares the file's memory.

    The reader cuts a slice for every word and merge, over a million for Llama 3. A slice of a
    np.memmap costs far more than a slice of an array: 24 s for the header instead of 9.
    """

    @property
    def data(self) -> np.ndarray:
        """Return the file's bytes, uint8."""
        return self._data

    @data.setter
    def data(self, memory: np.ndarray) -> None:
        self._data = np.asarray(memory)


@lru_cache(maxsize=1)
def _read(path: Path, size: int, changed_ns: int) -> Reader:
    """Read a file in the state that size and time of change identify."""
    return Reader(path)


def read_gguf(path: str | Path) -> Reader:
    """Return fields and tensors of a checked file; the last one read is kept.

    UserError if the header is broken.
    """
    check_gguf(Path(path))
    state = Path(path).stat()
    return _read(Path(path).absolute(), state.st_size, state.st_mtime_ns)


@contextmanager
def shared_reader() -> Iterator[None]:
    """Let other libraries read through `read_gguf`.

    transformers reads one file's header anew for configuration, weights and tokenizer.
    """
    own = gguf.GGUFReader
    gguf.GGUFReader = read_gguf
    try:
        yield
    finally:
        gguf.GGUFReader = own
