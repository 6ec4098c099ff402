"""Bring in models, question-answer pairs and benchmark items, each pinned by checksum or revision, and count them.

Rows are only mapped to the names question, answer, specialty and kind here; judging them is preprocess's work.

    python -m stages.ingest
"""

import errno
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from bula.models import prepare
from bula.params import DataSource, DemoSource, DirectoryModel, FilesSource, Ingest, LocalTask, load_params
from bula.records import Row, write_rows
from bula.reports import write_metrics
from stages.ingest.models import ingest_base, ingest_judge
from stages.ingest.sources import read_source, read_task

# Refused rows that are named on the terminal, of each source; all of them are in data/quarantine.jsonl after preprocess.
NAMED_REFUSALS = 5
# The folders of data that are dependencies of this stage in dvc.yaml.
WATCHED = ("data/demo", "data/sources")
# What a full disk and missing rights say; the hub's own errors have no number.
LOCAL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def is_watched(path: str) -> bool:
    """Whether DVC sees an edit at `path`; a link counts as where it lies."""
    place = Path(os.path.normpath(path)).absolute()
    return any(place.is_relative_to(Path(folder).absolute()) for folder in WATCHED)


def refuse_unwatched(settings: Ingest) -> None:
    """ValueError if data lie where an edit would rerun nothing. A model elsewhere is only named: it is large, and seldom changes."""
    for source in [*settings.sources, *settings.benchmarks]:
        if isinstance(source, DemoSource | FilesSource | LocalTask) and not is_watched(source.path):
            raise ValueError(f"{source.name}: {source.path} lies outside {' and '.join(WATCHED)}: DVC would see no edit; move it there")
    for model in (settings.base, settings.judge):
        if isinstance(model, DirectoryModel):
            print(f"ingest: DVC does not watch {model.path}; after a change there run `dvc repro --force ingest`", file=sys.stderr)


def counted(source: DataSource, refused: list[str]) -> Iterator[Row]:
    """Rows of a source; `refused` is told where and why a row could not be read."""
    for row in read_source(source):
        if "refused" in row:
            refused.append(f"{row['file']}:{row['line']}: {row['refused']}")
        yield row


def ingest_source(source: DataSource, folder: Path, unreadable_share: float) -> dict[str, int | str]:
    """Write a source's rows and give its figures; ValueError if more than the allowed share cannot be read."""
    refused: list[str] = []
    path = folder / f"{source.name}.jsonl"
    rows = write_rows(path, counted(source, refused))
    for line in islice(refused, NAMED_REFUSALS):
        print(f"ingest: {source.name}: {line}", file=sys.stderr)
    if len(refused) > unreadable_share * rows:
        path.unlink()
        share = f"{len(refused)} of {rows} rows of source {source.name} cannot be read, more than ingest.unreadable_share allows"
        raise ValueError(f"{share}; the first is {refused[0]}")
    kept = {"rows": rows - len(refused), "unreadable": len(refused)}
    return {**kept, "license": source.license, "redistribution": source.redistribution, "kind": source.kind}


def why_stopped(error: OSError) -> str:
    """What a person can do: the hub's own errors (no such revision, gated, offline) and those of addresses are OSErrors too."""
    if error.errno in LOCAL_ERRORS:
        return f"ingest stopped: {error}; is there disk space, and may this user read and write there?"
    return f"could not be fetched: {error}\nIs the network there, and HF_TOKEN set for a gated model?"


def main(
    raw: Annotated[Path, typer.Option(help="Folder for question-answer pairs.")] = Path("data/raw"),
    benchmarks: Annotated[Path, typer.Option(help="Folder for benchmark items.")] = Path("data/benchmarks"),
    base: Annotated[Path, typer.Option(help="Folder for the base model.")] = Path("models/base"),
    judge: Annotated[Path, typer.Option(help="Folder for the judge.")] = Path("models/judge"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/ingest.json"),
) -> None:
    """Bring in models, data and benchmark items."""
    params = load_params()
    prepare(params.seed)
    counts: dict[str, dict[str, int | str]] = {}
    try:
        refuse_unwatched(params.ingest)
        for source in params.ingest.sources:
            counts[f"source_{source.name}"] = ingest_source(source, raw, params.ingest.unreadable_share)
        for task in params.ingest.benchmarks:
            rows = write_rows(benchmarks / f"{task.name}.jsonl", read_task(task))
            counts[f"benchmark_{task.name}"] = {"rows": rows, "license": task.license, "kind": task.kind}
        ingest_base(params.ingest.base, params.dtype, base, params.ingest.limits)
        ingest_judge(params.ingest.judge, judge, params.ingest.limits)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        raise SystemExit(why_stopped(error)) from error
    for name, model in (("model_base", params.ingest.base), ("model_judge", params.ingest.judge)):
        counts[name] = {"license": model.license, "kind": model.kind}
    write_metrics(metrics, counts)
    print(f"ingest: {sum(int(c.get('rows', 0)) for c in counts.values())} rows from {len(counts) - 2} sources, base model in {base}")


if __name__ == "__main__":
    typer.run(main)
