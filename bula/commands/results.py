"""Write the tables of results into the documents.

README.md and README.pt-BR.md show the recorded run of a profile whose base speaks Portuguese, and
docs/results.md the run in metrics/. Run `python -m bula results`.
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.commands.generated import replace_section, write_text
from bula.errors import UserError
from bula.params import load_params
from bula.tables.controls import control_note
from bula.tables.figures import read_figures
from bula.tables.portuguese import to_portuguese
from bula.tables.results import headline_table

START = "<!-- results: written by `python -m bula results` -->\n"
END = "<!-- end of results -->"
RECORD = Path("profiles/results/gemma-3-270m.md")


def with_results(name: str, text: str, results: str) -> str:
    """Return the text of a document with new results between its two marks."""
    return replace_section(name, text, (START, END), results)


def read_text(file: Path, fix: str) -> str:
    """Return the text of a file; raise UserError if it does not exist."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(file, "the file does not exist", fix) from None


def results(
    metrics: Annotated[Path, typer.Option(help="Folder of metrics.")] = Path("metrics"),
    document: Annotated[Path, typer.Option(help="File for the table of metrics.")] = Path(
        "docs/results.md"
    ),
    record: Annotated[Path, typer.Option(help="Recorded results of a profile.")] = RECORD,
    readme: Annotated[Path, typer.Option(help="File for the recorded results.")] = Path(
        "README.md"
    ),
    portuguese: Annotated[Path, typer.Option(help="The same in Portuguese.")] = Path(
        "README.pt-BR.md"
    ),
) -> None:
    """Write the results in metrics/ and of a recorded profile into the documents."""
    params = load_params()
    differences = read_figures(metrics / "compare.json", "compare")
    table = headline_table(metrics, params) + control_note(metrics, params, differences)
    recorded = read_text(record, f"run `make repro PROFILE={record.stem}`, which writes it")
    written = {}
    texts = {document: table, readme: recorded, portuguese: to_portuguese(recorded)}
    for file, text in texts.items():
        old = read_text(file, "name a file that has the marks of the results")
        written[file] = with_results(str(file), old, text)
    for file, text in written.items():
        write_text(file, text)
    print(f"results: wrote {metrics}/ into {document}, and {record} into {readme}, {portuguese}")
