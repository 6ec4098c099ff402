"""Test `bula sweep` on a two-layer model, and the commands that docs/usage.md names."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from bench.clones import clone_tree, commit, edit_params, shorten, small
from bula.commands.sweep import rate_settings, table
from bula.errors import UserError
from tests.conftest import run

IDENTITY = {
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org",
    "HF_HUB_OFFLINE": "1",
}


def test_every_rate_but_the_own_one_is_an_experiment_once() -> None:
    assert rate_settings([0.003, 0.0001, 0.001, 0.003], own=0.001) == {
        "rate-0.0001": "train.learning_rate=0.0001",
        "rate-0.003": "train.learning_rate=0.003",
    }


@pytest.mark.parametrize("rate", [0.0, -1e-4, math.nan, math.inf])
def test_a_rate_that_is_not_a_positive_number_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="is not positive"):
        rate_settings([1e-4, rate], own=1e-3)


def test_the_table_names_the_rate_with_the_lowest_loss() -> None:
    lines = table({1e-3: 2.0, 1e-4: 3.0, 3e-3: 2.5}).splitlines()
    # The perplexity is e to the loss: 20.09, 7.389 and 12.18.
    assert [line.split() for line in lines[1:4]] == [
        ["0.0001", "3.00000", "20.09"],
        ["0.001", "2.00000", "7.389"],
        ["0.003", "2.50000", "12.18"],
    ]
    assert lines[4:] == ["sweep: the lowest dev loss is that of train.learning_rate: 0.001"]


def test_a_best_rate_at_the_end_of_the_list_is_said() -> None:
    last = table({1e-4: 3.0, 1e-3: 2.0}).splitlines()[-1]
    assert last == "sweep: this is the first or the last rate; try rates beyond it"


@pytest.fixture(scope="module")
def repo(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone whose base is the two-layer model, trained for two steps, committed."""
    folder = tmp_path_factory.mktemp("sweep") / "bula"
    folder.mkdir()
    clone_tree(folder)
    shorten(folder / "data/demo")

    def edit(params: dict[str, Any]) -> None:
        small(tiny)(params)
        steps = {"max_steps": 2, "eval_steps": 2, "save_steps": 2}
        params["train"].update(steps, learning_rate=0.001)
        # No stage of a sweep asks the judge.
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"]["base_url"] = "http://127.0.0.1:9/v1"

    edit_params(folder / "params.yaml", edit)
    (folder / "dvc.lock").unlink(missing_ok=True)
    commit(folder, "small")
    return folder


def sweep(folder: Path, *rates: str) -> tuple[str, list[str]]:
    """Run `bula sweep`, and return its output and the stages that ran."""
    result = run(["python", "-m", "bula", "sweep", *rates], folder, **IDENTITY)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, re.findall(r"Running stage '([^']+)'", result.stdout)


def test_a_sweep_trains_once_per_rate_and_shows_each_dev_loss(repo: Path) -> None:
    output, ran = sweep(repo, "1e-5", "0.01")
    assert ran.count("train") == 3
    rows = re.findall(r"^ +([\d.e-]+) +([\d.]+) +[\d.e+]+$", output, re.MULTILINE)
    losses = {float(rate): float(loss) for rate, loss in rows}
    assert set(losses) == {1e-5, 0.001, 0.01}
    # Two steps at a rate of 1e-5 change almost nothing.
    assert losses[0.01] < losses[0.001] < losses[1e-5]
    assert "that of train.learning_rate: 0.01\n" in output
    # The workspace keeps its own rate, and a second sweep trains nothing.
    assert "learning_rate: 0.001\n" in (repo / "params.yaml").read_text(encoding="utf-8")
    assert sweep(repo, "1e-5", "0.01")[1] == []


def test_the_commands_of_the_docs_run_and_show_the_dev_loss(repo: Path) -> None:
    sweep(repo, "0.001")
    options = ["--name", "slow", "-S", "train.learning_rate=0.0001", "train"]
    made = run(["dvc", "exp", "run", "--temp", *options], repo, **IDENTITY)
    assert made.returncode == 0, made.stdout + made.stderr
    shown = run(["dvc", "exp", "show", "--only-changed", "--md", "--no-pager"], repo).stdout
    header = shown.splitlines()[0]
    assert "slow" in shown
    assert "dev.loss_nats" in header
    assert "train.learning_rate" in header
