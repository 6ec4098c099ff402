"""Measure how long the commands take before they do any work.

The first part is `--help` of each stage and of each command of `python -m bula`, beside the import
of typer, which draws the help. The second part is `dvc status` and a `dvc repro` that has nothing
to run, beside DVC's own time in a trivial repository with as many stages. The measured
repository must be up to date, so that `dvc repro` changes nothing. The contenders take turns, and
the best of the rounds counts, because other programs on the machine can only slow a round down.

    python -m bench.start
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from ruamel.yaml import YAML

from bench.clones import ROOT, git
from bench.summary import show
from bula.__main__ import COMMANDS
from bula.commands.labels import app as labels

ROUNDS = 3
# The most seconds of a `--help`, and the largest ratio to DVC's time in a trivial repository.
HELP_SECONDS = 0.6
DVC_RATIO = 2.0
TYPER = ["-c", "import typer"]
DVC = {"status": ["-m", "dvc", "status"], "repro": ["-m", "dvc", "repro"]}
UP_TO_DATE = "Data and pipelines are up to date."


def help_commands() -> dict[str, list[str]]:
    """Return the arguments of Python for `--help` of each stage and command."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    found = {f"stages.{name}": ["-m", f"stages.{name}", "--help"] for name in stages}
    found["bula"] = ["-m", "bula", "--help"]
    for command in COMMANDS:
        name = command.__name__.replace("_", "-")
        found[f"bula {name}"] = ["-m", "bula", name, "--help"]
    for part in labels.registered_commands:
        found[f"bula labels {part.name}"] = ["-m", "bula", "labels", str(part.name), "--help"]
    return found


def run_python(folder: Path, arguments: list[str]) -> str:
    """Run Python in a folder, and return what it printed."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def best_seconds(work: Mapping[str, tuple[Path, list[str]]], rounds: int) -> dict[str, float]:
    """Return the least seconds of each command; the commands take turns.

    A command is a folder and the arguments of Python.
    """
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, (folder, arguments) in work.items():
            started = time.perf_counter()
            run_python(folder, arguments)
            seconds = time.perf_counter() - started
            best[name] = min(seconds, best.get(name, seconds))
    return best


def measure_help(rounds: int) -> dict[str, float]:
    """Return the seconds of each `--help`, and those of the import of typer."""
    work = {"typer": (ROOT, TYPER)}
    for name, arguments in help_commands().items():
        work[name] = (ROOT, arguments)
    return best_seconds(work, rounds)


def write_trivial(folder: Path, count: int) -> None:
    """Write and run a DVC repository of stages that copy one small file."""
    stages = {}
    for number in range(count):
        stages[f"copy{number}"] = {
            "cmd": f"cp {number}.txt {number + 1}.txt",
            "deps": [f"{number}.txt"],
            "outs": [f"{number + 1}.txt"],
        }
    (folder / "0.txt").write_text("a line\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    run_python(folder, ["-m", "dvc", "init", "--quiet"])
    run_python(folder, ["-m", "dvc", "config", "core.analytics", "false"])
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({"stages": stages}, file)
    run_python(folder, ["-m", "dvc", "repro", "--quiet"])


def refuse_stale(repository: Path) -> None:
    """Raise a BadParameter if `dvc repro` would run a stage."""
    if UP_TO_DATE not in run_python(repository, DVC["status"]):
        reason = f"{repository} is not up to date; run `dvc repro` there first"
        raise typer.BadParameter(reason)


def measure_dvc(repository: Path, rounds: int) -> dict[str, float]:
    """Return seconds and ratios of DVC's commands with nothing to do."""
    refuse_stale(repository)
    count = len(YAML(typ="safe").load(repository / "dvc.lock")["stages"])
    figures: dict[str, float] = {"dvc_stages": count}
    with tempfile.TemporaryDirectory(prefix="bula-bench.") as name:
        trivial = Path(name)
        write_trivial(trivial, count)
        work = {}
        for command, arguments in DVC.items():
            work[command] = (repository, arguments)
            work[f"{command}_trivial"] = (trivial, arguments)
        seconds = best_seconds(work, rounds)
    for command in DVC:
        own = seconds[command]
        least = seconds[f"{command}_trivial"]
        figures[f"{command}_seconds"] = own
        figures[f"{command}_trivial_seconds"] = least
        figures[f"{command}_ratio"] = own / least
    return figures


def main(
    repository: Annotated[Path, typer.Option(help="Up-to-date repository for DVC.")] = ROOT,
    rounds: Annotated[int, typer.Option(help="Rounds.", min=1)] = ROUNDS,
) -> None:
    """Measure each `--help`, and DVC with nothing to do."""
    figures = measure_dvc(repository, rounds)
    seconds = measure_help(rounds)
    base = seconds.pop("typer")
    for name, value in seconds.items():
        print(f"{name:28} {value:6.2f} s {value / base:6.1f} times the import of typer")
    slowest = max(seconds.values())
    figures |= {"typer_seconds": base, "help_seconds": slowest, "help_ratio": slowest / base}
    goals = {"help_seconds": HELP_SECONDS, "status_ratio": DVC_RATIO, "repro_ratio": DVC_RATIO}
    show("start", figures, goals, all(figures[name] <= goal for name, goal in goals.items()))


if __name__ == "__main__":
    typer.run(main)
