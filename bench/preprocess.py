"""Measure time, memory, recall and precision of preprocess.

The recall is the share of planted repetitions that preprocess finds, and the precision is the share
of planted repetitions among the rows that leave. The rows have the number and shape of MedPT
(384,000 pairs) and words of the demo corpus. Of the rows, 10 % repeat an earlier row with other
case, punctuation and spacing, and 5 % repeat an earlier row with a few words changed. Others share
a disclaimer, the title of a guideline or the form of a question, and must stay. The stage runs as
`dvc repro` runs it, in a temporary folder. With --times 10 a second run has ten times the rows, and
the ratio of the two times is printed.

    python -m bench.preprocess [--rows 384000] [--times 10]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from ruamel.yaml import YAML

from bench.planted_rows import ROOT, make_rows
from bench.summary import show

SAMPLE_SECONDS = 0.5
# Goals. The time is for ROWS rows and grows with their number.
ROWS = 384_000
SECONDS = 300
MEMORY_GB = 2.0
LARGE_MEMORY_GB = 3.0
# Smallest share of the planted repetitions of each kind that must be found.
FOUND = {"exact": 1.0, "near": 0.99, "quote": 0.99}
ORIGINALS = {"exact": "own", "near": "own", "quote": "item"}
# Rows with boilerplate, and questions of one form. All of these rows must stay.
HARMLESS = ("notice", "title", "form")
PRECISION = 0.995
TIME_RATIO_PER_TIMES = 1.1

Figures = dict[str, float]
Rows = Annotated[int, typer.Option(help="Rows of the first run.")]
Times = Annotated[int, typer.Option(help="Run with so many times the rows too; 1: do not.")]


def prepare(folder: Path, rows: int) -> None:
    """Fill a folder in which the stage can run.

    It contains the parameters, tokenizer, benchmark items and raw rows.
    """
    params = _params(rows)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(params, file)
    (folder / "models").mkdir()
    (folder / "models/base").symlink_to(ROOT / "models/base")
    (folder / "data/benchmarks").mkdir(parents=True)
    for task in params["ingest"]["benchmarks"]:
        shutil.copy(ROOT / task["path"], folder / f"data/benchmarks/{task['name']}.jsonl")
    (folder / "data/raw").mkdir()
    with (folder / "data/raw/bench.jsonl").open("w", encoding="utf-8") as file:
        for row in make_rows(rows, 1):
            row["source"] = "bench"
            row["license"] = "cc0-1.0"
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _params(rows: int) -> dict[str, Any]:
    """Return the small profile with one large source and all cores."""
    yaml = YAML(typ="safe")
    small = (ROOT / "profiles/smollm2-135m.yaml").read_text(encoding="utf-8")
    large = (ROOT / "profiles/llama-3.2-1b.yaml").read_text(encoding="utf-8")
    params: dict[str, Any] = yaml.load(small)
    real: dict[str, Any] = yaml.load(large)
    source = real["ingest"]["sources"][0]
    source["name"] = "bench"
    params["ingest"]["sources"] = [source]
    params["compute"]["workers"] = os.cpu_count() or 1
    for share in ("dev_share", "validation_share"):
        params["preprocess"][share] = real["preprocess"][share]
    params["preprocess"]["train_limit"] = 2 * rows
    # The identifier guesses the language of random words, and the scores count repetitions only.
    params["preprocess"]["language_score"] = 0.9999
    return params


def run(folder: Path, command: list[str]) -> tuple[float, float]:
    """Run a command, and return its seconds and peak memory (GB).

    The memory is the sum over all its processes (proportional set size).
    """
    environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    started = time.perf_counter()
    peak = 0.0
    process = subprocess.Popen(command, cwd=folder, env=environment)
    top = psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, _memory_gb(top))
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed with {process.returncode}")
    return seconds, peak


def _memory_gb(top: psutil.Process) -> float:
    """Return the memory of a process and its children in GB."""
    total = 0
    for process in [top, *_children(top)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e9


def _children(process: psutil.Process) -> list[psutil.Process]:
    """Return the children of a process, or nothing if it has exited."""
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def score(folder: Path) -> Figures:
    """Return recall and precision, and the numbers of harmless rows that left.

    A repetition is found if preprocess did not keep both rows.
    """
    kept = _labels(folder / "data/clean")
    labels = _labels(folder / "data/raw")
    figures: Figures = {}
    found_pairs = 0
    repetitions = set()
    for kind, original in ORIGINALS.items():
        copies = _of_kind(labels, kind)
        found = [label for label in copies if not kept >= {label, label.replace(kind, original)}]
        figures[f"{kind}_found"] = len(found) / max(1, len(copies))
        found_pairs += len(found)
        repetitions |= copies
        repetitions |= {label.replace(kind, original) for label in copies}
    for kind in HARMLESS:
        figures[f"{kind}_lost"] = len(_of_kind(labels, kind) - kept)
    # Of each pair that was found, one row had to leave.
    figures["precision"] = found_pairs / max(1, len(labels - kept))
    figures["clean_lost"] = len(labels - repetitions - kept) / max(1, len(labels - repetitions))
    return figures


def _of_kind(labels: set[str], kind: str) -> set[str]:
    """Return the labels of one kind."""
    return {label for label in labels if label.startswith(f"{kind} ")}


def _labels(folder: Path) -> set[str]:
    """Return the labels of all rows in a folder."""
    labels = set()
    for file in folder.rglob("*.jsonl"):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                labels.add(json.loads(line).get("specialty"))
    return labels - {None}


def measure(rows: int) -> Figures:
    """Run the stage over `rows` rows, and return its figures."""
    command = [sys.executable, "-m", "stages.preprocess"]
    with tempfile.TemporaryDirectory(prefix="bula-bench.") as name:
        folder = Path(name)
        prepare(folder, rows)
        seconds, memory = run(folder, command)
        found = score(folder)
    figures = {
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "peak_memory_gb": memory,
    }
    figures.update(found)
    return figures


def meets_goals(figures: Figures, seconds: float, memory_gb: float) -> bool:
    """Return whether a run met all its goals."""
    return (
        figures["seconds"] <= seconds
        and figures["peak_memory_gb"] <= memory_gb
        and figures["precision"] >= PRECISION
        and all(figures[f"{kind}_found"] >= goal for kind, goal in FOUND.items())
        and not any(figures[f"{kind}_lost"] for kind in HARMLESS)
    )


def main(rows: Rows = ROWS, times: Times = 1) -> None:
    """Measure preprocess."""
    if not (ROOT / "models/base").exists():
        raise SystemExit(
            "models/base is missing; run `make repro` or `python -m stages.models` first"
        )
    figures = measure(rows)
    goals = {
        "seconds": SECONDS * rows / ROWS,
        "peak_memory_gb": MEMORY_GB,
        "precision": PRECISION,
    }
    goals.update({f"{kind}_found": goal for kind, goal in FOUND.items()})
    goals.update({f"{kind}_lost": 0 for kind in HARMLESS})
    met = meets_goals(figures, goals["seconds"], MEMORY_GB)
    if times > 1:
        large = measure(times * rows)
        ratio_goal = TIME_RATIO_PER_TIMES * times
        met = met and meets_goals(large, ratio_goal * figures["seconds"], LARGE_MEMORY_GB)
        goals["time_ratio"] = ratio_goal
        goals[f"peak_memory_gb_times_{times}"] = LARGE_MEMORY_GB
        ratio = large["seconds"] / figures["seconds"]
        for name, value in large.items():
            figures[f"{name}_times_{times}"] = value
        figures["time_ratio"] = ratio
    show("preprocess", figures, goals, met)


if __name__ == "__main__":
    typer.run(main)
