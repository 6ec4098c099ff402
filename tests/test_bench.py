"""Tests of bench/train.py with the two-layer model, without its measurements."""

from pathlib import Path

import pytest

from bench import train as bench
from bench.clones import ROOT
from bula.params import Params, load_params
from bula.records import Example

TRAINERS = ("bula", "trl_defaults", "trl_without_checkpointing")
# TRL's own default, which the bench does not change.
ignore_deprecation = pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning"
)


@pytest.fixture
def small(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Parameters for the two-layer model with two rows per step."""
    monkeypatch.setenv(bench.BASE_VARIABLE, str(tiny))
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    batch = {"batch_size": 1, "gradient_accumulation": 2}
    return params.model_copy(update={"train": params.train.model_copy(update=batch)})


@pytest.fixture
def examples() -> list[Example]:
    """Two steps of training examples."""
    return bench.load_rows(4)


@ignore_deprecation
def test_float32_losses_in_file_order_are_the_same_for_all_trainers(
    small: Params, examples: list[Example]
) -> None:
    exact = bench.settings(small, 4, "float32")
    losses = [bench.run_trainer(name, exact, examples, in_order=True)[1] for name in TRAINERS]
    assert [len(found) for found in losses] == [2, 2, 2]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert losses[2] == pytest.approx(losses[0], abs=1e-3)


@ignore_deprecation
@pytest.mark.parametrize("name", TRAINERS)
def test_trainers_run_one_uncounted_step_and_the_epoch(
    name: str, small: Params, examples: list[Example]
) -> None:
    params = bench.settings(small, 4, small.dtype)
    seconds, losses = bench.run_trainer(name, params, examples, in_order=False)
    assert seconds > 0
    assert len(losses) == 1 + 2


def test_the_plain_loop_runs_one_uncounted_step_and_the_epoch(
    small: Params, examples: list[Example]
) -> None:
    params = bench.settings(small, 4, small.dtype)
    seconds, losses = bench.run_plain(params, examples)
    assert seconds > 0
    assert len(losses) == 1 + 2
