"""Check the rules of this repository that a program can check."""

import ast
import re
import subprocess
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench.clones import ROOT
from bula.__main__ import app
from bula.commands.deps import stage_file
from bula.commands.tree import (
    DESCRIPTIONS,
    END,
    PACKAGES,
    START,
    first_line,
    module_descriptions,
    tree_lines,
    with_tree,
)
from bula.errors import UserError

DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = sorted(DVC["stages"])
STAGE_FILES = sorted((ROOT / "stages").rglob("*.py"))
LIBRARY_FILES = sorted((ROOT / "bula").rglob("*.py"))
Node = TypeVar("Node", bound=ast.AST)


def body(stage: str) -> dict[str, Any]:
    """Return the entry of a stage in dvc.yaml, without its foreach."""
    entry = DVC["stages"][stage]
    inner: dict[str, Any] = entry.get("do", entry)
    return inner


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(path: Path, kind: type[Node]) -> list[Node]:
    """Return all nodes of one kind in a Python file."""
    found = ast.walk(parse(path))
    return [node for node in found if isinstance(node, kind)]


def name_in_repository(path: Path) -> str:
    """Return a path relative to the repository."""
    return str(path.relative_to(ROOT))


# Stages


def test_each_stage_has_one_file_or_package() -> None:
    folder = ROOT / "stages"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in folder.glob("*/__main__.py")}
    assert files | packages == set(STAGES)
    assert len(STAGES) == 21


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_runs_and_describes_each_stage_in_the_same_way(stage: str) -> None:
    entry = body(stage)
    words = entry["desc"].split()
    assert entry["cmd"] == "exec ./stage"
    assert 2 <= len(words) <= 8


@pytest.mark.parametrize("stage", STAGES)
def test_the_docstring_of_a_stage_has_its_command(stage: str) -> None:
    file = ROOT / stage_file(ROOT, stage)
    docstring = ast.get_docstring(parse(file))
    assert f"python -m stages.{stage}" in (docstring or "")


@pytest.mark.parametrize("stage", STAGES)
def test_main_of_a_stage_has_at_most_30_lines(stage: str) -> None:
    functions = nodes(ROOT / stage_file(ROOT, stage), ast.FunctionDef)
    [main] = [function for function in functions if function.name == "main"]
    last_line = main.end_lineno or 0
    first_statement = main.body[0].lineno
    last_statement = main.body[-1].lineno
    assert last_line - main.lineno + 1 <= 40
    assert last_statement - first_statement + 1 <= 30


@pytest.mark.parametrize("section", ["compute", "review"])
def test_no_stage_depends_on_a_section_that_changes_no_output(section: str) -> None:
    for stage in STAGES:
        names = map(str, body(stage)["params"])
        assert not any(name.startswith(section) for name in names), stage


# Refused code


def calls(path: Path) -> list[str]:
    """Return the source text of each called function in a file."""
    return [ast.unparse(call.func) for call in nodes(path, ast.Call)]


@pytest.mark.parametrize("path", STAGE_FILES, ids=name_in_repository)
def test_a_stage_does_not_write_json_itself(path: Path) -> None:
    assert {"json.dump", "json.dumps"}.isdisjoint(calls(path))


@pytest.mark.parametrize(
    "path",
    [path for path in [*STAGE_FILES, *LIBRARY_FILES] if path.name != "models.py"],
    ids=name_in_repository,
)
def test_only_models_py_calls_from_pretrained(path: Path) -> None:
    assert [call for call in calls(path) if call.endswith("from_pretrained")] == []


@pytest.mark.parametrize(
    "path",
    # A thread of this module hands every exception to the main thread, which raises it.
    [
        path
        for path in [*STAGE_FILES, *LIBRARY_FILES]
        if path.parts[-2:] != ("preflight", "checks.py")
    ],
    ids=name_in_repository,
)
def test_no_handler_catches_every_exception(path: Path) -> None:
    for handler in nodes(path, ast.ExceptHandler):
        assert handler.type is not None
        assert ast.unparse(handler.type) not in ("Exception", "BaseException")


# The lock


def test_each_locked_package_has_one_version_and_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    without_comments = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    pin = r"([a-z0-9-]+)==[a-z0-9.]+(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(f"(?:{pin})+", without_comments)
    names = re.findall(pin, without_comments)
    assert names == sorted(set(names))


# The tree

MODULES = module_descriptions(ROOT)


def tracked_files() -> list[str]:
    """Return the paths that git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    return result.stdout.splitlines()


def test_docs_tree_equals_the_generated_tree() -> None:
    text = (ROOT / "docs/tree.md").read_text(encoding="utf-8")
    advice = "run `python -m bula tree --write`"
    assert with_tree(text, ROOT) == text, advice


@pytest.mark.parametrize("path", sorted(MODULES))
def test_the_first_line_of_a_module_docstring_has_at_most_12_words(path: str) -> None:
    assert len(MODULES[path].split()) <= 12
    assert MODULES[path].endswith(".")


def test_every_top_level_file_and_folder_has_a_description() -> None:
    split = [path.partition("/") for path in tracked_files()]
    top_level = {name + slash for name, slash, _ in split}
    described = {path for path in DESCRIPTIONS if "/" not in path.removesuffix("/")}
    assert top_level == described | {f"{package}/" for package in PACKAGES}


def test_every_file_in_a_listed_package_has_a_description() -> None:
    folders = tuple(f"{package}/" for package in PACKAGES)
    files = {path.removesuffix("__init__.py") for path in tracked_files()}
    listed = {path for path in files if path.startswith(folders)}
    described = {path for path in DESCRIPTIONS if path.startswith(folders)}
    assert listed == described | MODULES.keys()


def test_the_tree_indents_files_below_their_folder() -> None:
    descriptions = {
        "a/b.py": "Do.",
        "a/": "Share.",
        "Z.md": "Read.",
        "a/c/": "Keep.",
    }
    assert tree_lines(descriptions) == [
        "Z.md    Read.\n",
        "a/      Share.\n",
        "  b.py  Do.\n",
        "  c/    Keep.\n",
    ]


def test_a_module_without_a_docstring_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.py: the module has no docstring"):
        first_line(tmp_path / "x.py")


@pytest.fixture
def small_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a current directory with one module and an empty tree."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "bula/one.py").write_text('"""Do one thing."""\n', encoding="utf-8")
    (tmp_path / "docs").mkdir()
    text = f"Before.\n{START}{END}\nAfter.\n"
    (tmp_path / "docs/tree.md").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bula_tree_writes_between_the_marks(small_repository: Path) -> None:
    result = CliRunner().invoke(app, ["tree", "--write"])
    assert (result.exit_code, result.output) == (0, "tree: docs/tree.md was written\n")
    text = (small_repository / "docs/tree.md").read_text(encoding="utf-8")
    assert re.search(r"^  one\.py +Do one thing\.$", text, re.MULTILINE)
    assert text.startswith(f"Before.\n{START}")
    assert text.endswith(f"{END}\nAfter.\n")


def test_bula_tree_reports_an_old_tree_and_keeps_it(small_repository: Path) -> None:
    before = (small_repository / "docs/tree.md").read_bytes()
    result = CliRunner().invoke(app, ["tree"])
    assert isinstance(result.exception, UserError)
    assert "python -m bula tree --write" in str(result.exception)
    assert (small_repository / "docs/tree.md").read_bytes() == before


def test_bula_tree_names_a_missing_mark(small_repository: Path) -> None:
    (small_repository / "docs/tree.md").write_text("No marks.\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["tree", "--write"])
    assert isinstance(result.exception, UserError)
    assert START.strip()[:20] in str(result.exception)


def imported_modules(file: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def forbidden_imports(path: str) -> tuple[str, ...]:
    """Return the packages above or beside a file, as prefixes of module names."""
    parts = path.removesuffix(".py").split("/")
    if parts[0] == "bench":
        return ("tests",)
    if parts[0] == "stages":
        return ("tests", "bench", "bula.commands", "stages")
    if parts[1] == "commands" or path == "bula/__main__.py":
        return ("tests", "bench", "stages")
    return ("tests", "bench", "stages", "bula.commands")


SOURCES = [
    str(path.relative_to(ROOT))
    for folder in ("stages", "bula", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", SOURCES)
def test_no_module_imports_upward_or_sideways(path: str) -> None:
    own_stage = ".".join(path.removesuffix(".py").split("/")[:2])
    refused = []
    for module in imported_modules(ROOT / path):
        is_own = module.startswith(own_stage + ".")
        if module.split(".")[0] in forbidden_imports(path) and not is_own:
            refused.append(module)
        if module.startswith("bula.commands") and "bula.commands" in forbidden_imports(path):
            refused.append(module)
    assert refused == []
