"""Check the packages that `make setup` installs, and its error messages."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.clones import ROOT

WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# The default index, and the index that TORCH_INDEX names.
Indexes = tuple[Path, Path]
TOOLS = ("make", "bash", "sh", "test", "df", "awk", "git", "echo", "touch", "rm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the Makefile, the lock and make's tools."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def make_setup(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run `make setup`; return its exit code and what it printed.

    The tests install little, so they need no free disk unless `arguments` ask for it.
    """
    home = os.environ.get("HOME", "/")
    env = {"PATH": str(folder / "bin"), "HOME": home, **environment}
    command = ["make", "setup", "NEEDED_GB=0", *arguments]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def failed_setup(folder: Path, *arguments: str, **environment: str) -> str:
    """Run a `make setup` that must fail; return its output."""
    code, output = make_setup(folder, *arguments, **environment)
    assert code != 0
    assert not (folder / ".venv/.installed").exists()
    return output


def test_setup_without_python_asks_for_it(folder: Path) -> None:
    first_line = failed_setup(folder).splitlines()[0]
    assert first_line.startswith("bula needs Python 3.11 or 3.12, and none is on PATH")


def test_setup_without_git_asks_for_it(folder: Path) -> None:
    (folder / "bin/git").unlink()
    output = failed_setup(folder, f"PYTHON={sys.executable}")
    assert output.splitlines()[0] == "bula needs git, and it is not on PATH"


def test_an_unknown_profile_stops_before_the_installation(folder: Path) -> None:
    (folder / "profiles").mkdir()
    for name in ("mine", "yours"):
        (folder / f"profiles/{name}.yaml").touch()
    for target in ("repro", "gpu"):
        command = ["make", target, "PROFILE=nope", "NEEDED_GB=1000000"]
        env = {"PATH": str(folder / "bin")}
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert result.returncode != 0
        assert result.stdout == "profiles: there is no profile 'nope'; name one of mine yours\n"
    assert failed_setup(folder, "PROFILE=mine").startswith("bula needs Python")


def test_setup_without_disk_space_names_the_size(folder: Path) -> None:
    output = failed_setup(folder, f"PYTHON={sys.executable}", "NEEDED_GB=1000000")
    first_line = output.splitlines()[0]
    assert first_line == "bula needs 1000000 GB of free disk here; df says there is less"


def test_setup_without_a_package_index_prints_no_traceback(folder: Path) -> None:
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "0"}
    output = failed_setup(folder, f"PYTHON={sys.executable}", **nowhere)
    assert "the packages could not be installed: is a package index reachable, and" in output
    assert "Traceback" not in output


def write_wheel(
    index: Path,
    name: str,
    version: str,
    content: str,
    *,
    build: str = "",
    requires: tuple[str, ...] = (),
) -> str:
    """Add a wheel to a local index; return its SHA-256.

    The wheel has one module with `content`. The index is a folder of files.
    """
    tag = f"-{build}" if build else ""
    path = index / name.replace("_", "-") / f"{name}-{version}{tag}-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    requirements = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirements}"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}_made_by_hand.py", f"CONTENT = {content!r}\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")
    write_links(path.parent)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_links(folder: Path) -> None:
    """Write an index page that links all wheels of a package."""
    links = [f'<a href="{file.name}">{file.name}</a>' for file in folder.glob("*.whl")]
    (folder / "index.html").write_text("\n".join(links), encoding="utf-8")


@pytest.fixture
def indexes(folder: Path) -> Indexes:
    """Write a default index with its lock, and an index with torch.

    The lock has two wheels of the default index. The second index also has wheels of a locked
    package: one with the same version and a higher build tag, and one with a higher version.
    """
    default = folder / "default index"
    second = folder / "torch index"
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
    """Return the text of an installed module, or an empty text."""
    found = list((folder / ".venv").glob(f"lib/python3*/site-packages/{name}_made_by_hand.py"))
    return found[0].read_text(encoding="utf-8") if found else ""


def offline(default: Path) -> dict[str, str]:
    """Return an environment in which pip uses only the default index."""
    return {"PIP_INDEX_URL": default.as_uri(), "PIP_CONFIG_FILE": "/dev/null"}


def test_setup_takes_only_torch_from_torch_index(folder: Path, indexes: Indexes) -> None:
    default, second = indexes
    arguments = (f"PYTHON={sys.executable}", f"TORCH_INDEX={second.as_uri()}", "NEEDED_GB=0")
    code, output = make_setup(folder, *arguments, **offline(default))
    assert code == 0, output
    assert (folder / ".venv/.installed").exists()
    assert installed(folder, "leaflet") == "CONTENT = 'right'\n"
    assert installed(folder, "torch") == "CONTENT = 'right'\n"
    assert installed(folder, "accelerator") == "CONTENT = 'right'\n"


def test_torch_comes_from_the_default_index_without_torch_index(
    folder: Path, indexes: Indexes
) -> None:
    default, _ = indexes
    arguments = (f"PYTHON={sys.executable}", "NEEDED_GB=0")
    code, output = make_setup(folder, *arguments, **offline(default))
    assert code == 0, output
    assert installed(folder, "torch") == "CONTENT = 'default build'\n"


def test_a_build_of_torch_cannot_change_a_locked_package(folder: Path, indexes: Indexes) -> None:
    default, second = indexes
    write_wheel(second, "torch", "2.13.0", "greedy", requires=("leaflet>=2",))
    arguments = (f"PYTHON={sys.executable}", f"TORCH_INDEX={second.as_uri()}", "NEEDED_GB=0")
    output = failed_setup(folder, *arguments, **offline(default))
    assert "the packages could not be installed" in output
    assert installed(folder, "leaflet") == "CONTENT = 'right'\n"
    assert installed(folder, "torch") == ""


def test_setup_refuses_a_wheel_with_another_hash(folder: Path, indexes: Indexes) -> None:
    default, _ = indexes
    write_wheel(default, "leaflet", "1.0", "changed after it was locked")
    arguments = (f"PYTHON={sys.executable}", "NEEDED_GB=0")
    output = failed_setup(folder, *arguments, **offline(default))
    assert "DO NOT MATCH THE HASHES" in output
    assert "the packages could not be installed" in output
    assert installed(folder, "leaflet") == ""


def dry_run(folder: Path, *arguments: str, **environment: str) -> str:
    """Return what make would run."""
    command = ["make", "--dry-run", *arguments, f"PYTHON={sys.executable}"]
    env = {"PATH": str(folder / "bin"), **environment}
    result = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    return result.stdout


def test_gpu_installs_the_locked_version_of_llama_cpp_from_the_cuda_index(folder: Path) -> None:
    output = dry_run(folder, "gpu", "LLAMA_INDEX=https://cuda")
    lock = (folder / "requirements.lock").read_text(encoding="utf-8")
    [version] = re.findall(r"^xllamacpp==\S+", lock, re.MULTILINE)
    assert f'--no-deps --force-reinstall --index-url "https://cuda" {version} &&' in output
    assert ".venv-vllm/bin/python -m pip install --quiet --group vllm" in output


@pytest.fixture
def set_up(folder: Path) -> Path:
    """Return the folder as `make setup` leaves it, without packages."""
    (folder / ".venv").mkdir()
    (folder / ".venv/.installed").touch()
    return folder


def make_gpu(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run `make gpu` with a Python that has no package; return its exit code and output."""
    command = ["make", "gpu", f"PYTHON={sys.executable}", *arguments]
    env = {"PATH": str(folder / "bin")}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return result.returncode, result.stdout


def test_gpu_without_disk_space_names_the_size(set_up: Path) -> None:
    code, output = make_gpu(set_up, "GPU_GB=1000000")
    assert code != 0
    assert output == "make gpu needs 1000000 GB of free disk here; df says there is less\n"


def test_a_failed_gpu_installation_ends_with_a_sentence_and_starts_again(set_up: Path) -> None:
    code, output = make_gpu(set_up, "GPU_GB=0", "LLAMA_INDEX=https://cuda")
    assert code != 0
    assert "are the package index and https://cuda reachable, and is there disk space?" in output
    assert not (set_up / ".venv-vllm/.installed").exists()


def test_gpu_installs_only_once(set_up: Path) -> None:
    (set_up / ".venv-vllm").mkdir()
    (set_up / ".venv-vllm/.installed").touch()
    assert make_gpu(set_up) == (0, "make: Nothing to be done for 'gpu'.\n")


@pytest.mark.parametrize("target", ["repro", "seeds"])
@pytest.mark.parametrize("code", [0, 3])
def test_a_run_is_recorded_in_the_run_cache_and_keeps_its_exit_code(
    target: str, code: int, set_up: Path
) -> None:
    log = set_up / "log"
    for name, own_code in (("dvc", code), ("python", 0)):
        program = set_up / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} $* >> {log}\nexit {own_code}\n")
        program.chmod(0o755)
    command = ["make", target, f"PYTHON={sys.executable}"]
    env = {"PATH": str(set_up / "bin")}
    result = subprocess.run(command, cwd=set_up, env=env, capture_output=True, text=True)
    # make's own exit code for a failed command is 2, and its message has the command's code.
    assert (result.returncode, f"Error {code}" in result.stderr) == (
        (2, True) if code else (0, False)
    )
    said = log.read_text(encoding="utf-8").splitlines()
    first = ["python -m bula preflight"] if target == "repro" else []
    assert said[-2 - len(first) :] == [*first, "dvc repro", "python -m bula keep-runs"]


def test_a_fault_of_preflight_stops_a_run_before_dvc(set_up: Path) -> None:
    log = set_up / "log"
    for name in ("dvc", "python"):
        program = set_up / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} $* >> {log}\nexit 1\n")
        program.chmod(0o755)
    command = ["make", "repro", f"PYTHON={sys.executable}"]
    env = {"PATH": str(set_up / "bin")}
    assert subprocess.run(command, cwd=set_up, env=env, capture_output=True).returncode == 2
    assert log.read_text(encoding="utf-8") == "python -m bula preflight\n"


def test_a_profile_and_rates_count_only_as_arguments(set_up: Path) -> None:
    elsewhere = {"PROFILE": "mine", "RATES": "7", "N": "9"}
    assert "bula profile" not in dry_run(set_up, "repro", **elsewhere)
    assert "bula profile" in dry_run(set_up, "repro", "PROFILE=mine")
    assert "bula sweep 1e-4 3e-4 1e-3\n" in dry_run(set_up, "sweep", **elsewhere)
    assert "bula sweep 7\n" in dry_run(set_up, "sweep", "RATES=7")
    assert "--count 3\n" in dry_run(set_up, "seeds", **elsewhere)


def test_verify_takes_another_remote_only_as_an_argument(set_up: Path) -> None:
    assert dry_run(set_up, "verify", REMOTE="mine") == "python -m bula verify\n"
    assert dry_run(set_up, "verify", "REMOTE=a b") == 'python -m bula verify --remote "$REMOTE"\n'


def test_lint_checks_the_workflows(set_up: Path) -> None:
    assert dry_run(set_up, "lint").endswith(" && .ci/lint\n")
