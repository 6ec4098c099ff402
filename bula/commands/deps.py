"""Keep dvc.yaml's lists of modules equal to what the stages import: python -m bula deps --write.

bula/params.py, bula/reports.py and bula/errors.py are left out on purpose: DVC tracks the values of
params.yaml, and the other two only format, so that an edit of them retrains no model.
"""

import ast
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer
from ruamel.yaml import YAML

from bula.errors import UserError
from bula.files import staged

UNLISTED = {
    "bula/__init__.py",
    "stages/__init__.py",
    "bula/params.py",
    "bula/reports.py",
    "bula/errors.py",
}
PACKAGES = ("bula", "stages")


def stage_file(root: Path, stage: str) -> str:
    """Return the file that `python -m stages.STAGE` runs, relative to the repository."""
    package = f"stages/{stage}/__main__.py"
    return package if (root / package).exists() else f"stages/{stage}.py"


def module_files(root: Path, dotted: str) -> set[str]:
    """Return the files that Python reads to import a module, packages included."""
    path = dotted.replace(".", "/")
    file = f"{path}.py" if (root / f"{path}.py").exists() else f"{path}/__init__.py"
    packages = {f"{parent}/__init__.py" for parent in Path(path).parents if parent.name}
    return {file} | packages


def imported(root: Path, file: str) -> set[str]:
    """Return the project's modules that a file imports directly, as paths."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.split(".")[0] in PACKAGES:
            for module in _modules(root, node):
                found |= module_files(root, module)
    return found


def _modules(root: Path, node: ast.ImportFrom) -> list[str]:
    """Return the modules that a from-import reads: the submodules, or else the module itself."""
    folder = root / str(node.module).replace(".", "/")
    names = [alias.name for alias in node.names if (folder / f"{alias.name}.py").exists()]
    return [f"{node.module}.{name}" for name in names] or [str(node.module)]


def closure(root: Path, stage: str) -> set[str]:
    """Return the modules that shape what a stage writes, as paths."""
    first = stage_file(root, stage)
    todo = {first}
    if first.endswith("__main__.py"):
        todo.add(f"stages/{stage}/__init__.py")
    if stage == "train":
        # The launcher starts fit.py in processes of its own, which no import shows.
        todo = {"stages/train/fit.py", "stages/train/__init__.py"}
    seen: set[str] = set()
    while todo:
        file = todo.pop()
        seen.add(file)
        todo |= imported(root, file) - seen - UNLISTED
    return seen


def with_modules(text: str, root: Path) -> str:
    """Return the text of dvc.yaml with each stage's list of modules as the code has it."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    pipeline = yaml.load(text)
    for name, entry in pipeline["stages"].items():
        listed = entry.get("do", entry)["deps"]
        data = [path for path in listed if not path.endswith(".py")]
        listed[:] = sorted({*data, *closure(root, name)}, key=_order)
    result = StringIO()
    yaml.dump(pipeline, result)
    return result.getvalue()


def _order(path: str) -> tuple[bool, str]:
    """Return the sort key of a path: paths that are templates come first."""
    return not path.startswith("${"), path


def deps(
    write: Annotated[bool, typer.Option("--write", help="Change dvc.yaml.")] = False,
    file: Annotated[Path, typer.Option(help="The pipeline.")] = Path("dvc.yaml"),
) -> None:
    """Compare dvc.yaml's lists of modules with the imports, or write them."""
    before = file.read_text(encoding="utf-8")
    after = with_modules(before, file.parent)
    if before == after:
        print(f"deps: {file} lists what the stages import")
        return
    if not write:
        fix = "run `python -m bula deps --write`"
        raise UserError(file, "its lists of modules differ from what the stages import", fix)
    with staged(file) as temporary:
        temporary.write_text(after, encoding="utf-8")
    print(f"deps: {file} was written; a stage whose list changed runs again")
