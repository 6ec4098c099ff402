"""The graph in README.md: collapsed to boxes, reduced, and equal to dvc.yaml's."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.clones import ROOT
from bula.__main__ import app
from bula.commands.generated import replace_section
from bula.commands.graph import BOXES, END, START, collapse, dependencies, mermaid
from bula.errors import UserError
from tests.conftest import run

# DVC 3.67 reads `foreach` through a name that its parser has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning")


def test_arrows_that_follow_from_others_are_left_out() -> None:
    pairs = {("a", "b"), ("b", "c"), ("a", "c")}
    assert mermaid(pairs) == "flowchart LR\n  a --> b\n  b --> c\n"


def test_stages_with_the_same_sources_share_a_line() -> None:
    pairs = {("a", "c"), ("b", "c"), ("a", "d"), ("b", "d")}
    assert mermaid(pairs) == "flowchart LR\n  a & b --> c & d\n"


def test_related_stages_share_a_box_with_their_names() -> None:
    pairs = {("train", "merge"), ("merge", "quantize"), ("quantize", "generate")}
    assert mermaid(pairs) == (
        "flowchart LR\n"
        '  merge_quantize["merge, quantize"] & generate_safety["generate, safety"]\n'
        "  merge_quantize --> generate_safety\n"
        "  train --> merge_quantize\n"
    )


def test_a_box_contains_only_stages_of_the_pipeline() -> None:
    stages = {name for pair in dependencies(ROOT) for name in pair}
    assert {name for box in BOXES for name in box} <= stages


def test_the_drawing_has_at_most_15_boxes() -> None:
    names = {name for pair in collapse(dependencies(ROOT)) for name in pair}
    assert len(names) <= 15


def test_github_draws_the_complete_graph_of_dvc() -> None:
    drawn = run(["dvc", "dag", "--md"], ROOT).stdout
    assert drawn.startswith("```mermaid\nflowchart TD\n")
    # The limits of Mermaid that GitHub keeps.
    assert len(drawn) <= 50_000
    assert drawn.count("-->") <= 500


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


@pytest.mark.parametrize("command", ["deps", "tree", "graph", "schema", "licenses"])
def test_a_command_outside_the_repository_is_refused_in_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [command])
    assert isinstance(result.exception, UserError)
    assert "the file does not exist" in str(result.exception)
    assert "in the repository's root" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
