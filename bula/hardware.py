"""Choose the device and the precision of this machine, and seed the libraries."""

import platform

import torch
from transformers import (
    set_seed,
)
from transformers.utils import logging as transformers_logging


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and make transformers quiet unless something is wrong."""
    set_seed(seed)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def device() -> str:
    """The accelerator's name if torch sees one, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16_matmul() -> bool:
    """Whether this CPU has instructions that multiply bfloat16 numbers: AVX512_BF16 or AMX on x86, what torch asks for elsewhere.

    On x86 torch's own question is whether oneDNN takes bfloat16 at all, and plain AVX-512 says yes: there it widens to float32
    and rounds back, at 58 GFLOP/s where float32 makes 320.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def compute_dtype(dtype: str, place: str | None = None) -> str:
    """The precision that a model held in `dtype` is computed in on this machine, by its device or by `place` (cpu or cuda).

    float32 for bfloat16 weights on a CPU without bfloat16 products of its own: torch's stand-in takes six times as long as
    float32 (10 against 66 GFLOP/s on two cores with AVX2) and rounds besides. The weights are the same.
    """
    slow = (place or device()) == "cpu" and not has_bfloat16_matmul()
    return "float32" if slow else dtype


def matmul_dtype(dtype: torch.dtype, place: str) -> torch.dtype:
    """The precision in which a device (cpu, cuda) makes products of numbers in `dtype` fastest: `dtype`, or float32 for bfloat16.

    float32 on Intel's CPUs from Sapphire Rapids on (they have AVX512_FP16) whose AMX a hypervisor hides: what is left of bfloat16
    there, AVX512_BF16, makes 156 to 180 GFLOP/s on two cores, over the shapes of SmolLM2-135M, and float32 290 to 338. Of Cooper
    Lake and of AMD's CPUs with that instruction the makers say that it has twice the rate of float32; they were not measured.
    A single product of widened numbers, rounded, is that of bfloat16 but for the order of its sums, which both keep in float32.
    """
    if dtype != torch.bfloat16 or place != "cpu":
        return dtype
    cpu = torch.cpu.get_capabilities()
    slow = (
        "Intel" in cpu.get("cpu_name", "")
        and cpu.get("avx512_fp16")
        and cpu.get("avx512_bf16")
        and not cpu.get("amx_bf16")
    )
    return torch.float32 if slow else dtype


def precision_settings(dtype: str) -> dict[str, str]:
    """What metrics say of the arithmetic behind their figures: precision of the weights, and that of computing on this machine."""
    return {"dtype": dtype, "compute_dtype": compute_dtype(dtype)}
