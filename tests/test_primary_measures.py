"""Test the names of measures that `compare.primary` may have."""

import json
from typing import Any

import pytest

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import Params, load_params
from bula.primary_measures import MEASURES, refuse_unknown_measures

PROFILE = ROOT / "profiles/smollm2-135m.yaml"


def with_primary(*measures: str) -> Params:
    """Return the default parameters with other primary measures."""
    params = load_params(PROFILE)
    compare = params.compare.model_copy(update={"primary": list(measures)})
    return params.model_copy(update={"compare": compare})


def test_the_known_measures_are_those_of_a_finished_run() -> None:
    results: dict[str, Any] = json.loads(
        (ROOT / "metrics/compare.json").read_text(encoding="utf-8")
    )
    found = {key.rpartition("__")[2] for key in results}
    tasks = tuple(load_params(PROFILE).benchmark.tasks)
    assert {name for name in found if not name.startswith(tasks)} == set(MEASURES)
    refuse_unknown_measures(with_primary(*sorted(found)))


@pytest.mark.parametrize("name", ["rougel", "rouge1", "bula_contrast", "hellaswag_acc"])
def test_a_measure_that_no_stage_computes_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"compare.primary has '{name}', which no variant"):
        refuse_unknown_measures(with_primary("degenerate", name))
