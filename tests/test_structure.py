"""The house rules that a program can check: what dvc.yaml lists, how a stage reads, what stages may not do."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT
from bula.commands.deps import stage_file, with_modules

DVC: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = sorted(DVC["stages"])


def body(stage: str) -> dict[str, Any]:
    entry: dict[str, Any] = DVC["stages"][stage]
    inner: dict[str, Any] = entry.get("do", entry)
    return inner


def test_there_is_one_stage_a_file() -> None:
    files = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (ROOT / "stages").glob("*/__main__.py")}
    assert files | packages == set(STAGES)
    assert len(STAGES) == 13


def test_dvc_lists_exactly_the_modules_that_the_stages_import() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert with_modules(text, ROOT) == text


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_runs_stages_as_modules_and_describes_them(stage: str) -> None:
    assert body(stage)["cmd"] == "exec ./stage"
    assert 2 <= len(body(stage)["desc"].split()) <= 8


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_a_docstring_with_its_command_and_a_short_main(stage: str) -> None:
    tree = ast.parse((ROOT / stage_file(ROOT, stage)).read_text(encoding="utf-8"))
    assert f"python -m stages.{stage}" in (ast.get_docstring(tree) or "")
    main = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    assert (main.end_lineno or 0) - main.lineno + 1 <= 40
    assert main.body[-1].lineno - main.body[0].lineno + 1 <= 30


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "stages").rglob("*.py")), *sorted((ROOT / "bula").glob("*.py"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_no_file_does_what_the_house_refuses(path: Path) -> None:
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    if path.is_relative_to(ROOT / "stages"):
        assert not {"json.dump", "json.dumps"} & set(calls)
    if path.name != "models.py":
        assert [call for call in calls if call.endswith("from_pretrained")] == []
    handlers = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
    ]
    assert all(
        node.type is not None and ast.unparse(node.type) not in ("Exception", "BaseException")
        for node in handlers
    )


def test_every_pinned_package_has_one_version_and_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    pin = r"([a-z0-9-]+)==[a-z0-9.]+((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
    assert re.fullmatch(f"(?:{pin})+", body)
    names = [name for name, _ in re.findall(pin, body)]
    assert names == sorted(set(names))


def test_no_stage_depends_on_who_does_the_work() -> None:
    assert [
        stage
        for stage in STAGES
        if any(str(name).startswith("compute") for name in body(stage)["params"])
    ] == []
