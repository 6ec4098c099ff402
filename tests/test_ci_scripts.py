"""Run the scripts of .ci in a small repository, as a runner does.

Programs in its .venv record the calls. `bula review` and `preflight` are replaced, and `verify` in
all tests but one. DVC, git, `release-check`, `verify-remote` and `keep-runs` are real.
"""

import base64
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.clones import ROOT, commit, git
from tests.conftest import user_environment
from tests.remote_repository import LOCAL, push_run, start_repository

PIPELINE = """\
stages:
  train:
    cmd: echo train >> log && cp source.txt model.txt && cp source.txt metrics/train.txt
    deps: [source.txt]
    outs:
    - model.txt
    - metrics/train.txt: {cache: false}
  compare:
    cmd: echo compare >> log && test ! -e broken && wc -c < model.txt > metrics/summary.txt
    deps: [model.txt]
    metrics:
    - metrics/summary.txt: {cache: false}
"""
PYTHON = f"""\
#!/bin/sh
echo "${{2:-}} ${{3:-}}${{4:+ $4}}" >> calls
test "$3" = "$FAILING" && exit 1
case "$3" in
  preflight) exit 0 ;;
  verify) test -z "$REAL_VERIFY" && exit 0 ;;
  review) echo "$*" > review.md; exit "${{REVIEW_EXIT:-0}}" ;;
esac
exec {sys.executable} "$@"
"""
DVC = f"""\
#!/bin/sh
echo "dvc $1" >> calls
exec {sys.executable} -m dvc "$@"
"""
IGNORED = "/.venv\n/.bula\n/calls\n/log\n/broken\n/review.md\n"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pushed run, its remote, and git's remote."""
    folder = tmp_path_factory.mktemp("pushed")
    repo = folder / "bula"
    files = {
        ".dvcignore": "/.bula\n",
        ".gitignore": IGNORED,
        ".venv/bin/dvc": DVC,
        ".venv/bin/python": PYTHON,
        "dvc.yaml": PIPELINE,
        "plots/.gitkeep": "",
        "source.txt": "one\n",
    }
    start_repository(repo, LOCAL, files)
    (repo / "metrics").mkdir()
    for program in (repo / ".venv/bin").iterdir():
        program.chmod(0o755)
    shutil.copytree(ROOT / ".ci", repo / ".ci")
    push_run(repo)
    (repo / "log").unlink()
    git(repo, "branch", "--move", "work")
    git(folder, "clone", "--quiet", "--bare", str(repo), str(folder / "origin.git"))
    git(repo, "remote", "add", "origin", str(folder / "origin.git"))
    git(repo, "fetch", "--quiet", "origin")
    return folder


@pytest.fixture
def repo(pushed: Path, tmp_path: Path) -> Path:
    """Return the runner's workspace, beside DVC's and git's remotes."""
    shutil.copytree(pushed, tmp_path, symlinks=True, dirs_exist_ok=True)
    repo = tmp_path / "bula"
    git(repo, "remote", "set-url", "origin", str(tmp_path / "origin.git"))
    # A runner refuses the relative folder.
    local = f"['remote \"local\"']\n    url = {tmp_path / 'store'}\n"
    (repo / ".dvc/config.local").write_text(local, encoding="utf-8")
    return repo


def script(repo: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of .ci and return its exit code and output."""
    env = user_environment() | {"FAILING": "", "REAL_VERIFY": ""} | environment
    name, *arguments = command
    return subprocess.run(
        [f".ci/{name}", *arguments], cwd=repo, env=env, capture_output=True, text=True, check=False
    )


def gpu(repo: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return script(repo, "gpu", "origin/work", **environment)


def lines(file: Path) -> list[str]:
    """Return the lines of a log, or an empty list."""
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def change_source(repo: Path, text: str) -> None:
    """Commit another input, on the branch and on git's remote."""
    (repo / "source.txt").write_text(text, encoding="utf-8")
    commit(repo, "other input")
    git(repo, "push", "--quiet", "origin", "HEAD:work")


def remote_head(repo: Path) -> str:
    """Return the commit of the branch on git's remote."""
    return git(repo, "ls-remote", "origin", "refs/heads/work").split()[0]


def stored_objects(repo: Path) -> int:
    """Return the number of objects on DVC's remote."""
    return sum(file.is_file() for file in (repo.parent / "store/files").rglob("*"))


def add_hooks(repo: Path) -> None:
    """Write hooks of git that leave a file."""
    for name in ("pre-commit", "pre-push"):
        hook = repo / ".git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\ntouch hooked\n", encoding="utf-8")
        hook.chmod(0o755)


# The GPU job


def test_a_run_is_pushed_committed_and_proved_in_this_order(repo: Path) -> None:
    change_source(repo, "three\n")
    add_hooks(repo)
    before = remote_head(repo)
    result = gpu(repo, REAL_VERIFY="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert lines(repo / "calls") == [
        "bula preflight --remote",
        "bula release-check --remotes",
        "bula verify-remote",
        "dvc pull",
        "dvc repro",
        "bula keep-runs",
        "bula review --base",
        "dvc push",
        "bula verify",
    ]
    assert lines(repo / "log") == ["train", "compare"]
    assert stored_objects(repo) == 2
    assert git(repo, "show", "HEAD:metrics/summary.txt").strip() == "6"
    assert git(repo, "status", "--porcelain") == ""
    assert remote_head(repo) == before
    published = script(repo, "publish", str(repo.parent / "origin.git"), "work")
    assert published.returncode == 0, published.stderr
    assert remote_head(repo) == git(repo, "rev-parse", "HEAD").strip()
    # A hook that an earlier job left could read the token of the push.
    assert not (repo / "hooked").exists()


def test_a_run_without_changes_runs_no_stage_and_commits_nothing(repo: Path) -> None:
    before = git(repo, "rev-parse", "HEAD")
    result = gpu(repo)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the lock and the figures did not change" in result.stdout
    assert lines(repo / "log") == []
    assert git(repo, "rev-parse", "HEAD") == before


@pytest.mark.parametrize(
    ("failing", "last"),
    [("preflight", "bula preflight --remote"), ("keep-runs", "bula keep-runs")],
)
def test_a_failed_step_ends_the_run_before_data_and_commit(
    repo: Path, failing: str, last: str
) -> None:
    change_source(repo, "three\n")
    before = git(repo, "rev-parse", "HEAD")
    assert gpu(repo, FAILING=failing).returncode == 1
    assert lines(repo / "calls")[-1] == last
    assert stored_objects(repo) == 1
    assert git(repo, "rev-parse", "HEAD") == before


def test_a_failed_gate_pushes_nothing_and_keeps_the_review(repo: Path) -> None:
    change_source(repo, "three\n")
    assert gpu(repo, REVIEW_EXIT="1").returncode == 1
    assert stored_objects(repo) == 1
    assert lines(repo / "review.md") == [
        "-m bula review --base origin/work --out review.md",
    ]


def test_a_relative_remote_stops_the_run_before_any_stage(repo: Path) -> None:
    (repo / ".dvc/config.local").unlink()
    change_source(repo, "three\n")
    result = gpu(repo)
    assert result.returncode == 1
    assert "local (../../store)" in result.stderr
    assert lines(repo / "calls") == ["bula preflight --remote", "bula release-check --remotes"]


def test_a_damaged_object_stops_the_run_and_trains_nothing(repo: Path) -> None:
    shutil.rmtree(repo / ".dvc/cache")
    (repo / "model.txt").unlink()
    for file in (repo.parent / "store/files").rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.write_bytes(b"on")
    result = gpu(repo)
    assert result.returncode == 1
    assert "model.txt (stage train)" in result.stdout
    assert lines(repo / "calls")[-1] == "bula verify-remote"
    assert lines(repo / "log") == []


def check_out_again(repo: Path) -> None:
    """Reset the files that git tracks, as the checkout of the next job does."""
    git(repo, "checkout", "--quiet", "--force", "HEAD")
    (repo / "log").unlink()


def test_a_lost_run_resumes_after_its_last_finished_stage(repo: Path) -> None:
    change_source(repo, "three\n")
    (repo / "broken").touch()
    # The runner is lost before the run records anything.
    assert gpu(repo, FAILING="keep-runs").returncode != 0
    assert lines(repo / "log") == ["train", "compare"]
    # Without it, DVC runs train again.
    assert script(repo, "keep").returncode == 0
    check_out_again(repo)
    (repo / "broken").unlink()
    (repo / "model.txt").write_text("half of an out", encoding="utf-8")
    result = gpu(repo)
    assert result.returncode == 0, result.stdout + result.stderr
    assert lines(repo / "log") == ["compare"]
    assert git(repo, "show", "HEAD:metrics/summary.txt").strip() == "6"
    assert git(repo, "show", "HEAD:metrics/train.txt") == "three\n"


def test_a_failed_stage_keeps_the_finished_ones_and_the_exit_code(repo: Path) -> None:
    change_source(repo, "three\n")
    (repo / "broken").touch()
    assert gpu(repo).returncode == 255
    assert lines(repo / "calls")[-2:] == ["dvc repro", "bula keep-runs"]
    # DVC alone does not record train, because git has one of its outputs.
    files = [file for file in (repo / ".dvc/cache/runs").rglob("*") if file.is_file()]
    recorded = [file.read_text(encoding="utf-8") for file in files]
    assert sum("cp source.txt model.txt" in text for text in recorded) == 1


def test_keep_does_nothing_in_a_new_or_clean_workspace(repo: Path) -> None:
    assert script(repo, "keep").returncode == 0
    shutil.rmtree(repo / ".venv")
    (repo / "dvc.lock").write_text("damaged", encoding="utf-8")
    assert script(repo, "keep").returncode == 0
    assert lines(repo / "calls") == []


def test_keep_goes_on_after_a_damaged_lock(repo: Path) -> None:
    (repo / "dvc.lock").write_text("damaged", encoding="utf-8")
    result = script(repo, "keep")
    assert result.returncode == 0
    assert "so they will run again" in result.stdout


# The push


def test_a_push_over_a_newer_commit_is_refused(repo: Path) -> None:
    other = repo.parent / "other"
    git(repo.parent, "clone", "--quiet", str(repo.parent / "origin.git"), str(other))
    change_source(other, "by somebody else\n")
    newest = remote_head(repo)
    (repo / "source.txt").write_text("three\n", encoding="utf-8")
    commit(repo, "run")
    result = script(repo, "publish", str(repo.parent / "origin.git"), "work")
    assert result.returncode != 0
    assert remote_head(repo) == newest


@pytest.fixture
def git_server() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server that asks for a password, and the passwords it received."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("Authorization", "")
            if sent:
                received.append(base64.b64decode(sent.removeprefix("Basic ")).decode())
            self.send_response(403 if sent else 401)
            if not sent:
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/bula", received
    server.shutdown()
    server.server_close()


def test_the_token_reaches_only_the_server(repo: Path, git_server: tuple[str, list[str]]) -> None:
    address, received = git_server
    tokens = {"PUSH_TOKEN": "secret$(touch x)", "GIT_TERMINAL_PROMPT": "0", "GIT_TRACE": "1"}
    result = script(repo, "publish", address, "work", **tokens)
    assert result.returncode != 0
    assert received == ["x-access-token:secret$(touch x)"]
    # git's trace has the arguments of every process.
    assert "receive-pack" in result.stderr or "remote-http" in result.stderr
    assert "secret" not in result.stderr
    assert "secret" not in (repo / ".git/config").read_text(encoding="utf-8")
    assert not (repo / "x").exists()


# The review


@pytest.mark.parametrize("code", ["0", "1", "2"])
def test_the_review_becomes_the_summary_and_keeps_its_exit_code(repo: Path, code: str) -> None:
    summary = repo.parent / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    (repo / "review.md").write_text("of an earlier run\n", encoding="utf-8")
    result = script(
        repo, "review", "origin/work", REVIEW_EXIT=code, GITHUB_STEP_SUMMARY=str(summary)
    )
    assert result.returncode == int(code)
    review = "-m bula review --base origin/work --out review.md"
    assert lines(summary) == ["before", review]


def test_a_review_that_wrote_nothing_leaves_no_older_one(repo: Path) -> None:
    (repo / "review.md").write_text("of an earlier run\n", encoding="utf-8")
    result = script(repo, "review", "origin/work", FAILING="review")
    assert result.returncode == 1
    assert not (repo / "review.md").exists()


@pytest.mark.parametrize("name", ["gpu", "publish", "review"])
def test_a_script_without_arguments_says_what_it_needs(repo: Path, name: str) -> None:
    result = script(repo, name)
    assert result.returncode == 1
    assert "name the" in result.stderr
    assert lines(repo / "calls") == []


def test_ci_run_calls_the_two_commands_of_the_readme() -> None:
    commands = lines(ROOT / ".ci/run")
    assert commands[-2:] == ["make repro", "make test"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
