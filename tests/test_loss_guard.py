"""Training stops before the first step whose loss or gradient is not finite."""

import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from stages.train import fit as train
from stages.train.loss_guard import refuse_evaluation, refuse_step
from stages.train.trainer import AnswerTrainer
from tests.conftest import run
from tests.test_launch import run_on_cpu

# Steps that are trained before the loss or the gradient is broken.
GOOD_STEPS = 4
FIX = "Lower train.learning_rate or train.max_grad_norm, or raise train.warmup_share."


def checkpoints(folder: Path) -> dict[str, int]:
    """Return the names and the times of all checkpoint markers."""
    markers = sorted(folder.glob(".bula/checkpoints/*/checkpoint-*/complete"))
    return {marker.parent.name: marker.stat().st_mtime_ns for marker in markers}


def save_every_step(params: dict[str, Any]) -> None:
    params["train"].update(save_steps=1, eval_steps=3)


def break_loss(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make every loss of training NaN after some steps.

    Return the steps in which the optimizer was used.
    """
    score = AnswerTrainer._score

    def broken(self: AnswerTrainer, model: Any, inputs: Any) -> Any:
        total, correct, supervised = score(self, model, inputs)
        if self.model.training and self.state.global_step >= GOOD_STEPS:
            total = total * math.nan
        return total, correct, supervised

    monkeypatch.setattr(AnswerTrainer, "_score", broken)
    return count_steps(monkeypatch)


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one in each step of the optimizer."""
    taken: list[int] = []
    step = torch.optim.AdamW.step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append(len(taken))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    return taken


def test_a_loss_that_is_not_finite_stops_before_its_step(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(ready / "params.yaml", save_every_step)
    taken = break_loss(monkeypatch)
    message = (
        r"diverged at step 5 \(loss nan, gradient norm .*, learning rate 0\.00.*\).*"
        r"the step was not taken; the checkpoint of step 4 is kept.*" + re.escape(FIX) + "$"
    )
    with pytest.raises(UserError, match=message) as first:
        train.main()
    assert len(taken) == GOOD_STEPS
    kept = checkpoints(ready)
    assert list(kept) == ["checkpoint-3", "checkpoint-4"]
    assert not (ready / "models/adapter").exists()
    # The run resumes from the good checkpoint, and ends in the same way.
    with pytest.raises(UserError) as second:
        train.main()
    assert str(second.value) == str(first.value)
    assert len(taken) == GOOD_STEPS
    assert checkpoints(ready) == kept


def test_a_gradient_that_is_not_finite_stops_before_its_step(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(ready / "params.yaml", save_every_step)
    score = AnswerTrainer._score

    def broken(self: AnswerTrainer, model: Any, inputs: Any) -> Any:
        total, correct, supervised = score(self, model, inputs)
        if self.model.training and self.state.global_step == 1:
            total.register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
        return total, correct, supervised

    monkeypatch.setattr(AnswerTrainer, "_score", broken)
    taken = count_steps(monkeypatch)
    with pytest.raises(UserError, match=r"at step 2 \(loss \d+\.\d+, gradient norm (nan|inf), "):
        train.main()
    assert len(taken) == 1
    assert list(checkpoints(ready)) == ["checkpoint-1"]


def test_a_dev_loss_that_is_not_finite_stops_before_its_checkpoint(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = AnswerTrainer._score

    def broken(self: AnswerTrainer, model: Any, inputs: Any) -> Any:
        total, correct, supervised = score(self, model, inputs)
        factor = 1.0 if self.model.training or self.state.global_step < 6 else math.nan
        return total * factor, correct, supervised

    monkeypatch.setattr(AnswerTrainer, "_score", broken)
    with pytest.raises(UserError, match="the dev loss is nan after step 6") as raised:
        train.main()
    assert "the checkpoint of step 3 is kept" in str(raised.value)
    assert list(checkpoints(ready)) == ["checkpoint-3"]


def test_a_learning_rate_that_is_far_too_high_stops_early(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(params: dict[str, Any]) -> None:
        save_every_step(params)
        params["train"].update(learning_rate=1000.0, max_grad_norm=10**6, warmup_share=0.0)
        params["train"].update(scheduler="constant", max_steps=30, eval_steps=30, batch_size=1)
        params["train"].update(gradient_accumulation=1)

    edit_params(ready / "params.yaml", edit)
    message = r"diverged at step \d+ \(.*, learning rate 1e\+03\)"
    with pytest.raises(UserError, match=message) as first:
        train.main()
    assert "resuming" not in capsys.readouterr().out
    with pytest.raises(UserError) as second:
        train.main()
    assert str(second.value) == str(first.value)
    assert "train: resuming from step" in capsys.readouterr().out

    def lower(params: dict[str, Any]) -> None:
        params["train"].update(learning_rate=0.001, max_steps=3, eval_steps=3)

    # Other parameters have another fingerprint, so they start again.
    edit_params(ready / "params.yaml", lower)
    train.main()
    assert "resuming" not in capsys.readouterr().out
    assert (ready / "models/adapter").exists()


# Only the second process has a broken loss, and both must stop.
BROKEN = """
from bula.errors import run_stage
from stages.train import trainer
from stages.train.fit import main

original = trainer.AnswerTrainer._score

def score(self, model, inputs):
    total, correct, supervised = original(self, model, inputs)
    if self.model.training and self.args.process_index == 1 and self.state.global_step == 2:
        total = total * float("nan")
    return total, correct, supervised

trainer.AnswerTrainer._score = score
run_stage(main)
"""


def test_two_processes_stop_together(ready: Path) -> None:
    shutil.copytree(ROOT / "accelerate", ready / "accelerate")
    edit_params(ready / "params.yaml", save_every_step)
    (ready / "broken.py").write_text(BROKEN, encoding="utf-8")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    options = ["--config_file", f"accelerate/{run_on_cpu('ddp')}.yaml", "broken.py"]
    result = run([*launcher, *options], ready, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    sentence = "params.yaml: training diverged at step 3 (loss nan, gradient norm nan, "
    assert result.stderr.count(sentence) == 2
    assert list(checkpoints(ready)) == ["checkpoint-1", "checkpoint-2"]


def test_finite_figures_are_accepted(tmp_path: Path) -> None:
    refuse_step(1, 11.8, 1e30, 1000.0, tmp_path)
    refuse_evaluation(1, 11.8, 0.001, tmp_path)


@pytest.mark.parametrize("figures", [(math.inf, 1.0), (2.5, math.inf), (2.5, math.nan)])
def test_each_figure_that_is_not_finite_is_refused(
    figures: tuple[float, float], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"diverged at step 7 .*, so the step was not taken"):
        refuse_step(7, *figures, 0.1, tmp_path)
    with pytest.raises(UserError, match=r"the dev loss is inf after step 7"):
        refuse_evaluation(7, math.inf, 0.1, tmp_path)


def test_the_sentence_says_that_there_is_no_checkpoint_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint yet"):
        refuse_step(1, math.nan, 1.0, 0.1, tmp_path)
