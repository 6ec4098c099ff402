"""Turn raw rows into train, dev and the validation sets.

Rows are repaired, redacted, filtered, de-duplicated and split. Training rows that contain items of
the validation sets or benchmarks are found. A refused row goes to quarantine with a reason and a
masked excerpt. Workers clean shards of the raw files, and decisions over all rows use hashes, so
the rows never have to fit into memory.

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

import numpy
import typer

from bula.errors import UserError, run_stage
from bula.hardware import prepare_device
from bula.params import FilesSource, NoModel, Params, TextReading, load_params
from bula.reports import write_metrics, write_plot
from stages.preprocess import report
from stages.preprocess.benchmarks import benchmark_rows
from stages.preprocess.clean import Settings
from stages.preprocess.deduplicate import deduplicate, is_later_piece
from stages.preprocess.losses import count_lines
from stages.preprocess.parts import clean_shard, write_part
from stages.preprocess.report import Metrics, Outcome, SplitRanks
from stages.preprocess.shards import cut, each, workers
from stages.preprocess.table import Corpus, Table, load_table

# A full disk, an exceeded quota, a file size limit and a read-only file system.
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
RUN_INGEST = "run `dvc repro ingest`"

Raw = Annotated[Path, typer.Option(help="Folder of ingested pairs.")]
Benchmarks = Annotated[Path, typer.Option(help="Folder of benchmark items.")]
Base = Annotated[Path, typer.Option(help="Base model, for its tokenizer.")]
Clean = Annotated[Path, typer.Option(help="Folder for the splits.")]
Quarantine = Annotated[Path, typer.Option(help="File for refused rows.")]
MetricsFolder = Annotated[Path, typer.Option(help="Folder for metrics.")]
Plots = Annotated[Path, typer.Option(help="Folder for plots.")]


def preprocess(raw: Path, tasks: list[Path], base: Path, work: Path, params: Params) -> Outcome:
    """Clean all shards into the work folder, and decide which rows stay."""
    files = {source.name: raw / f"{source.name}.jsonl" for source in params.ingest.sources}
    shards = cut(files.values())
    settings = Settings(
        base=base.absolute(),
        preprocess=params.preprocess,
        privacy=params.privacy,
        work=work,
    )
    counts: Counter[str] = Counter()
    with workers(params.compute, len(shards)) as pool:
        for found in each(pool, clean_shard, shards, settings, what="clean"):
            counts += found
        for number, task in enumerate(tasks, start=len(shards)):
            rows = benchmark_rows(task)
            write_part(work, number, rows, [0] * len(rows), params.preprocess.near_duplicates)
        names = [task.stem for task in tasks]
        table = load_table(work, len(shards), names, params.preprocess)
        count_cut_answers(table, counts)
        corpus = Corpus(table, work, len(shards), pool)
        decision = deduplicate(corpus, params.preprocess)
    return Outcome(
        table=table,
        decision=decision,
        counts=counts,
        parts=len(shards),
        sources=[shard.path.stem for shard in shards],
        rows_in={name: count_lines(file) for name, file in files.items()},
    )


def count_cut_answers(table: Table, counts: Counter[str]) -> None:
    """Count split answers as truncated if they moved out of train."""
    cut_answers = int(numpy.count_nonzero(is_later_piece(table) & (table.piece == 1)))
    counts["repaired answers_split"] -= cut_answers
    counts["repaired answers_truncated"] += cut_answers


def check_inputs(raw: Path, tasks: list[Path], params: Params) -> None:
    """Raise UserError unless ingest wrote exactly the files that params.yaml expects."""
    expected = {f"{source.name}.jsonl" for source in params.ingest.sources}
    files = [raw / name for name in sorted(expected)]
    for file in files + tasks:
        if not file.is_file():
            raise UserError(file, "the file does not exist", RUN_INGEST)
        if not file.stat().st_size:
            raise UserError(file, "the file is empty", RUN_INGEST)
    visible = {file.name for file in raw.glob("[!.]*")}
    unexpected = visible - expected
    if unexpected:
        what = f"{len(unexpected)} files there belong to no source of params.yaml"
        raise UserError(raw, what, RUN_INGEST)


def warn_of_names(params: Params) -> None:
    """Warn of sources with people's names, because no rule redacts all names."""
    for source in params.ingest.sources:
        if isinstance(source, FilesSource) and source.names == "present":
            note = "people's names stay in its rows (names: present) where nothing finds them"
            print(f"preprocess: warning: source {source.name}: {note}", file=sys.stderr)


def loads_model(params: Params) -> bool:
    """Return whether a model finds names, or an encoder of transformers compares meanings."""
    has_names_model = not isinstance(params.privacy.names, NoModel)
    return has_names_model or isinstance(params.preprocess.encoder, TextReading)


def remove_stale_work(folder: Path) -> None:
    """Create a folder, and remove work folders of killed runs there."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".preprocess.*.tmp"):
        shutil.rmtree(stale)


def run(
    raw: Path, tasks: list[Path], base: Path, clean: Path, quarantine: Path, params: Params
) -> tuple[Outcome, SplitRanks, Metrics]:
    """Preprocess in a temporary work folder, and write the splits.

    Return the outcome, the ranks of the rows written and the metrics. Raise UserError if the work
    folder cannot be written.
    """
    remove_stale_work(clean.parent)
    temporary = tempfile.TemporaryDirectory(prefix=".preprocess.", suffix=".tmp", dir=clean.parent)
    with temporary as folder:
        work = Path(folder).absolute()
        try:
            outcome = preprocess(raw.absolute(), tasks, base, work, params)
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            raise UserError(
                "preprocess",
                f"its work folder cannot be written ({error.strerror}); the splits are unchanged",
                "free about the size of data/raw on this disk",
            ) from error
        kept, metrics = report.write_clean(clean, quarantine, params, outcome, work, tasks)
    return outcome, kept, metrics


def main(
    raw: Raw = Path("data/raw"),
    benchmarks: Benchmarks = Path("data/benchmarks"),
    base: Base = Path("models/base"),
    clean: Clean = Path("data/clean"),
    quarantine: Quarantine = Path("data/quarantine.jsonl"),
    metrics: MetricsFolder = Path("metrics"),
    plots: Plots = Path("plots"),
) -> None:
    """Turn raw rows into train, dev and the validation sets."""
    params = load_params()
    tasks = [benchmarks / f"{task.name}.jsonl" for task in params.ingest.benchmarks]
    check_inputs(raw, tasks, params)
    warn_of_names(params)
    if loads_model(params):
        # Several workers load the models, and the rows must not depend on a GPU.
        prepare_device("cpu", "float32")
    # The workers must not start threads of their tokenizers beside each other.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    outcome, kept, figures = run(raw, tasks, base, clean, quarantine, params)
    contamination = report.contamination_metrics(outcome.decision, tasks)
    lengths = report.length_table(outcome.table, kept)
    found_items = report.contamination_plot(outcome.decision)
    write_metrics(metrics / "preprocess.json", figures)
    write_metrics(metrics / "contamination.json", contamination)
    write_plot(plots / "lengths.json", lengths)
    write_plot(plots / "contamination.json", found_items)
    examples = sum(map(len, kept.values()))
    refused = figures["quarantine"]["rows"]
    print(f"preprocess: {examples} examples in {clean}, {refused} rows refused")


if __name__ == "__main__":
    run_stage(main, less_memory="lower compute.workers")
