"""Turn CITATION.cff into BibTeX."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bula.errors import UserError

FILE = Path("CITATION.cff")
NEEDED = ("title", "authors")
# Characters with a meaning in LaTeX.
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}


def bibtex(file: Path = FILE) -> str:
    """Return the BibTeX entry of a citation file, as type @software.

    Raise UserError if the file is missing, or lacks a field.
    """
    fields = _read(file)
    authors = [_author(author) for author in fields["authors"]]
    released = str(fields.get("date-released", ""))
    entry = {
        "title": f"{{{_latex(fields['title'])}}}",
        "author": " and ".join(authors),
        "year": released[:4],
        "month": released[5:7].lstrip("0"),
        "version": _latex(fields.get("version", "")),
        "license": _latex(fields.get("license", "")),
        "url": str(fields.get("repository-code", "")),
    }
    lines = [f"  {name:7} = {{{value}}}," for name, value in entry.items() if value]
    return "\n".join([f"@software{{bula{released[:4]},", *lines, "}"]) + "\n"


def _read(file: Path) -> dict[str, Any]:
    """Return the fields of a citation file."""
    fix = "restore it from git (`git checkout CITATION.cff`)"
    try:
        fields = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(file, "the file does not exist", fix) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(file, "the file is not YAML", fix) from error
    found = fields if isinstance(fields, dict) else {}
    missing = [name for name in NEEDED if not found.get(name)]
    if missing:
        raise UserError(file, f"the field {missing[0]} is missing", "add it")
    return found


def _author(author: dict[str, str]) -> str:
    """Return an author as BibTeX reads names; the braces keep a group's name together."""
    if "name" in author:
        return f"{{{_latex(author['name'])}}}"
    return f"{_latex(author.get('family-names', ''))}, {_latex(author.get('given-names', ''))}"


def _latex(text: object) -> str:
    """Return text in which LaTeX sees no command."""
    return "".join(LATEX.get(sign, sign) for sign in str(text))
