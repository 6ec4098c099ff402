"""Turn raw rows into train, dev and the validation sets, and check what of validation and benchmarks stands in train.

Rows are validated, repaired, redacted, filtered, de-duplicated and split. Refused rows go to quarantine with a reason and
without their words.

Rows are never held all at once: shards of the raw files are cleaned by workers, and what must be decided over all rows is
decided on hashes.

    python -m stages.preprocess
"""

import errno
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from bula.errors import UserError, run_stage
from bula.params import FilesSource, Params, load_params
from bula.reports import write_metrics, write_plot
from stages.preprocess import report
from stages.preprocess.clean import Settings, clean_shard, write_part
from stages.preprocess.contamination import benchmark_rows
from stages.preprocess.deduplicate import Decision, Table, load_table, settle
from stages.preprocess.shards import cut, each, workers

# What a full disk, a quota and a read-only file system say.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
AGAIN = "run `dvc repro ingest`"


def preprocess(
    raw: Path, tasks: list[Path], base: Path, work: Path, params: Params
) -> tuple[Table, Decision, Counter[str], int]:
    """Clean all shards and settle what stays; gives the table of rows, the decision, counts and the number of parts."""
    shards = cut(raw / f"{source.name}.jsonl" for source in params.ingest.sources)
    settings = Settings(base.absolute(), params.preprocess, params.privacy, work)
    counts: Counter[str] = Counter()
    with workers(params.compute, len(shards)) as pool:
        for found in each(pool, clean_shard, shards, settings, what="clean"):
            counts += found
        for number, task in enumerate(tasks, start=len(shards)):
            rows = benchmark_rows(task)
            write_part(work, number, rows, [0] * len(rows), params.preprocess.near_duplicates)
        table = load_table(work, len(shards), [task.stem for task in tasks])
        decision = settle(table, work, len(shards), params.preprocess, pool)
    return table, decision, counts, len(shards)


def check_inputs(raw: Path, tasks: list[Path], params: Params) -> None:
    """Raise UserError unless ingest's files are there, have rows, and belong to the sources of params.yaml."""
    expected = {f"{source.name}.jsonl" for source in params.ingest.sources}
    for file in [*(raw / name for name in sorted(expected)), *tasks]:
        if not file.is_file() or not file.stat().st_size:
            what = "the file is empty" if file.is_file() else "the file does not exist"
            raise UserError(file, what, AGAIN)
    strangers = {file.name for file in raw.iterdir() if not file.name.startswith(".")} - expected
    if strangers:
        raise UserError(
            raw, f"{len(strangers)} files there belong to no source of params.yaml", AGAIN
        )


def warn_of_names(params: Params) -> None:
    """Print which sources hold people's names, since no rule finds and redacts names."""
    for source in params.ingest.sources:
        if isinstance(source, FilesSource) and source.names == "present":
            note = "people's names stay in its rows (names: present); nothing here finds names"
            print(f"preprocess: warning: source {source.name}: {note}", file=sys.stderr)


def make_room(folder: Path) -> None:
    """Make the folder that the work folder will lie in, and remove what killed runs left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".preprocess.*.tmp"):
        shutil.rmtree(stale)


def main(
    raw: Annotated[Path, typer.Option(help="Folder of ingested pairs.")] = Path("data/raw"),
    benchmarks: Annotated[Path, typer.Option(help="Folder of benchmark items.")] = Path(
        "data/benchmarks"
    ),
    base: Annotated[Path, typer.Option(help="Base model, for its tokenizer.")] = Path(
        "models/base"
    ),
    clean: Annotated[Path, typer.Option(help="Folder for the splits.")] = Path("data/clean"),
    quarantine: Annotated[Path, typer.Option(help="File for refused rows.")] = Path(
        "data/quarantine.jsonl"
    ),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics"),
    plots: Annotated[Path, typer.Option(help="Folder for plots.")] = Path("plots"),
) -> None:
    """Turn raw rows into train, dev and the validation sets."""
    params = load_params()
    tasks = [benchmarks / f"{task.name}.jsonl" for task in params.ingest.benchmarks]
    check_inputs(raw, tasks, params)
    warn_of_names(params)
    # The workers' libraries must not start threads of their own beside each other.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    make_room(clean.parent)
    with tempfile.TemporaryDirectory(
        prefix=".preprocess.", suffix=".tmp", dir=clean.parent
    ) as folder:
        work = Path(folder).absolute()
        try:
            table, decision, counts, parts = preprocess(raw.absolute(), tasks, base, work, params)
        except OSError as error:
            if error.errno not in FULL:
                raise
            what = (
                f"its work folder cannot be written ({error.strerror}); the splits are as they were"
            )
            raise UserError(
                "preprocess", what, "free about the size of data/raw on this disk"
            ) from error
        kept, figures = report.write_clean(
            clean, quarantine, params, table, work, parts, decision, counts, tasks
        )
    write_metrics(metrics / "preprocess.json", figures)
    write_metrics(metrics / "contamination.json", report.contamination_metrics(decision, tasks))
    write_plot(plots / "lengths.json", report.length_table(table, kept))
    write_plot(plots / "contamination.json", report.contamination_plot(decision))
    print(
        f"preprocess: {sum(map(len, kept.values()))} examples in {clean}, {figures['quarantine']['rows']} rows refused"
    )


if __name__ == "__main__":
    run_stage(main)
