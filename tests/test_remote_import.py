"""Take outputs of a release into a second repository, over every kind of remote.

The source is a bare repository without a cache, so each byte comes from the remote.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import NamedTuple

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, commit, git
from bench.remote_servers import Place, http_root
from bula.commands.release_check import check_remotes, is_relative_folder, release_check
from bula.errors import UserError
from tests.conftest import run
from tests.remote_repository import (
    FILES,
    INPUTS,
    config_text,
    delivered,
    dvc,
    place,
    push_to,
    write_repository,
)

# fsspec keeps the connections of S3 and SSH open until the process exits.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
KINDS = ("folder", "s3", "ssh", "http")
NEW_ROWS = b'{"id": "c"}\n'
IDENTITY = {
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


class Release(NamedTuple):
    """A bare repository with a tagged commit and a newer one on main."""

    url: str
    tag: str


def documented(number: int) -> list[str]:
    """Return the commands of one block of the section Release in docs/remotes.md."""
    text = (ROOT / "docs/remotes.md").read_text(encoding="utf-8")
    section = text.partition("\n## Release\n")[2].partition("\n## ")[0]
    block = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[number]
    return [line.partition(" #")[0].strip() for line in block.splitlines()]


def documented_tags() -> list[str]:
    """Return the commands of docs/remotes.md that tag a release."""
    return [line for line in documented(0) if line.startswith(("gto ", "git tag "))]


def tag_release(repo: Path) -> str:
    """Tag HEAD by the documented commands, and return the tag of the repository."""
    tag = ""
    for command in documented_tags():
        parts = shlex.split(command)
        if parts[0] == "git":
            tag = parts[2]
        result = run(parts, repo, **IDENTITY)
        assert result.returncode == 0, result.stderr
    return tag


def publish(made: Path, folder: Path, opened: Place, serve: str) -> Release:
    """Push a release and a newer version, and return the bare repository."""
    repo = folder / "bula"
    shutil.copytree(made, repo, symlinks=True)
    push_to(repo, opened, "store")
    if serve:
        read_only = opened._replace(root=serve)
        (repo / ".dvc/config").write_text(config_text(read_only, "store"), encoding="utf-8")
        commit(repo, "name the web server")
    tag = tag_release(repo)
    (repo / "in/rows").write_bytes(NEW_ROWS)
    assert dvc(repo, "repro") == 0
    (repo / ".dvc/config.local").write_text(config_text(opened, "store"), encoding="utf-8")
    assert dvc(repo, "push") == 0
    commit(repo, "newer rows")
    git(folder, "clone", "--quiet", "--bare", str(repo), str(folder / "origin.git"))
    shutil.rmtree(repo)
    return Release(f"file://{folder}/origin.git", tag)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository after a run."""
    folder = tmp_path_factory.mktemp("made") / "bula"
    write_repository(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def release(
    request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """Yield a release on each kind of remote, whose servers run."""
    folder = tmp_path_factory.mktemp("release")
    is_http = request.param == "http"
    with ExitStack() as stack:
        opened = stack.enter_context(
            place("folder" if is_http else request.param, folder / "place")
        )
        serve = stack.enter_context(http_root(opened.folder)) if is_http else ""
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in opened.environment.items():
            patch.setenv(name, value)
        yield publish(made, folder, opened, serve)


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a second, empty repository with DVC, the current directory."""
    folder = tmp_path / "other"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


def test_get_copies_an_output_of_a_tag(release: Release, other: Path) -> None:
    assert dvc(other, "get", release.url, "models/adapter", "--rev", release.tag) == 0
    assert (other / "adapter/weights").read_bytes() == INPUTS["weights"]


def test_import_records_its_origin_and_update_takes_the_newer_version(
    release: Release, other: Path
) -> None:
    arguments = ("data/clean", "-o", "rows", "--rev", release.tag)
    assert dvc(other, "import", release.url, *arguments) == 0
    assert (other / "rows/train.jsonl").read_bytes() == INPUTS["rows"]
    [dep] = YAML(typ="safe").load(other / "rows.dvc")["deps"]
    assert (dep["repo"]["url"], dep["repo"]["rev"]) == (release.url, release.tag)
    assert dvc(other, "update", "rows.dvc", "--rev", "main") == 0
    assert (other / "rows/train.jsonl").read_bytes() == NEW_ROWS


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("adapter", "weights", INPUTS["weights"]),
        ("quantized", "q8_0.gguf", INPUTS["gguf"]),
        ("dataset", "train.jsonl", INPUTS["rows"]),
    ],
)
def test_artifacts_get_copies_a_registered_version(
    name: str, file: str, content: bytes, release: Release, other: Path
) -> None:
    version = release.tag.removeprefix("v")
    arguments = ("--rev", f"v{version}", "-o", "taken")
    assert dvc(other, "artifacts", "get", release.url, name, *arguments) == 0
    assert (other / "taken" / file).read_bytes() == content


# --- the order of remote and tag ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "is_relative"),
    [
        ("../../bula-remote", True),
        ("store", True),
        ("/srv/bula", False),
        ("s3://bucket/bula", False),
        ("ssh://host/srv/bula", False),
    ],
)
def test_relative_folders_are_recognized(url: str, is_relative: bool) -> None:
    assert is_relative_folder(url) == is_relative


@pytest.fixture
def repo(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with relative remotes, the current directory."""
    folder = tmp_path / "bula"
    shutil.copytree(made, folder, symlinks=True)
    write_remote(folder, "../../store")
    commit(folder, "name a relative remote")
    monkeypatch.chdir(folder)
    return folder


def write_remote(folder: Path, url: str) -> None:
    """Let the default remote be at an address, and the remote rows be a relative folder."""
    text = (
        f"[core]\n    analytics = false\n    remote = team\n['remote \"team\"']\n    url = {url}\n"
        "['remote \"rows\"']\n    url = ../../rows\n"
    )
    (folder / ".dvc/config").write_text(text, encoding="utf-8")


def test_a_tag_with_a_relative_remote_is_refused(repo: Path, other: Path) -> None:
    with (
        chdir(repo),
        pytest.raises(UserError, match=r"team is the relative folder \.\./\.\./store"),
    ):
        release_check()
    # DVC alone tags it, and nobody can import it.
    assert dvc(repo, "push") == 0
    git(repo, "tag", "v0.1.0")
    arguments = ("models/adapter", "--rev", "v0.1.0")
    assert dvc(other, "import", f"file://{repo}", *arguments) != 0


def test_a_remote_that_is_not_committed_is_refused(repo: Path) -> None:
    write_remote(repo, "s3://bucket/bula")
    with pytest.raises(UserError, match=r"HEAD: .*relative folder"):
        release_check()
    commit(repo, "name a remote")
    release_check()


def test_a_repository_without_a_default_remote_is_refused(repo: Path) -> None:
    (repo / ".dvc/config").write_text("[core]\n    analytics = false\n", encoding="utf-8")
    commit(repo, "forget the remote")
    with pytest.raises(UserError, match="it names no default remote"):
        release_check()


def test_an_artifact_on_a_relative_remote_is_named(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_remote(repo, "s3://bucket/bula")
    commit(repo, "name a remote")
    release_check()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "artifact dataset: data/clean goes to the remote rows, the relative folder ../../rows, "
        "so other machines cannot import it",
        "default remote team: s3://bucket/bula; HEAD can be tagged if the objects are there",
    ]


def test_a_folder_of_this_machine_needs_a_permission(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_remote(repo, "/srv/bula")
    commit(repo, "name a folder")
    with pytest.raises(
        UserError, match=r"only machines that mount /srv/bula can import it.*folder"
    ):
        release_check()
    release_check(allow_folder=True)
    assert "default remote team: /srv/bula; HEAD can be tagged" in capsys.readouterr().out
    write_remote(repo, "file:///srv/bula")
    commit(repo, "name it by a scheme")
    with pytest.raises(UserError, match="only machines that mount file:///srv/bula"):
        release_check()


def test_a_run_elsewhere_needs_every_remote_of_a_push(
    repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"rows \(\.\./\.\./rows\), team \(\.\./\.\./store\)"):
        release_check(remotes=True)
    # The configuration of this machine counts, because a push reads it.
    write_remote(repo, "s3://bucket/bula")
    with pytest.raises(UserError, match=r"no other machine has: rows \(\.\./\.\./rows\)\. "):
        release_check(remotes=True)
    local = "['remote \"rows\"']\n    url = /srv/rows\n"
    (repo / ".dvc/config.local").write_text(local, encoding="utf-8")
    release_check(remotes=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["remote rows: /srv/rows", "remote team: s3://bucket/bula"]


def test_a_run_elsewhere_needs_a_default_remote(repo: Path) -> None:
    with pytest.raises(UserError, match="it names no default remote"):
        check_remotes({})


# --- a release without a server ----------------------------------------------------------------


def run_lines(lines: list[str], folder: Path, **replaced: str) -> str:
    """Run commands by one shell that stops at the first error, and return what it prints."""
    script = "\n".join(["set -euo pipefail", *lines])
    for old, new in replaced.items():
        script = script.replace(old, new)
    result = run(["bash", "-c", script], folder, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    """Return the archive of a tag's objects, written by the documented commands."""
    folder = tmp_path / "bula"
    shutil.copytree(made, folder, symlinks=True)
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    commit(folder, "name the remotes of a fresh clone")
    git(folder, "tag", "v0.1.0")
    (tmp_path / "release").mkdir()
    run_lines(documented(1), folder)
    return tmp_path / "release/bula-v0.1.0-data.tar"


def test_anybody_pulls_a_release_from_its_archive(archive: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    shutil.copy(archive, stranger)
    shutil.rmtree(archive.parent)
    lines = [line for line in documented(2) if line != "make setup"]
    said = run_lines(lines, stranger, URL=f"file://{tmp_path}/bula")
    assert said.endswith("Data and pipelines are up to date.\n")
    assert delivered(stranger / "bula") == FILES


def test_get_takes_an_output_from_the_unpacked_archive(
    archive: Path, tmp_path: Path, other: Path
) -> None:
    run_lines([f"tar -xf {archive}"], other)
    text = (ROOT / "docs/remotes.md").read_text(encoding="utf-8")
    [command] = re.findall(r"`(dvc get URL [^`]* --remote-config [^`]*)`", text)
    run_lines([command], other, URL=f"file://{tmp_path}/bula")
    assert (other / "adapter/weights").read_bytes() == INPUTS["weights"]


# --- dvc.yaml ----------------------------------------------------------------------------------


def test_dvc_yaml_describes_three_artifacts() -> None:
    pipeline = YAML(typ="safe").load(ROOT / "dvc.yaml")
    artifacts = pipeline["artifacts"]
    found = {name: (artifact["type"], artifact["path"]) for name, artifact in artifacts.items()}
    assert found == {
        "adapter": ("model", "models/adapter"),
        "quantized": ("model", "models/gguf"),
        "dataset": ("dataset", "data/clean"),
    }
    for artifact in artifacts.values():
        assert artifact["desc"] and artifact["labels"]


def test_the_documented_tags_cover_every_artifact() -> None:
    registered = [shlex.split(line)[2] for line in documented_tags() if line.startswith("gto")]
    assert set(registered) == set(YAML(typ="safe").load(ROOT / "dvc.yaml")["artifacts"])
