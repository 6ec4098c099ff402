"""A full disk and too little memory are sentences, whichever library meets them."""

import errno
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy
import pytest
import torch

from bench.clones import ROOT
from bula.errors import UserError, run_app, run_stage
from tests.conftest import run

LOWER = "lower train.batch_size"
# What an H100 that is full makes torch say.
CUDA_TEXT = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of "
    "which 1.06 GiB is free. Process 1 has 78.12 GiB memory in use. Of the allocated memory 76.33 "
    "GiB is allocated by PyTorch, and 1.20 GiB is reserved by PyTorch but unallocated. If reserved "
    "but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True"
)


def said(error: BaseException) -> str:
    """Return what a stage prints when it meets an error."""

    def fail() -> NoReturn:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_app(fail, LOWER)
    return str(stopped.value)


# Memory


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError(CUDA_TEXT), "CUDA out of memory. Tried to allocate 2.00 GiB."),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel"), "CUDA error: out of memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`"),
            "CUBLAS_STATUS_ALLOC_FAILED",
        ),
        (MemoryError(), "MemoryError"),
        (RuntimeError("std::bad_alloc"), "std::bad_alloc"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_too_little_memory_names_the_parameter_to_lower(error: Exception, reason: str) -> None:
    message = said(error)
    assert message.startswith("params.yaml: memory ran out (")
    assert reason in message
    assert message.endswith(f"). Lower {LOWER[6:]}, or use a machine with more memory.")
    assert "PYTORCH_ALLOC_CONF" not in message


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(2**48), lambda: numpy.ones(2**48), lambda: bytearray(2**60)],
    ids=["torch", "numpy", "python"],
)
def test_a_real_failed_allocation_is_a_sentence(allocate: object) -> None:
    with pytest.raises(SystemExit, match=r"params\.yaml: memory ran out \(.*Lower train\.batch"):
        run_app(allocate, LOWER)  # type: ignore[arg-type]


def test_an_error_that_a_library_wraps_is_found() -> None:
    outer = ValueError("the map failed")
    outer.__cause__ = MemoryError()
    assert "memory ran out" in said(outer)


STAGE_FILES = [path for path in sorted((ROOT / "stages").rglob("*.py")) if path.name != "check.py"]


@pytest.mark.parametrize("path", STAGE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_stage_that_holds_rows_names_a_parameter_for_less_memory(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # Some packages have no such parameter, and the start of train computes nothing.
    if "run_stage(main" in text and path.name != "__main__.py":
        assert "run_stage(main, less_memory=" in text


# The disk

LIBRARIES = {
    "tokenizers": """
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
Tokenizer(WordLevel({str(n): n for n in range(9999)}, unk_token="0")).save(str(target))
""",
    "safetensors": """
import torch
from safetensors.torch import save_file
save_file({"weight": torch.zeros(99_999)}, target)
""",
    "torch.save": """
import torch
torch.save({"weight": torch.zeros(99_999)}, target)
""",
    "numpy": """
import numpy
with target.open("wb") as file:
    numpy.zeros(99_999).tofile(file)
""",
    "pyarrow": """
import pyarrow
from pyarrow import parquet
parquet.write_table(pyarrow.table({"a": list(range(99_999))}), target)
""",
    "datasets": """
from datasets import Dataset
Dataset.from_dict({"a": list(range(99_999))}).save_to_disk(target)
""",
    "sqlite3": """
import sqlite3
with sqlite3.connect(target) as connection:
    connection.execute("create table a (b)")
    connection.executemany("insert into a values (?)", [("x" * 999,)] * 999)
""",
    "python": """
with target.open("w") as file:
    file.write("x" * 99_999)
""",
    "gguf": """
import gguf, numpy
writer = gguf.GGUFWriter(target, "llama")
writer.add_tensor("weight", numpy.zeros(99_999, numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
""",
    "matplotlib": """
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot
figure = pyplot.figure(figsize=(20, 20))
figure.add_subplot().plot([1, 2, 1])
figure.savefig(target, format="png")
""",
}
# A progress bar would add lines.
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
LIMITED = """
import resource, sys
from pathlib import Path
from bula.errors import run_app
from bula.files import staged
out = Path(sys.argv[1])

def body():
    with staged(out) as folder:
        folder.mkdir()
        target = folder / "file"
        limit = 8192
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
"""


def write_with_limit(library: str, out: Path) -> "subprocess.CompletedProcess[str]":
    """Write with a library into a folder; no file may have over 8,192 bytes."""
    lines = LIBRARIES[library].strip().splitlines()
    # Modules are imported before the limit, because Python may write their bytecode.
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    body = [f"        {line}" for line in lines if line not in imports]
    code = "\n".join([*imports, LIMITED.strip("\n"), *body, "", "run_app(body)"])
    return run([sys.executable, "-c", code, str(out)], out.parent, **QUIET)


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_a_full_disk_is_a_sentence_in_every_library(library: str, tmp_path: Path) -> None:
    result = write_with_limit(library, tmp_path / "out")
    assert result.returncode == 1, result.stderr
    assert "cannot be written (" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1
    # Nothing half-written stays.
    assert list(tmp_path.iterdir()) == []


# The texts on a disk without room, where the limit above gives others.
FULL = [
    OSError(errno.ENOSPC, "No space left on device", "data/x.jsonl"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    Exception("No space left on device (os error 28)"),
    OSError("4096 requested and 0 written"),
    RuntimeError(
        "[enforce fail at inline_container.cc:815] . PytorchStreamWriter failed writing file "
        "data/0: file write failed"
    ),
    RuntimeError("[enforce fail at inline_container.cc:626] . unexpected pos 384 vs 276"),
    RuntimeError("database or disk is full"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_the_texts_of_a_full_disk_are_known(error: Exception) -> None:
    message = said(error)
    where = getattr(error, "filename", None) or "the disk"
    assert message.startswith(f"{where}: a file cannot be written (")
    fix = "Make room on the disk or raise the limit, and run the command again."
    assert message.endswith(f"). {fix}")


# Bugs


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        Exception("wrong"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        PermissionError(errno.EACCES, "Permission denied", "x"),
        RuntimeError("[enforce fail at inline_container.cc:1] . PytorchStreamReader failed"),
    ],
    ids=str,
)
def test_any_other_error_keeps_its_traceback(error: Exception) -> None:
    def fail() -> NoReturn:
        raise error

    with pytest.raises(type(error)) as raised:
        run_app(fail)
    assert raised.value is error


def test_a_user_error_about_memory_keeps_its_own_fix() -> None:
    error = UserError("models/base", "it is out of memory", "use a smaller model")
    error.__cause__ = MemoryError()
    assert said(error) == "models/base: it is out of memory. Use a smaller model."


def test_a_stage_prints_the_sentence_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def command() -> None:
        raise MemoryError

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit, match=r"^params\.yaml: memory ran out .*Lower a\.b, or use"):
        run_stage(command, less_memory="lower a.b")
