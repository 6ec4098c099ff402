"""Measure this machine's matmul rate, and the memory of this process.

The benchmarks import this module; it has nothing to run.
"""

import time
from pathlib import Path

import torch

from bula.hardware import compute_dtype, matmul_dtype

# Sizes of the matmul whose rate is measured: rows and width by device, and the seconds it takes. A
# GPU needs large matrices, because the host launches small ones for longer than they run.
MATMUL_SIZES = {"cpu": (1024, 2048), "cuda": (8192, 8192)}
MATMUL_SECONDS = 2


def wait_for(device: str) -> None:
    """Wait until a GPU has finished all work; a CPU has nothing in progress."""
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Measure the rate of matmuls on a device ("cpu" or "cuda"), in FLOP/s."""
    rows, width = MATMUL_SIZES[device]
    a = torch.randn(rows, width, dtype=dtype, device=device)
    b = torch.randn(width, width, dtype=dtype, device=device)
    for _ in range(3):
        a @ b
    wait_for(device)
    count = 0
    started = time.perf_counter()
    while time.perf_counter() - started < MATMUL_SECONDS:
        a @ b
        wait_for(device)
        count += 1
    seconds = time.perf_counter() - started
    return count * 2 * rows * width * width / seconds


def product_rate(dtype: str, plain: bool = False) -> float:
    """Measure this CPU's rate of matmuls for a model, in FLOP/s.

    `dtype` is the precision of the weights. With `plain` the matmuls have the precision in which
    the model is computed, otherwise the precision of its fastest matmul.
    """
    computed = getattr(torch, compute_dtype(dtype))
    return matmul_rate(computed if plain else matmul_dtype(computed, "cpu"))


def product_rates(dtype: str) -> dict[str, float]:
    """Measure both rates of `product_rate`."""
    plain = product_rate(dtype, plain=True)
    computed = getattr(torch, compute_dtype(dtype))
    same = matmul_dtype(computed, "cpu") == computed
    fastest = plain if same else product_rate(dtype)
    return {"product_rate": fastest, "plain_product_rate": plain}


def reset_peak_memory() -> None:
    """Reset the largest resident memory of this process (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """Return the largest resident memory since the last reset (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
