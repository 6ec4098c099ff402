"""Check that the page of DVC's plots opens without a network."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bula.__main__ import app
from bula.commands import plots
from bula.errors import UserError
from tests.browser import Watch, open_page
from tests.conftest import run

PIPELINE = "plots:\n- curve.json: {x: step, y: loss, title: Loss}\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a DVC repository with one curve."""
    rows = [{"step": step, "loss": 3.0 - step} for step in range(3)]
    (tmp_path / "curve.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    result = run(["dvc", "init", "--quiet", "--no-scm"], tmp_path)
    assert result.returncode == 0, result.stderr
    return tmp_path


def test_the_page_of_plots_draws_without_a_request(repository: Path, browser: Any) -> None:
    result = run([sys.executable, "-m", "bula", "plots"], repository)
    assert (result.returncode, result.stdout) == (0, "plots: wrote dvc_plots/index.html\n")
    assert [path.name for path in (repository / "dvc_plots").iterdir()] == ["index.html"]
    page, watch = open_page(browser)
    page.goto((repository / "dvc_plots/index.html").as_uri())
    page.wait_for_selector(".vega-embed canvas, .vega-embed svg")
    assert page.locator("h1").inner_text() == "Plots of bula"
    assert watch == Watch()


def fake_draw(monkeypatch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
    """Replace DVC by a program that writes no page and exits with a code."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(plots, "vega_scripts", lambda: "")
    monkeypatch.setattr(plots, "draw", lambda *_: code)


def test_a_failure_of_dvc_keeps_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_draw(monkeypatch, tmp_path, 251)
    result = CliRunner().invoke(app, ["plots"])
    assert (result.exit_code, result.output) == (251, "")


def test_an_old_page_is_not_taken_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_draw(monkeypatch, tmp_path, 0)
    (tmp_path / "dvc_plots").mkdir()
    (tmp_path / "dvc_plots/index.html").write_text("old", encoding="utf-8")
    result = CliRunner().invoke(app, ["plots"])
    assert isinstance(result.exception, UserError)
    assert "DVC found no plots" in str(result.exception)
    assert list((tmp_path / "dvc_plots").iterdir()) == []


def test_a_missing_dvc_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(plots, "vega_scripts", lambda: "")
    result = CliRunner().invoke(app, ["plots"])
    assert isinstance(result.exception, UserError)
    assert "run `make plots`" in str(result.exception)
    assert list((tmp_path / "dvc_plots").iterdir()) == []
