"""Test the citation file, and its form as BibTeX."""

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT
from bula.errors import UserError
from bula.publish.citation import bibtex

TEXT = """\
cff-version: 1.2.0
title: "A & B: 50 % {of} x_y"
version: 1.0
date-released: 2026-03-05
license: MIT
repository-code: https://example.org/a_b
authors:
  - family-names: Souza
    given-names: Ana
  - name: The C authors
"""
ENTRY = r"""@software{bula2026,
  title   = {{A \& B: 50 \% \{of\} x\_y}},
  author  = {Souza, Ana and {The C authors}},
  year    = {2026},
  month   = {3},
  version = {1.0},
  license = {MIT},
  url     = {https://example.org/a_b},
}
"""


def test_a_citation_becomes_bibtex(tmp_path: Path) -> None:
    file = tmp_path / "CITATION.cff"
    file.write_text(TEXT, encoding="utf-8")
    assert bibtex(file) == ENTRY


def test_a_citation_may_lack_date_and_version(tmp_path: Path) -> None:
    file = tmp_path / "CITATION.cff"
    file.write_text("title: A\nauthors:\n  - name: B\n", encoding="utf-8")
    assert bibtex(file) == "@software{bula,\n  title   = {{A}},\n  author  = {{B}},\n}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.partition("authors:")[0], "the field authors is missing"),
        ("title: [", "the file is not YAML"),
        ("- a list\n", "the field title is missing"),
    ],
)
def test_a_damaged_citation_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "CITATION.cff"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        bibtex(file)
    file.unlink()
    with pytest.raises(UserError, match="the file does not exist"):
        bibtex(file)


def test_our_citation_has_the_fields_of_its_format() -> None:
    fields = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    # Citation File Format 1.2.0: these keys are required.
    assert {"cff-version", "message", "title", "authors"} <= set(fields)
    assert (fields["cff-version"], fields["type"]) == ("1.2.0", "software")
    assert isinstance(fields["date-released"], date)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert str(fields["version"]) == project["version"]
    assert all(
        set(author) <= {"name", "family-names", "given-names"} for author in fields["authors"]
    )


def test_the_documentation_has_the_entry() -> None:
    text = (ROOT / "docs/usage.md").read_text(encoding="utf-8")
    [entry] = re.findall(r"```bibtex\n(.*?)```", text, re.DOTALL)
    assert entry == bibtex(ROOT / "CITATION.cff")
