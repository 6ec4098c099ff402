"""Write a small finished run: weights, rows, figures, and the repositories of git and DVC."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench.clones import ROOT, edit_params
from bula.gguf_adapter import make_converter, write_gguf_adapter
from bula.model_cards import adapter_documents, gguf_documents, merged_documents
from bula.params import load_params
from tests.test_model_cards import FILES, MERGING, TRAINING

OUTPUTS = ("models/adapter", "models/merged", "models/gguf", "data/clean")
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def write_run(folder: Path, models: Path, clean: Path) -> None:
    """Write a run of the default profile below `folder`, which is the current directory.

    `models` has base, adapter and merged model, and `clean` has the rows. The figures are those of
    the repository's last run.
    """
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    shutil.copy(ROOT / "CITATION.cff", folder)
    shutil.copytree(ROOT / "metrics", folder / "metrics")
    shutil.copytree(clean, folder / "data/clean")
    for name in ("adapter", "merged"):
        shutil.copytree(models / name, folder / "models" / name)
    gguf = folder / "models/gguf"
    gguf.mkdir()
    # The content is in float32, because so small a model has no layers that a type could shorten.
    make_converter(models / "merged", gguf / "q4_k_m.gguf").write()
    write_gguf_adapter(models / "adapter", models / "merged", gguf / "adapter.gguf")
    write_documents(folder)


def write_documents(folder: Path) -> None:
    """Write the legal files and cards of the stages for the base in params.yaml."""
    params = load_params(folder / "params.yaml")
    base = folder / "models/base"
    found = {
        "adapter": adapter_documents(params, TRAINING, base),
        "merged": merged_documents(params, MERGING, base),
        "gguf": gguf_documents(params, FILES, base),
    }
    for name, documents in found.items():
        for file, content in documents.items():
            (folder / "models" / name / file).write_bytes(content)


def edit_figures(folder: Path, name: str, **changes: Any) -> None:
    """Change figures in one file of metrics/; a dictionary changes figures of a group."""
    path = folder / "metrics" / name
    figures = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if isinstance(value, dict):
            figures[key].update(value)
        else:
            figures[key] = value
    path.write_text(json.dumps(figures), encoding="utf-8")


def edit_run(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the parameters, and the documents that follow from them."""
    edit_params(folder / "params.yaml", edit)
    for name in ("adapter", "merged", "gguf"):
        (folder / "models" / name / "LICENSE").unlink()
    write_documents(folder)


def record(folder: Path, outputs: Sequence[str] = OUTPUTS) -> str:
    """Record the run by DVC and git, and return the commit."""
    stage = {"cmd": "exit 1", "params": ["seed"], "outs": list(outputs)}
    YAML().dump({"stages": {"run": stage}}, folder / "dvc.yaml")
    (folder / ".gitignore").write_text(".bula/\n", encoding="utf-8")
    for command in (
        ("git", "init", "--quiet"),
        ("dvc", "init", "--quiet"),
        ("dvc", "config", "core.analytics", "false"),
        ("dvc", "commit", "--quiet", "--force"),
        ("git", "add", "."),
        (*GIT, "commit", "--quiet", "-m", "run"),
    ):
        subprocess.run(command, cwd=folder, check=True)
    head = ("git", "rev-parse", "HEAD")
    return subprocess.run(head, cwd=folder, check=True, capture_output=True, text=True).stdout[:40]


def write_rows_only(folder: Path, clean: Path) -> None:
    """Write parameters, citation and rows, for tests that need no weights."""
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    shutil.copy(ROOT / "CITATION.cff", folder)
    shutil.copytree(clean, folder / "data/clean")
