"""Test the check of GGUF headers, and the shared reader."""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from bula import gguf_files
from bula.errors import UserError
from bula.gguf_export import convert, describe, export
from bula.gguf_files import check_gguf, check_gguf_model, read_gguf, shared_reader
from bula.models import load_model, load_tokenizer

OWN_READER = gguf.GGUFReader


@pytest.fixture(scope="module")
def file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the two-layer model with SmolLM2's tokenizer as a Q8_0 file."""
    path = tmp_path_factory.mktemp("files") / "q8_0.gguf"
    export(tiny, "q8_0", path)
    return path


@pytest.fixture(scope="module")
def own_read(file: Path) -> gguf.GGUFReader:
    """Return the file as gguf's own reader reads it, which takes seconds."""
    return OWN_READER(file)


def write_small(path: Path, end_of_turn: int) -> Path:
    """Write a small GGUF file, always of the same size."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_eos_token_id(end_of_turn)
    writer.add_tensor("output_norm.weight", np.full(8, end_of_turn, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reader_returns_the_fields_of_ggufs_own_reader(
    file: Path, own_read: gguf.GGUFReader
) -> None:
    found = read_gguf(file).fields
    expected = own_read.fields
    assert list(found) == list(expected)
    assert len(expected["tokenizer.ggml.tokens"].data) == 49_152
    for name, field in expected.items():
        assert found[name].contents() == field.contents()


def test_reader_returns_the_tensors_of_ggufs_own_reader(
    file: Path, own_read: gguf.GGUFReader
) -> None:
    pairs = list(zip(read_gguf(file).tensors, own_read.tensors, strict=True))
    assert pairs
    for found, expected in pairs:
        assert (found.name, found.tensor_type) == (expected.name, expected.tensor_type)
        assert np.array_equal(found.data, expected.data)
        # Slices of a memory map would make the reader slow.
        assert not isinstance(found.data, np.memmap)


def test_model_tokenizer_and_description_read_a_file_only_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("read by gguf's own reader")

    gguf_files._read.cache_clear()
    monkeypatch.setattr(gguf, "GGUFReader", refuse)
    load_model(file, "float32")
    load_tokenizer(file)
    describe(file)
    assert gguf_files._read.cache_info().misses == 1


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path = write_small(tmp_path / "a.gguf", 2)
    os.utime(path, ns=(10**18, 10**18))
    assert read_gguf(path).fields["tokenizer.ggml.eos_token_id"].contents() == 2
    write_small(tmp_path / "b.gguf", 7).replace(path)
    assert path.stat().st_mtime_ns != 10**18
    found = read_gguf(path)
    assert found.fields["tokenizer.ggml.eos_token_id"].contents() == 7
    assert float(found.tensors[0].data[0]) == 7.0


def test_shared_reader_restores_ggufs_own_reader() -> None:
    with shared_reader():
        assert gguf.GGUFReader is read_gguf
    assert gguf.GGUFReader is OWN_READER


def test_a_failed_load_restores_ggufs_own_reader(tmp_path: Path) -> None:
    (tmp_path / "none.gguf").write_bytes(b"not a model, whatever its name says")
    with pytest.raises(UserError, match="magic letters GGUF"):
        load_model(tmp_path / "none.gguf", "float32")
    assert gguf.GGUFReader is OWN_READER


# Types of values in a header.
U32 = 4
TEXT = 8
ARRAY = 9
KEY = struct.pack("<Q", 3) + b"a.b"
DATA = bytes(64)


def count(value: int) -> bytes:
    """Return a 64-bit count."""
    return struct.pack("<Q", value)


def text(content: bytes) -> bytes:
    """Return a text with its length."""
    return count(len(content)) + content


def u32(*values: int) -> bytes:
    """Return 32-bit numbers."""
    return struct.pack(f"<{len(values)}I", *values)


def array(kind: int, length: int) -> bytes:
    """Return the start of an array, with any type and length."""
    return u32(ARRAY, kind) + count(length)


def header(tensors: int, keys: int, *parts: bytes, version: int = 3) -> bytes:
    """Return a GGUF file with any counts and parts."""
    counts = count(tensors) + count(keys)
    return b"GGUF" + u32(version) + counts + b"".join(parts)


def entry(name: bytes, shape: tuple[int, ...], kind: int = 0, start: int = 0) -> bytes:
    """Return a tensor's entry."""
    dimensions = b"".join(map(count, shape))
    place = u32(kind) + count(start)
    return text(name) + u32(len(shape)) + dimensions + place


Cases = dict[str, tuple[bytes, str]]
# Each case is a broken part of a file, and words of the error message.
BROKEN_COUNTS: Cases = {
    "empty file": (
        b"",
        "shorter than the smallest header",
    ),
    "old version": (
        header(0, 0, version=1),
        "version 1 is unknown",
    ),
    "too many keys": (
        header(0, 2**64 - 1),
        "the number of keys is",
    ),
    "too many tensors": (
        header(2**64 - 1, 0),
        "the number of tensors is",
    ),
    "keys beyond the end": (
        header(0, 9),
        "it ends inside its header",
    ),
}
BROKEN_FIELDS: Cases = {
    "long text": (
        count(2**63) + DATA,
        "the length of a text is",
    ),
    "text beyond the end": (
        count(900_000) + DATA,
        "it ends inside a text",
    ),
    "text that is not UTF-8": (
        text(b"\xff\xfe") + DATA,
        "not UTF-8",
    ),
    "unknown type": (
        KEY + u32(13) + DATA,
        "unknown type 13",
    ),
    "long array": (
        KEY + array(U32, 2**61) + DATA,
        "the length of an array is",
    ),
    "array beyond the end": (
        KEY + array(U32, 10**6) + DATA,
        "it ends inside an array",
    ),
    "texts beyond the end": (
        KEY + array(TEXT, 10**6) + DATA,
        "it ends inside an array of texts",
    ),
    "last text beyond the end": (
        KEY + array(TEXT, 1) + count(2**63),
        "it ends inside an array of texts",
    ),
    "array of arrays": (
        KEY + array(ARRAY, 1) + DATA,
        "items of type 9",
    ),
    "alignment": (
        text(b"general.alignment") + u32(U32, 0),
        "general.alignment",
    ),
}
BROKEN_TENSORS: Cases = {
    "dimensions": (
        text(b"t") + u32(2**32 - 1) + DATA,
        "dimensions is",
    ),
    "no dimension": (
        entry(b"t", ()) + DATA,
        "a tensor is empty",
    ),
    "empty tensor": (
        entry(b"t", (0, 4)) + DATA,
        "a tensor is empty",
    ),
    "large tensor": (
        entry(b"t", (2**40, 2**40)) + DATA,
        "larger than the file",
    ),
    "unknown tensor type": (
        entry(b"t", (4,), kind=5) + DATA,
        "unknown type 5",
    ),
    "half a block": (
        entry(b"t", (16,), kind=2) + DATA,
        "not a multiple of 32",
    ),
    "offset": (
        entry(b"t", (4,), start=64) + DATA,
        "does not start where",
    ),
    "tensor beyond the end": (
        entry(b"t", (64,)) + DATA,
        "but its tensors need",
    ),
}
FIELD = KEY + u32(U32, 1)
TENSOR = entry(b"t", (4,))
BROKEN_PAIRS: Cases = {
    "key twice": (
        header(0, 2, FIELD, FIELD),
        "it contains a key twice",
    ),
    "tensor twice": (
        header(2, 0, TENSOR, entry(b"t", (4,), start=32), DATA),
        "it contains a tensor twice",
    ),
    "overlap": (
        header(2, 0, TENSOR, entry(b"u", (4,)), DATA),
        "does not start where",
    ),
}


def in_header(tensors: int, keys: int, cases: Cases) -> Cases:
    """Return the cases with their parts completed to files."""
    found: Cases = {}
    for name, (part, words) in cases.items():
        found[name] = (header(tensors, keys, part), words)
    return found


BROKEN_HEADERS = {
    **BROKEN_COUNTS,
    **BROKEN_PAIRS,
    **in_header(0, 1, BROKEN_FIELDS),
    **in_header(1, 0, BROKEN_TENSORS),
}


@pytest.mark.parametrize("reader", [check_gguf, read_gguf])
@pytest.mark.parametrize("name", BROKEN_HEADERS)
def test_a_broken_header_is_refused_soon(
    name: str, reader: Callable[[Path], object], tmp_path: Path
) -> None:
    content, message = BROKEN_HEADERS[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(UserError, match="the GGUF file is broken") as found:
        reader(path)
    assert message in str(found.value)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("version", [2, 3])
def test_a_correct_header_is_read(version: int, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    field = KEY + array(U32, 2) + u32(7, 9)
    content = header(1, 1, field, entry(b"t", (4, 3)), version=version)
    padding = bytes(-len(content) % 32)
    path.write_bytes(content + padding + bytes(48))
    found = check_gguf(path)
    assert found.tensors == {"t": (4, 3)}
    assert found.fields == {"a.b": gguf_files.Items(2, (7, 9))}


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_without_tensors_needs_no_padding(version: int, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(header(0, 1, KEY, u32(U32, 5), version=version))
    assert check_gguf(path).fields == {"a.b": 5}


Edit = Callable[[bytes], bytes]


def replace_number(key: str, value: int) -> Edit:
    """Return a function that changes a 32-bit number in a file's header."""

    def edit(content: bytes) -> bytes:
        # The key is followed by the value's type, which has 32 bits, too.
        at = content.index(key.encode()) + len(key) + 4
        end = at + 4
        return content[:at] + u32(value) + content[end:]

    return edit


def rename(old: str, new: str) -> Edit:
    """Return a function that renames a tensor or a key."""
    assert len(old) == len(new)
    return lambda content: content.replace(old.encode(), new.encode(), 1)


CONTRADICTIONS: dict[str, tuple[Edit, str]] = {
    "a billion layers": (
        replace_number("llama.block_count", 10**9),
        "llama.block_count",
    ),
    "a layer fewer": (
        replace_number("llama.block_count", 1),
        "llama.block_count",
    ),
    "no head": (
        replace_number("llama.attention.head_count", 0),
        "head_count is not a positive",
    ),
    "width": (
        replace_number("llama.embedding_length", 512),
        "llama.embedding_length",
    ),
    "feed forward": (
        replace_number("llama.feed_forward_length", 2**31),
        "feed_forward_length",
    ),
    "vocabulary": (
        replace_number("llama.vocab_size", 2**31),
        "llama.vocab_size",
    ),
    "end token": (
        replace_number("tokenizer.ggml.eos_token_id", 2**31),
        "eos_token_id",
    ),
    "no architecture": (
        rename("general.architecture", "general.architectur_"),
        "architecture",
    ),
    "no embeddings": (
        rename("token_embd.weight", "token_emb_.weight"),
        "no matrix of embeddings",
    ),
    "no tokens": (
        rename("tokenizer.ggml.tokens", "tokenizer.ggml.token_"),
        "tokens is missing",
    ),
    "a tensor missing": (
        rename("blk.1.ffn_down.weight", "blk.1.ffn_dow_.weight"),
        "tensors are missing (1, such as model.layers.1.mlp.down_proj.weight)",
    ),
    "a tensor of another model": (
        rename("rope_freqs.weight", "rope_freq_.weight"),
        "tensors are of another model (1, such as rope_freq_.weight)",
    ),
    "cut": (
        lambda content: content[: len(content) // 2],
        "but its tensors need",
    ),
}


@pytest.fixture(scope="module")
def scaled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the two-layer model as a GGUF file with RoPE frequency factors."""
    folder = tmp_path_factory.mktemp("scaled")
    shutil.copytree(tiny, folder / "model")
    config_file = folder / "model/config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["rope_parameters"] = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    config_file.write_text(json.dumps(config), encoding="utf-8")
    convert(folder / "model", "bf16", folder / "scaled.gguf")
    return folder / "scaled.gguf"


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_header_that_contradicts_its_tensors_is_refused(
    name: str, scaled: Path, tmp_path: Path
) -> None:
    edit, message = CONTRADICTIONS[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(edit(scaled.read_bytes()))
    with pytest.raises(UserError) as found:
        load_model(path, "float32")
    assert message in str(found.value)


def test_a_file_with_rope_frequency_factors_loads(scaled: Path) -> None:
    assert "rope_freqs.weight" in check_gguf_model(scaled).tensors
    load_model(scaled, "float32")
