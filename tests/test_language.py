"""The rules of CONTRIBUTING.md on language and layout that lint does not know."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.clones import ROOT

FILES = sorted(
    path
    for folder in ("stages", "bula", "bench", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
MOST_LINES = 45
# Phrases that replace a noun or the field's own word.
DIALECT = re.compile(
    r"\b(one that|none of (it|them)|as (it|they) stands?|lets? go|is told|of its own)\b",
    re.IGNORECASE,
)


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def prose(text: str) -> Iterator[str]:
    """Yield the comments and docstrings of a module."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_functions_have_at_most_45_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    long = [f.name for f in functions(text) if (f.end_lineno or 0) - f.lineno >= MOST_LINES]
    assert long == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_comments_and_docstrings_contain_no_dialect(path: Path) -> None:
    found = [part for part in prose(path.read_text(encoding="utf-8")) if DIALECT.search(part)]
    assert found == []


STRICT_FILES = [path for path in FILES if path.relative_to(ROOT).parts[0] in ("bula", "stages")]
STRICT_NAMES = [str(path.relative_to(ROOT)) for path in STRICT_FILES]
MOST_WORDS = 14
MOST_LINES_OF_MAIN = 30


def first_lines(text: str) -> Iterator[str]:
    """Yield the first line of each docstring of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            yield from docstring.splitlines()[:1]


@pytest.mark.parametrize("path", STRICT_FILES, ids=STRICT_NAMES)
def test_the_first_line_of_a_docstring_is_a_short_sentence(path: Path) -> None:
    # The JSON schema of verdicts contains its line, and another one would invalidate the ledgers.
    kept = "What the judge must return"
    text = path.read_text(encoding="utf-8")
    lines = [line for line in first_lines(text) if not line.startswith(kept)]
    assert [line for line in lines if len(line.split()) > MOST_WORDS] == []
    assert [line for line in lines if line.startswith(("What ", "How ", "Which "))] == []


@pytest.mark.parametrize("path", STRICT_FILES, ids=STRICT_NAMES)
def test_main_has_at_most_30_lines(path: Path) -> None:
    found = functions(path.read_text(encoding="utf-8"))
    lengths = [(f.end_lineno or 0) - f.lineno + 1 for f in found if f.name == "main"]
    assert all(length <= MOST_LINES_OF_MAIN for length in lengths)
