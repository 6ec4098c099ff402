"""Write the table of results into the README: python -m bula results."""

from pathlib import Path
from typing import Annotated

import typer

from bula.errors import UserError
from bula.files import staged
from bula.params import load_params
from bula.tables import results_table

START = "<!-- results: written by `python -m bula results` -->\n"
END = "<!-- end of results -->"


def with_results(readme: str, table: str) -> str:
    """Return the README with the table between its two marks; UserError if a mark is missing."""
    if START not in readme or END not in readme.split(START, 1)[1]:
        fix = f"put the lines {START.strip()!r} and {END!r} where the table belongs"
        raise UserError("README.md", "a mark of the table of results is missing", fix)
    before, rest = readme.split(START, 1)
    return before + START + table + END + rest.split(END, 1)[1]


def results(
    metrics: Annotated[Path, typer.Option(help="Folder of metrics.")] = Path("metrics"),
    readme: Annotated[Path, typer.Option(help="File to write into.")] = Path("README.md"),
) -> None:
    """Write the table of results from metrics/ into the README."""
    table = results_table(metrics, load_params())
    if not readme.is_file():
        fix = "name a file that has the marks of the table, with --readme"
        raise UserError(readme, "the file does not exist", fix)
    text = with_results(readme.read_text(encoding="utf-8"), table)
    with staged(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"results: {readme} holds the figures of {metrics}/")
