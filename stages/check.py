"""Check params.yaml before DVC touches the paths that it names.

DVC hashes a stage's dependencies and removes its old outputs before the stage can refuse anything.
Names and models of the variants appear in these paths, so every stage that uses a variant depends
on this stage. It also compares `device` with the launch configuration and with this machine,
refuses a file, a model, a benchmark task or a primary measure that does not exist before a model is
fetched, compares the items of benchmark tasks with those that ingest writes, compares the files
that dvc.yaml lists for the stage compare with the variants, and deletes unfinished answers of
variants that params.yaml no longer has.

    python -m stages.check
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.answer_ledger import delete_removed
from bula.compared_files import check_compared_files
from bula.errors import run_stage
from bula.files import staged
from bula.launch import find_configuration, read_configuration
from bula.named_inputs import named_inputs, refuse_folder_without_weights, refuse_missing
from bula.params import Params, load_params
from bula.primary_measures import refuse_unknown_measures
from bula.task_files import refuse_unknown_tasks, refuse_unwritten_items


def check_device(params: Params, launch: Path) -> None:
    """Raise a UserError unless `device` fits train.launch and this machine."""
    read_configuration(find_configuration(params.train.launch, launch), params.device)
    if params.device == "cuda":
        # Imported here because torch takes seconds to load, and `cpu` needs no check.
        from bula.hardware import prepare_device

        prepare_device(params.device, params.dtype)


def check_weights(params: Params) -> None:
    """Raise a UserError if a variant of engine openai has a folder without weights."""
    for name, variant in params.variants.items():
        if variant.engine == "openai":
            refuse_folder_without_weights(name, variant.model)


def check_inputs(params: Params) -> None:
    """Raise a UserError if a file or a model does not exist."""
    for item in named_inputs(params):
        refuse_missing(item)


def check_tasks(params: Params, folder: Path) -> None:
    """Raise a UserError if a task is unknown, or nobody writes its items."""
    refuse_unknown_tasks(folder, params.benchmark.tasks)
    written = [source.name for source in params.ingest.benchmarks]
    refuse_unwritten_items(folder, params.benchmark.tasks, written)


def main(
    out: Annotated[Path, typer.Option(help="File that records the check.")] = Path(
        "data/checked.txt"
    ),
    launch: Annotated[Path, typer.Option(help="Folder of accelerate's configurations.")] = Path(
        "accelerate"
    ),
    tasks: Annotated[Path, typer.Option(help="Folder of task definitions.")] = Path("tasks"),
    pipeline: Annotated[Path, typer.Option(help="DVC's pipeline.")] = Path("dvc.yaml"),
) -> None:
    """Check the parameters."""
    params = load_params()
    check_device(params, launch)
    check_weights(params)
    delete_removed(params.variants)
    check_inputs(params)
    check_tasks(params, tasks)
    refuse_unknown_measures(params)
    check_compared_files(pipeline, params.variants)
    # The text never changes, so that stages that depend on it do not run again.
    with staged(out) as temporary:
        temporary.write_text("params.yaml is valid\n", encoding="utf-8")
    print(f"check: {len(params.variants)} variants, params.yaml is valid, in {out}")


if __name__ == "__main__":
    run_stage(main)
