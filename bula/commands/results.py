"""Write the table of results into the README.

Run `python -m bula results`.
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.commands.generated import replace_section, write_text
from bula.errors import UserError
from bula.params import load_params
from bula.tables import control_note, headline_table, read_figures

START = "<!-- results: written by `python -m bula results` -->\n"
END = "<!-- end of results -->"


def with_results(readme: str, table: str) -> str:
    """Return the README with the table between its two marks."""
    return replace_section("README.md", readme, (START, END), table)


def results(
    metrics: Annotated[Path, typer.Option(help="Folder of metrics.")] = Path("metrics"),
    readme: Annotated[Path, typer.Option(help="File to write into.")] = Path("README.md"),
) -> None:
    """Write the table of results from metrics/ into the README."""
    params = load_params()
    differences = read_figures(metrics / "compare.json", "compare")
    table = headline_table(metrics, params) + control_note(metrics, params, differences)
    if not readme.is_file():
        fix = "name a file that has the marks of the table, with --readme"
        raise UserError(readme, "the file does not exist", fix)
    text = with_results(readme.read_text(encoding="utf-8"), table)
    write_text(readme, text)
    print(f"results: wrote the table of {metrics}/ into {readme}")
