"""Fetch question-answer pairs and benchmark items, and count them.

Each source is pinned by a checksum or a revision. Rows are only mapped to the names question,
answer, specialty and kind here; preprocess judges them.

    python -m stages.ingest
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bula.errors import UserError, run_stage
from bula.escaping import terminal
from bula.files import staged
from bula.params import (
    DataSource,
    DemoSource,
    FilesSource,
    HubSource,
    HubTask,
    Ingest,
    Limits,
    LocalTask,
    Tabular,
    TaskSource,
    load_params,
)
from bula.records import Row, write_rows
from bula.reports import write_metrics
from stages.ingest.advice import short_names
from stages.ingest.remotes import refuse_unplaced, weights_note
from stages.ingest.sources import read_source, read_task
from stages.ingest.survey import Survey, left_out, new_survey

# Refused rows of each source that the terminal names; data/quarantine.jsonl lists all of them.
NAMED_REFUSALS = 5
# Time in which the hub must answer each question about a repository.
HUB_SECONDS = 60
# The folders of data that are dependencies of this stage in dvc.yaml.
WATCHED = ("data/demo", "data/sources")

Figures = dict[str, int | float | str]


def is_watched(path: str) -> bool:
    """Return whether DVC sees an edit at `path`.

    A link counts by its own place and not by its target's.
    """
    place = Path(os.path.normpath(path)).absolute()
    return any(place.is_relative_to(Path(folder).absolute()) for folder in WATCHED)


def refuse_unwatched(settings: Ingest) -> None:
    """Raise UserError if a data file is outside the folders DVC tracks."""
    for source in [*settings.sources, *settings.benchmarks]:
        if not isinstance(source, DemoSource | FilesSource | LocalTask):
            continue
        if not is_watched(source.path):
            folders = " and ".join(WATCHED)
            what = f"{source.path} is outside {folders}, so DVC cannot track its changes"
            fix = "move it there and correct its `path` in params.yaml"
            raise UserError(f"source {source.name}", what, fix)


def refuse_closed(settings: Ingest) -> None:
    """Raise UserError if the hub refuses a data set, before any row is fetched."""
    # Imported here, because the hub's client takes a second to load.
    from bula.hub_access import check_repository

    for source in [*settings.sources, *settings.benchmarks]:
        if isinstance(source, HubSource | HubTask):
            check_repository("dataset", source.id, source.revision, HUB_SECONDS)


def warn_of_rows(sources: list[DataSource]) -> None:
    """Print which sources contain names, and which weights closed rows train."""
    for source in sources:
        if isinstance(source, FilesSource) and source.names == "present":
            where = "in its rows, data/clean and the model (names: present)"
            note = f"people's names stay {where} where neither a cue nor privacy.names finds them"
            say(f"warning: source {source.name}: {note}")
    if note := weights_note(sources):
        say(f"warning: {note}")


def say(note: str) -> None:
    """Print a note of this stage on the terminal."""
    print(f"ingest: {terminal(note)}", file=sys.stderr)


def list_refusals(
    source: DataSource, limits: Limits, refused: list[str], survey: Survey
) -> Iterator[Row]:
    """Yield the rows of a source, and append its refusals to `refused`."""
    for row in read_source(source, limits, survey):
        if "refused" in row:
            where = f"{row['file']}:{row['line']}"
            refused.append(f"{where}: {row['refused']}")
        yield row


def ingest_source(source: DataSource, folder: Path, settings: Ingest) -> Figures:
    """Write the rows of a source and return its figures.

    Raise UserError if too many rows cannot be read.
    """
    refused: list[str] = []
    survey = new_survey()
    path = folder / f"{source.name}.jsonl"
    rows = write_rows(path, list_refusals(source, settings.limits, refused, survey))
    for line in [*refused[:NAMED_REFUSALS], *survey.notes()]:
        say(f"{source.name}: {line}")
    if len(refused) > settings.unreadable_share * rows:
        path.unlink()
        count = f"{len(refused)} of {rows} rows cannot be read"
        what = f"{count}, more than ingest.unreadable_share allows; the first is {refused[0]}"
        raise UserError(f"source {source.name}", what, "repair the rows, or raise the share")
    figures: Figures = {
        "rows": rows - len(refused),
        "unreadable": len(refused),
        "license": source.license,
        "redistribution": source.redistribution,
        "kind": source.kind,
    }
    if isinstance(source, FilesSource):
        figures["names"] = source.names
    if isinstance(source, Tabular):
        figures["unread_columns"] = short_names(list(survey.unread))
    return figures | left_out(survey)


def ingest_task(task: TaskSource, folder: Path, limits: Limits) -> Figures:
    """Write the items of a benchmark and return its figures."""
    path = folder / f"{task.name}.jsonl"
    rows = write_rows(path, read_task(task, limits))
    if not rows:
        raise UserError(f"benchmark {task.name}", "it has no items", "correct it in params.yaml")
    return {"rows": rows, "license": task.license, "kind": task.kind}


def ingest_data(settings: Ingest, raw: Path, benchmarks: Path) -> dict[str, Figures]:
    """Write all sources and benchmarks, and return their figures."""
    figures: dict[str, Figures] = {}
    for source in settings.sources:
        name = f"source_{source.name}"
        figures[name] = ingest_source(source, raw, settings)
    for task in settings.benchmarks:
        name = f"benchmark_{task.name}"
        figures[name] = ingest_task(task, benchmarks, settings.limits)
    return figures


def main(
    raw: Annotated[Path, typer.Option(help="Folder for question-answer pairs.")] = Path("data/raw"),
    benchmarks: Annotated[Path, typer.Option(help="Folder for benchmark items.")] = Path(
        "data/benchmarks"
    ),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/ingest.json"),
) -> None:
    """Fetch data and benchmark items."""
    params = load_params()
    settings = params.ingest
    refuse_unwatched(settings)
    refuse_unplaced(settings.sources)
    warn_of_rows(settings.sources)
    refuse_closed(settings)
    # No output appears under its final name before all sources are read.
    with staged(raw) as new_raw, staged(benchmarks) as new_benchmarks:
        figures = ingest_data(settings, new_raw, new_benchmarks)
    write_metrics(metrics, figures)
    rows = sum(int(part["rows"]) for part in figures.values())
    print(f"ingest: {rows} rows from {len(figures)} sources, in {raw} and {benchmarks}")


if __name__ == "__main__":
    run_stage(main)
