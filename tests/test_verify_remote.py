"""Test `bula verify-remote` on folder remotes with every kind of damage.

The repository has one stage with a folder and a file of rows, and a file of `dvc add`.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.exceptions import DvcException
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from bench.clones import ROOT, commit, git
from bula.__main__ import app
from bula.commands import remote_checks
from bula.commands.remote_objects import parse_manifest
from bula.errors import UserError
from tests.conftest import run
from tests.remote_repository import LOCAL_AND_ROWS, open_repository, start_repository
from tests.remote_repository import clone as new_clone

PIPELINE = """\
stages:
  make:
    cmd: mkdir -p data/raw/sub && cp in/a in/b data/raw && cp in/c data/raw/sub && cp in/d rows.txt
    deps: [in]
    outs:
    - data/raw
    - rows.txt: {remote: rows}
"""
# The content of data/raw/a, data/raw/b, data/raw/sub/c, rows.txt and own.csv.
FILES = {"a": b"first file\n", "b": b"second\n", "c": b"third\n", "d": b"a row\n"}
OWN = b"id,text\n1,two\n"


def write_repository(folder: Path) -> None:
    """Write a repository, run its pipeline, and push."""
    files: dict[str, str | bytes] = {f"in/{name}": content for name, content in FILES.items()}
    files |= {"dvc.yaml": PIPELINE, "own.csv": OWN}
    start_repository(folder, LOCAL_AND_ROWS, files)
    with open_repository(folder) as repository:
        repository.reproduce()
        repository.add("own.csv")
        # Three files and a manifest, rows.txt and own.csv.
        assert repository.push() == 6
    commit(folder, "run")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the repository and its remotes, which each test copies."""
    folder = tmp_path_factory.mktemp("pushed")
    write_repository(folder / "bula")
    return folder


@pytest.fixture
def repo(pushed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with its remotes beside it, the current directory."""
    shutil.copytree(pushed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "bula")
    return tmp_path / "bula"


@pytest.fixture
def clone(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone without a cache, the current directory."""
    folder = new_clone(repo)
    monkeypatch.chdir(folder)
    return folder


def verify(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["verify-remote", *arguments])


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def stored(folder: Path, name: str) -> Path:
    """Return the file of an object in a remote or a cache."""
    return folder / "files/md5" / name[:2] / name[2:]


def manifest_name(repo: Path) -> str:
    """Return the name of the manifest of data/raw."""
    lock = YAML(typ="safe").load(repo / "dvc.lock")
    [name] = [out["md5"] for out in lock["stages"]["make"]["outs"] if out["path"] == "data/raw"]
    return str(name)


def overwrite(file: Path, content: bytes) -> None:
    """Replace the content of an object, which is read-only."""
    file.chmod(0o644)
    file.write_bytes(content)


def store(repo: Path) -> Path:
    return repo.parent / "store"


def problems(*arguments: str) -> list[dict[str, Any]]:
    """Return the problems of all remotes from the JSON, and check the exit code."""
    result = verify("--json", *arguments)
    content = json.loads(result.stdout)
    found = [problem for remote in content["remotes"] for problem in remote["problems"]]
    assert content["good"] == all(problem["mended"] for problem in found)
    assert result.exit_code == (0 if content["good"] else 1)
    return found


def states(*arguments: str) -> dict[str, str]:
    """Return the state of each problem by its first file."""
    return {problem["places"][0]["file"]: problem["state"] for problem in problems(*arguments)}


# --- good remotes ------------------------------------------------------------------------------


@pytest.mark.usefixtures("repo")
def test_good_remotes_exit_with_0_and_count_objects() -> None:
    result = verify()
    # local: three files of a folder, its manifest, and own.csv.
    expected = "remote local: 5 of 5 objects are good\nremote rows: 1 of 1 objects are good\n"
    assert (result.exit_code, result.stdout) == (0, expected)


@pytest.mark.usefixtures("clone")
def test_a_clone_without_a_cache_checks_every_object() -> None:
    assert verify().exit_code == 0


def test_every_byte_of_an_object_is_read(repo: Path) -> None:
    content = json.loads(verify("--json").stdout)
    local, rows = content["remotes"]
    manifest = stored(store(repo), manifest_name(repo)).stat().st_size
    # 11 + 7 + 6 bytes in data/raw and 14 bytes of own.csv; 6 bytes of rows.txt.
    assert local["bytes"] == 24 + 14 + manifest
    assert (rows["remote"], rows["bytes"]) == ("rows", 6)


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "state", "detail"),
    [
        (b"first", "short", "it has 5 bytes, and the cache has 11"),
        (b"", "short", "it has 0 bytes, and the cache has 11"),
        (b"first fild\n", "changed", "its 11 bytes have the MD5 "),
        (b"another longer file\n", "changed", "its 20 bytes have the MD5 "),
    ],
    ids=["truncated", "empty", "flipped", "longer"],
)
def test_a_damaged_file_of_a_folder_is_named(
    content: bytes, state: str, detail: str, repo: Path
) -> None:
    overwrite(stored(store(repo), md5(FILES["a"])), content)
    result = verify()
    assert result.exit_code == 1
    assert "remote local: 4 of 5 objects are good\n" in result.stdout
    line = f"  {state:10} {md5(FILES['a'])}  data/raw/a (stage make): {detail}"
    assert line in result.stdout
    advice = "To mend them, run `python -m bula verify-remote local --fix` on a machine"
    assert advice in result.stdout


def test_a_missing_file_of_a_folder_is_named(repo: Path) -> None:
    stored(store(repo), md5(FILES["c"])).unlink()
    result = verify()
    assert result.exit_code == 1
    assert f"  missing    {md5(FILES['c'])}  data/raw/sub/c (stage make)\n" in result.stdout


def test_a_truncated_output_of_one_file_is_named_by_the_size_in_dvc_lock(clone: Path) -> None:
    overwrite(stored(clone.parent / "rows", md5(FILES["d"])), b"a ro")
    [problem] = problems()
    assert problem["state"] == "short"
    assert problem["detail"] == "it has 4 bytes instead of 6"


def test_a_truncated_file_of_a_folder_is_named_without_a_cache(clone: Path) -> None:
    overwrite(stored(store(clone), md5(FILES["b"])), b"sec")
    assert states() == {"data/raw/b": "changed"}


def test_a_damaged_file_of_dvc_add_is_named_with_its_dvc_file(repo: Path) -> None:
    stored(store(repo), md5(OWN)).unlink()
    assert "own.csv (stage own.csv.dvc)" in verify().stdout


def test_an_object_of_two_outputs_names_both(repo: Path) -> None:
    (repo / "copy").write_bytes(OWN)
    with open_repository(repo) as repository:
        repository.add("copy")
    stored(store(repo), md5(OWN)).unlink()
    [problem] = problems()
    assert sorted(place["file"] for place in problem["places"]) == ["copy", "own.csv"]


def test_an_object_that_cannot_be_read_is_not_called_missing(repo: Path) -> None:
    file = stored(store(repo), md5(OWN))
    file.unlink()
    file.mkdir()
    [problem] = problems()
    assert problem["state"] == "unreadable"


def test_all_faults_of_one_remote_are_named_at_once(repo: Path) -> None:
    overwrite(stored(store(repo), md5(FILES["a"])), b"first filE\n")
    stored(store(repo), md5(FILES["b"])).unlink()
    overwrite(stored(store(repo), md5(OWN)), OWN[:3])
    stored(repo.parent / "rows", md5(FILES["d"])).unlink()
    assert states() == {
        "data/raw/a": "changed",
        "data/raw/b": "missing",
        "own.csv": "short",
        "rows.txt": "missing",
    }


def test_an_empty_remote_lacks_every_object(repo: Path) -> None:
    shutil.rmtree(store(repo))
    assert set(states("local").values()) == {"missing"}
    assert len(states("local")) == 5


# --- manifests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"[{", b"[]"], ids=["empty", "cut", "other"])
def test_the_cache_lists_the_files_of_a_damaged_manifest(content: bytes, repo: Path) -> None:
    overwrite(stored(store(repo), manifest_name(repo)), content)
    stored(store(repo), md5(FILES["a"])).unlink()
    assert states() == {"data/raw": "short", "data/raw/a": "missing"}


def test_without_a_good_manifest_its_files_are_said_to_be_unchecked(clone: Path) -> None:
    stored(store(clone), manifest_name(clone)).unlink()
    result = verify()
    assert result.exit_code == 1
    assert f"{manifest_name(clone)}  data/raw (stage make): its files are not checked\n" in (
        result.stdout
    )


def place_manifest(repo: Path, content: bytes) -> None:
    """Let dvc.lock name a manifest of this content, and put it on the remote."""
    lock = repo / "dvc.lock"
    name = md5(content) + ".dir"
    text = lock.read_text(encoding="utf-8")
    lock.write_text(text.replace(manifest_name(repo), name), encoding="utf-8")
    file = stored(store(repo), name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


HOSTILE = [
    b'[{"md5": "%s", "relpath": "../../../outside"}]' % md5(b"x").encode(),
    b'[{"md5": "%s", "relpath": "/etc/passwd"}]' % md5(b"x").encode(),
    b'[{"md5": "../../../../../etc/passwd", "relpath": "a"}]',
    b'[{"md5": 5, "relpath": "a"}]',
    b'[{"relpath": "a"}]',
    b'{"md5": "a"}',
    b"[" * 100_000,
    b"\xff\xfe",
    b'[{"md5": "%(m)s", "relpath": "a"}, {"md5": "%(m)s", "relpath": "a"}]'
    % {b"m": md5(b"x").encode()},
]


@pytest.mark.parametrize("content", HOSTILE, ids=[str(number) for number in range(len(HOSTILE))])
def test_a_hostile_manifest_is_named_and_not_followed(content: bytes, repo: Path) -> None:
    place_manifest(repo, content)
    [problem] = problems("local", "--fix")
    assert problem["state"] == "invalid"
    assert problem["detail"] == "it does not list the files of a folder"
    assert problem["repair"].endswith("run its stage again")


def test_a_manifest_above_the_limit_is_not_parsed(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_checks, "MOST_MANIFEST_BYTES", 100)
    assert states("local") == {"data/raw": "invalid"}
    assert "a manifest may have at most 100 bytes" in verify().stdout


def test_names_of_files_cannot_control_the_terminal(repo: Path) -> None:
    entry = {"md5": md5(b"x"), "relpath": "a\x1b[2Jb\nremote local: good"}
    place_manifest(repo, json.dumps([entry]).encode())
    result = verify("local")
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
    assert "\nremote local: good" not in result.stdout


def test_a_manifest_worked_by_hand() -> None:
    content = b'[{"md5": "%s", "relpath": "d/x.txt", "size": 3}]' % (b"0" * 32)
    assert parse_manifest(content) == {"d/x.txt": "0" * 32}


def test_a_hash_in_dvc_lock_that_is_no_md5_is_refused(repo: Path) -> None:
    lock = repo / "dvc.lock"
    text = lock.read_text(encoding="utf-8")
    lock.write_text(text.replace(md5(FILES["d"]), "../../secret"), encoding="utf-8")
    with pytest.raises(UserError, match=r"the hash of rows\.txt is '\.\./\.\./secret'"):
        verify_raises()


def verify_raises(*arguments: str) -> None:
    """Run the command, and raise its error."""
    error = verify(*arguments).exception
    assert error
    raise error


# --- repair ------------------------------------------------------------------------------------


def pull_in_new_clone(repo: Path) -> Path:
    """Clone the repository, pull, and return the clone."""
    folder = new_clone(repo, "puller")
    with open_repository(folder) as repository:
        repository.pull()
    return folder


def test_push_does_not_replace_a_missing_file_of_a_folder_and_fix_does(repo: Path) -> None:
    stored(store(repo), md5(FILES["a"])).unlink()
    # DVC alone takes the files of a folder for present.
    with open_repository(repo) as repository:
        assert repository.push() == 0
    with pytest.raises(DvcException):
        pull_in_new_clone(repo)
    result = verify("--fix")
    assert result.exit_code == 0
    assert "data/raw/a (stage make); mended\n" in result.stdout
    assert "remote local: 5 of 5 objects are good\n" in result.stdout
    assert (pull_in_new_clone(repo) / "data/raw/a").read_bytes() == FILES["a"]


def test_fix_mends_every_kind_of_damage(repo: Path) -> None:
    overwrite(stored(store(repo), md5(FILES["a"])), b"first filE\n")
    overwrite(stored(store(repo), md5(FILES["b"])), b"sec")
    overwrite(stored(store(repo), manifest_name(repo)), b"[]")
    stored(store(repo), md5(OWN)).unlink()
    shutil.rmtree(repo.parent / "rows")
    found = problems("--fix")
    assert len(found) == 5
    assert all(problem["mended"] for problem in found)
    assert problems() == []
    mode = stored(store(repo), md5(OWN)).stat().st_mode & 0o777
    assert mode == stored(store(repo), md5(FILES["c"])).stat().st_mode & 0o777


def test_fix_of_good_remotes_changes_nothing(repo: Path) -> None:
    file = stored(store(repo), md5(OWN))
    before = file.stat().st_mtime_ns
    assert verify("--fix").exit_code == 0
    assert file.stat().st_mtime_ns == before


def test_fix_in_a_clone_without_a_cache_says_that_it_cannot(clone: Path) -> None:
    stored(store(clone), md5(OWN)).unlink()
    result = verify("--fix")
    assert result.exit_code == 1
    assert "; not mended, because this machine's cache does not have it\n" in result.stdout
    assert "on another machine whose cache has these objects" in result.stdout


def test_fix_does_not_upload_a_damaged_copy_of_the_cache(repo: Path) -> None:
    name = md5(FILES["a"])
    stored(store(repo), name).unlink()
    stored(store(repo), manifest_name(repo)).unlink()
    cached = stored(repo / ".dvc/cache", name)
    overwrite(cached, b"first filE\n")
    # DVC trusts the content of read-only files in its cache.
    cached.chmod(0o444)
    by_file = {problem["places"][0]["file"]: problem["repair"] for problem in problems("--fix")}
    assert by_file == {
        "data/raw": "files of the folder are not mended",
        "data/raw/a": f"this machine's cache is damaged too: delete {cached}",
    }
    assert not stored(store(repo), name).exists()
    # `dvc push` from another machine would upload nothing if the manifest were present.
    assert not stored(store(repo), manifest_name(repo)).exists()


def test_a_failed_upload_is_named(repo: Path) -> None:
    folder = stored(store(repo), md5(OWN)).parent
    shutil.rmtree(folder)
    folder.write_bytes(b"a file where the remote needs a folder")
    result = verify("local", "--fix")
    assert result.exit_code == 1
    assert "; not mended, because the upload failed (" in result.stdout


def test_an_upload_that_arrives_damaged_is_named(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(store(repo), md5(OWN)).unlink()

    def put_file(filesystem: object, source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:-1])

    monkeypatch.setattr("dvc_objects.fs.local.LocalFileSystem.put_file", put_file, raising=False)
    [problem] = problems("local", "--fix")
    assert problem["repair"] == "after the upload it is changed"


def documented_repair() -> list[str]:
    """Return the commands of docs/remotes.md that check and mend a remote."""
    text = (ROOT / "docs/remotes.md").read_text(encoding="utf-8")
    section = text.partition("\n## Check and repair a remote\n")[2].partition("\n## ")[0]
    [block] = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [line.partition("#")[0].strip() for line in block.splitlines()]


def test_the_repair_in_docs_remotes_works(repo: Path) -> None:
    check, fix = documented_repair()
    overwrite(stored(store(repo), md5(FILES["a"])), b"first filE\n")
    codes = [run(shlex.split(command), repo).returncode for command in (check, fix)]
    assert codes == [1, 0]
    assert verify().exit_code == 0
    assert (pull_in_new_clone(repo) / "data/raw/a").read_bytes() == FILES["a"]


# --- groups ------------------------------------------------------------------------------------


GROUP_SETTINGS = "    shared = group\n"
PRIVATE_FILES = PIPELINE.replace("rows.txt\n", "rows.txt && chmod 600 rows.txt\n", 1)


def test_shared_folders_are_open_to_the_group_whatever_the_umask(tmp_path: Path) -> None:
    repo = tmp_path / "bula"
    write_repository(repo)
    config = LOCAL_AND_ROWS.replace("verify = true\n", f"verify = true\n{GROUP_SETTINGS}")
    config += f"[cache]\n    dir = ../../cache\n{GROUP_SETTINGS}"
    config = config.replace("../../store", "../../shared-store").replace("../../rows", "../../own")
    (repo / ".dvc/config").write_text(config, encoding="utf-8")
    (repo / "dvc.yaml").write_text(PRIVATE_FILES, encoding="utf-8")
    result = run(["sh", "-c", "umask 077; dvc repro && dvc push"], repo)
    assert result.returncode == 0, result.stderr
    shared = [tmp_path / name for name in ("cache", "shared-store", "own")]
    modes = {}
    for folder in shared:
        for path in folder.rglob("*"):
            modes[path] = oct(path.stat().st_mode & 0o7777)
    objects = [mode for path, mode in modes.items() if path.is_file() and "runs" not in path.parts]
    assert set(objects) == {"0o444"}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {"0o2775"}


def test_outputs_of_one_run_have_equal_modes(tmp_path: Path) -> None:
    repo = tmp_path / "bula"
    write_repository(repo)
    (repo / "dvc.yaml").write_text(PRIVATE_FILES, encoding="utf-8")
    assert run(["sh", "-c", "umask 027; dvc repro"], repo).returncode == 0
    files = [repo / "rows.txt", *(repo / "data/raw").rglob("*")]
    modes = {oct(file.stat().st_mode & 0o777) for file in files if file.is_file()}
    assert modes == {"0o640"}


# --- scope -------------------------------------------------------------------------------------


def test_a_name_checks_one_remote_and_leaves_out_outputs_of_others(repo: Path) -> None:
    stored(store(repo), md5(OWN)).unlink()
    assert verify("rows").exit_code == 0
    assert verify("local").exit_code == 1


def test_outputs_without_a_remote_are_expected_on_the_named_remote(repo: Path) -> None:
    with (repo / ".dvc/config").open("a", encoding="utf-8") as file:
        file.write("['remote \"public\"']\n    url = ../../public\n")
    # rows.txt names another remote.
    expected = {"data/raw": "missing", "own.csv": "missing"}
    found = states("public")
    assert {name: found[name] for name in expected} == expected
    assert "rows.txt" not in found


def test_all_commits_checks_objects_of_earlier_commits(repo: Path) -> None:
    commit_id = git(repo, "rev-parse", "--short=7", "HEAD").strip()
    (repo / "own.csv").unlink()
    (repo / "own.csv").write_bytes(b"id,text\n")
    with open_repository(repo) as repository:
        repository.add("own.csv")
        repository.push()
    commit(repo, "another table")
    stored(store(repo), md5(OWN)).unlink()
    assert problems() == []
    [problem] = problems("--all-commits")
    assert problem["object"] == md5(OWN)
    assert [place["commit"] for place in problem["places"]] == [commit_id]


def test_outputs_that_no_remote_must_have_are_named(repo: Path) -> None:
    imported = (
        "frozen: true\ndeps:\n- path: x\n  repo: {url: ../other, rev_lock: abc}\n"
        f"outs:\n- md5: {md5(b'x')}\n  size: 1\n  hash: md5\n  path: imported.txt\n"
    )
    (repo / "imported.txt.dvc").write_text(imported, encoding="utf-8")
    pipeline = PIPELINE.replace("outs:", "outs:\n    - later.txt\n    - kept.txt: {push: false}")
    (repo / "dvc.yaml").write_text(pipeline, encoding="utf-8")
    result = verify()
    assert result.exit_code == 0
    notes = [line for line in result.stdout.splitlines() if line.startswith("not checked: ")]
    assert sorted(notes) == [
        "not checked: imported.txt (stage imported.txt.dvc): it is imported from another "
        "repository, whose remote must have it",
        "not checked: kept.txt (stage make): it has `push: false`",
        "not checked: later.txt (stage make): no hash of it is recorded yet",
    ]


# --- refusals ----------------------------------------------------------------------------------


def test_an_unknown_remote_is_refused(repo: Path) -> None:
    with pytest.raises(UserError, match=r"remote elsewhere: .*doesn't exist.*dvc remote list"):
        verify_raises("elsewhere")


def test_a_server_that_does_not_answer_is_not_called_empty(repo: Path) -> None:
    config = (repo / ".dvc/config").read_text(encoding="utf-8")
    text = config.replace("url = ../../store", "url = http://127.0.0.1:9/bula")
    (repo / ".dvc/config").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="remote local: it cannot be reached"):
        verify_raises("local")


def test_a_repository_without_a_default_remote_is_refused(repo: Path) -> None:
    config = (repo / ".dvc/config").read_text(encoding="utf-8")
    (repo / ".dvc/config").write_text(config.replace("remote = local", ""), encoding="utf-8")
    with pytest.raises(UserError, match=r"no remote is configured for .*dvc remote add -d"):
        verify_raises()


def test_a_folder_without_a_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not inside of a DVC repository"):
        verify_raises()


def test_the_help_of_bula_does_not_import_dvc() -> None:
    code = "import sys, bula.__main__; sys.exit('dvc' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
