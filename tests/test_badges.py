"""Check the badges of README.md."""

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bench.clones import ROOT
from bula.commands.badges import END, PROJECT, RECORD, START, badge, draw_badges
from bula.commands.generated import replace_section
from bula.errors import UserError


def test_a_badge_keeps_hyphens_underscores_and_percent_signs() -> None:
    assert badge("a_b", "Apache-2.0 50%", "blue") == (
        "![a_b: Apache-2.0 50%](https://img.shields.io/badge/a__b-Apache--2.0%2050%25-blue)"
    )


def test_badges_show_the_version_and_recorded_figures(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nversion = "1.2.3"\nrequires-python = ">=3.11"\nlicense = "MIT"\n',
        encoding="utf-8",
    )
    record = tmp_path / "tiny.json"
    figures = {"tuned__degenerate": 0.25, "tuned__bits_per_character": 1.186}
    record.write_text(json.dumps({"figures": figures}), encoding="utf-8")
    drawn = draw_badges(project, record)
    assert "![version: 1.2.3]" in drawn
    assert "![tiny tuned, loops: 25%]" in drawn
    assert "![tiny tuned, bits per character: 1.19]" in drawn


def test_a_record_without_a_figure_is_named(tmp_path: Path) -> None:
    record = tmp_path / "tiny.json"
    record.write_text(json.dumps({"figures": {"tuned__degenerate": 0}}), encoding="utf-8")
    with pytest.raises(UserError, match="tuned__bits_per_character"):
        draw_badges(ROOT / PROJECT, record)


def test_the_readme_has_the_badges_of_this_version() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    drawn = draw_badges(ROOT / PROJECT, ROOT / RECORD)
    assert replace_section("README.md", readme, (START, END), drawn) == readme
    rendered = MarkdownIt("commonmark").render(readme[: readme.index("##")])
    assert rendered.count('<img src="https://img.shields.io/badge/') == 5
