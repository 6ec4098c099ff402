"""Tests of bench/gpu_check.py on the CPU, with a model of a few thousand weights."""

import json

import pytest

from bench import gpu_check
from bench.llama import CONFIG
from bula.params import Params

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> gpu_check.Setting:
    """Return the CPU with a narrow model and short rows."""
    monkeypatch.setattr(gpu_check, "CONFIG", CONFIG | SMALL)
    monkeypatch.setattr(gpu_check, "ROW_TOKENS", 24)
    monkeypatch.setattr(gpu_check, "SCORED_ROWS", 4)
    monkeypatch.setattr(gpu_check, "ANSWERS", 2)
    monkeypatch.setattr(gpu_check, "NEW_TOKENS", 4)
    monkeypatch.setattr("bench.measuring.MATMUL_SIZES", {"cpu": (16, 16)})
    monkeypatch.setattr("bench.measuring.MATMUL_SECONDS", 0.01)
    return gpu_check.Setting("cpu", 2, gpu_check.profile())


def test_the_cpu_has_its_own_losses(setting: gpu_check.Setting) -> None:
    figures = gpu_check.run_part("losses", setting)
    # The first loss of random weights is near ln(128,256) = 11.76.
    assert figures["first_loss_nats"] == pytest.approx(11.76, abs=0.3)
    assert figures["library_float32_loss_difference"] == 0
    assert figures["fused_float32_loss_difference"] < 1e-5
    assert 0 < figures["fused_bfloat16_loss_difference"] < 0.05
    assert "failed" not in figures


def test_other_losses_fail(setting: gpu_check.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    own = gpu_check.losses_of

    def shifted(one: gpu_check.Setting, dtype: str, kernels: str) -> list[float]:
        losses = own(one, dtype, kernels)
        return [loss + (0.01 if kernels == "fused" else 0) for loss in losses]

    monkeypatch.setattr(gpu_check, "losses_of", shifted)
    assert gpu_check.run_part("losses", setting)["failed"] == 1


@pytest.mark.parametrize("kernels", ["fused", "library"])
def test_training_steps_have_speed_and_memory(setting: gpu_check.Setting, kernels: str) -> None:
    figures = gpu_check.run_part(kernels, setting)
    assert figures["tokens_per_second"] > 0
    assert figures["memory_gb"] > 0
    assert figures["last_loss_nats"] == pytest.approx(11.76, abs=0.5)


def test_scores_and_answers_equal_those_of_the_cpu(setting: gpu_check.Setting) -> None:
    assert gpu_check.run_part("scoring", setting)["float32_loss_difference"] == 0
    assert gpu_check.run_part("answering", setting)["float32_same_tokens"] == 1


def test_the_merge_is_checked_by_the_limits_of_its_stage(setting: gpu_check.Setting) -> None:
    figures = gpu_check.run_part("merging", setting)
    # Seven matrices in each of two layers.
    assert figures["matrices"] == 14
    assert figures["weight_difference"] < 1e-5


def test_a_part_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def child(name: str, device: str, layers: int) -> dict[str, float]:
        return {"failed": 1} if name == "fused" else {"seconds": 1.0}

    monkeypatch.setattr(gpu_check, "child", child)
    with pytest.raises(SystemExit):
        gpu_check.report("cpu", 2)
    printed = capsys.readouterr().out
    assert "not as it should be: fused" in printed
    summary = json.loads(printed.splitlines()[-1])
    assert summary["met"] is False
    assert summary["figures"]["merging_seconds"] == 1


def test_the_last_line_of_a_failed_process_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.child("fused", "cpu", -1)["failed"] == 1
    assert capsys.readouterr().out.startswith("fused: ")


def test_dropout_is_off() -> None:
    params: Params = gpu_check.profile()
    assert params.train.lora.dropout == 0
