"""Test the plan of the stage prefer against values worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from bula import preference_cost, run_cost
from bula.commands.plan import format_preferences
from bula.commands.preflight_plan import check_pairs, plan_checks
from bula.errors import UserError
from bula.params import Params, Prefer
from bula.preflight.checks import NotCheckedError
from bula.run_cost import Run
from tests.test_prefer import ENTRY, NAME, row
from tests.test_run_cost import FAST, SHAPE, SLOW, params_with
from tests.test_training_cost import ROWS


def entry_with(**changes: Any) -> Prefer:
    """Return an entry of prefer with other values."""
    return Prefer.model_validate(ENTRY | changes)


def params_of(**changes: Any) -> Params:
    """Return the GPU profile with one entry of prefer."""
    return params_with().model_copy(update={"prefer": {NAME: entry_with(**changes)}})


def write_pairs(folder: Path, questions: int) -> None:
    """Write one pair per question to the file of the entry."""
    file = folder / ENTRY["pairs"]
    file.parent.mkdir(parents=True)
    rows = [row(f"Pergunta {number}?", "Sim.", "Não.") for number in range(questions)]
    file.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")


def test_steps_by_hand() -> None:
    # 8 pairs without a quarter are 6: two batches of 4 in each of 4 epochs.
    assert preference_cost.count_steps(8, entry_with()) == 8
    assert preference_cost.count_steps(8, entry_with(gradient_accumulation=2)) == 4


def test_flops_of_policy_and_reference_by_hand() -> None:
    found = preference_cost.preference_flops(SHAPE, params_of(), entry_with(), ROWS, 8)
    # 8 steps of 8 rows of 6 tokens.
    tokens = 8 * 8 * 6
    # 600 weights forward and backward, without the gradient of the embedding for 100 of them.
    assert found["base"] == (4 * 600 - 2 * 100) * tokens
    # The mask of the padding skips no pair of tokens: 4 x 6 x 8 wide x 2 layers, and 3.5 times.
    attention = 4 * 6 * 8 * 2
    assert found["attention"] == 3.5 * attention * tokens
    # Half of the tokens are supervised.
    forward = 2 * 610 + attention + 2 * 80 / 2
    assert found["reference"] == forward * tokens
    # 2 held-out pairs of 2 rows, under 2 adapters.
    assert found["held_out"] == forward * 2 * 2 * 2 * 6
    assert found["total"] == sum(value for name, value in found.items() if name != "total")


def test_memory_counts_the_reference_and_two_rows_per_pair() -> None:
    adapted = (("q_proj", 8),)
    shape = SHAPE._replace(adapted=(adapted, adapted))
    params = params_of()
    one = preference_cost.preference_memory(shape, params, entry_with(batch_size=1), ROWS, False)
    two = preference_cost.preference_memory(shape, params, entry_with(batch_size=2), ROWS, False)
    assert one["reference"] == one["adapter"] == 4 * 10
    # 2 bytes more for rank 16 and input 8, in 2 layers and 2 rows of max_tokens.
    assert one["float32_inputs"] == 2 * 2 * (16 + 8) * 2 * params.preprocess.max_tokens
    assert two["float32_inputs"] == 2 * one["float32_inputs"]
    assert two["activations"] > 1.9 * one["activations"]


def test_the_stages_of_a_plan_have_a_row_for_each_entry(tmp_path: Path) -> None:
    params = params_of()
    write_pairs(tmp_path, 8)
    planned = preference_cost.plan_preferences(params, SHAPE, ROWS, tmp_path)
    run = Run(params, SHAPE, ROWS, 100, SLOW)
    train = run_cost.train(run, 1.0, 1.0, 1.0)
    times = {time.stage: time for time in run_cost.stage_times(run, train, planned)}
    assert list(times)[5:8] == ["merge", f"prefer@{NAME}", "quantize"]
    found = times[f"prefer@{NAME}"]
    assert found.card_seconds == pytest.approx(planned[NAME]["flops"]["total"] / 100)
    assert found.seconds > found.card_seconds + times["merge"].seconds
    fast = run_cost.prefer(run._replace(card=FAST), NAME, planned[NAME])
    # 8 steps of 4/3 passes, 2 layers and 274 kernels of 2 microseconds.
    assert fast.card_seconds == pytest.approx(8 * 4 / 3 * 2 * 274 * 2e-6)


def test_a_plan_without_the_pairs_has_memory_only(tmp_path: Path) -> None:
    params = params_of()
    planned = preference_cost.plan_preferences(params, SHAPE, ROWS, tmp_path)
    assert planned[NAME]["flops"] is None
    time = run_cost.prefer(Run(params, SHAPE, ROWS, 100, SLOW), NAME, planned[NAME])
    assert "the pairs are not here" in time.reason
    devices = {"small": {"memory_bytes": 1.0}, "large": {"memory_bytes": 1e15}}
    plan = {"memory_bytes": {"gpu": {}}, "devices": devices, "prefer": planned}
    _, line, refused = format_preferences(plan)
    assert f"prefer@{NAME}: its pairs are not here; memory" in line
    assert refused.split() == ["small", "DOES", "NOT", "FIT", "into", "0", "GB"]


def test_preflight_checks_memory_and_number_of_pairs(tmp_path: Path) -> None:
    params = params_of()
    checks = [check.name for check in plan_checks(params, set(), tmp_path) if "prefer" in check.key]
    assert checks == ["memory by `bula plan`", "number of pairs"]
    with pytest.raises(NotCheckedError):
        check_pairs(params, NAME, tmp_path)
    write_pairs(tmp_path, 1)
    with pytest.raises(UserError, match="1 pairs of 1 questions, and at least 2 are needed"):
        check_pairs(params, NAME, tmp_path)


def test_preflight_counts_pairs_and_names_a_damaged_row(tmp_path: Path) -> None:
    params = params_of()
    write_pairs(tmp_path, 3)
    assert check_pairs(params, NAME, tmp_path) == "3 pairs of 3 questions"
    with (tmp_path / ENTRY["pairs"]).open("a", encoding="utf-8") as file:
        file.write("[1]\n")
    with pytest.raises(UserError, match=r"pairs\.jsonl:4: the row is no JSON object"):
        check_pairs(params, NAME, tmp_path)
