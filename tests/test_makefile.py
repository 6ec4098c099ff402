"""What `make setup` installs, and the one line it prints when something is missing."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.clones import ROOT

WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# A default index, and the one that TORCH_INDEX names.
Indexes = tuple[Path, Path]
TOOLS = ("make", "bash", "sh", "test", "df", "awk", "git", "echo", "touch", "rm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy the Makefile and the lock, and link only the tools that make needs."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def make_setup(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run `make setup`; return its exit code and what it printed."""
    env = {"PATH": str(folder / "bin"), "HOME": os.environ.get("HOME", "/")} | environment
    command = ["make", "setup", *arguments]
    pipe = subprocess.PIPE
    result = subprocess.run(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)
    return result.returncode, result.stdout + result.stderr


def setup(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a `make setup` that must not succeed."""
    code, said = make_setup(folder, *arguments, **environment)
    assert not (folder / ".venv/.installed").exists()
    return code, said


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
    assert "the packages could not be installed: is a package index reachable, and" in said
    assert "Traceback" not in said


def write_wheel(
    index: Path,
    name: str,
    version: str,
    content: str,
    *,
    build: str = "",
    requires: tuple[str, ...] = (),
) -> str:
    """Add a wheel with one module to an index that is a folder; return its SHA-256."""
    tag = f"-{build}" if build else ""
    path = index / name.replace("_", "-") / f"{name}-{version}{tag}-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}_made_by_hand.py", f"CONTENT = {content!r}\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")
    links = [f'<a href="{file.name}">{file.name}</a>' for file in path.parent.glob("*.whl")]
    (path.parent / "index.html").write_text("\n".join(links), encoding="utf-8")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def indexes(folder: Path) -> Indexes:
    """Write a default index, a lock of two of its wheels, and a second index with torch.

    The second index also has wheels of the locked package, one with the same version and a
    higher build tag, and one with a higher version.
    """
    default, second = folder / "default index", folder / "torch index"
    backend = write_wheel(default, "setuptools", "84.2.1", "right")
    package = write_wheel(default, "leaflet", "1.0", "right")
    write_wheel(second, "leaflet", "1.0", "wrong", build="9")
    write_wheel(second, "leaflet", "2.0", "wrong")
    write_wheel(second, "accelerator", "3.0", "right")
    write_wheel(second, "torch", "2.13.0", "right", requires=("accelerator", "leaflet"))
    write_wheel(default, "torch", "2.13.0", "default build", requires=("leaflet",))
    lines = (
        "leaflet==1.0 \\",
        f"    --hash=sha256:{package}",
        "setuptools==84.2.1 \\",
        f"    --hash=sha256:{backend}",
    )
    (folder / "requirements.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return default, second


def installed(folder: Path, name: str) -> str:
    """Return what the module of an installed wheel made by hand says; empty if it is missing."""
    found = list((folder / ".venv").glob(f"lib/python3*/site-packages/{name}_made_by_hand.py"))
    return found[0].read_text(encoding="utf-8") if found else ""


def offline(default: Path) -> dict[str, str]:
    """Return the environment in which pip sees the default index and no configuration."""
    return {"PIP_INDEX_URL": default.as_uri(), "PIP_CONFIG_FILE": "/dev/null"}


def test_setup_takes_torch_alone_from_torch_index(folder: Path, indexes: Indexes) -> None:
    default, second = indexes
    arguments = (f"PYTHON={sys.executable}", f"TORCH_INDEX={second.as_uri()}", "NEEDED_GB=0")
    code, said = make_setup(folder, *arguments, **offline(default))
    assert code == 0, said
    assert (folder / ".venv/.installed").exists()
    assert installed(folder, "leaflet") == "CONTENT = 'right'\n"
    assert installed(folder, "torch") == "CONTENT = 'right'\n"
    assert installed(folder, "accelerator") == "CONTENT = 'right'\n"


def test_torch_comes_from_pip_s_index_without_torch_index(folder: Path, indexes: Indexes) -> None:
    default, _ = indexes
    arguments = (f"PYTHON={sys.executable}", "NEEDED_GB=0")
    code, said = make_setup(folder, *arguments, **offline(default))
    assert code == 0, said
    assert installed(folder, "torch") == "CONTENT = 'default build'\n"


def test_torch_build_cannot_change_a_locked_package(folder: Path, indexes: Indexes) -> None:
    default, second = indexes
    write_wheel(second, "torch", "2.13.0", "greedy", requires=("leaflet>=2",))
    arguments = (f"PYTHON={sys.executable}", f"TORCH_INDEX={second.as_uri()}", "NEEDED_GB=0")
    code, said = setup(folder, *arguments, **offline(default))
    assert code != 0
    assert "the packages could not be installed" in said
    assert installed(folder, "leaflet") == "CONTENT = 'right'\n"
    assert installed(folder, "torch") == ""


def test_setup_refuses_a_wheel_with_another_hash(folder: Path, indexes: Indexes) -> None:
    default, _ = indexes
    write_wheel(default, "leaflet", "1.0", "changed after it was locked")
    code, said = setup(folder, f"PYTHON={sys.executable}", "NEEDED_GB=0", **offline(default))
    assert code != 0
    assert "DO NOT MATCH THE HASHES" in said
    assert "the packages could not be installed" in said
    assert installed(folder, "leaflet") == ""
