"""Print the result of a benchmark: a table, then one JSON line.

The benchmarks import this module; it has nothing to run.
"""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine() -> str:
    """Return the properties of the machine that times depend on.

    They are its cores, its processor, whether torch finds AMX, and torch's version.
    """
    tiles = ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{os.cpu_count()} x {processor()}{tiles}, torch {version('torch')}"


def processor() -> str:
    """Return the processor's name, or its architecture if the name is unknown."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def show(name: str, figures: Mapping[str, Any], goals: Mapping[str, Any], met: bool) -> None:
    """Print the figures as a table, then everything as one JSON line."""
    width = max(map(len, figures))
    for key, value in figures.items():
        number = f"{value:16,}" if isinstance(value, int) else f"{value:16,.6g}"
        print(f"{key:{width}} {number}")
    summary = {
        "name": name,
        "machine": machine(),
        "figures": figures,
        "goals": goals,
        "met": bool(met),
    }
    print(json.dumps(summary))
