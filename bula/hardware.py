"""Prepare the device that params.yaml asks for, choose precisions, seed the libraries.

`device` in params.yaml is the only device that a stage computes on. `dtype` is the precision of a
model's weights. The precision of its arithmetic also depends on the machine: some CPUs multiply
bfloat16 numbers more slowly than float32 numbers.
"""

from __future__ import annotations

import os
import platform
import re
import warnings
from typing import TYPE_CHECKING

from bula.errors import UserError

if TYPE_CHECKING:
    import torch

# The name of code for a kind of GPU: sm_90 is machine code, compute_90 is PTX.
ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
# torch explains an error after its first sentence or line.
END_OF_SENTENCE = re.compile(r"(?<!e\.g)\.(?:\s|$)|\n")
ELSEWHERE = "run on a machine with an NVIDIA GPU, or set device: cpu and train.launch: cpu"
OTHER_BUILD = "install another torch build (TORCH_INDEX, docs/gpu.md)"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; let transformers print only errors."""
    from transformers import set_seed

    set_seed(seed)
    silence_transformers()


def silence_transformers() -> None:
    """Let transformers print only errors."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def prepare_device(name: str, dtype: str) -> None:
    """Make the device that params.yaml asks for the only one in use.

    `name` is "cpu" or "cuda". "cpu" hides all GPUs from every library of this process and from its
    children. "cuda" raises a UserError unless torch can compute on the GPU in `dtype`. Each stage
    calls this function before it reads data.
    """
    import torch

    if name == "cpu":
        _hide_gpus()
    else:
        _require_gpu(getattr(torch, dtype))


def _hide_gpus() -> None:
    """Hide all GPUs; raise a UserError if CUDA runs already.

    CUDA reads the variable once, when it starts.
    """
    import torch

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if torch.cuda.is_available():
        what = "device is cpu, but a library started CUDA before the GPU could be hidden"
        fix = "set the environment variable CUDA_VISIBLE_DEVICES to an empty text"
        raise UserError("params.yaml", what, fix)


def _require_gpu(dtype: torch.dtype) -> None:
    """Raise a UserError unless this process has a GPU that works."""
    import torch

    index = int(os.environ.get("LOCAL_RANK", "0"))
    _start_cuda()
    _refuse_missing_gpu(index)
    torch.cuda.set_device(index)
    major, minor = torch.cuda.get_device_capability(index)
    gpu = f"{torch.cuda.get_device_name(index)} (compute capability {major}.{minor})"
    architectures = torch.cuda.get_arch_list()
    if not _has_code_for(major, minor, architectures):
        listed = " ".join(architectures)
        what = f"torch {torch.__version__} has no code for the GPU {gpu}, only for {listed}"
        raise _unusable(what, f"{OTHER_BUILD}, or take another GPU")
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        what = f"the GPU {gpu} only emulates dtype bfloat16, which is slow"
        raise _unusable(what, "set dtype: float32, or take a GPU of compute capability 8.0 or more")
    _try_matmul(index, dtype, gpu)


def _unusable(what: str, fix: str) -> UserError:
    """Return the UserError for a GPU that cannot be used."""
    return UserError("params.yaml", f"device is cuda, but {what}", fix)


def _start_cuda() -> None:
    """Start CUDA; raise a UserError with torch's reason if it fails."""
    import torch

    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        raise _unusable(f"torch {torch.__version__} is built for CPUs only", OTHER_BUILD)
    try:
        with warnings.catch_warnings():
            # torch warns of a GPU for which it has no code; _require_gpu refuses that GPU.
            warnings.simplefilter("ignore")
            torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        reason = _first_sentence(error)
        if "too old" in reason:
            what = f"torch is built for CUDA {torch.version.cuda}: {reason}"
            raise _unusable(what, f"update the driver, or {OTHER_BUILD}") from error
        raise _no_gpu(reason) from error


def _no_gpu(reason: str) -> UserError:
    """Return the UserError for a machine without a visible GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        reason += f"; CUDA_VISIBLE_DEVICES is {visible!r}"
    return _unusable(f"torch finds no GPU ({reason})", ELSEWHERE)


def _refuse_missing_gpu(index: int) -> None:
    """Raise a UserError if this process of a launch has no GPU."""
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        raise _no_gpu("none is visible")
    if index >= count:
        what = f"process {index} of this machine has no GPU: torch sees {count}"
        raise _unusable(what, "lower num_processes in accelerate/*.yaml, which train.launch names")


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of a library's message."""
    return END_OF_SENTENCE.split(str(error).strip(), maxsplit=1)[0]


def _has_code_for(major: int, minor: int, architectures: list[str]) -> bool:
    """Return whether torch's code runs on a GPU of this compute capability.

    Machine code runs on GPUs of the same major version with the same or a later minor version, and
    only on its own version if its name ends in "a". PTX is compiled for any later GPU. AMD's names
    have another form, so torch itself must decide there.
    """
    codes = [ARCHITECTURE.fullmatch(name) for name in architectures]
    if not any(codes):
        return True
    return any(_runs_on(code, major, minor) for code in codes if code)


def _runs_on(code: re.Match[str], major: int, minor: int) -> bool:
    """Return whether code for one kind of GPU runs on a GPU."""
    kind, ending = code[1], code[4]
    built = (int(code[2]), int(code[3]))
    if ending == "a":
        return built == (major, minor)
    if kind == "compute" and not ending:
        return built <= (major, minor)
    return built[0] == major and built[1] <= minor


def _try_matmul(index: int, dtype: torch.dtype, gpu: str) -> None:
    """Raise a UserError unless a small matmul on the GPU is correct.

    Another program may hold the GPU or all its memory.
    """
    import torch

    try:
        ones = torch.ones(16, 16, dtype=dtype, device=f"cuda:{index}")
        total = (ones @ ones).sum().item()
    except RuntimeError as error:
        what = f"the GPU {gpu} cannot compute ({_first_sentence(error)})"
        raise _unusable(what, "look for other programs on it with nvidia-smi") from error
    if total != 16**3:
        what = f"the GPU {gpu} computes {total} for a sum of {16**3}"
        raise _unusable(what, "take another GPU, since this one is broken")


def device() -> str:
    """Return "cuda" if torch sees a GPU, and "cpu" otherwise.

    `prepare_device` makes this the device of params.yaml.
    """
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16_matmul() -> bool:
    """Return whether this CPU has bfloat16 matmul instructions.

    On x86 the instructions are AVX512_BF16 and AMX. On other CPUs torch's own answer is correct. On
    x86 it is not: it counts plain AVX-512, which widens to float32 and rounds back, at 58 GFLOP/s
    instead of float32's 320.
    """
    import torch

    if platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def processor() -> str:
    """Return the name of the GPU or CPU that computes, such as NVIDIA H100."""
    import torch

    if device() == "cuda":
        return torch.cuda.get_device_name()
    return torch.cpu.get_capabilities().get("cpu_name") or platform.machine()


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
    import torch

    if dtype != torch.bfloat16 or place != "cpu":
        return dtype
    return torch.float32 if _is_amx_hidden() else dtype


def _is_amx_hidden() -> bool:
    """Return whether this Intel CPU has AVX512_FP16 but no AMX."""
    import torch

    cpu = torch.cpu.get_capabilities()
    has_avx512 = cpu.get("avx512_fp16") and cpu.get("avx512_bf16")
    is_intel = "Intel" in cpu.get("cpu_name", "")
    return bool(is_intel and has_avx512 and not cpu.get("amx_bf16"))


def precision_settings(dtype: str) -> dict[str, str]:
    """Return the precision of weights and arithmetic, for the metrics."""
    return {"dtype": dtype, "compute_dtype": compute_dtype(dtype)}
