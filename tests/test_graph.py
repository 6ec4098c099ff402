"""The graph in README.md: collapsed to stages, reduced, and equal to dvc.yaml's."""

from pathlib import Path

import pytest

from bench.clones import ROOT
from bula.commands.generated import replace_section
from bula.commands.graph import END, START, dependencies, mermaid

# DVC 3.67 reads `foreach` through a name that its parser has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")


def test_arrows_that_follow_from_others_are_left_out() -> None:
    pairs = {("a", "b"), ("b", "c"), ("a", "c")}
    assert mermaid(pairs) == "flowchart LR\n  a --> b\n  b --> c\n"


def test_stages_with_the_same_sources_share_a_line() -> None:
    pairs = {("a", "c"), ("b", "c"), ("a", "d"), ("b", "d")}
    assert mermaid(pairs) == "flowchart LR\n  a & b --> c & d\n"


def test_variants_of_a_stage_share_a_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    stages = """
stages:
  first: {cmd: "true", outs: [one]}
  second:
    foreach: [x, y]
    do: {cmd: "true", deps: [one], outs: ["two-${item}"]}
"""
    (tmp_path / "dvc.yaml").write_text(stages, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert dependencies(tmp_path) == {("first", "second")}


def test_the_readme_has_the_graph_of_the_pipeline() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    drawn = mermaid(dependencies(ROOT))
    assert replace_section("README.md", readme, (START, END), drawn) == readme


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
