"""Test cloud/run on two machines, of which the first is lost after training."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.clones import ROOT, commit, git
from tests.conftest import run, user_environment
from tests.stub_pipeline import SEED, log_of, write_repository

# The stub has no models that preflight could check.
PYTHON = """#!/bin/sh
if [ "$3" = preflight ]; then exit 0; fi
exec {python} "$@"
"""
QUANTIZE = """
  quantize:
    cmd: cp models/merged models/gguf
    deps: [models/merged]
    outs: [models/gguf]
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Return a repository with cloud/run, a profile and a remote."""
    folder = tmp_path / "code"
    folder.mkdir()
    write_repository(folder)
    for name in ("cloud", "profiles", "plots"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "cloud/run", folder / "cloud/run")
    shutil.copy(folder / "params.yaml", folder / "profiles/real.yaml")
    (folder / "plots/table.json").write_text("[]\n", encoding="utf-8")
    with (folder / "dvc.yaml").open("a", encoding="utf-8") as file:
        file.write(QUANTIZE)
    remote = ["dvc", "remote", "add", "--default", "team", str(tmp_path / "remote")]
    assert run(remote, folder).returncode == 0
    commit(folder, "cloud")
    return folder


def machine(code: Path, name: str) -> Path:
    """Return a fresh clone of the code, as on a new machine."""
    folder = code.parent / name
    git(code.parent, "clone", "--quiet", str(code), str(folder))
    wrapper = folder / ".venv/bin/python"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(PYTHON.format(python=sys.executable), encoding="utf-8")
    wrapper.chmod(0o755)
    return folder


def start(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run cloud/run with the folder that outlives the machines."""
    state = folder.parent / "state"
    state.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), user_environment()["PATH"]])
    command = [str(folder / "cloud/run"), str(state), "real"]
    return run(command, folder.parent, PATH=path, PYTHONPATH=str(ROOT), STUB_ROOT=str(folder))


def test_a_second_machine_takes_over_and_leaves_the_results(code: Path) -> None:
    first = machine(code, "first")
    (first / "broken").touch()
    lost = start(first)
    assert lost.returncode != 0
    assert f"{SEED} train" in log_of(first)

    second = machine(code, "second")
    result = start(second)
    assert result.returncode == 0, result.stdout + result.stderr
    # Only the stages after the last push run again.
    ran = {line.split()[1].partition("@")[0] for line in log_of(second)}
    assert "benchmark" in ran
    assert not ran & {"preprocess", "train", "merge"}
    # Both machines have one .bula, where checkpoints lie.
    assert (second / ".bula").resolve() == code.parent / "state/bula"

    bundle = code.parent / "state/results.bundle"
    assert str(bundle) in result.stdout.splitlines()[-1]
    git(code, "fetch", "--quiet", str(bundle), "HEAD")
    assert git(code, "log", "-1", "--format=%s", "FETCH_HEAD") == "Run real\n"
    files = git(code, "ls-tree", "-r", "--name-only", "FETCH_HEAD").splitlines()
    assert {"metrics/train.json", "metrics/rouge/tuned.json", "dvc.lock"} <= set(files)


def test_a_folder_of_an_earlier_run_is_not_replaced(code: Path) -> None:
    folder = machine(code, "used")
    (folder / ".bula").mkdir()
    result = start(folder)
    assert result.returncode == 1
    assert "run this in a fresh clone" in result.stderr


def test_two_arguments_are_needed() -> None:
    result = run([str(ROOT / "cloud/run"), "state"], ROOT)
    assert result.returncode == 2
    assert "usage: cloud/run STATE PROFILE" in result.stderr


def test_the_task_is_valid(tmp_path: Path) -> None:
    """SkyPilot is no package of the lock, because of its many dependencies."""
    sky = pytest.importorskip("sky", reason="pip install skypilot, to check cloud/sky.yaml")
    task = sky.Task.from_yaml(str(ROOT / "cloud/sky.yaml"))
    assert task.run == 'cloud/run /bula-state "$PROFILE"'
