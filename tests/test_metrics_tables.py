"""Test DVC's tables of metrics: a reviewer's few lines, in a stable order."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, commit, git
from tests.conftest import run

# GitHub refuses a comment with more characters.
COMMENT_CHARACTERS = 65_536
LINES = 40
FIGURES = 30
SUMMARY = "metrics/summary.json"
DVC: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def shift(value: Any) -> Any:
    """Return a JSON value in which every number is another one."""
    if isinstance(value, dict):
        return {key: shift(entry) for key, entry in value.items()}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value + 1
    return value


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the pipeline's outputs, in which every figure has changed.

    Its stages have no command's inputs, because DVC's tables read none.
    """
    folder = tmp_path_factory.mktemp("tables")
    stages = {}
    for name, entry in DVC["stages"].items():
        body = entry.get("do", entry)
        kept = {key: body[key] for key in ("cmd", "outs", "metrics") if key in body}
        stages[name] = {"foreach": entry["foreach"], "do": kept} if "do" in entry else kept
    YAML(typ="safe").dump({**DVC, "stages": stages}, folder / "dvc.yaml")
    (folder / "params.yaml").write_bytes((ROOT / "profiles/smollm2-135m.yaml").read_bytes())
    git(folder, "init", "--quiet")
    assert run(["dvc", "init", "--quiet"], folder).returncode == 0
    files = sorted((ROOT / "metrics").rglob("*.json"))
    for file in files:
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    commit(folder, "a run")
    for file in files:
        changed = shift(json.loads(file.read_text(encoding="utf-8")))
        copy = folder / file.relative_to(ROOT)
        copy.write_text(json.dumps(changed), encoding="utf-8")
    return folder


def dvc(folder: Path, *arguments: str, **environment: str) -> str:
    result = run(["dvc", "metrics", *arguments], folder, **environment)
    assert result.returncode == 0, result.stderr
    output: str = result.stdout
    return output


def test_the_diff_of_two_runs_fits_a_pull_request_in_a_stable_order(repo: Path) -> None:
    first = dvc(repo, "diff", "--md", PYTHONHASHSEED="1")
    assert len(first.splitlines()) <= LINES
    assert len(first) < COMMENT_CHARACTERS
    assert dvc(repo, "diff", "--md", PYTHONHASHSEED="2") == first
    rows = [line.split("|") for line in first.splitlines()[2:] if line]
    assert {row[1].strip() for row in rows} == {SUMMARY}
    names = [row[2].strip() for row in rows]
    assert names == sorted(names)
    expected = ("tuned.perplexity", "tuned.question_worth_bits", "tuned.degenerate_share")
    assert {*expected, "quantized_minus_tuned.kl_nats"} <= set(names)


def test_the_table_of_metrics_has_one_row_of_few_figures(repo: Path) -> None:
    lines = dvc(repo, "show", "--md").splitlines()
    # The head, its rule and one file.
    assert len([line for line in lines if line]) == 3
    assert lines[0].count("|") - 2 <= FIGURES


def test_a_file_of_details_is_shown_when_it_is_named(repo: Path) -> None:
    name = "metrics/likelihood/tuned.json"
    shown = json.loads(dvc(repo, "diff", "--json", "--targets", name))
    assert list(shown) == [name]
    assert "pooled.perplexity" in shown[name]


def test_only_the_headline_is_a_metric_of_dvc() -> None:
    listed = []
    for entry in DVC["stages"].values():
        for metric in entry.get("do", entry).get("metrics", []):
            listed.extend(metric)
    assert listed == [SUMMARY]
    assert "metrics" not in DVC
