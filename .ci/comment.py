"""Write a pull request's review as one comment, which later runs replace.

The workflow comment.yml runs this file from the default branch, with a token that may write. The
review comes from code that may belong to a fork. So nothing of the artifact is trusted: GitHub
names the pull request, one member of the archive is read in memory up to a limit, and its Markdown
loses mentions, links, images, tags and hidden characters. Only Python and `gh` are needed.

    python3 .ci/comment.py
"""

import io
import json
import os
import re
import subprocess
import sys
import unicodedata
import zipfile
import zlib
from typing import Any

ARTIFACT = "review"
MEMBER = "review.md"
MARKER = "<!-- bula review -->"
AUTHOR = "github-actions[bot]"
# The errors of zipfile for an archive that is damaged, encrypted or without the member.
UNREADABLE = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, RuntimeError)
# GitHub refuses a comment of more than 65,536 characters.
MOST_CHARACTERS = 60_000
MOST_ARCHIVE_BYTES = 1_000_000
NOTICE = "Written by the code of this pull request, which may come from a fork: check the figures."
SHORTENED = "\n\nThe review is longer. Its complete text is in the summary of the run."
# Unicode's control, format, surrogate and private characters, and its separators of lines.
HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
NO_BREAK = "\N{WORD JOINER}"
# The tags with which a review folds its details.
ALLOWED_TAG = re.compile(r"</?(?:details|summary)>")
ALLOWED_ENTITY = re.compile(r"&(?:amp|lt|gt|quot);")
# A joiner after each match breaks what GitHub would link, mention or load.
ACTIVE = re.compile(
    r"""
    @(?=\w)                     # mentions of people and teams
    | \#(?=\d) | GH-(?=\d)      # numbers of issues
    | \](?=[(:\[])              # links, images, and definitions of links
    | :(?=//) | www(?=\.)       # addresses
    """,
    re.VERBOSE | re.IGNORECASE,
)


class BadReviewError(Exception):
    """The reason why a review cannot be shown."""


def call(*arguments: str, body: dict[str, Any] | None = None) -> bytes:
    """Return the answer of GitHub's API, or end the program."""
    command = ["gh", "api", *arguments]
    if body is not None:
        command += ["--input", "-"]
    sent = json.dumps(body).encode() if body is not None else None
    result = subprocess.run(command, input=sent, stdout=subprocess.PIPE, check=False)
    if result.returncode:
        sys.exit(
            f"gh api {arguments[-1]} failed: its message is above, see the token's permissions"
        )
    return result.stdout


def find_pull_request(repository: str, owner: str, branch: str, commit: str) -> int | None:
    """Return the number of the open pull request whose newest commit was checked.

    None if it was closed, has a newer commit, or is not the only one.
    """
    query = ("-f", "state=open", "-f", f"head={owner}:{branch}")
    found = json.loads(call("--method", "GET", *query, f"repos/{repository}/pulls"))
    numbers = [int(pull["number"]) for pull in found if pull["head"]["sha"] == commit]
    return numbers[0] if len(numbers) == 1 else None


def find_artifact(repository: str, run: str) -> int | None:
    """Return the id of the run's review, or None without one.

    Raise BadReviewError if the archive is large.
    """
    answer = json.loads(call(f"repos/{repository}/actions/runs/{run}/artifacts?name={ARTIFACT}"))
    for artifact in answer["artifacts"]:
        if artifact["name"] == ARTIFACT and not artifact["expired"]:
            if artifact["size_in_bytes"] > MOST_ARCHIVE_BYTES:
                what = f"the artifact {ARTIFACT} has more than {MOST_ARCHIVE_BYTES} bytes"
                raise BadReviewError(what)
            return int(artifact["id"])
    return None


def read_review(archive: bytes) -> str:
    """Return the review's text from an archive, at most one character over the limit.

    Raise BadReviewError if the archive cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened, opened.open(MEMBER) as member:
            # A character of UTF-8 has at most 4 bytes.
            content = member.read(4 * MOST_CHARACTERS + 4)
    except UNREADABLE as error:
        what = f"the artifact {ARTIFACT} contains no readable {MEMBER} ({error})"
        raise BadReviewError(what) from error
    return content.decode("utf-8", errors="replace")


def fetch_review(repository: str, run: str) -> str | None:
    """Return the review's text, or None if the run left none."""
    artifact = find_artifact(repository, run)
    if artifact is None:
        return None
    return read_review(call(f"repos/{repository}/actions/artifacts/{artifact}/zip"))


def is_hidden(character: str) -> bool:
    """Return whether a character is invisible, or reorders its neighbours."""
    return character != "\n" and unicodedata.category(character) in (
        "Cc",
        "Cf",
        "Cs",
        "Co",
        "Zl",
        "Zp",
    )


def escape_unless(allowed: re.Pattern[str], sign: str, entity: str, text: str) -> str:
    """Replace a sign by its entity, except in the allowed places."""
    parts = []
    end = 0
    for match in allowed.finditer(text):
        parts += [text[end : match.start()].replace(sign, entity), match.group()]
        end = match.end()
    return "".join([*parts, text[end:].replace(sign, entity)])


def clean(text: str) -> str:
    """Return Markdown that keeps tables, headings and folded parts, and nothing active."""
    text = "".join(character for character in text if not is_hidden(character))
    text = escape_unless(ALLOWED_ENTITY, "&", "&amp;", text)
    text = escape_unless(ALLOWED_TAG, "<", "&lt;", text)
    return ACTIVE.sub(lambda match: match.group() + NO_BREAK, text)


def comment_text(review: str, commit: str) -> str:
    """Return the text of the comment: mark, commit, notice, and the cleaned review."""
    text = clean(review)
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS].rpartition("\n")[0] + SHORTENED
    return f"{MARKER}\n*Review of {commit}. {NOTICE}*\n\n{text}\n"


def notice_text(repository: str, run: str, commit: str) -> str:
    """Return the text that replaces an older review if the newest run has none."""
    address = f"https://github.com/{repository}/actions/runs/{run}"
    return f"{MARKER}\nThere is no review of {commit}: see [the run]({address}).\n"


def find_comment(repository: str, number: int) -> int | None:
    """Return the id of the comment that an earlier run wrote, or None."""
    fields = ".[] | {id, login: .user.login, body} | @json"
    path = f"repos/{repository}/issues/{number}/comments?per_page=100"
    lines = call("--paginate", "--jq", fields, path)
    for line in lines.decode().splitlines():
        comment = json.loads(line)
        if comment["login"] == AUTHOR and comment["body"].startswith(MARKER):
            return int(comment["id"])
    return None


def write_comment(repository: str, number: int, review: str, commit: str) -> None:
    """Write the review as a new comment, or in place of the older review."""
    body = {"body": comment_text(review, commit)}
    comment = find_comment(repository, number)
    if comment is None:
        call("--method", "POST", f"repos/{repository}/issues/{number}/comments", body=body)
    else:
        call("--method", "PATCH", f"repos/{repository}/issues/comments/{comment}", body=body)
    print(f"the review is a comment of pull request {number}")


def replace_comment(repository: str, number: int, text: str) -> None:
    """Replace the older review, if there is one, because it belongs to other code."""
    comment = find_comment(repository, number)
    if comment is not None:
        path = f"repos/{repository}/issues/comments/{comment}"
        call("--method", "PATCH", path, body={"body": text})
        print(f"the comment of pull request {number} says that there is no review")


def main() -> None:
    """Write or replace the comment of the run that the environment names."""
    repository = os.environ["GITHUB_REPOSITORY"]
    run = os.environ["RUN_ID"]
    commit = os.environ["HEAD_SHA"]
    number = find_pull_request(
        repository, os.environ["HEAD_OWNER"], os.environ["HEAD_BRANCH"], commit
    )
    if number is None:
        print("no single open pull request has this commit as its newest one")
        return
    notice = notice_text(repository, run, commit)
    try:
        review = fetch_review(repository, run)
    except BadReviewError as error:
        replace_comment(repository, number, notice)
        sys.exit(str(error))
    if review is None:
        print("the run left no review")
        replace_comment(repository, number, notice)
    else:
        write_comment(repository, number, review, commit)


if __name__ == "__main__":
    main()
