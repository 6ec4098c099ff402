"""Keep dvc.yaml's lists of modules and of compare's files correct.

The modules are those that the stages import. The files are those of the variants of params.yaml
that the stage compare reads.

The modules in UNLISTED are left out, so that an edit of them does not retrain a model. DVC tracks
the values of params.yaml, which bula/params.py and bula/param_types.py define, and
bula/param_errors.py, bula/reports.py and bula/errors.py only format.

Run `python -m bula deps --write`.
"""

import ast
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer
from ruamel.yaml import YAML

from bula.commands.generated import read_text, update
from bula.compared_files import variant_names, with_variants

UNLISTED = {
    "bula/__init__.py",
    "stages/__init__.py",
    "bula/params.py",
    "bula/param_errors.py",
    "bula/param_types.py",
    "bula/reports.py",
    "bula/errors.py",
}
PACKAGES = {"bula", "stages"}


def stage_file(root: Path, stage: str) -> str:
    """Return the file that `python -m stages.STAGE` runs.

    The path is relative to the repository.
    """
    package = f"stages/{stage}/__main__.py"
    return package if (root / package).exists() else f"stages/{stage}.py"


def entry_files(root: Path, stage: str) -> set[str]:
    """Return the files that Python reads first in a stage."""
    if stage == "train":
        # The launcher starts fit.py in child processes, so no import leads to that file.
        return {"stages/train/fit.py", "stages/train/__init__.py"}
    file = stage_file(root, stage)
    if file.endswith("/__main__.py"):
        return {file, f"stages/{stage}/__init__.py"}
    return {file}


def closure(root: Path, stage: str) -> set[str]:
    """Return the modules that affect the outputs of a stage, as paths."""
    found: set[str] = set()
    pending = entry_files(root, stage)
    while pending:
        file = pending.pop()
        found.add(file)
        pending.update(imported_files(root, file) - found - UNLISTED)
    return found


def imported_files(root: Path, file: str) -> set[str]:
    """Return the project's files that a file imports directly."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    files: set[str] = set()
    for node in ast.walk(tree):
        for module in _imported_modules(root, node):
            files.update(module_files(root, module))
    return files


def _imported_modules(root: Path, node: ast.AST) -> Iterator[str]:
    """Yield the dotted names of the project's modules that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = _names_in_from_import(root, node.module, node.names)
    else:
        names = []
    for name in names:
        if name.split(".")[0] in PACKAGES:
            yield name


def _names_in_from_import(root: Path, module: str, aliases: list[ast.alias]) -> list[str]:
    """Return the dotted names of the modules that a from-import reads.

    These are the imported submodules, or the module itself if the names are not submodules.
    """
    folder = root / module.replace(".", "/")
    submodules = [alias.name for alias in aliases if (folder / f"{alias.name}.py").exists()]
    return [f"{module}.{name}" for name in submodules] or [module]


def module_files(root: Path, module: str) -> set[str]:
    """Return the files that Python reads to import a module.

    The `__init__.py` of each package on the way is included.
    """
    path = Path(module.replace(".", "/"))
    file = path.with_suffix(".py")
    if not (root / file).exists():
        file = path / "__init__.py"
    packages = {f"{parent}/__init__.py" for parent in path.parents if parent.name}
    return {str(file), *packages}


def with_modules(text: str, root: Path) -> str:
    """Return the text of dvc.yaml with corrected lists of modules.

    Comments, quotes and line lengths stay.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    pipeline = yaml.load(text)
    for name, entry in pipeline["stages"].items():
        listed = entry.get("do", entry)["deps"]
        data = {path for path in listed if not path.endswith(".py")}
        listed[:] = sorted(data | closure(root, name), key=_position)
    result = StringIO()
    yaml.dump(pipeline, result)
    return result.getvalue()


def _position(path: str) -> tuple[bool, str]:
    """Return the sort key of a path; DVC's templates come first."""
    is_template = path.startswith("${")
    return not is_template, path


def deps(
    write: Annotated[bool, typer.Option("--write", help="Change dvc.yaml.")] = False,
    file: Annotated[Path, typer.Option(help="The pipeline.")] = Path("dvc.yaml"),
) -> None:
    """Compare dvc.yaml's lists with imports and variants, or write them.

    A stage whose list changes runs again.
    """
    text = with_modules(read_text(file), file.parent)
    params = file.with_name("params.yaml")
    if params.exists():
        text = with_variants(text, variant_names(params))
    update(file, text, command="deps", write=write)
