"""Build a small repository, and run `bula preflight` in it."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bench.clones import ROOT, edit_params
from bula.__main__ import app
from bula.api_keys import HOSTS, KEY

Params = dict[str, Any]
Edit = Callable[[Params], None]
# A base model on this machine.
HERE = {"kind": "directory", "path": "data", "license": "mit"}


def make_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fill the current directory like a fresh clone, whose pip reaches no index."""
    for name in ("tasks", "accelerate", "templates"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "data/demo", folder / "data/demo")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    shutil.copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    monkeypatch.chdir(folder)
    for name in (KEY, HOSTS, "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed_port()}/simple")
    return folder


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def edit(change: Edit) -> None:
    """Change params.yaml."""
    edit_params(Path("params.yaml"), change)


def preflight(*options: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["preflight", *options])


def faults(*options: str) -> dict[str, str]:
    """Run the command; return the text and the fix of each fault by its key."""
    result = preflight("--json", *options)
    found = json.loads(result.stdout)["faults"]
    assert result.exit_code == (1 if found else 0)
    return {fault["key"]: f"{fault['text']}. {fault['fix']}" for fault in found}


def point_judge_to(url: str, **changes: Any) -> None:
    """Let params.yaml name a judge at an address, and no model of a package index."""

    def change(params: Params) -> None:
        params["ingest"]["base"] = HERE
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"].update(base_url=url, model="judge-1", **changes)

    edit(change)


def set_key(path: str, value: object, params: Params) -> None:
    """Write a value at a dotted key."""
    *parents, last = path.split(".")
    for name in parents:
        params = params[name]
    params[last] = value
