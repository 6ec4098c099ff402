"""Check that files and folders are written completely or not at all."""

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from bula import files
from bula.errors import UserError
from bula.files import make_readable, sha256_file, sha256_values, staged
from bula.records import read_rows
from tests.conftest import run

Fill = Callable[[Path, str], None]


def fill_file(path: Path, content: str) -> None:
    """Write a file with this content."""
    path.write_text(content, encoding="utf-8")


def fill_folder(path: Path, content: str) -> None:
    """Write a folder with one file in a subfolder."""
    (path / "inner").mkdir(parents=True)
    (path / "inner" / content).write_text(content, encoding="utf-8")


def tree(root: Path) -> dict[str, str | None]:
    """Return the content of every path below a folder.

    The content of a folder is None.
    """
    return {str(path.relative_to(root)): content(path) for path in root.rglob("*")}


def content(path: Path) -> str | None:
    """Return the text of a file, or None for a folder."""
    return None if path.is_dir() else path.read_text(encoding="utf-8")


# Replacement of old outputs


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_staged_file_replaces_the_old_file(tmp_path: Path, old: bool) -> None:
    target = tmp_path / "out"
    if old:
        fill_file(target, "old")
    with staged(target) as temporary:
        assert temporary.parent == tmp_path
        fill_file(temporary, "new")
    assert tree(tmp_path) == {"out": "new"}


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_staged_folder_replaces_the_complete_old_folder(tmp_path: Path, old: bool) -> None:
    target = tmp_path / "deep" / "out"
    if old:
        fill_folder(target, "old")
    with staged(target) as temporary:
        fill_folder(temporary, "new")
    assert tree(tmp_path / "deep") == {"out": None, "out/inner": None, "out/inner/new": "new"}


@pytest.mark.parametrize("fill", [fill_file, fill_folder])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit("no")])
@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_failure_keeps_the_old_output_and_leaves_nothing_else(
    tmp_path: Path, fill: Fill, error: BaseException, old: bool
) -> None:
    if old:
        fill(tmp_path / "out", "old")
    before = tree(tmp_path)
    with pytest.raises(type(error)), staged(tmp_path / "out") as temporary:
        fill(temporary, "new")
        raise error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("fill", [fill_file, fill_folder])
def test_a_temporary_output_of_a_killed_run_does_not_reach_the_output(
    tmp_path: Path, fill: Fill
) -> None:
    with staged(tmp_path / "out") as temporary:
        name = temporary.name
        fill_file(temporary, "")
    fill(tmp_path / name, "stale")
    with staged(tmp_path / "out") as temporary:
        assert not temporary.exists()
        fill_file(temporary, "new")
    assert tree(tmp_path) == {"out": "new"}


def test_a_temporary_output_of_another_living_process_stays(tmp_path: Path) -> None:
    other = f".out.{os.getppid()}.tmp"
    fill_file(tmp_path / other, "in work")
    with staged(tmp_path / "out") as temporary:
        fill_file(temporary, "new")
    assert tree(tmp_path) == {"out": "new", other: "in work"}


@pytest.mark.parametrize("fill", [fill_file, fill_folder])
def test_all_bytes_are_on_the_disk_before_the_output_appears(
    tmp_path: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    synced: set[tuple[str, bool]] = set()

    def record(path: Path) -> None:
        synced.add((path.name, target.exists()))

    monkeypatch.setattr(files, "fsync_path", record)
    with staged(target) as temporary:
        fill(temporary, "new")
        parts = {temporary.name, *(path.name for path in temporary.rglob("*"))}
    assert len(parts) == (3 if fill is fill_folder else 1)
    assert synced == {(part, False) for part in parts} | {(tmp_path.name, True)}


# Failed writes: a limit on the size of files makes the operating system refuse the write.

LIMITED = """
import resource, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from bula.errors import run_app
from bula.files import staged
from bula.records import write_rows
target, limit, many = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
"""
ROWS = "write_rows(target, ({'a': number} for number in range(many)))"
FOLDER = """
with staged(target) as temporary:
    write_rows(temporary / "small.jsonl", [{'a': 1}])
    (temporary / "large").write_bytes(bytes(many))
"""
TENSORS = """
with staged(target) as temporary:
    temporary.mkdir()
    save_file({'weight': numpy.zeros(many)}, temporary / "model.safetensors")
"""


def run_limited(code: str, target: Path, limit: int, many: int) -> subprocess.CompletedProcess[str]:
    """Run code in which no file may exceed `limit` bytes.

    Python ignores the signal of the limit, so a longer write fails with EFBIG.
    """
    body = LIMITED + "def body():\n" + textwrap.indent(code, "    ") + "\nrun_app(body)\n"
    return run([sys.executable, "-c", body, str(target), str(limit), str(many)], cwd=target.parent)


def assert_one_sentence(result: subprocess.CompletedProcess[str], target: Path) -> None:
    """Check that a failed write printed one line, which names the output."""
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"{target}: it cannot be written (")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "limit", "many"),
    # 20 rows stay in Python's buffer until the file is closed, and 20,000 rows do not.
    [(ROWS, 100, 20), (ROWS, 4096, 20_000), (FOLDER, 100, 1000)],
    ids=["at the close", "on the way", "in a folder"],
)
@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_failed_write_prints_one_sentence_and_keeps_the_old_output(
    tmp_path: Path, code: str, limit: int, many: int, old: bool
) -> None:
    target = tmp_path / "out"
    fill = fill_folder if code == FOLDER else fill_file
    if old:
        fill(target, "old")
    before = tree(tmp_path)
    result = run_limited(code, target, limit, many)
    assert_one_sentence(result, target)
    assert os.strerror(errno.EFBIG) in result.stderr
    assert tree(tmp_path) == before


def test_a_failed_write_of_weights_prints_one_sentence(tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert_one_sentence(run_limited(TENSORS, target, 1000, 1000), target)
    assert list(tmp_path.iterdir()) == []


def test_the_same_write_succeeds_below_the_limit(tmp_path: Path) -> None:
    result = run_limited(ROWS, tmp_path / "out", 1_000_000, 20_000)
    assert (result.returncode, result.stderr) == (0, "")
    assert sum(row["a"] for row in read_rows(tmp_path / "out")) == 199_990_000


# Hashes


def test_an_output_below_a_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "kit").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="it cannot be written"), staged(tmp_path / "kit/key.json"):
        pass


def test_sha256_file_is_the_hash_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    # The first example of FIPS 180-2.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "x") == expected


def test_sha256_values_depends_on_values_and_not_on_key_order() -> None:
    assert sha256_values({"a": 1, "b": 2}) == sha256_values({"b": 2, "a": 1})
    assert sha256_values({"a": 1}) != sha256_values({"a": 2})


def test_everyone_can_read_the_files_of_a_folder_and_enter_its_folders(tmp_path: Path) -> None:
    inner = tmp_path / "additional_chat_templates"
    inner.mkdir(mode=0o755)
    files = [tmp_path / "model.safetensors", inner / "tool_use.jinja"]
    for file in files:
        file.touch(mode=0o600)
    make_readable(tmp_path)
    assert [file.stat().st_mode & 0o777 for file in files] == [0o644, 0o644]
    assert inner.stat().st_mode & 0o777 == 0o755
