"""Test the precision of loaded weights and of the arithmetic with them."""

import platform
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.clones import ROOT
from bula import answering, checkpoints, hardware
from bula.gguf_export import convert
from bula.hardware import compute_dtype, has_bfloat16_matmul, matmul_dtype
from bula.models import load_model
from bula.params import DirectoryModel, load_params
from stages.models.base import fetch_base
from stages.train.fingerprint import fingerprint


@pytest.fixture(params=[True, False], ids=["bfloat16-matmul", "no-bfloat16-matmul"])
def fast_bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether this test's machine is a CPU with bfloat16 instructions."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "one_dnn", "expected"),
    [
        ("x86_64", True, False, True, True),
        ("AMD64", False, True, True, True),
        # With plain AVX-512, oneDNN accepts bfloat16 and widens it.
        ("x86_64", False, False, True, False),
        ("x86_64", False, False, False, False),
        ("aarch64", False, False, True, True),
        ("arm64", False, False, False, False),
    ],
)
def test_bfloat16_matmul_needs_an_instruction_on_x86_and_onednn_elsewhere(
    machine: str,
    avx512_bf16: bool,
    amx: bool,
    one_dnn: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: one_dnn)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert has_bfloat16_matmul() is expected


def intel(**features: bool) -> dict[str, object]:
    """Return the capabilities of an Intel CPU, as torch reports them."""
    return {"cpu_name": "Intel Xeon", "avx512_bf16": True, **features}


CPUS: dict[str, tuple[dict[str, object], torch.dtype]] = {
    "AMX-hidden": (intel(avx512_fp16=True, amx_bf16=False), torch.float32),
    "AMX": (intel(avx512_fp16=True, amx_bf16=True), torch.bfloat16),
    "Cooper-Lake": (intel(avx512_fp16=False, amx_bf16=False), torch.bfloat16),
    "AMD": ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
    "ARM": ({"bf16": True}, torch.bfloat16),
}


@pytest.mark.parametrize("name", CPUS)
def test_bfloat16_matmuls_are_widened_only_on_intel_with_hidden_amx(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities, expected = CPUS[name]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert matmul_dtype(torch.bfloat16, "cpu") == expected
    assert matmul_dtype(torch.bfloat16, "cuda") == torch.bfloat16
    assert matmul_dtype(torch.float32, "cpu") == torch.float32


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86")
def test_torch_reports_the_capabilities_that_matmul_dtype_reads() -> None:
    names = {"cpu_name", "avx512_fp16", "avx512_bf16", "amx_bf16"}
    assert names <= set(torch.cpu.get_capabilities())


def test_bfloat16_is_computed_in_float32_only_without_instructions(fast_bfloat16: bool) -> None:
    assert compute_dtype("bfloat16") == ("bfloat16" if fast_bfloat16 else "float32")
    assert compute_dtype("float32") == "float32"


def test_a_plan_for_a_gpu_computes_in_bfloat16(fast_bfloat16: bool) -> None:
    assert compute_dtype("bfloat16", "cuda") == "bfloat16"


def test_settings_of_generate_name_both_precisions(fast_bfloat16: bool) -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert answering.settings(params.variants["base"], params) == {
        "engine": "transformers",
        "few_shot": 0,
        "dtype": "bfloat16",
        "compute_dtype": "bfloat16" if fast_bfloat16 else "float32",
    }


@pytest.mark.parametrize("format_name", ["directory", "gguf"])
def test_loaded_weights_are_rounded_to_dtype_and_held_in_the_compute_dtype(
    format_name: str, fast_bfloat16: bool, tiny: Path, tmp_path: Path
) -> None:
    path = tiny
    if format_name == "gguf":
        path = tmp_path / "tiny.gguf"
        convert(tiny, "f32", path)
    # The file of the two-layer model contains bfloat16 numbers.
    exact = load_file(tiny / "model.safetensors")
    model = load_model(path, "bfloat16")
    expected = torch.bfloat16 if fast_bfloat16 else torch.float32
    assert {weight.dtype for weight in model.parameters()} == {expected}
    for name, weight in model.named_parameters():
        assert torch.equal(weight.float(), exact[name].float())
    # In bfloat16, the RoPE angles of late positions would be wrong.
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_the_base_is_written_in_dtype_on_every_machine(
    fast_bfloat16: bool, tiny: Path, tmp_path: Path
) -> None:
    source = DirectoryModel.model_validate(
        {"kind": "directory", "path": str(tiny), "license": "apache-2.0"}
    )
    fetch_base(source, "bfloat16", tmp_path / "base", load_params().ingest.limits)
    weights = load_file(tmp_path / "base/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_training_does_not_resume_a_checkpoint_of_another_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = load_params()

    def fingerprint_on(has_instructions: bool, matmul: torch.dtype) -> str:
        monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: has_instructions)
        monkeypatch.setattr(checkpoints, "matmul_dtype", lambda dtype, place: matmul)
        return fingerprint(params, [])

    fingerprints = {
        fingerprint_on(True, torch.bfloat16),
        fingerprint_on(True, torch.float32),
        fingerprint_on(False, torch.float32),
    }
    assert len(fingerprints) == (2 if torch.cuda.is_available() else 3)


def test_training_resumes_with_another_number_of_loader_workers() -> None:
    params = load_params()
    compute = params.compute.model_copy(update={"loader_workers": 2})
    changed = params.model_copy(update={"compute": compute})
    assert changed.compute.loader_workers != params.compute.loader_workers
    assert fingerprint(changed, []) == fingerprint(params, [])
