"""Test `bula sweep`, and the commands that docs/usage.md names.

Here the stages are stubs (tests/stub_pipeline.py), whose dev loss depends on the learning rate.
"""

import json
import math
from pathlib import Path

import pytest

from bula.commands.sweep import further_rates, table
from bula.errors import UserError
from tests.conftest import run
from tests.stub_pipeline import SEED, log_of, write_repository

IDENTITY = {
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


def test_every_rate_but_the_own_one_is_an_experiment_once() -> None:
    assert further_rates([0.003, 0.0001, 0.001, 0.003], own=0.001) == [0.0001, 0.003]


@pytest.mark.parametrize("rate", [0.0, -1e-4, math.nan, math.inf])
def test_a_rate_that_is_not_a_positive_number_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="is not positive"):
        further_rates([1e-4, rate], own=1e-3)


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


def test_a_failed_rate_has_its_row_and_counts_as_beyond_the_best_one() -> None:
    lines = table({1e-3: 2.0, 1e-4: 3.0, 1.0: None}).splitlines()
    assert [line.split() for line in lines[2:4]] == [["0.001", "2.00000", "7.389"], ["1", "failed"]]
    assert lines[4:] == [
        "sweep: the lowest dev loss is that of train.learning_rate: 0.001",
        "sweep: a rate that failed ended in the error above; diverging rates do",
    ]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small repository."""
    folder = tmp_path_factory.mktemp("sweep")
    write_repository(folder)
    return folder


def sweep(folder: Path, *rates: str) -> tuple[str, list[str]]:
    """Run `bula sweep`, and return its output and the stages that ran."""
    result = run(["python", "-m", "bula", "sweep", *rates], folder, **IDENTITY)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, log_of(folder)


def test_a_sweep_trains_once_per_rate_and_survives_a_rate_that_diverges(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_ROOT", str(repo))
    output, ran = sweep(repo, "1000", "1e-4", "0.01")
    assert ran.count(f"{SEED} train") == 4
    assert_rows(output)
    assert "that of train.learning_rate: 0.001\n" in output
    # The workspace keeps its own rate, and a second sweep trains nothing but the failed rate.
    assert "learning_rate: 0.001\n" in (repo / "params.yaml").read_text(encoding="utf-8")
    assert sweep(repo, "1e-4", "0.01")[1] == []
    assert sweep(repo, "1000")[1] == [f"{SEED} train"]
    commands_of_the_docs_show_the_dev_loss(repo)


def assert_rows(output: str) -> None:
    """Check the dev loss and perplexity of each rate."""
    rows = [line.split() for line in output.splitlines()]
    # The stub adds one nat for a tenfold rate, and for a tenth of the rate.
    expected = (
        ["0.0001", "4.00000", "54.6"],
        ["0.001", "3.00000", "20.09"],
        ["0.01", "4.00000", "54.6"],
        ["1000", "failed"],
    )
    for row in expected:
        assert row in rows


def commands_of_the_docs_show_the_dev_loss(repo: Path) -> None:
    """Run the commands by which docs/usage.md compares rates by hand."""
    options = ["--name", "slow", "-S", "train.learning_rate=0.0001", "train"]
    made = run(["dvc", "exp", "run", "--temp", *options], repo, **IDENTITY)
    assert made.returncode == 0, made.stdout + made.stderr
    diff = ["dvc", "metrics", "diff", "workspace", "slow", "--json"]
    shown = run([*diff, "--targets", "metrics/train.json"], repo)
    assert shown.returncode == 0, shown.stderr
    losses = json.loads(shown.stdout)["metrics/train.json"]["dev.loss_nats"]
    assert (losses["old"], losses["new"]) == (3.0, 4.0)
    # No stage runs again after its outputs were taken over.
    # DVC also names the outputs of later stages, which no run of this test made.
    applied = run(["dvc", "exp", "apply", "slow"], repo)
    assert "models/merged" in applied.stderr
    assert "learning_rate: 0.0001\n" in (repo / "params.yaml").read_text(encoding="utf-8")
    log_of(repo)
    assert run(["dvc", "repro", "train"], repo).returncode == 0
    assert log_of(repo) == []
