"""GGUF files as bula/gguf_files.py reads them: what gguf's own reader gives, once a file, and never an old state of it."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from bula import gguf_files
from bula.errors import UserError
from bula.gguf_files import check_gguf, check_gguf_model, read_gguf, shared_reader
from bula.models import load_model, load_tokenizer
from stages.quantize import describe, export

OWN = gguf.GGUFReader


@pytest.fixture(scope="module")
def file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two-layer model with SmolLM2's tokenizer as a Q8_0 file."""
    path = tmp_path_factory.mktemp("files") / "q8_0.gguf"
    export(tiny, "q8_0", path)
    return path


def small(path: Path, end: int) -> Path:
    """A GGUF file of one field and one tensor, always of the same size."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_eos_token_id(end)
    writer.add_tensor("output_norm.weight", np.full(8, end, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_fields_and_tensors_are_those_of_the_other_reader(file: Path) -> None:
    found, wanted = read_gguf(file), OWN(file)
    assert list(found.fields) == list(wanted.fields)
    assert all(
        found.fields[name].contents() == field.contents() for name, field in wanted.fields.items()
    )
    assert len(wanted.fields["tokenizer.ggml.tokens"].data) == 49_152
    assert [(t.name, t.tensor_type) for t in found.tensors] == [
        (t.name, t.tensor_type) for t in wanted.tensors
    ]
    assert all(
        np.array_equal(a.data, b.data) for a, b in zip(found.tensors, wanted.tensors, strict=True)
    )
    # What makes it faster: no slice is a memory map of its own.
    assert not isinstance(found.tensors[0].data, np.memmap)


def test_one_file_is_taken_apart_once_for_all_who_ask(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_files._read.cache_clear()

    def refuse(*arguments: object) -> None:
        raise AssertionError("read by gguf's own reader")

    # No one that loads a model or a tokenizer goes around the one that remembers.
    monkeypatch.setattr(gguf, "GGUFReader", refuse)
    load_model(file, "float32")
    load_tokenizer(file)
    describe(file)
    assert gguf_files._read.cache_info().misses == 1


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = small(tmp_path / "a.gguf", 2)
    os.utime(path, ns=(10**18, 10**18))
    assert read_gguf(path).fields["tokenizer.ggml.eos_token_id"].contents() == 2
    small(tmp_path / "b.gguf", 7).replace(path)
    assert path.stat().st_mtime_ns != 10**18
    found = read_gguf(path)
    assert (
        found.fields["tokenizer.ggml.eos_token_id"].contents(),
        float(found.tensors[0].data[0]),
    ) == (7, 7.0)


def test_other_libraries_have_their_reader_back_whatever_happens(tmp_path: Path) -> None:
    with shared_reader():
        assert gguf.GGUFReader is read_gguf
    assert gguf.GGUFReader is OWN
    (tmp_path / "none.gguf").write_bytes(b"not a model, whatever its name says")
    with pytest.raises(UserError, match="magic letters GGUF"):
        load_model(tmp_path / "none.gguf", "float32")
    assert gguf.GGUFReader is OWN


U64, U32, TEXT, LIST, WORD = 10, 4, 8, 9, struct.Struct("<Q").pack


def text(content: bytes) -> bytes:
    """Return a text as a GGUF file holds it."""
    return WORD(len(content)) + content


def header(tensors: int, keys: int, *parts: bytes, version: int = 3) -> bytes:
    """Return a GGUF file of some parts, with counts that may lie."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)


def entry(name: bytes, shape: tuple[int, ...], kind: int = 0, start: int = 0) -> bytes:
    """Return a tensor's entry."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, start)


KEY = text(b"a.b")
DATA = bytes(64)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "shorter than the smallest header"),
    "old version": (header(0, 0, version=1), "version 1 is unknown"),
    "most keys": (header(0, 2**64 - 1), "the number of keys is"),
    "most tensors": (header(2**64 - 1, 0), "the number of tensors is"),
    "keys that are not there": (header(0, 9), "it ends inside its header"),
    "long text": (header(0, 1, WORD(2**63), DATA), "the length of a text is"),
    "text beyond the end": (header(0, 1, WORD(900_000), DATA), "it ends inside a text"),
    "text of no letters": (header(0, 1, text(b"\xff\xfe"), DATA), "not UTF-8"),
    "unknown type": (header(0, 1, KEY, struct.pack("<I", 13), DATA), "unknown type 13"),
    "long list": (
        header(0, 1, KEY, struct.pack("<IIQ", LIST, U32, 2**61), DATA),
        "the length of an array is",
    ),
    "list beyond the end": (
        header(0, 1, KEY, struct.pack("<IIQ", LIST, U32, 10**6), DATA),
        "it ends inside an array",
    ),
    "texts beyond the end": (
        header(0, 1, KEY, struct.pack("<IIQ", LIST, TEXT, 10**6), DATA),
        "it ends inside an array of texts",
    ),
    "a text of a list beyond the end": (
        header(0, 1, KEY, struct.pack("<IIQ", LIST, TEXT, 1), WORD(2**63)),
        "it ends inside an array of texts",
    ),
    "list of lists": (
        header(0, 1, KEY, struct.pack("<IIQ", LIST, LIST, 1), DATA),
        "items of type 9",
    ),
    "key twice": (header(0, 2, (KEY + struct.pack("<II", U32, 1)) * 2), "a key stands in it twice"),
    "alignment": (
        header(0, 1, text(b"general.alignment"), struct.pack("<II", U32, 0)),
        "general.alignment",
    ),
    "dimensions": (header(1, 0, text(b"t"), struct.pack("<I", 2**32 - 1), DATA), "dimensions is"),
    "no dimension": (header(1, 0, entry(b"t", ()), DATA), "a tensor is empty"),
    "empty tensor": (header(1, 0, entry(b"t", (0, 4)), DATA), "a tensor is empty"),
    "large tensor": (header(1, 0, entry(b"t", (2**40, 2**40)), DATA), "larger than the file"),
    "unknown tensor type": (header(1, 0, entry(b"t", (4,), kind=5), DATA), "unknown type 5"),
    "half a block": (header(1, 0, entry(b"t", (16,), kind=2), DATA), "no multiple of 32"),
    "offset": (header(1, 0, entry(b"t", (4,), start=64), DATA), "does not start where"),
    "overlap": (header(2, 0, entry(b"t", (4,)), entry(b"u", (4,)), DATA), "does not start where"),
    "tensor twice": (
        header(2, 0, entry(b"t", (4,)), entry(b"t", (4,), start=32), DATA),
        "a tensor stands in it twice",
    ),
    "tensor beyond the end": (header(1, 0, entry(b"t", (64,)), DATA), "and its tensors need"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_ends_with_a_sentence_at_once(name: str, tmp_path: Path) -> None:
    content, sentence = HOSTILE[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    for ask in (check_gguf, read_gguf):
        start = time.monotonic()
        with pytest.raises(UserError, match="the GGUF file is broken") as found:
            ask(path)
        assert sentence in str(found.value)
        assert time.monotonic() - start < 1


@pytest.mark.parametrize("version", [2, 3])
def test_a_small_honest_header_passes(version: int, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    field = KEY + struct.pack("<IIQ2I", LIST, U32, 2, 7, 9)
    content = header(1, 1, field, entry(b"t", (4, 3)), version=version)
    path.write_bytes(content + bytes(-len(content) % 32) + bytes(48))
    found = check_gguf(path)
    assert found.tensors == {"t": (4, 3)}
    assert found.fields == {"a.b": gguf_files.Items(2, (7, 9))}
    # Without a tensor there is nothing to align.
    path.write_bytes(header(0, 1, KEY, struct.pack("<II", U32, 5), version=version))
    assert check_gguf(path).fields == {"a.b": 5}


def replace_number(key: str, value: int) -> Callable[[bytes], bytes]:
    """Return a function that changes a 32-bit number of a file's header."""

    def edit(content: bytes) -> bytes:
        at = content.index(key.encode()) + len(key) + 4
        return content[:at] + struct.pack("<I", value) + content[at + 4 :]

    return edit


def rename(old: str, new: str) -> Callable[[bytes], bytes]:
    """Return a function that gives a tensor or a key another name of the same length."""
    assert len(old) == len(new)
    return lambda content: content.replace(old.encode(), new.encode(), 1)


CONTRADICTIONS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a billion layers": (replace_number("llama.block_count", 10**9), "llama.block_count"),
    "a layer fewer": (replace_number("llama.block_count", 1), "llama.block_count"),
    "no head": (replace_number("llama.attention.head_count", 0), "head_count is no positive"),
    "width": (replace_number("llama.embedding_length", 512), "llama.embedding_length"),
    "feed forward": (replace_number("llama.feed_forward_length", 2**31), "feed_forward_length"),
    "vocabulary": (replace_number("llama.vocab_size", 2**31), "llama.vocab_size"),
    "end token": (replace_number("tokenizer.ggml.eos_token_id", 2**31), "eos_token_id"),
    "no architecture": (rename("general.architecture", "general.architectur_"), "architecture"),
    "no embeddings": (rename("token_embd.weight", "token_emb_.weight"), "no matrix of embeddings"),
    "no words": (rename("tokenizer.ggml.tokens", "tokenizer.ggml.token_"), "tokens is missing"),
    "a tensor missing": (
        rename("blk.1.ffn_down.weight", "blk.1.ffn_dow_.weight"),
        "tensors are missing (1, such as model.layers.1.mlp.down_proj.weight)",
    ),
    "a tensor of another model": (
        rename("rope_freqs.weight", "rope_freq_.weight"),
        "tensors are of another model (1, such as rope_freq_.weight)",
    ),
    "cut": (lambda content: content[: len(content) // 2], "and its tensors need"),
}


@pytest.fixture(scope="module")
def scaled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two-layer model as a GGUF file that also holds factors of the rotary frequencies."""
    import json
    import shutil

    from stages.quantize import convert

    folder = tmp_path_factory.mktemp("scaled")
    shutil.copytree(tiny, folder / "model")
    config: dict[str, Any] = json.loads((folder / "model/config.json").read_text(encoding="utf-8"))
    config["rope_parameters"] = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    }
    (folder / "model/config.json").write_text(json.dumps(config), encoding="utf-8")
    convert(folder / "model", "bf16", folder / "scaled.gguf")
    return folder / "scaled.gguf"


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_header_that_contradicts_its_tensors_is_refused(
    name: str, scaled: Path, tmp_path: Path
) -> None:
    edit, sentence = CONTRADICTIONS[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(edit(scaled.read_bytes()))
    with pytest.raises(UserError) as found:
        load_model(path, "float32")
    assert sentence in str(found.value)


def test_a_whole_file_passes_and_loads(scaled: Path) -> None:
    assert "rope_freqs.weight" in check_gguf_model(scaled).tensors
    load_model(scaled, "float32")
