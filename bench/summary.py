"""How every benchmark here ends: a table for people, and one JSON line for machines, last.

Imported by the benchmarks; nothing to run.
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
    """Cores, processor, whether torch finds AMX there, and torch's version: what a time or a rate depends on."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    tiles = ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{os.cpu_count()} x {name}{tiles}, torch {version('torch')}"


def show(name: str, figures: Mapping[str, Any], goals: Mapping[str, Any], met: bool) -> None:
    """Print `figures` as a table, then everything as one line of JSON."""
    width = max(map(len, figures))
    for key, value in figures.items():
        print(
            f"{key:{width}} {value:16,}"
            if isinstance(value, int)
            else f"{key:{width}} {value:16,.6g}"
        )
    print(
        json.dumps(
            {
                "name": name,
                "machine": machine(),
                "figures": figures,
                "goals": goals,
                "met": bool(met),
            }
        )
    )
