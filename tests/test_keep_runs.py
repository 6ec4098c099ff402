"""Test that finished stages are kept in DVC's run-cache. The repository is tiny."""

import shutil
from pathlib import Path

import pytest

from bula.commands.keep_runs import keep_finished
from bula.errors import UserError
from tests.conftest import run

# DVC 3.67 reads `foreach` through a name that its parser has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")

# The second stage fails, or edits params.yaml, if the file `second` says so.
PIPELINE = """\
stages:
  first:
    cmd: echo $(grep first params.yaml) >> log && grep first params.yaml | tee out figures.json
    params: [first]
    deps: [rows]
    outs:
    - out
    - figures.json: {cache: false}
  second:
    cmd: sh second && cp out copy && cp out copied.json
    deps: [out, second]
    outs:
    - copy
    - copied.json: {cache: false}
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository of two stages, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    assert run(["dvc", "init", "--quiet", "--no-scm"], tmp_path).returncode == 0
    write(tmp_path, "dvc.yaml", PIPELINE)
    write(tmp_path, "rows", "1")
    write(tmp_path, "second", "true")
    write(tmp_path, "params.yaml", "first: 1")
    return tmp_path


def write(repo: Path, name: str, text: str) -> None:
    (repo / name).write_text(f"{text}\n", encoding="utf-8")


def read(repo: Path, name: str) -> str:
    return (repo / name).read_text(encoding="utf-8")


def repro(repo: Path) -> tuple[int, str]:
    """Run `dvc repro`, and return its exit code and output."""
    result = run(["dvc", "repro"], repo)
    return result.returncode, result.stdout


def test_a_kept_run_is_restored_with_its_figures(repo: Path) -> None:
    assert repro(repo)[0] == 0
    assert keep_finished(repo) == (2, 2)
    write(repo, "params.yaml", "first: 2")
    assert repro(repo)[0] == 0
    assert read(repo, "figures.json") == "first: 2\n"
    write(repo, "params.yaml", "first: 1")
    code, said = repro(repo)
    assert code == 0
    assert "Stage 'first' is cached" in said
    assert "Stage 'second' is cached" in said
    assert read(repo, "figures.json") == read(repo, "copied.json") == "first: 1\n"
    assert read(repo, "log") == "first: 1\nfirst: 2\n"


def test_dvc_alone_does_not_keep_a_run_with_figures_in_git(repo: Path) -> None:
    for value in (1, 2, 1):
        write(repo, "params.yaml", f"first: {value}")
        assert repro(repo)[0] == 0
    assert read(repo, "log") == "first: 1\nfirst: 2\nfirst: 1\n"


def test_the_stages_before_a_failure_are_kept(repo: Path) -> None:
    write(repo, "second", "false")
    assert repro(repo)[0] != 0
    assert keep_finished(repo) == (1, 2)
    write(repo, "params.yaml", "first: 2")
    assert repro(repo)[0] != 0
    write(repo, "params.yaml", "first: 1")
    assert "Stage 'first' is cached" in repro(repo)[1]


def test_a_parameter_that_was_edited_during_the_run_is_not_recorded(repo: Path) -> None:
    write(repo, "second", "echo 'first: 2' > params.yaml")
    assert repro(repo)[0] == 0
    # Only the second stage has the inputs that dvc.lock records.
    assert keep_finished(repo) == (1, 2)
    code, _ = repro(repo)
    assert code == 0
    assert read(repo, "log") == "first: 1\nfirst: 2\n"


# The second stage reads `out`, and none of the other two files.
@pytest.mark.parametrize(("name", "recorded"), [("rows", 1), ("figures.json", 1), ("out", 0)])
def test_an_edited_input_or_output_is_not_recorded(name: str, recorded: int, repo: Path) -> None:
    assert repro(repo)[0] == 0
    (repo / name).unlink()
    write(repo, name, "edited")
    assert keep_finished(repo) == (recorded, 2)


def test_a_changed_command_and_a_clone_without_data_record_nothing(repo: Path) -> None:
    assert repro(repo)[0] == 0
    write(repo, "dvc.yaml", PIPELINE.replace("tee out", "tee  out"))
    assert keep_finished(repo) == (1, 2)
    (repo / "copy").unlink()
    assert keep_finished(repo) == (0, 2)
    assert not (repo / "copy").exists()


def test_the_run_of_another_folder_is_kept(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repro(repo)[0] == 0
    (repo / "elsewhere").mkdir()
    monkeypatch.chdir(repo / "elsewhere")
    assert keep_finished(repo) == (2, 2)
    assert Path.cwd() == repo / "elsewhere"


def test_a_repository_in_use_is_refused(repo: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(repo)) as used, used.lock, pytest.raises(UserError, match="another DVC command"):
        keep_finished(repo)


def test_the_command_counts_the_stages_and_records_them_once(repo: Path) -> None:
    assert repro(repo)[0] == 0
    cache = repo / ".dvc/cache/runs"
    said = "keep-runs: 2 of 2 stages are as dvc.lock says, and recorded\n"
    for _ in range(2):
        result = run(["python", "-m", "bula", "keep-runs"], repo)
        assert (result.returncode, result.stdout) == (0, said)
        assert len([path for path in cache.rglob("*") if path.is_file()]) == 2


def test_outputs_stay_as_they_are(repo: Path) -> None:
    assert repro(repo)[0] == 0
    before = {path.name: path.read_bytes() for path in repo.iterdir() if path.is_file()}
    shutil.rmtree(repo / ".dvc/cache/runs", ignore_errors=True)
    keep_finished(repo)
    assert {path.name: path.read_bytes() for path in repo.iterdir() if path.is_file()} == before


def test_a_stage_whose_output_persists_is_not_counted(repo: Path) -> None:
    write(repo, "dvc.yaml", PIPELINE.replace("    - copy\n", "    - copy: {persist: true}\n"))
    assert repro(repo)[0] == 0
    # DVC itself records no such stage.
    assert keep_finished(repo) == (1, 2)


@pytest.mark.parametrize("text", ["stages: []", "stages: {a: {"])
def test_a_pipeline_that_dvc_cannot_read_is_a_sentence(repo: Path, text: str) -> None:
    write(repo, "dvc.yaml", text)
    with pytest.raises(UserError, match="DVC cannot read it"):
        keep_finished(repo)


def test_a_folder_without_dvc_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DVC cannot read it"):
        keep_finished(tmp_path)
