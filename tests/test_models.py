"""How models are loaded: the precision of their weights, and the one that they are computed in."""

import platform
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bula import hardware
from bula.hardware import compute_dtype, has_bfloat16_matmul, matmul_dtype
from bula.models import load_model
from bula.params import DirectoryModel, load_params
from stages import generate
from stages.ingest.models import ingest_base
from stages.train import checkpoints
from stages.train.checkpoints import fingerprint


@pytest.fixture(params=[True, False], ids=["with-bfloat16-products", "without"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this test's machine is a CPU that multiplies bfloat16 by instructions of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "one_dnn", "has"),
    [
        ("x86_64", True, False, True, True),
        ("AMD64", False, True, True, True),
        # AVX-512 alone: oneDNN takes bfloat16 and widens it.
        ("x86_64", False, False, True, False),
        ("x86_64", False, False, False, False),
        ("aarch64", False, False, True, True),
        ("arm64", False, False, False, False),
    ],
)
def test_who_has_bfloat16_products(
    machine: str,
    avx512_bf16: bool,
    amx: bool,
    one_dnn: bool,
    has: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: one_dnn)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert has_bfloat16_matmul() is has


@pytest.mark.parametrize(
    ("cpu", "found"),
    [
        (
            {"cpu_name": "Intel Xeon", "avx512_fp16": True, "avx512_bf16": True, "amx_bf16": False},
            torch.float32,
        ),
        (
            {"cpu_name": "Intel Xeon", "avx512_fp16": True, "avx512_bf16": True, "amx_bf16": True},
            torch.bfloat16,
        ),
        (
            {
                "cpu_name": "Intel Xeon",
                "avx512_fp16": False,
                "avx512_bf16": True,
                "amx_bf16": False,
            },
            torch.bfloat16,
        ),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
    ],
    ids=["AMX-hidden", "AMX", "Cooper-Lake", "AMD", "ARM"],
)
def test_products_are_widened_where_that_is_faster(
    cpu: dict[str, object], found: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pinned torch names these.
    assert platform.machine() != "x86_64" or {
        "cpu_name",
        "avx512_fp16",
        "avx512_bf16",
        "amx_bf16",
    } <= set(torch.cpu.get_capabilities())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert matmul_dtype(torch.bfloat16, "cpu") == found
    assert matmul_dtype(torch.bfloat16, "cuda") == torch.bfloat16
    assert matmul_dtype(torch.float32, "cpu") == torch.float32


def test_bfloat16_is_computed_in_float32_only_where_it_must(products: bool) -> None:
    assert compute_dtype("bfloat16") == ("bfloat16" if products else "float32")
    assert compute_dtype("float32") == "float32"
    computed = compute_dtype("bfloat16")
    assert generate.settings("transformers", "bfloat16") == {
        "engine": "transformers",
        "dtype": "bfloat16",
        "compute_dtype": computed,
    }
    # A plan for a GPU, made on this machine.
    assert compute_dtype("bfloat16", "cuda") == "bfloat16"


def test_weights_are_those_of_dtype_whatever_they_are_computed_in(
    products: bool, tiny: Path, tmp_path: Path
) -> None:
    from stages.quantize import convert

    convert(tiny, "f32", tmp_path / "tiny.gguf")
    exact = load_file(tiny / "model.safetensors")
    for path in (tiny, tmp_path / "tiny.gguf"):
        model = load_model(path, "bfloat16")
        assert {weight.dtype for weight in model.parameters()} == {
            torch.bfloat16 if products else torch.float32
        }
        for name, weight in model.named_parameters():
            assert torch.equal(weight.float(), exact[name].float())
        # Rounded to bfloat16 they would turn late positions by other angles.
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_ingest_writes_dtype_whatever_it_is_computed_in(
    products: bool, tiny: Path, tmp_path: Path
) -> None:
    source = DirectoryModel.model_validate(
        {"kind": "directory", "path": str(tiny), "license": "apache-2.0"}
    )
    ingest_base(source, "bfloat16", tmp_path / "base", load_params().ingest.limits)
    assert {weight.dtype for weight in load_file(tmp_path / "base/model.safetensors").values()} == {
        torch.bfloat16
    }


def test_a_checkpoint_of_another_precision_is_not_gone_on_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params, found = load_params(), set()
    # Products in bfloat16, products of it in float32, and all in float32.
    for has, wide in ((True, torch.bfloat16), (True, torch.float32), (False, torch.float32)):
        monkeypatch.setattr(hardware, "has_bfloat16_matmul", lambda has=has: has)
        monkeypatch.setattr(checkpoints, "matmul_dtype", lambda dtype, place, wide=wide: wide)
        found.add(fingerprint(params, []))
    assert len(found) == (2 if torch.cuda.is_available() else 3)
