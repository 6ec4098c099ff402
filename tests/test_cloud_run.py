"""Test cloud/run on two machines, of which the first is lost after training."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, clone_tree, commit, git
from bula.compared_files import check_compared_files, variant_names
from tests.conftest import run, user_environment
from tests.stub_pipeline import SEED, log_of, write_repository

# The stub has no models that preflight could check, and no modules that deps could list.
PYTHON = """#!/bin/sh
case "$3" in {skipped}) exit 0 ;; esac
exec {python} "$@"
"""
DVC_CALLS = """#!/bin/sh
echo "$*" >> calls
touch dvc.lock
test "$*" != "repro train" || test ! -e broken
"""
# The first stage fails, and the other commands are not needed.
DVC = "#!/bin/sh\nexit 3\n"
REPOSITORY = "https://example.org/bula.git"
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


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Return a repository with cloud/run and a profile, but without DVC."""
    folder = tmp_path / "code"
    for name in ("cloud", "profiles", "plots"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "cloud/run", folder / "cloud/run")
    for name in ("params.yaml", "profiles/real.yaml"):
        (folder / name).write_text("seed: 1\n", encoding="utf-8")
    (folder / "plots/table.json").write_text("[]\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    commit(folder, "start")
    return folder


def add_program(folder: Path, name: str, text: str) -> None:
    """Write a program into the .venv of a repository."""
    file = folder / ".venv/bin" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)


def machine(code: Path, name: str) -> Path:
    """Return a fresh clone of the code, as on a new machine."""
    folder = code.parent / name
    git(code.parent, "clone", "--quiet", str(code), str(folder))
    add_program(folder, "python", PYTHON.format(skipped="preflight|deps", python=sys.executable))
    return folder


def bundles(code: Path) -> list[Path]:
    """Return the bundles that outlive the machines."""
    return sorted((code.parent / "state").glob("*.bundle*"))


def start(folder: Path, profile: str = "real") -> "subprocess.CompletedProcess[str]":
    """Run cloud/run with the folder that outlives the machines."""
    state = folder.parent / "state"
    state.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), user_environment()["PATH"]])
    command = [str(folder / "cloud/run"), str(state), profile]
    return run(command, folder.parent, PATH=path, PYTHONPATH=str(ROOT), STUB_ROOT=str(folder))


def test_a_second_machine_takes_over_and_leaves_the_results(code: Path) -> None:
    first = machine(code, "first")
    (first / "broken").touch()
    lost = start(first)
    assert lost.returncode != 0
    assert f"{SEED} train" in log_of(first)
    (bundle,) = bundles(code)
    assert bundle.name == f"results-real-{git(code, 'rev-parse', 'HEAD')[:12]}.bundle"

    second = machine(code, "second")
    result = start(second)
    assert result.returncode == 0, result.stdout + result.stderr
    # Only the stages after the last push run again.
    ran = {line.split()[1].partition("@")[0] for line in log_of(second)}
    assert "benchmark" in ran
    assert not ran & {"preprocess", "train", "merge"}
    # Both machines have one .bula, where checkpoints lie.
    assert (second / ".bula").resolve() == code.parent / "state/bula"

    assert bundles(code) == [bundle]
    assert str(bundle) in result.stdout.splitlines()[-1]
    git(code, "fetch", "--quiet", str(bundle), "HEAD")
    message = git(code, "log", "-1", "--format=%B", "FETCH_HEAD").split("\n")
    assert message[:3] == ["Run real", "", "Finished: all"]
    files = git(code, "ls-tree", "-r", "--name-only", "FETCH_HEAD").splitlines()
    assert {"metrics/train.json", "metrics/rouge/tuned.json", "dvc.lock"} <= set(files)


def quick_machine(code: Path, name: str) -> Path:
    """Return a clone whose dvc only records its calls, and fails at train if `broken` exists."""
    folder = machine(code, name)
    add_program(folder, "python", PYTHON.format(skipped="*", python=sys.executable))
    add_program(folder, "dvc", DVC_CALLS)
    return folder


def pulls_of(folder: Path) -> list[str]:
    """Return the calls of `dvc pull` since the last call."""
    lines = (folder / "calls").read_text(encoding="utf-8").splitlines()
    (folder / "calls").unlink()
    return [line for line in lines if line.startswith("pull")]


def test_a_run_of_other_code_leaves_the_bundle_of_an_earlier_one(plain: Path) -> None:
    first = quick_machine(plain, "first")
    (first / "broken").touch()
    assert start(first).returncode == 1
    (earlier,) = bundles(plain)
    content = earlier.read_bytes()

    (plain / "other.txt").touch()
    commit(plain, "other code")
    second = quick_machine(plain, "second")
    result = start(second)
    assert result.returncode == 0, result.stderr
    assert pulls_of(second) == []
    assert len(bundles(plain)) == 2
    assert earlier.read_bytes() == content


def test_a_second_call_in_one_clone_continues(plain: Path) -> None:
    folder = quick_machine(plain, "one")
    (folder / "broken").touch()
    assert start(folder).returncode == 1
    assert pulls_of(folder) == []
    (folder / "broken").unlink()
    assert start(folder).returncode == 0
    assert pulls_of(folder) == ["pull --force --with-deps preprocess"]
    # After the last stage, everything is fetched.
    assert start(folder).returncode == 0
    assert pulls_of(folder) == ["pull --force"]
    assert len(bundles(plain)) == 1


def test_a_bundle_without_a_finished_stage_is_refused(plain: Path) -> None:
    folder = quick_machine(plain, "other")
    (plain.parent / "state").mkdir()
    name = f"results-real-{git(plain, 'rev-parse', 'HEAD')[:12]}.bundle"
    git(plain, "bundle", "create", "--quiet", str(plain.parent / "state" / name), "HEAD")
    result = start(folder)
    assert result.returncode == 1
    assert f"{name} names no finished stage; move it away" in result.stderr


def test_relative_remotes_are_refused_before_the_run(code: Path) -> None:
    assert run(["dvc", "remote", "add", "rows", "../rows"], code).returncode == 0
    pipeline = (code / "dvc.yaml").read_text(encoding="utf-8")
    edited = pipeline.replace("outs: [models/gguf]", "outs: [{models/gguf: {remote: rows}}]")
    (code / "dvc.yaml").write_text(edited, encoding="utf-8")
    commit(code, "a remote for rows")
    folder = machine(code, "rented")
    result = start(folder)
    assert result.returncode == 1
    assert "relative folders, which no other machine has: rows" in result.stderr
    assert log_of(folder) == []


def test_the_variants_of_the_default_profile_are_listed_for_compare(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    clone_tree(folder)
    skipped = "preflight|release-check"
    add_program(folder, "python", PYTHON.format(skipped=skipped, python=sys.executable))
    add_program(folder, "dvc", DVC)
    assert start(folder, "llama-3.2-1b").returncode == 3
    variants = variant_names(folder / "params.yaml")
    assert "prompted" in variants
    check_compared_files(folder / "dvc.yaml", variants)


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


def test_the_task_is_valid() -> None:
    """SkyPilot is no package of the lock, because of its many dependencies."""
    sky = pytest.importorskip("sky", reason="pip install skypilot, to check cloud/sky.yaml")
    config = YAML(typ="safe").load(ROOT / "cloud/sky.yaml")
    values = [("BULA_REPOSITORY", REPOSITORY), ("BULA_COMMIT", "1" * 40), ("BULA_BUCKET", "bula-x")]
    secrets = [("HF_TOKEN", "x"), ("OPENAI_API_KEY", "x")]
    task = sky.Task.from_yaml_config(config, values, secrets)
    assert task.run == 'cloud/run /bula-state "$PROFILE"'
    assert task.workdir == {"url": REPOSITORY, "ref": "1" * 40}


def test_the_task_clones_a_commit() -> None:
    """A folder as `workdir` would reach a managed job without .git."""
    config = YAML(typ="safe").load(ROOT / "cloud/sky.yaml")
    assert config["workdir"] == {"url": "${BULA_REPOSITORY}", "ref": "${BULA_COMMIT}"}
    assert {"BULA_REPOSITORY", "BULA_COMMIT"} <= set(config["envs"])
