"""Test `bula verify` on a small repository with each kind of fault.

The repository has a stage that writes rows, and a stage compare that counts them.
"""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.clones import commit
from bula.__main__ import app
from bula.errors import UserError
from tests.conftest import run
from tests.remote_repository import LOCAL_AND_ROWS, push_run, start_repository

PIPELINE = """\
stages:
  ingest:
    cmd: mkdir -p data && cp source.txt data/rows.txt && cp source.txt data/model.txt
    deps: [source.txt]
    outs:
    - data/rows.txt: {remote: rows}
    - data/model.txt
  compare:
    cmd: sh compare.sh
    deps: [compare.sh, data/rows.txt]
    outs:
    - report.txt: {remote: rows}
    metrics:
    - metrics/summary.json: {cache: false}
"""
COMPARE = """\
mkdir -p metrics
rows=$(wc -l < data/rows.txt)
echo "{\\"rows\\": $rows}" > metrics/summary.json
echo "$rows rows" > report.txt
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pushed run and its remotes, which each test copies."""
    folder = tmp_path_factory.mktemp("pushed")
    repo = folder / "bula"
    files = {
        ".dvcignore": "/.bula\n",
        ".gitignore": "/.bula\n",
        "dvc.yaml": PIPELINE,
        "compare.sh": COMPARE,
        "source.txt": "one\ntwo\n",
    }
    start_repository(repo, LOCAL_AND_ROWS, files)
    push_run(repo)
    assert (repo / "metrics/summary.json").read_text(encoding="utf-8") == '{"rows": 2}\n'
    return folder


@pytest.fixture
def repo(pushed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository below a folder with an accent, the current directory."""
    folder = tmp_path / "repositório"
    shutil.copytree(pushed, folder)
    monkeypatch.chdir(folder / "bula")
    return folder / "bula"


def verify(*arguments: str) -> tuple[int, dict[str, str], str]:
    """Return the exit code, the state of each point, and the output of a call."""
    result = CliRunner().invoke(app, ["verify", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    words = [line.split() for line in result.stdout.splitlines() if line[:1].isalpha()]
    states = {line[0]: line[1] for line in words if line[1] in ("ok", "FAILED", "open")}
    return result.exit_code, states, result.stdout


def states(remote: str, pull: str, figures: str, stages: str, recomputed: str) -> dict[str, str]:
    return {
        "clone": "ok",
        "remote": remote,
        "pull": pull,
        "figures": figures,
        "stages": stages,
        "recomputed": recomputed,
    }


def test_a_pushed_run_holds_whatever_is_not_committed(repo: Path) -> None:
    (repo / "compare.sh").write_text("exit 1\n", encoding="utf-8")
    code, found, output = verify()
    assert output.startswith("Changes that are not committed are not checked.\n")
    assert (code, found) == (0, states("ok", "ok", "ok", "ok", "ok")), output
    # rows.txt and model.txt have the same bytes, on two remotes, and report.txt is the third.
    assert "3 objects on local, rows are good" in output
    assert "1 committed figures have the MD5 of dvc.lock" in output
    assert not (repo / ".bula/verify").exists()


def test_a_figure_edited_by_hand_is_named(repo: Path) -> None:
    (repo / "metrics/summary.json").write_text('{"rows": 9}\n', encoding="utf-8")
    commit(repo, "better")
    code, found, output = verify()
    assert (code, found) == (1, states("ok", "ok", "FAILED", "open", "open"))
    assert "figures     FAILED  metrics/summary.json: its MD5 is " in output


def test_a_figure_edited_together_with_the_lock_is_recomputed(repo: Path) -> None:
    (repo / "metrics/summary.json").write_text('{"rows": 9}\n', encoding="utf-8")
    assert run(["dvc", "commit", "--quiet", "--force", "compare"], repo).returncode == 0
    commit(repo, "better")
    code, found, output = verify()
    assert (code, found) == (1, states("ok", "ok", "ok", "ok", "FAILED"))
    assert "metrics/summary.json: compare writes other bytes" in output


def test_a_missing_object_is_named_and_nothing_is_fetched(repo: Path) -> None:
    shutil.rmtree(repo.parent / "rows/files")
    code, found, output = verify()
    assert (code, found) == (1, states("FAILED", "open", "open", "open", "open"))
    assert "missing" in output
    assert "report.txt (stage compare)" in output
    assert "python -m bula verify-remote rows --fix" in output


def test_a_stale_stage_is_named(repo: Path) -> None:
    (repo / "compare.sh").write_text(COMPARE + "# other code\n", encoding="utf-8")
    commit(repo, "edit")
    code, found, output = verify()
    assert (code, found) == (1, states("ok", "ok", "ok", "FAILED", "open"))
    line = output.partition("FAILED  ")[2].splitlines()[0]
    assert line.startswith("compare: ")
    assert json.loads(line.removeprefix("compare: ")) == [
        {"changed deps": {"compare.sh": "modified"}}
    ]


def test_a_failed_stage_is_named_and_the_clone_is_deleted(repo: Path) -> None:
    (repo / "compare.sh").write_text("exit 3\n", encoding="utf-8")
    assert run(["dvc", "commit", "--quiet", "--force", "compare"], repo).returncode == 0
    commit(repo, "break compare")
    # A killed call left this folder.
    (repo / ".bula/verify/old").mkdir(parents=True)
    code, found, output = verify()
    assert (code, found) == (1, states("ok", "ok", "ok", "ok", "FAILED"))
    assert "recomputed  FAILED  dvc repro failed, and its messages are above" in output
    assert not (repo / ".bula/verify").exists()


def test_another_remote_replaces_the_default_one(repo: Path) -> None:
    (repo.parent / "store").rename(repo.parent / "team")
    assert run(["dvc", "remote", "add", "--quiet", "team", "../team"], repo).returncode == 0
    commit(repo, "add a remote")
    assert verify()[0] == 1
    code, _, output = verify("--remote", "team")
    assert code == 0, output
    assert "3 objects on rows, team are good" in output


def test_an_unknown_remote_is_refused(repo: Path) -> None:
    with pytest.raises(UserError, match=r"there is no remote 'nobody'\. Name one of local, rows"):
        verify("--remote", "nobody")
