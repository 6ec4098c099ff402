"""Write tiny repositories of git and DVC, with remotes.

`start_repository` takes the files of a test. `write_repository` writes a repository whose dvc.yaml
has the shapes of the project's own: a folder and a file go to the default remote, and a folder and
a file of rows go to the remote rows. Each run of a stage adds a line to `runs.log`.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
from dvc.cli import main as dvc_main
from dvc.repo import Repo

from bench.clones import commit, git
from bench.remote_servers import PLACES, Place, missing

# The content of .dvc/config without a remote, and with remotes in folders beside the repository.
NO_REMOTE = "[core]\n    analytics = false\n"
LOCAL = """\
[core]
    analytics = false
    remote = local
['remote "local"']
    url = ../../store
    verify = true
"""
LOCAL_AND_ROWS = f"""\
{LOCAL}\
['remote "rows"']
    url = ../../rows
    verify = true
"""
PIPELINE = """\
stages:
  preprocess:
    cmd: echo preprocess >> runs.log && mkdir -p data/clean && cp in/rows data/clean/train.jsonl
      && cp in/bad data/quarantine.jsonl
    deps: [in]
    outs:
    - data/clean: {remote: rows}
    - data/quarantine.jsonl: {remote: rows}
  train:
    cmd: echo train >> runs.log && mkdir -p models/adapter && cp in/config in/weights models/adapter
    deps: [in, data/clean]
    outs:
    - models/adapter
  quantize:
    cmd: echo quantize >> runs.log && mkdir -p models/gguf && cp in/gguf models/gguf/q8_0.gguf
    deps: [in, models/adapter]
    outs:
    - models/gguf
    - models/size.txt
"""
PIPELINE = PIPELINE.replace("q8_0.gguf\n", "q8_0.gguf && echo 8 > models/size.txt\n")
ARTIFACTS = """\
artifacts:
  adapter: {path: models/adapter, type: model}
  quantized: {path: models/gguf, type: model}
  dataset: {path: data/clean, type: dataset}
"""
INPUTS = {
    "rows": b'{"id": "a"}\n{"id": "b"}\n',
    "bad": b"masked\n",
    "config": b'{"r": 8}\n',
    "weights": bytes(range(256)) * 8,
    "gguf": b"GGUF" + bytes(500),
}
# The outputs' files with their content.
FILES = {
    "data/clean/train.jsonl": INPUTS["rows"],
    "data/quarantine.jsonl": INPUTS["bad"],
    "models/adapter/config": INPUTS["config"],
    "models/adapter/weights": INPUTS["weights"],
    "models/gguf/q8_0.gguf": INPUTS["gguf"],
    "models/size.txt": b"8\n",
}
# Files and the manifests of three folders.
OBJECTS = len(FILES) + 3


@contextmanager
def place(kind: str, folder: Path, stored: Path | None = None) -> Iterator[Place]:
    """Yield a place of a kind, or skip the test where its server is missing."""
    if reason := missing(kind):
        pytest.skip(reason)
    with PLACES[kind](folder, stored) as opened:
        yield opened


def config_text(place: Place, prefix: str) -> str:
    """Return a .dvc/config with the remotes team, the default, and rows."""
    lines = ["[core]", "    analytics = false", "    remote = team"]
    for name in ("team", "rows"):
        lines += [f"['remote \"{name}\"']", f"    url = {place.root}/{prefix}/{name}"]
        lines += ["    verify = true"]
        lines += [f"    {key} = {value}" for key, value in place.settings.items()]
    return "\n".join(lines) + "\n"


def dvc(folder: Path, *arguments: str) -> int:
    """Run a command of DVC in a folder, and return its exit code."""
    with chdir(folder), quiet():
        return int(dvc_main(list(arguments)))


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings of DVC's own code."""
    with warnings.catch_warnings():
        # DVC 3.67 calls a deprecated function of pygtrie.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextmanager
def open_repository(folder: Path) -> Iterator[Repo]:
    """Yield the functions behind the commands of DVC, in a folder."""
    with chdir(folder), quiet(), Repo() as repository:
        yield repository


def start_repository(folder: Path, config: str, files: Mapping[str, str | bytes]) -> None:
    """Start a repository of git and DVC with these files, and commit nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    ignored = "/config.local\n/tmp\n/cache\n"
    files = {".dvc/config": config, ".dvc/.gitignore": ignored, **files}
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def push_run(folder: Path) -> None:
    """Run the pipeline, push to the remotes, and commit."""
    with open_repository(folder) as repository:
        repository.reproduce()
        repository.push()
    commit(folder, "run")


def write_repository(folder: Path) -> None:
    """Write the repository and run its pipeline. It has no remote yet."""
    files: dict[str, str | bytes] = {f"in/{name}": content for name, content in INPUTS.items()}
    files |= {".gitignore": "/runs.log\n", "dvc.yaml": PIPELINE + ARTIFACTS}
    start_repository(folder, NO_REMOTE, files)
    with open_repository(folder) as repository:
        repository.reproduce()


def push_to(folder: Path, place: Place, prefix: str) -> None:
    """Name remotes at a place, commit that, and push."""
    (folder / ".dvc/config").write_text(config_text(place, prefix), encoding="utf-8")
    commit(folder, "name remotes")
    assert dvc(folder, "push") == 0


def clone(repo: Path, name: str = "clone") -> Path:
    """Return a new clone beside a repository, without its cache and log."""
    folder = repo.parent / name
    shutil.rmtree(folder, ignore_errors=True)
    git(repo.parent, "clone", "--quiet", str(repo), str(folder))
    return folder


def delivered(folder: Path) -> dict[str, bytes]:
    """Return the outputs' files that a clone has."""
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}
