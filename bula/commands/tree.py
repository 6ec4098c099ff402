"""Generate the tree of the repository in docs/tree.md.

A Python file is described by the first line of its docstring, and a package by that of its
`__init__.py`. DESCRIPTIONS contains the descriptions of all other files and folders.

Run `python -m bula tree --write`.
"""

import ast
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from bula.commands.generated import read_text, replace_section, update
from bula.errors import UserError

FILE = Path("docs/tree.md")
START = "<!-- tree: written by `python -m bula tree --write` -->\n```text\n"
END = "```\n<!-- end of tree -->"
# The folders whose Python files are listed one by one.
PACKAGES = ("bench", "bula", "stages")
# Descriptions of top-level files and folders, and of files in PACKAGES that are not Python.
DESCRIPTIONS = {
    ".ci/": "The scripts that continuous integration runs.",
    ".dvc/": "Configuration of DVC.",
    ".dvcignore": "Files that DVC ignores.",
    ".editorconfig": "Settings of editors.",
    ".gitattributes": "Line ends of text, and binary files, for git.",
    ".github/": "CI workflows, and the pull request template.",
    ".gitignore": "Files that git ignores.",
    ".gitlab-ci.yml": "The CI jobs for GitLab.",
    ".pre-commit-config.yaml": "Quick checks before each commit.",
    "CHANGELOG.md": "Changes of each version.",
    "CITATION.cff": "How to cite this project.",
    "CONTRIBUTING.md": "How to change the pipeline.",
    "LICENSE": "The Apache License 2.0.",
    "Makefile": "Targets for set-up, pipeline and tests.",
    "NOTICE": "Licenses of models, data and packages.",
    "README.md": "Introduction, results and first steps.",
    "README.pt-BR.md": "The introduction in Portuguese.",
    "SECURITY.md": "What may be trusted, and what is checked.",
    "accelerate/": "Launch configurations of Hugging Face accelerate.",
    "bench/llama-3.2.jinja": "The chat template of Llama 3.2.",
    "bench/paraphrases.jsonl": "Questions in other words and in English, for bench.meanings.",
    "bula/emergency/weights.json": "Weights of meaning.py, written by bench.emergency_weights.",
    "cloud/": "A run on a rented machine that may be lost (SkyPilot).",
    "data/": "The demo corpus, user data, and row-level outputs.",
    "docs/": "Pages about usage, data, metrics, GPUs, remotes and benchmarks.",
    "dvc.lock": "Hashes of the last run's inputs and outputs.",
    "dvc.yaml": "The pipeline: stages, inputs and outputs.",
    "metrics/": "Figures of the last run, in git.",
    "models/": "Outputs with weights, in DVC's cache.",
    "params.schema.json": "JSON Schema of params.yaml for editors.",
    "params.yaml": "Parameters of the pipeline.",
    "plots/": "Tables and pictures that DVC plots.",
    "profiles/": "Complete parameter files: embedded default, other bases, GPU run.",
    "pyproject.toml": "Dependencies, and settings of lint, types and tests.",
    "requirements.lock": "Exact versions and hashes of all packages.",
    "stage": "The script that starts a stage.",
    "tasks/": "lm-eval tasks over local items.",
    "templates/": "Chat templates of base models, and templates of pages and hub cards.",
    "tests/": "Tests, most of them one file per module.",
}


def first_line(file: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not docstring:
        raise UserError(file, "the module has no docstring", "describe it in one line")
    return docstring.splitlines()[0]


def module_descriptions(root: Path) -> dict[str, str]:
    """Return the description of each package and module by its path.

    The path of a package ends with a slash.
    """
    descriptions = {}
    for package in PACKAGES:
        for file in (root / package).rglob("*.py"):
            path = file.relative_to(root).as_posix()
            descriptions[path.removesuffix("__init__.py")] = first_line(file)
    return descriptions


def tree_lines(descriptions: Mapping[str, str]) -> list[str]:
    """Return one indented line per path, in columns."""
    paths = sorted(descriptions, key=lambda path: PurePosixPath(path).parts)
    names = {path: _indented_name(path) for path in paths}
    width = max(len(name) for name in names.values())
    return [f"{names[path]:{width}}  {descriptions[path]}\n" for path in paths]


def _indented_name(path: str) -> str:
    """Return the last part of a path, indented by its depth."""
    pure = PurePosixPath(path)
    indent = "  " * (len(pure.parts) - 1)
    slash = "/" if path.endswith("/") else ""
    return indent + pure.name + slash


def with_tree(text: str, root: Path) -> str:
    """Return the text of docs/tree.md with the tree between its marks."""
    lines = tree_lines({**DESCRIPTIONS, **module_descriptions(root)})
    return replace_section(str(FILE), text, (START, END), "".join(lines))


def tree(
    write: Annotated[bool, typer.Option("--write", help="Change docs/tree.md.")] = False,
) -> None:
    """Compare the tree in docs/tree.md with the code, or write it."""
    text = with_tree(read_text(FILE), Path())
    update(FILE, text, command="tree", write=write)
