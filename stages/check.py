"""Check params.yaml before DVC touches the paths that it names.

DVC hashes a stage's dependencies and removes its old outputs before the stage can refuse anything.
Names and models of the variants appear in these paths, so every stage that uses a variant depends
on this stage. It also compares `device` with the launch configuration and with this machine,
refuses a source without a file before a model is fetched, compares the items of benchmark tasks
with those that ingest writes, compares the files that dvc.yaml lists for the stage compare with the
variants, and deletes unfinished answers of variants that params.yaml no longer has.

    python -m stages.check
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.answer_ledger import delete_removed
from bula.compared_files import check_compared_files
from bula.errors import UserError, run_stage
from bula.files import staged
from bula.launch import find_configuration, read_configuration
from bula.params import DemoSource, FilesSource, LocalTask, Params, load_params
from bula.task_files import unwritten_items


def check_device(params: Params, launch: Path) -> None:
    """Raise a UserError unless `device` fits train.launch and this machine."""
    read_configuration(find_configuration(params.train.launch, launch), params.device)
    if params.device == "cuda":
        # Imported here because torch takes seconds to load, and `cpu` needs no check.
        from bula.hardware import prepare_device

        prepare_device(params.device, params.dtype)


def check_weights(params: Params) -> None:
    """Raise a UserError if a variant of engine openai has a folder without weights.

    A folder that does not exist yet is an output of a later stage.
    """
    for name, variant in params.variants.items():
        folder = Path(variant.model)
        if variant.engine != "openai" or not folder.is_dir() or any(folder.glob("*.safetensors")):
            continue
        what = (
            f"{folder} has no weights (*.safetensors), and an API gives no log-likelihoods, so "
            "likelihood and benchmark cannot score this variant"
        )
        fix = "add the weights that the server serves, or remove the variant"
        raise UserError(f"variants.{name}", what, fix)


def check_sources(params: Params) -> None:
    """Raise a UserError if a source or a benchmark has no file."""
    for source in [*params.ingest.sources, *params.ingest.benchmarks]:
        if isinstance(source, (DemoSource, FilesSource, LocalTask)) and is_missing(source.path):
            fix = f"correct `path` of {source.name} in params.yaml, or run `dvc pull`"
            raise UserError(source.path, "it does not exist", fix)


def is_missing(name: str) -> bool:
    """Return whether a path does not exist, and DVC cannot fetch it either."""
    path = Path(name)
    tracked = [Path(f"{place}.dvc") for place in (path, *path.parents)]
    return not path.exists() and not any(file.exists() for file in tracked)


def check_tasks(params: Params, folder: Path) -> None:
    """Raise a UserError if a benchmark task reads items that ingest does not write."""
    written = [source.name for source in params.ingest.benchmarks]
    missing = unwritten_items(folder, params.benchmark.tasks, written)
    if missing:
        named = ", ".join(f"{task} ({path})" for task, path in missing.items())
        what = f"no entry of ingest.benchmarks writes the items of {named}"
        fix = "add an entry with the name of that file, or remove the task from benchmark.tasks"
        raise UserError("params.yaml", what, fix)


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
    check_sources(params)
    check_tasks(params, tasks)
    check_compared_files(pipeline, params.variants)
    # The text never changes, so that stages that depend on it do not run again.
    with staged(out) as temporary:
        temporary.write_text("params.yaml is valid\n", encoding="utf-8")
    print(f"check: {len(params.variants)} variants, params.yaml is valid, in {out}")


if __name__ == "__main__":
    run_stage(main)
