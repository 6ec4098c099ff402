"""What `make` says when something is missing: one plain line, and nothing half made that looks finished."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TOOLS = ("make", "bash", "sh", "test", "df", "awk", "git", "echo", "touch", "rm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Makefile and the lock alone, and a PATH that holds nothing but the tools that make needs."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def setup(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run `make setup` and give its exit code and what a person reads."""
    env = {"PATH": str(folder / "bin"), "HOME": os.environ.get("HOME", "/")} | environment
    result = subprocess.run(["make", "setup", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert not (folder / ".venv/.installed").exists()
    return result.returncode, result.stdout + result.stderr


def test_no_python(folder: Path) -> None:
    code, said = setup(folder)
    assert code != 0
    assert said.splitlines()[0].startswith("bula needs Python 3.11 or 3.12, and none is on PATH")


def test_no_git(folder: Path) -> None:
    (folder / "bin/git").unlink()
    code, said = setup(folder, f"PYTHON={sys.executable}")
    assert code != 0
    assert said.splitlines()[0] == "bula needs git, and it is not on PATH"


def test_no_disk(folder: Path) -> None:
    code, said = setup(folder, f"PYTHON={sys.executable}", "NEEDED_GB=1000000")
    assert code != 0
    assert said.splitlines()[0] == "bula needs 1000000 GB of free disk here; df says there is less"


def test_no_package_index(folder: Path) -> None:
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0"}
    code, said = setup(folder, f"PYTHON={sys.executable}", **nowhere)
    assert code != 0
    assert "the packages could not be installed: is a package index reachable, and is there disk space?" in said
    assert "Traceback" not in said
