"""Bring in models, question-answer pairs and benchmark items, each pinned by checksum or revision, and count them.

Rows are only mapped to the names question, answer, specialty and kind here; preprocess judges them.

    python -m stages.ingest
"""

import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from bula.errors import UserError, run_stage
from bula.escaping import terminal
from bula.files import staged
from bula.hardware import seed_everything
from bula.params import (
    DataSource,
    DemoSource,
    DirectoryModel,
    FilesSource,
    Ingest,
    Limits,
    LocalTask,
    load_params,
)
from bula.records import Row, write_rows
from bula.reports import write_metrics
from stages.ingest.models import ingest_base, ingest_judge
from stages.ingest.remotes import refuse_unplaced, weights_note
from stages.ingest.sources import read_source, read_task

# Refused rows of each source that are named on the terminal; data/quarantine.jsonl has all of them after preprocess.
NAMED_REFUSALS = 5
# The folders of data that are dependencies of this stage in dvc.yaml.
WATCHED = ("data/demo", "data/sources")


def is_watched(path: str) -> bool:
    """Return whether DVC sees an edit at `path`; a link counts as where it lies."""
    place = Path(os.path.normpath(path)).absolute()
    return any(place.is_relative_to(Path(folder).absolute()) for folder in WATCHED)


def refuse_unwatched(settings: Ingest) -> None:
    """Raise UserError if data lie where an edit would rerun nothing.

    A model elsewhere is only named on the terminal: it is large and seldom changes.
    """
    for source in [*settings.sources, *settings.benchmarks]:
        if isinstance(source, DemoSource | FilesSource | LocalTask) and not is_watched(source.path):
            what = (
                f"{source.path} lies outside {' and '.join(WATCHED)}, where DVC would see no edit"
            )
            raise UserError(
                f"source {source.name}", what, "move it there and correct its `path` in params.yaml"
            )
    for model in (settings.base, settings.judge):
        if isinstance(model, DirectoryModel):
            note = f"DVC does not watch {model.path}; after a change there run `dvc repro --force ingest`"
            print(f"ingest: {terminal(note)}", file=sys.stderr)


def warn_of_rows(sources: list[DataSource]) -> None:
    """Print which sources hold people's names, and which weights are trained on closed rows."""
    for source in sources:
        if isinstance(source, FilesSource) and source.names == "present":
            note = "people's names stay in its rows, data/clean and the model (names: present); nothing here finds names"
            print(f"ingest: warning: source {source.name}: {note}", file=sys.stderr)
    if note := weights_note(sources):
        print(f"ingest: warning: {note}", file=sys.stderr)


def counted(source: DataSource, limits: Limits, refused: list[str]) -> Iterator[Row]:
    """Yield the rows of a source; append to `refused` where and why a row could not be read."""
    for row in read_source(source, limits):
        if "refused" in row:
            refused.append(f"{row['file']}:{row['line']}: {row['refused']}")
        yield row


def ingest_source(source: DataSource, folder: Path, settings: Ingest) -> dict[str, int | str]:
    """Write a source's rows and return its figures; UserError if too many rows cannot be read."""
    refused: list[str] = []
    path = folder / f"{source.name}.jsonl"
    rows = write_rows(path, counted(source, settings.limits, refused))
    for line in islice(refused, NAMED_REFUSALS):
        print(f"ingest: {source.name}: {terminal(line)}", file=sys.stderr)
    if len(refused) > settings.unreadable_share * rows:
        path.unlink()
        what = f"{len(refused)} of {rows} rows cannot be read, more than ingest.unreadable_share allows"
        raise UserError(
            f"source {source.name}",
            f"{what}; the first is {refused[0]}",
            "repair the rows, or raise the share",
        )
    figures: dict[str, int | str] = {"rows": rows - len(refused), "unreadable": len(refused)}
    figures |= {
        "license": source.license,
        "redistribution": source.redistribution,
        "kind": source.kind,
    }
    if isinstance(source, FilesSource):
        figures["names"] = source.names
    return figures


def ingest_data(settings: Ingest, raw: Path, benchmarks: Path) -> dict[str, dict[str, int | str]]:
    """Write all sources and benchmarks, and return their figures."""
    counts: dict[str, dict[str, int | str]] = {}
    for source in settings.sources:
        counts[f"source_{source.name}"] = ingest_source(source, raw, settings)
    for task in settings.benchmarks:
        rows = write_rows(benchmarks / f"{task.name}.jsonl", read_task(task, settings.limits))
        if not rows:
            raise UserError(f"benchmark {task.name}", "it has no item", "correct it in params.yaml")
        counts[f"benchmark_{task.name}"] = {
            "rows": rows,
            "license": task.license,
            "kind": task.kind,
        }
    return counts


def main(
    raw: Annotated[Path, typer.Option(help="Folder for question-answer pairs.")] = Path("data/raw"),
    benchmarks: Annotated[Path, typer.Option(help="Folder for benchmark items.")] = Path(
        "data/benchmarks"
    ),
    base: Annotated[Path, typer.Option(help="Folder for the base model.")] = Path("models/base"),
    judge: Annotated[Path, typer.Option(help="Folder for the judge.")] = Path("models/judge"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/ingest.json"),
) -> None:
    """Bring in models, data and benchmark items."""
    params = load_params()
    seed_everything(params.sampling_seed)
    refuse_unwatched(params.ingest)
    refuse_unplaced(params.ingest.sources)
    warn_of_rows(params.ingest.sources)
    # Nothing gets its name before all sources were read.
    with staged(raw) as new_raw, staged(benchmarks) as new_benchmarks:
        counts = ingest_data(params.ingest, new_raw, new_benchmarks)
        ingest_base(params.ingest.base, params.dtype, base, params.ingest.limits)
        ingest_judge(params.ingest.judge, judge, params.ingest.limits)
    for name, model in (("model_base", params.ingest.base), ("model_judge", params.ingest.judge)):
        counts[name] = {"license": model.license, "kind": model.kind}
    write_metrics(metrics, counts)
    rows = sum(int(count.get("rows", 0)) for count in counts.values())
    print(f"ingest: {rows} rows from {len(counts) - 2} sources, base model in {base}")


if __name__ == "__main__":
    run_stage(main)
