"""GGUF files as bula/gguf_files.py reads them: what gguf's own reader gives, once a file, and never an old state of it."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from bula import gguf_files
from bula.gguf_files import read_gguf, shared_reader
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
    assert all(found.fields[name].contents() == field.contents() for name, field in wanted.fields.items())
    assert len(wanted.fields["tokenizer.ggml.tokens"].data) == 49_152
    assert [(t.name, t.tensor_type) for t in found.tensors] == [(t.name, t.tensor_type) for t in wanted.tensors]
    assert all(np.array_equal(a.data, b.data) for a, b in zip(found.tensors, wanted.tensors, strict=True))
    # What makes it faster: no slice is a memory map of its own.
    assert not isinstance(found.tensors[0].data, np.memmap)


def test_one_file_is_taken_apart_once_for_all_who_ask(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert (found.fields["tokenizer.ggml.eos_token_id"].contents(), float(found.tensors[0].data[0])) == (7, 7.0)


def test_other_libraries_have_their_reader_back_whatever_happens(tmp_path: Path) -> None:
    with shared_reader():
        assert gguf.GGUFReader is read_gguf
    assert gguf.GGUFReader is OWN
    (tmp_path / "none.gguf").write_bytes(b"not a model, whatever its name says")
    with pytest.raises(ValueError, match="magic"):
        load_model(tmp_path / "none.gguf", "float32")
    assert gguf.GGUFReader is OWN
