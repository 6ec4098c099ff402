"""Run `bula review` in small repositories of git and DVC."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench.clones import commit, edit_params, git
from bula.__main__ import app
from bula.commands.review_files import gather_revision, gather_workspace, resolve
from bula.commands.review_lock import lock_problems
from tests.conftest import run
from tests.review_runs import VARIANT, write_run

ROWS = [f"data/{name}/{VARIANT}.jsonl" for name in ("answers", "likelihood", "scores", "verdicts")]
FIGURES = [
    f"metrics/{name}/{VARIANT}.json" for name in ("generate", "likelihood", "rouge", "judge")
]
BITS = "tuned.bits_per_character"
NOT_FOUND = "DVC finds it neither in its cache nor on a remote"
# A remote beside the repository.
CONFIG = """[core]
    remote = store
    analytics = false
['remote "store"']
    url = ../../store
"""


def write_pipeline(folder: Path) -> None:
    """Write a dvc.yaml whose two stages have the rows and the figures as outputs."""
    prepare = {"cmd": "true", "deps": ["code.py"], "outs": ["data/clean"]}
    score = {
        "cmd": "true",
        "deps": ["code.py", "data/clean/validation"],
        "params": ["seed"],
        "outs": [*ROWS, *({name: {"cache": False}} for name in FIGURES)],
    }
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump({"stages": {"prepare": prepare, "score": score}}, file)


def save(folder: Path, message: str) -> None:
    """Commit a run to DVC, its remote and git, without running a stage."""
    # DVC resolves paths of its run cache from the current directory.
    with contextlib.chdir(folder), Repo() as repo:
        repo.commit(force=True)
        repo.push()
    commit(folder, message)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the run `before`, and a run that is worse by 0.05 bits."""
    folder = tmp_path_factory.mktemp("review") / "repo"
    write_run(folder)
    write_pipeline(folder)
    (folder / "code.py").write_text("1\n", encoding="utf-8")
    (folder / ".gitignore").write_text("/data\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    Repo.init(str(folder)).close()
    (folder / ".dvc/config").write_text(CONFIG, encoding="utf-8")
    save(folder, "before")
    git(folder, "tag", "before")
    write_run(folder, bits=2.05, generated={3: "Outro texto."})
    save(folder, "after")
    return folder


@pytest.fixture
def repo(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the repository, the current directory."""
    folder = tmp_path / "repo"
    shutil.copytree(start, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def review(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the output of the command."""
    result = CliRunner().invoke(app, ["review", *arguments])
    return result.exit_code, result.output


def review_json(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON of the command."""
    code, output = review("--json", *arguments)
    found: dict[str, Any] = json.loads(output)
    return code, found


def figure_of(found: dict[str, Any], name: str = BITS) -> dict[str, Any]:
    """Return one figure of a review."""
    [figure] = [figure for figure in found["figures"] if figure["figure"] == name]
    return dict(figure)


def test_a_worse_run_fails_the_gate_item_by_item(repo: Path) -> None:
    result = run(["python", "-m", "bula", "review", "--base", "before"], repo)
    assert (result.returncode, result.stdout[:24]) == (1, "# Review: the gate fails")
    assert "worse by 0.05, and 0.02 is allowed" in result.stdout
    assert "- **dvc.lock**: matches the code, the parameters and the data" in result.stdout
    assert "1 of 20 answers" in result.stdout


def test_the_same_run_passes(repo: Path) -> None:
    code, found = review_json("--base", "HEAD")
    assert (code, found["passed"]) == (0, True)
    assert figure_of(found)["source"] == "items"
    assert figure_of(found)["p"] is None


def test_rows_that_dvc_lacks_leave_committed_figures(repo: Path) -> None:
    shutil.rmtree(repo / ".dvc/cache")
    code, found = review_json("--base", "before")
    assert code == 0
    figure = figure_of(found)
    assert figure["source"] == "committed figures"
    # The errors are 0.2 and 0.205, so 0.05 is noise.
    assert figure["verdict"] == "no difference beyond noise"
    assert found["base"]["missing_rows"]["data/answers/tuned.jsonl"] == NOT_FOUND
    # No stage of this pipeline writes these.
    others = ["data/safety/tuned.jsonl", "data/samples/tuned.jsonl"]
    assert sorted(found["run"]["missing_rows"]) == others


def test_a_clone_without_data_works_on_what_git_has(repo: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(repo), str(clone))
    result = run(["python", "-m", "bula", "review", "--base", "before", "--json"], clone)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert figure_of(found)["source"] == "committed figures"
    assert found["lock_problems"] == []
    assert found["answers"]["compared"] == 0


def test_a_clone_fetches_rows_from_the_remote(start: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(start), str(clone))
    shutil.copytree(start.parent / "store", tmp_path / "store")
    result = run(["python", "-m", "bula", "review", "--base", "before", "--json"], clone)
    assert result.returncode == 1, result.stderr
    found = json.loads(result.stdout)
    assert (figure_of(found)["source"], figure_of(found)["verdict"]) == ("items", "worse")
    # Nothing was written into the clone.
    assert not (clone / "data").exists()


def test_a_damaged_copy_is_no_basis(repo: Path) -> None:
    lock = YAML(typ="safe").load(git(repo, "show", "before:dvc.lock"))
    [out] = [
        out for out in lock["stages"]["score"]["outs"] if "likelihood/tuned.jsonl" in out["path"]
    ]
    file = repo / f".dvc/cache/files/md5/{out['md5'][:2]}/{out['md5'][2:]}"
    content = file.read_bytes()
    file.chmod(0o644)
    # Complete lines are left, so that the rows themselves show nothing.
    file.write_bytes(b"".join(content.splitlines(keepends=True)[:10]))
    _, found = review_json("--base", "before")
    reason = "its copy in DVC's cache or remote is damaged"
    assert found["base"]["missing_rows"]["data/likelihood/tuned.jsonl"] == reason
    assert figure_of(found)["source"] == "committed figures"
    assert figure_of(found, "tuned.degenerate")["source"] == "items"


def test_rows_of_another_commit_are_fetched_and_named(repo: Path) -> None:
    # As after `git checkout after` without `dvc checkout`: the rows are those of the base.
    data = repo / "data"
    rows = repo.parent / "rows"
    shutil.rmtree(repo / "data")
    git(repo, "checkout", "--quiet", "before")
    run(["dvc", "checkout", "--quiet"], repo)
    shutil.move(data, rows)
    git(repo, "checkout", "--quiet", "-")
    shutil.move(rows, data)
    code, found = review_json("--base", "before")
    assert (code, found["lock_problems"]) == (1, [])
    assert figure_of(found)["difference"] == pytest.approx(0.05)
    assert found["run"]["stale_rows"] == ["data/answers/tuned.jsonl", "data/likelihood/tuned.jsonl"]
    assert "Run `dvc checkout` or `python -m bula pull`" in review("--base", "before")[1]


def test_stale_rows_that_dvc_lacks_leave_committed_figures(repo: Path) -> None:
    (repo / "data/likelihood/tuned.jsonl").write_text("{}\n", encoding="utf-8")
    shutil.rmtree(repo / ".dvc/cache")
    _, found = review_json("--base", "HEAD")
    assert found["run"]["missing_rows"]["data/likelihood/tuned.jsonl"] == NOT_FOUND
    assert figure_of(found)["source"] == "committed figures"


def test_a_run_of_other_code_fails(repo: Path) -> None:
    (repo / "code.py").write_text("2\n", encoding="utf-8")
    code, output = review("--base", "HEAD")
    assert code == 1
    reason = "dvc.lock does not match, the figures belong to other code"
    assert output.startswith(f"# Review: the gate fails: {reason}")
    edit_params(repo / "params.yaml", lambda params: params["review"].update(lock="warn"))
    # The thresholds of the base apply.
    assert review("--base", "HEAD")[0] == 1
    commit(repo, "warn")
    assert review("--base", "HEAD")[0] == 0


def test_the_gate_of_the_base_applies_and_the_difference_is_named(repo: Path) -> None:
    edit_params(
        repo / "params.yaml", lambda params: params["review"]["gates"][0].update(max_drop=9)
    )
    code, output = review("--base", "before")
    assert code == 1
    name = BITS.replace(".", "\\.")
    assert f"**Thresholds differ from before**, whose apply: {name} max_drop 0.02 → 9.0" in output


# dvc.lock


def test_changed_code_and_parameters_do_not_match_the_lock(repo: Path) -> None:
    (repo / "code.py").write_text("2\n", encoding="utf-8")
    edit_params(repo / "params.yaml", lambda params: params.update(seed=7))
    run_here = gather_workspace(repo.parent / "here")
    assert sorted(lock_problems(run_here.lock)) == [
        "code.py is modified (prepare and 1 more stage)",
        "params.yaml seed is modified (score)",
    ]
    assert run_here.is_changed


def test_missing_data_is_no_mismatch_and_an_edited_figure_is_one(repo: Path) -> None:
    shutil.rmtree(repo / "data")
    lock = gather_workspace(repo.parent / "here").lock
    assert lock_problems(lock) == []
    (repo / FIGURES[0]).write_text("{}", encoding="utf-8")
    assert lock_problems(lock) == ["metrics/generate/tuned.json is modified (score)"]


def test_a_lock_that_contradicts_itself_is_named(repo: Path) -> None:
    shutil.rmtree(repo / "data")
    lock = dict(gather_workspace(repo.parent / "here").lock)
    entry = {"path": "data/answers/tuned.jsonl", "md5": "0" * 32}
    lock["later"] = {"deps": [entry]}
    problem = "data/answers/tuned.jsonl has another hash where a stage read it (later)"
    assert lock_problems(lock) == [problem]


# The command


def test_the_review_is_written_to_a_file(repo: Path) -> None:
    code, output = review("--base", "before", "--out", "review.md")
    assert (code, output) == (1, "review: the gate fails, wrote review.md\n")
    assert (repo / "review.md").read_text(encoding="utf-8").startswith("# Review: the gate fails")


@pytest.mark.parametrize("base", ["no-such-commit", "--all", "before:dvc.lock"])
def test_an_unknown_commit_is_a_usage_error(repo: Path, base: str) -> None:
    code, output = review(f"--base={base}")
    assert code == 2
    assert f"--base {base}: git knows no such commit" in output
    assert "`git fetch` brings those of a server" in output


def test_broken_parameters_are_a_usage_error(repo: Path) -> None:
    (repo / "params.yaml").write_text("seed: [", encoding="utf-8")
    code, output = review("--base", "before")
    assert (code, "params.yaml: not valid YAML" in output) == (2, True)


def test_a_commit_without_a_run_leaves_all_figures_new(repo: Path) -> None:
    git(repo, "rm", "-r", "--quiet", "--cached", "metrics", "dvc.lock", "params.yaml", "dvc.yaml")
    git(repo, "commit", "--quiet", "--message", "empty")
    git(repo, "tag", "empty")
    code, found = review_json("--base", "empty")
    assert code == 0
    assert figure_of(found)["reason"] == "new: empty has no such figure"
    assert found["gates"][0]["result"] == "warn"


def test_commits_that_the_branch_lacks_are_counted(repo: Path) -> None:
    git(repo, "checkout", "--quiet", "-b", "other", "before")
    git(repo, "commit", "--quiet", "--allow-empty", "--message", "later")
    git(repo, "checkout", "--quiet", "-")
    assert review_json("--base", "other")[1]["commits_behind"] == 1


def test_a_revision_is_read_without_changing_the_workspace(repo: Path, tmp_path: Path) -> None:
    found = gather_revision("before", resolve("before"), tmp_path / "other")
    assert found.metrics("likelihood/tuned")["pooled"]["bits_per_character"] == 2.0
    assert git(repo, "status", "--porcelain") == ""
