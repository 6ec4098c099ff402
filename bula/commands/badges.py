"""Write the badges of README.md from pyproject.toml and recorded figures.

Run `python -m bula badges --write`.
"""

import tomllib
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from bula.commands.generated import read_text, replace_section, update
from bula.tables.figures import group, read_figures

FILE = Path("README.md")
# A line that starts with a comment is HTML as a whole, so the mark stands behind the title.
START = "<!-- badges: written by `python -m bula badges --write` -->\n\n"
END = "<!-- end of badges -->"
PROJECT = Path("pyproject.toml")
RECORD = Path("profiles/results/gemma-3-270m.json")
# The share of loops among the answers of the tuned model, and their bits per character.
LOOPS = "tuned__degenerate"
BITS = "tuned__bits_per_character"


def badge(label: str, message: str, color: str) -> str:
    """Return a static badge of shields.io, which draws it from its address."""
    parts = [quote(_escape(part), safe="") for part in (label, message)]
    address = f"https://img.shields.io/badge/{'-'.join(parts)}-{color}"
    return f"![{label}: {message}]({address})"


def _escape(text: str) -> str:
    """Return a text in which shields.io keeps hyphens and underscores."""
    return text.replace("-", "--").replace("_", "__")


def draw_badges(project: Path, record: Path) -> str:
    """Return the badges on one line.

    Raise UserError if a file or a figure is missing.
    """
    about = tomllib.loads(read_text(project))["project"]
    figures = group(read_figures(record, ""), "figures", [LOOPS, BITS], record, "")
    name = record.stem
    texts = (
        ("version", about["version"], "blue"),
        ("Python", about["requires-python"], "blue"),
        ("code", about["license"], "green"),
        (f"{name} tuned, loops", f"{figures[LOOPS]:.0%}", "lightgrey"),
        (f"{name} tuned, bits per character", f"{figures[BITS]:.2f}", "lightgrey"),
    )
    return " ".join(badge(*text) for text in texts)


def badges(
    write: Annotated[bool, typer.Option("--write", help="Change README.md.")] = False,
) -> None:
    """Compare the badges in README.md with the figures, or write them."""
    text = read_text(FILE)
    drawn = draw_badges(PROJECT, RECORD)
    changed = replace_section(str(FILE), text, (START, END), drawn)
    update(FILE, changed, command="badges", write=write)
