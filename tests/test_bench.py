"""bench.train's contenders on the two-layer model: what they take is left to the bench, that they run is not."""

from pathlib import Path

import pytest

from bench import train as bench
from bench.clones import ROOT
from bula.params import load_params


# TRL's own default, which the bench takes as it comes.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_every_contender_of_the_training_bench_trains_and_in_file_order_the_trainers_losses_are_the_same(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "BASE", tiny)
    given = load_params(ROOT / "profiles/smollm2-135m.yaml")
    small = given.model_copy(
        update={
            "train": given.train.model_copy(update={"batch_size": 1, "gradient_accumulation": 2})
        }
    )
    examples = bench.load_rows(4)
    exact, params = bench.settings(small, 4, "float32"), bench.settings(small, 4, given.dtype)
    trainers = ("bula", "trl_defaults", "trl_without_checkpointing")
    losses = [bench.run_trainer(name, exact, examples, in_order=True)[1] for name in trainers]
    assert [len(found) for found in losses] == [2, 2, 2]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert losses[0] == pytest.approx(losses[2], abs=1e-3)
    for name in trainers:
        seconds, found = bench.run_trainer(name, params, examples, in_order=False)
        # One step that isn't counted, then the epoch.
        assert seconds > 0
        assert len(found) == 1 + 2
    # The longest batch first, which isn't counted.
    seconds, found = bench.run_plain(params, examples)
    assert seconds > 0
    assert len(found) == 1 + 2
