"""Compare device, packages, memory and disk of this machine with params.yaml.

The module loads torch only if `device` is cuda.
"""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.launch import find_configuration, read_configuration
from bula.params import Params
from bula.preflight.checks import Check, NotCheckedError

# The limit of a container, in bytes or "max".
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def device_checks(params: Params, launch: Path) -> list[Check]:
    """Return the checks of the launch configuration and of the GPUs."""
    checks = [Check("train.launch", "launch configuration", partial(check_launch, params, launch))]
    if params.device == "cuda":
        checks.append(Check("device", "GPU", partial(check_gpu, params, launch)))
    return checks


def _read_launch(params: Params, launch: Path) -> dict[str, Any]:
    """Return the configuration that train.launch names."""
    return read_configuration(find_configuration(params.train.launch, launch), params.device)


def check_launch(params: Params, launch: Path) -> str:
    """Compare the launch configuration with `device`."""
    settings = _read_launch(params, launch)
    return f"{settings.get('num_processes', 1)} process(es) on {params.device}"


def check_gpu(params: Params, launch: Path) -> str:
    """Compute on the GPU, and count the GPUs."""
    import torch

    from bula.hardware import prepare_device

    prepare_device(params.device, params.dtype)
    settings = _read_launch(params, launch)
    needed = int(settings.get("num_processes", 1)) // int(settings.get("num_machines", 1))
    found = torch.cuda.device_count()
    if needed > found:
        what = f"train.launch starts {needed} processes here, but torch sees {found} GPUs"
        fix = "lower num_processes in accelerate/*.yaml, or name another launch configuration"
        raise UserError("train.launch", what, fix)
    return f"{found} x {torch.cuda.get_device_name(0)}"


# --- packages ----------------------------------------------------------------------------------


def package_checks(params: Params) -> list[Check]:
    """Return one check per package that not every run needs."""
    return [
        Check(key, f"package {names[0]}", partial(check_package, names))
        for key, names in _needed_packages(params)
    ]


def _needed_packages(params: Params) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each key with the packages of which it needs one."""
    train = params.train
    if train.attention == "flash_attention_2":
        yield "train.attention", ("flash_attn",)
    if train.liger:
        yield "train.liger", ("liger_kernel",)
    if train.base_weights != "full":
        yield "train.base_weights", ("bitsandbytes",)
    tracker = params.compute.tracker
    if tracker == "tensorboard":
        yield "compute.tracker", ("tensorboard", "tensorboardX")
    elif tracker != "none":
        yield "compute.tracker", (tracker,)
    if _needs_vllm(params):
        yield "variants and benchmark.backend", ("vllm",)


def _needs_vllm(params: Params) -> bool:
    """Return whether a stage starts a vLLM server."""
    engines = {variant.engine for variant in params.variants.values()}
    return "vllm" in engines or params.benchmark.backend.kind == "vllm"


def check_package(names: tuple[str, ...]) -> str:
    """Find one of several packages; vLLM has a separate environment."""
    if names == ("vllm",):
        return _find_vllm()
    if not any(map(importlib.util.find_spec, names)):
        raise UserError(names[0], "the package is not installed", "install it with pip")
    return "it is installed"


def _find_vllm() -> str:
    """Return the interpreter that has vLLM."""
    from bula.serving import vllm_python

    python = vllm_python()
    if python == sys.executable and not importlib.util.find_spec("vllm"):
        raise UserError("vllm", "the package is not installed", "run `make gpu`")
    return python


# --- memory and disk ---------------------------------------------------------------------------


def free_memory() -> int:
    """Return the bytes of memory that new processes can have, within a container's limit."""
    # Imported here, because no other command needs it.
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = MEMORY_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return available
    return min(available, int(limit)) if limit.isdigit() else available


def free_gpu_memory() -> int:
    """Return the free bytes of the first GPU."""
    import torch

    if not torch.cuda.is_available():
        raise NotCheckedError("torch finds no GPU")
    free, _ = torch.cuda.mem_get_info()
    return int(free)


def compare_memory(needed: float, free: int, place: str) -> str:
    """Compare the planned memory of train with the free memory, in bytes."""
    told = f"train needs {needed / 1e9:.1f} GB of {place} by `bula plan`, and {free / 1e9:.1f} GB"
    if needed > free:
        fix = (
            "end other programs, lower train.batch_size or preprocess.max_tokens, or set "
            "train.gradient_checkpointing: true"
        )
        raise UserError("params.yaml", f"{told} are free", fix)
    return f"{told} are free"


def compare_disk(needed: float, folder: Path) -> str:
    """Compare the bytes that a run writes with the free bytes of a disk."""
    free = shutil.disk_usage(folder).free
    told = f"the run writes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
    if needed > free:
        fix = "make room (`dvc gc --workspace` deletes old outputs), or shorten quantize.types"
        raise UserError(str(folder.absolute()), told, fix)
    return told
