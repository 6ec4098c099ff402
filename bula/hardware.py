"""Choose this machine's device and precision, and seed the libraries.

`dtype` in params.yaml is the precision of a model's weights. The precision of its arithmetic also
depends on the machine: some CPUs multiply bfloat16 numbers more slowly than float32 numbers.
"""

import platform

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; let transformers print only errors."""
    set_seed(seed)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def device() -> str:
    """Return "cuda" if torch sees a GPU, and "cpu" otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16_matmul() -> bool:
    """Return whether this CPU has bfloat16 matmul instructions.

    On x86 the instructions are AVX512_BF16 and AMX. On other CPUs torch's own answer is correct. On
    x86 it is not: it counts plain AVX-512, which widens to float32 and rounds back, at 58 GFLOP/s
    instead of float32's 320.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def compute_dtype(dtype: str, place: str | None = None) -> str:
    """Return the computing precision for weights in `dtype`.

    `place` is "cpu" or "cuda", and this machine's device by default. On a CPU without bfloat16
    instructions the result is float32: torch's emulation takes six times as long (10 instead of 66
    GFLOP/s on two cores with AVX2) and adds rounding errors. The weights stay the same.
    """
    on_cpu = (place or device()) == "cpu"
    return "float32" if on_cpu and not has_bfloat16_matmul() else dtype


def matmul_dtype(dtype: torch.dtype, place: str) -> torch.dtype:
    """Return the fastest precision for matmuls of `dtype` matrices.

    `place` is "cpu" or "cuda". The result is `dtype`, except for bfloat16 on Intel CPUs since
    Sapphire Rapids whose AMX a hypervisor hides. Their AVX512_BF16 has half the rate of float32.
    """
    if dtype != torch.bfloat16 or place != "cpu":
        return dtype
    return torch.float32 if _is_amx_hidden() else dtype


def _is_amx_hidden() -> bool:
    """Return whether this Intel CPU has AVX512_FP16 but no AMX."""
    cpu = torch.cpu.get_capabilities()
    has_avx512 = cpu.get("avx512_fp16") and cpu.get("avx512_bf16")
    is_intel = "Intel" in cpu.get("cpu_name", "")
    return bool(is_intel and has_avx512 and not cpu.get("amx_bf16"))


def precision_settings(dtype: str) -> dict[str, str]:
    """Return the precision of weights and arithmetic, for the metrics."""
    return {"dtype": dtype, "compute_dtype": compute_dtype(dtype)}
