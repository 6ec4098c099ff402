"""Run `.ci/comment.py` against a program that answers as `gh api` does."""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT
from tests.conftest import user_environment

COMMIT = "a" * 40
# It records its arguments and its input, and answers by the last argument.
GH = f"""\
#!{sys.executable}
import json, sys
from pathlib import Path
here = Path(__file__).parent
arguments = sys.argv[1:]
path = arguments[-3] if "--input" in arguments else arguments[-1]
body = json.load(sys.stdin) if "--input" in arguments else None
with (here / "calls").open("a") as log:
    log.write(json.dumps([arguments, path, body]) + "\\n")
answer = here / path.replace("/", "_").partition("?")[0]
if body is None:
    if not answer.exists():
        sys.exit("gh: Not Found (HTTP 404)")
    sys.stdout.buffer.write(answer.read_bytes())
"""
ARTIFACTS = "repos_o_r_actions_runs_7_artifacts"
ARCHIVE = "repos_o_r_actions_artifacts_5_zip"
COMMENTS = "repos_o_r_issues_3_comments"
PULLS = "repos_o_r_pulls"


def archive(content: bytes, name: str = "review.md") -> bytes:
    """Return a ZIP file with one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(name, content)
    return file.getvalue()


def pull(number: int, commit: str = COMMIT) -> dict[str, Any]:
    return {"number": number, "head": {"sha": commit}}


def comment(number: int, login: str, body: str) -> str:
    return json.dumps({"id": number, "login": login, "body": body}) + "\n"


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Return the folder of the answers, for pull request 3 of repository o/r with run 7."""
    (tmp_path / "gh").write_text(GH, encoding="utf-8")
    (tmp_path / "gh").chmod(0o755)
    artifact = {"id": 5, "name": "review", "expired": False, "size_in_bytes": 900}
    set_answer(tmp_path, ARTIFACTS, {"artifacts": [artifact]})
    set_answer(tmp_path, PULLS, [pull(3)])
    (tmp_path / COMMENTS).write_text("", encoding="utf-8")
    set_review(tmp_path, "# Review\n")
    return tmp_path


def set_answer(answers: Path, name: str, content: object) -> None:
    (answers / name).write_text(json.dumps(content), encoding="utf-8")


def set_review(answers: Path, text: str) -> None:
    (answers / ARCHIVE).write_bytes(archive(text.encode("utf-8", "surrogatepass")))


def write(answers: Path) -> "subprocess.CompletedProcess[str]":
    """Run the script as the workflow does."""
    environment = user_environment()
    environment |= {
        "PATH": f"{answers}:{environment['PATH']}",
        "GITHUB_REPOSITORY": "o/r",
        "RUN_ID": "7",
        "HEAD_OWNER": "someone",
        "HEAD_BRANCH": "fix",
        "HEAD_SHA": COMMIT,
    }
    command = [sys.executable, str(ROOT / ".ci/comment.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def calls(answers: Path) -> list[tuple[list[str], str, Any]]:
    """Return arguments, path and body of each call of gh."""
    log = (answers / "calls").read_text(encoding="utf-8")
    return [tuple(json.loads(line)) for line in log.splitlines()]


def sent(answers: Path) -> list[tuple[str, str, str]]:
    """Return method, path and text of each written comment."""
    return [
        (arguments[arguments.index("--method") + 1], path, body["body"])
        for arguments, path, body in calls(answers)
        if body is not None
    ]


def written(answers: Path, review: str) -> str:
    """Return the text of the comment for a review, below the notice."""
    set_review(answers, review)
    result = write(answers)
    assert result.returncode == 0, result.stderr
    [(_, _, text)] = sent(answers)
    mark, notice, empty, *rest = text.split("\n")
    assert mark == "<!-- bula review -->"
    assert notice.startswith(f"*Review of {COMMIT}. ")
    assert "may come from a fork" in notice
    assert empty == ""
    return "\n".join(rest)


def test_a_first_review_becomes_a_new_comment(answers: Path) -> None:
    assert written(answers, "# Review\n\n| a | b |\n|---|---|\n| 1 | 2 |\n") == (
        "# Review\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    )
    [(method, path, _)] = sent(answers)
    assert (method, path) == ("POST", "repos/o/r/issues/3/comments")


def test_a_later_review_replaces_the_comment(answers: Path) -> None:
    mark = "<!-- bula review -->\n"
    others = comment(1, "someone", mark) + comment(2, "github-actions[bot]", "other\n" + mark)
    own = comment(9, "github-actions[bot]", mark + "old")
    (answers / COMMENTS).write_text(others + own, encoding="utf-8")
    assert write(answers).returncode == 0
    [(method, path, _)] = sent(answers)
    assert (method, path) == ("PATCH", "repos/o/r/issues/comments/9")


def test_the_pull_request_is_asked_for_by_the_events_own_branch(answers: Path) -> None:
    assert write(answers).returncode == 0
    [arguments] = [arguments for arguments, path, _ in calls(answers) if path == "repos/o/r/pulls"]
    assert arguments[:-1] == [
        *("api", "--method", "GET"),
        *("-f", "state=open"),
        *("-f", "head=someone:fix"),
    ]


@pytest.mark.parametrize("pulls", [[], [pull(3, "b" * 40)], [pull(3), pull(4)]])
def test_no_comment_without_one_open_pull_request_of_this_commit(
    answers: Path, pulls: list[dict[str, Any]]
) -> None:
    set_answer(answers, PULLS, pulls)
    result = write(answers)
    assert result.returncode == 0
    assert "no single open pull request" in result.stdout
    assert sent(answers) == []


def test_a_run_without_a_review_writes_nothing(answers: Path) -> None:
    set_answer(answers, ARTIFACTS, {"artifacts": []})
    result = write(answers)
    assert (result.returncode, sent(answers)) == (0, [])
    assert "the run left no review" in result.stdout


def set_older_review(answers: Path) -> None:
    """Let the pull request have a review of an earlier commit."""
    older = comment(9, "github-actions[bot]", "<!-- bula review -->\nthe gate passes")
    (answers / COMMENTS).write_text(older, encoding="utf-8")


NOTICE = f"""\
<!-- bula review -->
There is no review of {COMMIT}: see [the run](https://github.com/o/r/actions/runs/7).
"""


def test_a_run_without_a_review_replaces_the_older_review(answers: Path) -> None:
    set_older_review(answers)
    set_answer(answers, ARTIFACTS, {"artifacts": []})
    assert write(answers).returncode == 0
    assert sent(answers) == [("PATCH", "repos/o/r/issues/comments/9", NOTICE)]


def test_an_unreadable_review_replaces_the_older_review(answers: Path) -> None:
    set_older_review(answers)
    (answers / ARCHIVE).write_bytes(b"no archive")
    assert write(answers).returncode == 1
    assert sent(answers) == [("PATCH", "repos/o/r/issues/comments/9", NOTICE)]


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        ("by @someone and @org/team", "by @\u2060someone and @\u2060org/team"),
        ("closes #12, GH-3", "closes #\u206012, GH-\u20603"),
        ("[a](https://evil.example)", "[a]\u2060(https:\u2060//evil.example)"),
        ("![a](//evil.example/x)", "![a]\u2060(//evil.example/x)"),
        ("[a][b]\n[b]: //evil.example", "[a]\u2060[b]\n[b]\u2060: //evil.example"),
        ("www.evil.example", "www\u2060.evil.example"),
        ("_www.evil.example_ _GH-3_", "_www\u2060.evil.example_ _GH-\u20603_"),
        ("<img src=x>", "&lt;img src=x>"),
        ("<!-- hidden -->", "&lt;!-- hidden -->"),
        ("<https://evil.example>", "&lt;https:\u2060//evil.example>"),
        ("<details open>", "&lt;details open>"),
        ("&commat;someone &lt;b", "&amp;commat;someone &lt;b"),
        ("a\u202eb\u200bc\x1b[1m\r\n", "abc[1m\n"),
        (
            "<details><summary>more</summary>\n\n- x &amp; y\n</details>",
            "<details><summary>more</summary>\n\n- x &amp; y\n</details>",
        ),
    ],
)
def test_active_text_becomes_plain_text(answers: Path, review: str, expected: str) -> None:
    assert written(answers, review) == f"{expected}\n"


def test_a_long_review_is_cut_at_the_end_of_a_line(answers: Path) -> None:
    # 60,000 characters would end within the line 6,001.
    text = written(answers, "123456789\n" * 6000 + "@a" * 500)
    body, _, note = text.partition("\n\n")
    assert body == "\n".join(["123456789"] * 6000)
    assert "The review is longer" in note
    [(_, _, complete)] = sent(answers)
    assert len(complete) < 65_536


def test_a_zip_bomb_is_not_unpacked(answers: Path) -> None:
    # 1 GB of one letter is 1 MB of ZIP, and the script reads 240 kB of it.
    (answers / ARCHIVE).write_bytes(archive(b"a" * 50_000_000))
    assert write(answers).returncode == 0
    [(_, _, text)] = sent(answers)
    assert len(text) < 65_536


def test_a_large_artifact_is_not_fetched(answers: Path) -> None:
    artifact = {"id": 5, "name": "review", "expired": False, "size_in_bytes": 1_000_001}
    set_answer(answers, ARTIFACTS, {"artifacts": [artifact]})
    result = write(answers)
    assert result.returncode == 1
    assert "more than 1000000 bytes" in result.stderr
    assert not any(path.endswith("zip") for _, path, _ in calls(answers))


DAMAGED = archive(b"abc" * 99).replace(b"review.md\x4b", b"review.md\xff", 1)


@pytest.mark.parametrize("content", [b"no archive", archive(b"x", "../review.md"), b"", DAMAGED])
def test_an_unreadable_archive_is_an_error(answers: Path, content: bytes) -> None:
    (answers / ARCHIVE).write_bytes(content)
    result = write(answers)
    assert result.returncode == 1
    assert "contains no readable review.md" in result.stderr
    assert "Traceback" not in result.stderr
    assert sent(answers) == []


def test_a_refused_call_ends_with_a_sentence(answers: Path) -> None:
    (answers / PULLS).unlink()
    result = write(answers)
    assert result.returncode == 1
    assert re.search(r"Not Found.*\n.*see the token's permissions", result.stderr)
    assert "Traceback" not in result.stderr


def test_the_script_needs_no_package() -> None:
    code = f"import runpy; runpy.run_path({str(ROOT / '.ci/comment.py')!r})"
    assert subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False).returncode == 0
