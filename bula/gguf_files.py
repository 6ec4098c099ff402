"""Check and read GGUF files.

The check bounds every count, length and offset by the file's size before a library trusts it. The
reader opens each file once, and avoids the cost of a memory map for each token.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from bula.errors import UserError

FETCH_AGAIN = "replace it: `dvc repro` writes the pipeline's own files, `dvc pull` fetches them"
MAGIC = b"GGUF"
# Versions 2 and 3 have the same layout; version 1 has 32-bit counts.
VERSIONS = (2, 3)
# The magic letters, the version and two counts.
SMALLEST_HEADER_BYTES = 24
# The types 0 to 12 of a value: text, array, and scalars with their letters in the module struct.
STRING = 8
ARRAY = 9
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
# The type and the number of an array's items come first.
ARRAY_START = 12
# Items of all arrays: Gemma 3 has 1.3 million.
MOST_ITEMS = 2_000_000
# Models with hundreds of experts have some thousand tensors and about a hundred keys.
MOST_ENTRIES = 65_536
# The longest text is a chat template; Llama 3.2's has 3,827 characters.
MOST_TEXT_BYTES = 1_000_000
# Arrays up to this length have one number per layer, and their values are kept.
MOST_LAYERS = 4_096
MOST_DIMENSIONS = 4
# A context may be longer than any dimension of the weights.
MOST_CONTEXT_TOKENS = 2**31 - 1
LAYER = re.compile(r"blk\.([0-9]{1,6})\.")
# The default alignment of tensor data, and the allowed values.
ALIGNMENT = 32
ALIGNMENTS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


Shape = tuple[int, ...]
Numbers = tuple[int | float, ...]


class Items(NamedTuple):
    """The length of an array, and the values of a short one."""

    length: int
    values: Numbers


Value = int | float | bool | str | Items


class Header(NamedTuple):
    """Keys with their values, and tensors with their shapes and types.

    A shape starts with the fastest dimension. A type is a name such as "Q8_0".
    """

    fields: dict[str, Value]
    tensors: dict[str, Shape]
    types: dict[str, str]


class _File(NamedTuple):
    """A file under check; `data` keeps the position of the next read."""

    path: Path
    data: mmap.mmap
    size: int


class _Tensor(NamedTuple):
    """The entry of a tensor; start and size are in bytes."""

    name: str
    shape: Shape
    type: str
    start: int
    size: int


def _broken(path: Path, what: str) -> UserError:
    """Return the UserError for an inconsistent GGUF file."""
    return UserError(path, f"the GGUF file is broken: {what}", FETCH_AGAIN)


def _read_numbers(file: _File, form: str) -> Numbers:
    """Read the numbers of a struct format."""
    length = struct.calcsize(form)
    content = file.data.read(length)
    if len(content) < length:
        raise _broken(file.path, "it ends inside its header")
    return struct.unpack(form, content)


def _read_integer(file: _File, form: str) -> int:
    """Read one integer of a struct format."""
    (value,) = _read_numbers(file, form)
    return int(value)


def _read_count(file: _File, form: str, most: int, name: str) -> int:
    """Read a count; raise a UserError if it is larger than `most`."""
    count = _read_integer(file, form)
    if count > most:
        raise _broken(file.path, f"{name} is {count}, more than {most}")
    return count


def _read_text(file: _File) -> str:
    """Read a length and a UTF-8 text."""
    length = _read_count(file, "<Q", MOST_TEXT_BYTES, "the length of a text")
    content = file.data.read(length)
    if len(content) < length:
        raise _broken(file.path, "it ends inside a text")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(file.path, "a text is not UTF-8") from error


def _skip_texts(file: _File, count: int) -> None:
    """Skip `count` texts, such as the tokens of a vocabulary."""
    unpack = struct.Struct("<Q").unpack_from
    position = file.data.tell()
    for _ in range(count):
        if position + 8 > file.size:
            raise _broken(file.path, "it ends inside an array of texts")
        position += 8 + unpack(file.data, position)[0]
    if position > file.size:
        raise _broken(file.path, "it ends inside an array of texts")
    file.data.seek(position)


def _read_array(file: _File) -> Items:
    """Read an array of texts or scalars; no known key nests arrays."""
    kind = _read_integer(file, "<I")
    count = _read_count(file, "<Q", MOST_ITEMS, "the length of an array")
    if kind == STRING:
        _skip_texts(file, count)
        return Items(count, ())
    if kind not in SCALARS:
        raise _broken(file.path, f"an array contains items of type {kind}")
    form = f"<{count}{SCALARS[kind]}"
    if count <= MOST_LAYERS:
        return Items(count, _read_numbers(file, form))
    end = file.data.tell() + struct.calcsize(form)
    if end > file.size:
        raise _broken(file.path, "it ends inside an array")
    file.data.seek(end)
    return Items(count, ())


def _read_value(file: _File) -> Value:
    """Read a type and a value of it."""
    kind = _read_integer(file, "<I")
    if kind == STRING:
        return _read_text(file)
    if kind == ARRAY:
        return _read_array(file)
    if kind not in SCALARS:
        raise _broken(file.path, f"a value has the unknown type {kind}")
    (value,) = _read_numbers(file, f"<{SCALARS[kind]}")
    return value


def _read_fields(file: _File, count: int) -> dict[str, Value]:
    """Read `count` keys and their values."""
    fields: dict[str, Value] = {}
    items = 0
    for _ in range(count):
        key = _read_text(file)
        if key in fields:
            # Two readers could take different values for it.
            raise _broken(file.path, "it contains a key twice")
        value = _read_value(file)
        fields[key] = value
        if isinstance(value, Items):
            items += value.length
        if items > MOST_ITEMS:
            raise _broken(file.path, f"its arrays have more than {MOST_ITEMS} items")
    return fields


def _read_tensor(file: _File) -> _Tensor:
    """Read the entry of a tensor."""
    name = _read_text(file)
    rank = _read_count(file, "<I", MOST_DIMENSIONS, "the number of a tensor's dimensions")
    shape = tuple(_read_integer(file, "<Q") for _ in range(rank))
    kind = _read_integer(file, "<I")
    start = _read_integer(file, "<Q")
    size = _tensor_bytes(file, shape, kind)
    type_name = gguf.GGMLQuantizationType(kind).name
    return _Tensor(name, shape, type_name, start, size)


def _tensor_bytes(file: _File, shape: Shape, kind: int) -> int:
    """Return the size in bytes of a tensor of a quantization type."""
    numbers = prod(shape) if shape else 0
    if not 0 < numbers <= file.size * 64:
        raise _broken(file.path, "a tensor is empty, or larger than the file")
    if kind not in gguf.GGML_QUANT_SIZES:
        raise _broken(file.path, f"a tensor has the unknown type {kind}")
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if shape[0] % block:
        raise _broken(file.path, f"the row length of a tensor is not a multiple of {block}")
    return int(numbers // block * block_bytes)


def _read_tensors(file: _File, count: int, alignment: int) -> list[_Tensor]:
    """Read the entries of `count` tensors, which must follow each other.

    llama.cpp demands it, too: the data has no gap and no overlap.
    """
    tensors: dict[str, _Tensor] = {}
    expected = 0
    for _ in range(count):
        tensor = _read_tensor(file)
        if tensor.name in tensors:
            raise _broken(file.path, "it contains a tensor twice")
        if tensor.start != expected:
            raise _broken(file.path, "a tensor does not start where the previous tensor ends")
        tensors[tensor.name] = tensor
        expected = _round_up(tensor.start + tensor.size, alignment)
    return list(tensors.values())


def _round_up(length: int, alignment: int) -> int:
    """Return the next multiple of `alignment`."""
    return -(-length // alignment) * alignment


def check_gguf(path: Path) -> Header:
    """Return the header of a GGUF file.

    Raise a UserError if the header contradicts itself or the file's size.
    """
    state = path.stat()
    return _read_header(path.absolute(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_header(path: Path, size: int, changed_ns: int) -> Header:
    """Read a header; the cache returns the header of an unchanged file."""
    if size < SMALLEST_HEADER_BYTES:
        raise _broken(path, "it is shorter than the smallest header")
    with (
        path.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return _parse(_File(path, data, size))


def _parse(file: _File) -> Header:
    """Read a header, and compare it with the file's size."""
    tensor_count, field_count = _read_counts(file)
    fields = _read_fields(file, field_count)
    alignment = _alignment(file.path, fields)
    tensors = _read_tensors(file, tensor_count, alignment)
    needed = _needed_bytes(file.data.tell(), tensors, alignment)
    if needed > file.size:
        raise _broken(file.path, f"it has {file.size} bytes, but its tensors need {needed}")
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    types = {tensor.name: tensor.type for tensor in tensors}
    return Header(fields, shapes, types)


def _read_counts(file: _File) -> tuple[int, int]:
    """Read the beginning, and return the numbers of tensors and keys."""
    if file.data.read(len(MAGIC)) != MAGIC:
        raise _broken(file.path, "it does not begin with the magic letters GGUF")
    version = _read_integer(file, "<I")
    if version not in VERSIONS:
        raise _broken(file.path, f"version {version} is unknown (known: 2 and 3, little-endian)")
    tensors = _read_count(file, "<Q", MOST_ENTRIES, "the number of tensors")
    fields = _read_count(file, "<Q", MOST_ENTRIES, "the number of keys")
    return tensors, fields


def _alignment(path: Path, fields: dict[str, Value]) -> int:
    """Return the alignment of tensor data in bytes."""
    alignment = fields.get("general.alignment", ALIGNMENT)
    if alignment not in ALIGNMENTS:
        raise _broken(path, "general.alignment is not a power of two from 8 to 4096")
    return int(alignment)


def _needed_bytes(header_end: int, tensors: list[_Tensor], alignment: int) -> int:
    """Return the file's smallest size, without padding at the end."""
    if not tensors:
        return header_end
    last = tensors[-1]
    return _round_up(header_end, alignment) + last.start + last.size


def check_gguf_model(path: Path) -> Header:
    """Return the header of a model's GGUF file.

    Raise a UserError if the header's numbers contradict its tensors.
    """
    header = check_gguf(path)
    family = header.fields.get("general.architecture")
    if not isinstance(family, str):
        raise _broken(path, "general.architecture is missing")
    if len(header.tensors.get("token_embd.weight", ())) != 2:
        raise _broken(path, "it has no matrix of embeddings (token_embd.weight)")
    key = f"{family}.block_count"
    layers = _layers(header)
    is_consecutive = layers == set(range(len(layers)))
    if not is_consecutive or header.fields.get(key) != len(layers):
        raise _broken(path, f"{key} is not the number of its layers")
    _check_dimensions(path, family, header)
    _check_vocabulary(path, family, header)
    _check_token_ids(path, header)
    return header


def _layers(header: Header) -> set[int]:
    """Return the numbers of the layers that have tensors."""
    matches = [LAYER.match(name) for name in header.tensors]
    return {int(match[1]) for match in matches if match}


def _check_dimensions(path: Path, family: str, header: Header) -> None:
    """Raise a UserError if a size is 0 or exceeds all tensors."""
    width, _ = header.tensors["token_embd.weight"]
    if header.fields.get(f"{family}.embedding_length") != width:
        raise _broken(path, f"{family}.embedding_length is not the width of its embeddings")
    heads = f"{family}.attention.head_count"
    if heads not in header.fields:
        raise _broken(path, f"{heads} is missing")
    largest = max(max(shape) for shape in header.tensors.values())
    limits = {
        heads: largest,
        f"{heads}_kv": largest,
        f"{family}.feed_forward_length": largest,
        f"{family}.context_length": MOST_CONTEXT_TOKENS,
        f"{family}.attention.key_length": largest,
        f"{family}.rope.dimension_count": largest,
    }
    for key, most in limits.items():
        if not _is_size(header.fields.get(key, 1), most):
            raise _broken(path, f"{key} is not a positive number that fits its tensors")


def _is_size(found: Value, most: int) -> bool:
    """Return whether a value is an integer from 1 to `most`.

    Some families have one number per layer, which is 0 for a layer without attention.
    """
    values = found.values if isinstance(found, Items) else (found,)
    in_range = all(isinstance(value, int) and 0 <= value <= most for value in values)
    return in_range and any(values)


def _check_vocabulary(path: Path, family: str, header: Header) -> None:
    """Raise a UserError unless every token has one row of the embeddings."""
    _, rows = header.tensors["token_embd.weight"]
    if not isinstance(header.fields.get("tokenizer.ggml.tokens"), Items):
        raise _broken(path, "tokenizer.ggml.tokens is missing")
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        found = header.fields.get(key)
        length = found.length if isinstance(found, Items) else None
        if found is not None and length != rows:
            raise _broken(path, f"{key} does not have one item for each of {rows} embeddings")
    if header.fields.get(f"{family}.vocab_size", rows) != rows:
        raise _broken(path, f"{family}.vocab_size is not the number of its embeddings")


def _check_token_ids(path: Path, header: Header) -> None:
    """Raise a UserError if a special token is not in the vocabulary."""
    _, rows = header.tensors["token_embd.weight"]
    for name in ("bos", "eos", "padding", "unknown"):
        key = f"tokenizer.ggml.{name}_token_id"
        token = header.fields.get(key, 0)
        if not isinstance(token, int) or not 0 <= token < rows:
            raise _broken(path, f"{key} is not a token of its vocabulary")


class Reader(gguf.GGUFReader):  # type: ignore[misc]
    """Read a GGUF file as gguf's own reader does, but arrays faster.

    gguf's reader makes several arrays for each token and merge, over a million times for Llama 3.
    """

    @property
    def data(self) -> np.ndarray:
        """Return the file's bytes, uint8."""
        return self._data

    @data.setter
    def data(self, memory: np.ndarray) -> None:
        # A slice of a np.memmap costs far more than a slice of an array.
        self._data = np.asarray(memory)

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[Any], list[int], list[gguf.GGUFValueType]]:
        """Return a value's size in bytes, its parts, their places and the types."""
        if raw_type != ARRAY:
            parts: tuple[int, list[Any], list[int], list[gguf.GGUFValueType]]
            parts = super()._get_field_parts(orig_offs, raw_type)
            return parts
        # check_gguf has refused arrays of arrays.
        kind = gguf.GGUFValueType(self._get(orig_offs, np.uint32)[0])
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + ARRAY_START
        if kind == STRING:
            size, items = self._slice_texts(start, count)
        else:
            numbers = self._get(start, self.gguf_scalar_to_np[kind], count)
            size, items = numbers.nbytes, list(numbers.reshape(-1, 1))
        types = [gguf.GGUFValueType.ARRAY, kind] if count else [gguf.GGUFValueType.ARRAY]
        return ARRAY_START + size, items, list(range(count)), types

    def _slice_texts(self, start: int, count: int) -> tuple[int, list[np.ndarray]]:
        """Return the size of `count` texts in bytes, and the bytes of each."""
        data = self._data
        unpack = struct.Struct("<Q").unpack_from
        position = start
        texts = []
        for _ in range(count):
            first = position + 8
            position = first + unpack(data, position)[0]
            texts.append(data[first:position])
        return position - start, texts


@lru_cache(maxsize=1)
def _read(path: Path, size: int, changed_ns: int) -> Reader:
    """Read a file; the cache returns an unchanged file."""
    return Reader(path)


def read_gguf(path: str | Path) -> Reader:
    """Return a GGUF file's fields and tensors; the last file is cached.

    Raise a UserError if the header is broken.
    """
    path = Path(path)
    check_gguf(path)
    state = path.stat()
    return _read(path.absolute(), state.st_size, state.st_mtime_ns)


@contextmanager
def shared_reader() -> Iterator[None]:
    """Let other libraries read GGUF files through `read_gguf`.

    transformers would read a file's header again for configuration, weights and tokenizer.
    """
    own = gguf.GGUFReader
    gguf.GGUFReader = read_gguf
    try:
        yield
    finally:
        gguf.GGUFReader = own
