"""Damage folder, S3 and SSH remotes in every way, and check what is said and delivered.

Each fault must be named with its file, no damaged file may be delivered, no stage may run again,
and `verify-remote --fix` must mend the remote from the cache of the machine that pushed.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from typer.testing import CliRunner, Result

from bench.clones import ROOT, commit
from bench.remote_servers import PLACES, Place, missing
from bula.__main__ import app
from bula.errors import UserError
from tests.conftest import run
from tests.remote_repository import (
    FILES,
    clone,
    config_text,
    delivered,
    dvc,
    place,
    push_to,
    quiet,
    write_repository,
)

# fsspec keeps the connections of S3 and SSH open until the process exits.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Store:
    """The objects of a remote, which a test damages."""

    def __init__(self, repo: Path, file: str) -> None:
        """Find the object of a file, or the manifest of a folder."""
        with chdir(repo), quiet(), Repo() as repository:
            [out] = [out for out in repository.index.outs if file.startswith(str(out))]
            self.manifest = out.hash_info.value
            store = repository.cloud.get_remote_odb(out.remote, "test", "md5")
            self.name = self.manifest
            if str(out) != file:
                [self.name] = [
                    entry.value for key, _, entry in out.get_obj() if "/".join(key) in file
                ]
        self.fs = store.fs
        self.path = store.oid_to_path(self.name)

    def read(self) -> bytes:
        return bytes(self.fs.cat_file(self.path))

    def write(self, content: bytes) -> None:
        self.fs.remove(self.path)
        self.fs.pipe_file(self.path, content)

    def remove(self) -> None:
        self.fs.remove(self.path)


def truncate(store: Store) -> None:
    store.write(store.read()[:-1])


def flip(store: Store) -> None:
    content = bytearray(store.read())
    content[0] ^= 1
    store.write(bytes(content))


FAULTS: dict[str, Callable[[Store], None]] = {
    "truncated": truncate,
    "flipped": flip,
    "missing": Store.remove,
}
# A file of a folder, an output of one file, and manifests, on both remotes.
CASES = (
    ("truncated", "models/adapter/weights"),
    ("flipped", "models/adapter/weights"),
    ("missing", "models/adapter/weights"),
    ("flipped", "data/quarantine.jsonl"),
    ("flipped", "models/adapter"),
    ("missing", "data/clean"),
)
# Six files of 4 MB, and a disk that has room for some of them.
LARGE_FILES = 6
LARGE_BYTES = 4 * 10**6
DISK = "16m"


@pytest.fixture(scope="module", params=list(PLACES))
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Yield a running place of each kind."""
    with (
        place(request.param, tmp_path_factory.mktemp("place")) as started,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository after a run, which each test copies."""
    folder = tmp_path_factory.mktemp("made") / "bula"
    write_repository(folder)
    return folder


@pytest.fixture
def repo(opened: Place, made: Path, tmp_path: Path) -> Path:
    """Return a repository that was pushed to new remotes."""
    folder = tmp_path / "bula"
    shutil.copytree(made, folder, symlinks=True)
    push_to(folder, opened, tmp_path.name)
    return folder


def bula(folder: Path, *arguments: str) -> Result:
    """Run a command of this project in a folder."""
    with chdir(folder), quiet():
        result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def problems(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return the problems that verify-remote finds."""
    content = json.loads(bula(folder, "verify-remote", "--json", *arguments).stdout)
    return [problem for remote in content["remotes"] for problem in remote["problems"]]


def runs(folder: Path) -> bool:
    """Return whether a stage ran in a clone."""
    return (folder / "runs.log").exists()


@pytest.mark.parametrize(("fault", "target"), CASES)
def test_a_fault_is_named_not_delivered_and_mended(fault: str, target: str, repo: Path) -> None:
    store = Store(repo, target)
    FAULTS[fault](store)
    copy = clone(repo)
    result = bula(copy, "pull")
    assert result.exit_code == 1
    assert f"{store.name}  {target} (stage " in result.stdout
    assert "--fix` on a machine whose cache has these objects" in result.stdout
    got = delivered(copy)
    assert got == {name: FILES[name] for name in got}
    assert not runs(copy)
    [problem] = problems(repo, "--fix")
    assert (problem["object"], problem["mended"]) == (store.name, True)
    assert bula(copy, "pull").exit_code == 0
    assert delivered(copy) == FILES
    assert dvc(copy, "repro") == 0
    assert not runs(copy)


def test_fix_uploads_no_damaged_copy_of_the_cache(repo: Path) -> None:
    store = Store(repo, "models/adapter/weights")
    store.remove()
    cached = repo / ".dvc/cache/files/md5" / store.name[:2] / store.name[2:]
    cached.chmod(0o644)
    cached.write_bytes(b"damaged")
    [problem] = problems(repo, "--fix")
    assert problem["repair"] == f"this machine's cache is damaged too: delete {cached}"
    assert not store.fs.exists(store.path)


# --- what DVC does alone -----------------------------------------------------------------------


@pytest.fixture
def local_repo(made: Path, tmp_path: Path) -> Path:
    """Return a repository that was pushed to folders."""
    folder = tmp_path / "bula"
    shutil.copytree(made, folder, symlinks=True)
    with place("folder", tmp_path / "place") as opened:
        push_to(folder, opened, "store")
    return folder


def test_repro_pull_runs_a_stage_again_in_silence_and_our_pull_stops(local_repo: Path) -> None:
    store = Store(local_repo, "models/adapter/weights")
    truncate(store)
    alone = clone(local_repo, "alone")
    assert dvc(alone, "repro", "--pull") == 0
    assert (alone / "runs.log").read_text(encoding="utf-8") == "train\n"
    ours = clone(local_repo, "ours")
    [command] = documented("Pull", "dvc repro")
    result = run(["bash", "-c", command], ours)
    assert result.returncode == 1
    assert f"{store.name}  models/adapter/weights (stage train)" in result.stdout
    assert not runs(ours)


def documented(section: str, ending: str) -> list[str]:
    """Return the commands of a section of docs/remotes.md that end with a text."""
    text = (ROOT / "docs/remotes.md").read_text(encoding="utf-8")
    part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", part, re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.endswith(ending)]


def test_push_leaves_a_hole_and_the_documented_check_names_and_mends_it(local_repo: Path) -> None:
    store = Store(local_repo, "models/adapter/weights")
    store.remove()
    assert dvc(local_repo, "push") == 0
    [found] = problems(local_repo, "--sizes")
    assert (found["object"], found["state"]) == (store.name, "missing")
    [command] = documented("Push, then git push", "--sizes --fix")
    assert bula(local_repo, *command.split()[3:]).exit_code == 0
    assert problems(local_repo) == []


def test_sizes_names_a_short_file_of_a_folder_by_the_cache(local_repo: Path) -> None:
    store = Store(local_repo, "models/adapter/weights")
    truncate(store)
    [found] = problems(local_repo, "--sizes")
    assert (found["state"], found["size"]) == ("short", len(FILES["models/adapter/weights"]) - 1)


def test_sizes_reads_no_file(local_repo: Path) -> None:
    flip(Store(local_repo, "models/adapter/weights"))
    result = bula(local_repo, "verify-remote", "--sizes")
    assert result.exit_code == 0
    assert "remote team: 6 of 6 objects are present with the expected size\n" in result.stdout


def test_pull_refuses_a_remote_that_is_not_verified(local_repo: Path) -> None:
    config = local_repo / ".dvc/config"
    text = config.read_text(encoding="utf-8").replace("verify = true", "verify = false", 1)
    config.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"remote team: .*dvc remote modify team verify true"):
        bula(local_repo, "pull")


def test_pull_of_one_output_needs_only_its_remote(local_repo: Path) -> None:
    flip(Store(local_repo, "data/clean/train.jsonl"))
    copy = clone(local_repo)
    assert bula(copy, "pull", "models/adapter").exit_code == 0
    assert set(delivered(copy)) == {"models/adapter/config", "models/adapter/weights"}
    assert bula(copy, "pull", "preprocess").exit_code == 1


def test_pull_from_a_named_remote_checks_its_settings(local_repo: Path) -> None:
    copy = clone(local_repo)
    url = f"{local_repo.parent}/place/stored/store/team"
    with (copy / ".dvc/config").open("a", encoding="utf-8") as file:
        file.write(f"['remote \"public\"']\n    url = {url}\n")
    with pytest.raises(UserError, match="remote public: "):
        bula(copy, "pull", "-r", "public", "models/adapter")
    assert dvc(copy, "remote", "modify", "public", "verify", "true") == 0
    assert bula(copy, "pull", "-r", "public", "models/adapter").exit_code == 0
    assert set(delivered(copy)) == {"models/adapter/config", "models/adapter/weights"}


def test_pull_delivers_the_lock_where_a_new_stage_never_ran(local_repo: Path) -> None:
    later = (
        "\n  later:\n    cmd: echo later >> runs.log && echo 1 > later.txt\n    outs: [later.txt]\n"
    )
    pipeline = local_repo / "dvc.yaml"
    text = pipeline.read_text(encoding="utf-8").replace("\nartifacts:", f"{later}\nartifacts:")
    pipeline.write_text(text, encoding="utf-8")
    commit(local_repo, "add a stage")
    copy = clone(local_repo)
    result = bula(copy, "pull")
    assert result.exit_code == 0
    assert "not pulled: later.txt: no hash of it is recorded yet\n" in result.stdout
    assert delivered(copy) == FILES
    assert dvc(copy, "repro") == 0
    assert (copy / "runs.log").read_text(encoding="utf-8") == "later\n"


def test_pull_says_that_the_remotes_are_good_if_they_are(local_repo: Path) -> None:
    copy = clone(local_repo)
    # DVC replaces no file that it does not know.
    (copy / "models").mkdir(exist_ok=True)
    (copy / "models/size.txt").write_text("mine", encoding="utf-8")
    result = bula(copy, "pull")
    assert result.exit_code == 1
    assert "The remotes are good, so DVC's message above names the reason." in result.stdout


# --- a push that stops ---------------------------------------------------------------------------


def stored_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder that a server changes."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def push_until_killed(repo: Path, opened: Place) -> int:
    """Start a push, kill the server after a file arrived, and return DVC's exit code.

    A folder has no server, so the push itself is killed.
    """
    before = stored_bytes(opened.folder)
    command = [sys.executable, "-m", "dvc", "push", "--quiet", "--jobs", "1"]
    process = subprocess.Popen(command, cwd=repo, stderr=subprocess.DEVNULL)
    while process.poll() is None and stored_bytes(opened.folder) < before + LARGE_BYTES:
        time.sleep(0.002)
    if opened.kind == "folder":
        process.kill()
    opened.kill()
    return process.wait()


def add_large_files(repo: Path) -> dict[str, bytes]:
    """Add a folder to DVC that takes a moment to push."""
    (repo / "large").mkdir()
    generator = random.Random(0)
    files = {f"large/{number}": generator.randbytes(LARGE_BYTES) for number in range(LARGE_FILES)}
    for name, content in files.items():
        (repo / name).write_bytes(content)
    assert dvc(repo, "add", "large") == 0
    return files


def use_place(repo: Path, opened: Place, patch: pytest.MonkeyPatch) -> None:
    """Name the remotes of a started server in a commit."""
    for name, value in opened.environment.items():
        patch.setenv(name, value)
    config = repo / ".dvc/config"
    text = config_text(opened, "store")
    if config.read_text(encoding="utf-8") != text:
        config.write_text(text, encoding="utf-8")
        commit(repo, "name remotes")


def check_and_mend(repo: Path, files: dict[str, bytes]) -> None:
    """Check that a stopped push is named and not delivered, and that --fix completes it."""
    copy = clone(repo)
    result = bula(copy, "pull")
    assert result.exit_code == 1
    assert "large (stage large.dvc)" in result.stdout
    for name, content in files.items():
        assert not (copy / name).exists() or (copy / name).read_bytes() == content
    assert bula(repo, "verify-remote", "--fix").exit_code == 0
    # Nothing unnamed was left.
    assert bula(copy, "pull").exit_code == 0
    assert {name: (copy / name).read_bytes() for name in files} == files


@pytest.fixture(params=list(PLACES))
def interrupted(
    request: pytest.FixtureRequest, made: Path, tmp_path: Path
) -> tuple[str, Path, dict[str, bytes]]:
    """Return a kind of place, and a repository with more data than was pushed."""
    if reason := missing(request.param):
        pytest.skip(reason)
    repo = tmp_path / "bula"
    shutil.copytree(made, repo, symlinks=True)
    return request.param, repo, add_large_files(repo)


def test_a_push_whose_server_is_killed_is_named_and_mended(
    interrupted: tuple[str, Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, repo, files = interrupted
    stored = tmp_path / "stored"
    with place(kind, tmp_path / "first", stored) as opened:
        use_place(repo, opened, monkeypatch)
        assert push_until_killed(repo, opened) != 0
        if kind != "folder":
            with pytest.raises(UserError, match="it cannot be reached"):
                bula(repo, "verify-remote")
    with place(kind, tmp_path / "second", stored) as opened:
        use_place(repo, opened, monkeypatch)
        check_and_mend(repo, files)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Mount a small disk at a folder, and yield a function that makes room on it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")

    def make_room() -> None:
        subprocess.run(["mount", "-o", "remount,size=512m", str(folder)], check=True)

    try:
        yield make_room
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_push_to_a_full_disk_is_named_and_mended(
    interrupted: tuple[str, Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, repo, files = interrupted
    stored = tmp_path / "stored"
    with small_disk(stored) as make_room, place(kind, tmp_path / "server", stored) as opened:
        use_place(repo, opened, monkeypatch)
        assert dvc(repo, "push", "--quiet") != 0
        result = bula(repo, "verify-remote", "--fix")
        assert result.exit_code == 1
        assert "not mended, because " in result.stdout
        make_room()
        check_and_mend(repo, files)
