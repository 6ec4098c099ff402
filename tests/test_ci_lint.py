"""Check that `.ci/lint` accepts the workflows and refuses unsafe or broken ones."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.clones import ROOT, git
from tests.conftest import user_environment

START = """\
name: bad
on: [pull_request]
permissions:
  contents: read
concurrency:
  group: bad-${{ github.ref }}
  cancel-in-progress: true
jobs:
  one:
    name: one
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    steps:
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Return a repository with the files that the script reads."""
    for name in (".ci", ".github", "cloud"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in (".gitlab-ci.yml", "stage"):
        shutil.copy(ROOT / name, tmp_path / name)
    git(tmp_path, "init", "--quiet")
    return tmp_path


def lint(repo: Path) -> tuple[int, str]:
    """Return the exit code and the output of the script."""
    result = subprocess.run(
        [".ci/lint"], cwd=repo, env=user_environment(), capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout + result.stderr


def add_workflow(steps: str) -> Callable[[Path], None]:
    def edit(repo: Path) -> None:
        (repo / ".github/workflows/bad.yml").write_text(START + steps, encoding="utf-8")

    return edit


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(repo: Path) -> None:
        text = (repo / name).read_text(encoding="utf-8")
        assert old in text
        (repo / name).write_text(text.replace(old, new), encoding="utf-8")

    return edit


def test_the_workflows_of_this_repository_pass(repo: Path) -> None:
    code, output = lint(repo)
    assert code == 0, output


FAULTS = {
    "script injection": (
        add_workflow('      - run: echo "${{ github.event.pull_request.title }}"\n'),
        "template-injection",
    ),
    "an action by its tag": (
        add_workflow("      - uses: actions/setup-python@v6\n"),
        "unpinned-uses",
    ),
    "kept credentials": (
        replace(".github/workflows/gpu.yml", "          persist-credentials: false\n", ""),
        "artipacked",
    ),
    "a trigger that runs forked code with a token": (
        replace(".github/workflows/ci.yml", "  pull_request:\n", "  pull_request_target:\n"),
        "dangerous-triggers",
    ),
    "an output that no step has": (
        add_workflow('      - run: test "${{ steps.nothing.outputs.x }}"\n'),
        "nothing",
    ),
    "an unknown key of GitLab": (
        replace(".gitlab-ci.yml", "resource_group: gpu", "resource_groups: gpu"),
        "resource_groups",
    ),
    "an unquoted variable of a script": (
        replace(".ci/publish", 'push "$url"', "push $url"),
        "SC2086",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_by_name(repo: Path, fault: str) -> None:
    edit, name = FAULTS[fault]
    edit(repo)
    code, output = lint(repo)
    assert code != 0
    assert name in output
