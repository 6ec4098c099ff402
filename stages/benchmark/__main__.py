"""Score one variant on benchmark tasks with lm-eval.

lm-eval runs in this process. The tasks in tasks/ read the items that ingest pinned. params.yaml may
name reviewed tasks of lm-eval instead, and one of three backends. The stage writes one row per
item.

    python -m stages.benchmark base
"""

import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from bula.errors import run_stage
from bula.hardware import prepare_device, seed_everything
from bula.params import Params, load_params, variant_of
from bula.records import Row, write_rows
from bula.reports import write_metrics
from stages.benchmark.items import read_items
from stages.benchmark.reuse import find_rows, keep_rows, kept_path
from stages.benchmark.scores import run_tasks, summarise, to_rows


class Scored(NamedTuple):
    """The scores of one variant."""

    rows: list[Row]
    """One row per item."""
    facts: dict[str, str | int]
    """Version of each task, and whether ingest pinned its items."""


def evaluate(variant: str, folder: Path, params: Params) -> Scored:
    """Return the scores of a variant on the tasks, zero-shot.

    Tasks and items are checked before the model is loaded.
    """
    from stages.benchmark.backends import backend, refuse_gguf_file, server_errors
    from stages.benchmark.tasks import find_tasks, load_tasks, task_facts

    model = Path(variant_of(params, variant).model)
    refuse_gguf_file(model, params.benchmark.backend)
    names = params.benchmark.tasks
    manager = find_tasks(folder, names)
    # datasets copies local files into its cache, where a later run could find a stale copy. The
    # folder must exist until all items are scored.
    with tempfile.TemporaryDirectory() as cache:
        tasks = load_tasks(names, manager, Path(cache))
        items = read_items(tasks)
        facts = task_facts(tasks)
        kept = kept_path(variant, folder, items, params)
        rows = find_rows(variant, kept, params) if kept else []
        if rows:
            return Scored(rows, facts)
        with server_errors(params.benchmark.backend), backend(model, params) as served:
            samples = run_tasks(served, tasks, items, manager, params)
    rows = to_rows(samples, items, variant)
    if kept:
        keep_rows(variant, kept, rows, params)
    return Scored(rows, facts)


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    tasks: Annotated[Path, typer.Option(help="Folder of task definitions.")] = Path("tasks"),
    out: Annotated[Path, typer.Option(help="Folder for item scores.")] = Path("data/samples"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/benchmark"),
) -> None:
    """Run the benchmarks."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.sampling_seed)
    rows, facts = evaluate(variant, tasks, params)
    figures = summarise(rows, params)
    figures["settings"] |= facts
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", figures)
    print(f"benchmark: {len(rows)} items of {variant} in {out / variant}.jsonl")


if __name__ == "__main__":
    run_stage(main, less_memory="lower benchmark.batch_size")
