"""Test that each clone has the same bytes, whatever git's settings are."""

from pathlib import Path

import pytest

from bench.clones import ROOT, commit, git

CRLF = b"a,b\r\n1,2\r\n"
# The signature of a PNG file has a CRLF and a lone LF.
PNG = b"\x89PNG\r\n\x1a\n"
TEXTS = (
    "stage",
    "Makefile",
    ".ci/run",
    "dvc.yaml",
    "data/demo/train.jsonl",
    "metrics/summary.json",
    "templates/a.jinja",
    "bula/a.py",
    "docs/a.md",
    "data/a.csv",
    "a.sh",
)
OTHERS = {"data/sources/mine.csv": CRLF, "plots/a.png": PNG, "models/a.gguf": b"GGUF\r\n"}


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with this project's attributes and a file of each kind."""
    folder = tmp_path / "repository"
    folder.mkdir()
    write(folder, ".gitattributes", (ROOT / ".gitattributes").read_bytes())
    for name in TEXTS:
        write(folder, name, b"first\nsecond\n")
    for name, content in OTHERS.items():
        write(folder, name, content)
    git(folder, "init", "--quiet")
    commit(folder, "start")
    return folder


@pytest.mark.parametrize("setting", ["true", "input", "false"])
def test_a_clone_has_the_same_bytes_under_each_setting(
    setting: str, repository: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "-c", f"core.autocrlf={setting}", str(repository), "clone")
    for name in [*TEXTS, *OTHERS, ".gitattributes"]:
        assert (clone / name).read_bytes() == (repository / name).read_bytes(), name
    assert git(clone, "status", "--porcelain") == ""


def test_a_clone_without_the_attributes_has_other_bytes(repository: Path, tmp_path: Path) -> None:
    (repository / ".gitattributes").unlink()
    commit(repository, "no attributes")
    git(tmp_path, "clone", "--quiet", "-c", "core.autocrlf=true", str(repository), "clone")
    assert (tmp_path / "clone/stage").read_bytes() == b"first\r\nsecond\r\n"


def test_an_editor_that_writes_crlf_changes_no_committed_text(repository: Path) -> None:
    write(repository, "bula/a.py", b"first\r\nsecond\r\nthird\r\n")
    commit(repository, "an edit")
    assert git(repository, "show", "HEAD:bula/a.py") == "first\nsecond\nthird\n"


def test_each_tracked_file_is_text_with_lf_or_binary() -> None:
    names = git(ROOT, "ls-files", "-z")
    shown = git(ROOT, "check-attr", "-z", "text", "eol", "--", *filter(None, names.split("\0")))
    fields = shown.split("\0")[:-1]
    found: dict[str, dict[str, str]] = {}
    for name, attribute, value in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        found.setdefault(name, {})[attribute] = value
    wrong = {
        name: values
        for name, values in found.items()
        if values["text"] != "unset" and values["eol"] != "lf"
    }
    assert wrong == {}
