"""Score the variants beside each other, each on its own device.

DVC runs the stages of one command one after the other. Several `dvc repro --single-item` may run
in one repository, because DVC locks only what a running stage reads and writes. `--wait-for-lock`
lets them wait for each other between stages. So one `dvc repro` runs the stages that the variants
need, then each variant has its own processes, and a last one runs the rest, such as compare. The
finished stages are recorded in DVC's run-cache, also after a failure.

    python -m bula score --devices 0,1,2,3
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

import typer

from bula.commands.keep_runs import keep_finished
from bula.errors import UserError
from bula.experiments import run_dvc

# What each `dvc repro` of a variant prints.
LOGS = Path(".bula/score")
REPRO = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]


def split_stages(graph: Any) -> tuple[list[str], dict[str, list[str]]]:
    """Return the stages that variants need, and each variant's stages in order.

    `graph` is DVC's graph, whose edges lead from a stage to those that it depends on. A variant's
    stage is named STAGE@VARIANT.
    """
    # Imported here, because no other command needs it.
    from networkx import topological_sort

    of_variant: dict[str, list[str]] = {}
    needed: list[str] = []
    for stage in reversed(list(topological_sort(graph))):
        name = stage.addressing
        _, _, variant = name.partition("@")
        if variant:
            of_variant.setdefault(variant, []).append(name)
            needed += [other.addressing for other in graph.successors(stage)]
    shared = {name for name in needed if "@" not in name}
    return sorted(shared), of_variant


def read_stages() -> tuple[list[str], dict[str, list[str]]]:
    """Return `split_stages` of the repository in this folder."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return split_stages(repo.index.graph)
    except DvcException as error:
        raise UserError("dvc.yaml", str(error), "run this in a clone of the repository") from error


def log_of(variant: str) -> Path:
    """Return the file with the output of a variant's stages."""
    return LOGS / f"{variant}.log"


def run_stages(stages: list[str], device: str, log: Path) -> int:
    """Run stages one after the other, until one fails.

    Return dvc's exit code.
    """
    environment = dict(os.environ)
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device
    with log.open("wb") as output:
        for stage in stages:
            command = [*REPRO, stage]
            code = subprocess.call(command, env=environment, stdout=output, stderr=output)
            if code:
                return code
    return 0


def run_variant(variant: str, stages: list[str], devices: SimpleQueue[str]) -> int:
    """Run a variant's stages on the next free device, until one fails.

    Return dvc's exit code. A device is a GPU's number, or empty if the variants share all devices.
    """
    device = devices.get()
    place = f" on GPU {device}" if device else ""
    print(f"score: {variant} runs{place}, see {log_of(variant)}", flush=True)
    try:
        code = run_stages(stages, device, log_of(variant))
    finally:
        # The other variants wait for the device, whatever happened.
        devices.put(device)
    print(f"score: {variant} {'failed' if code else 'is done'}", flush=True)
    return code


def run_variants(of_variant: dict[str, list[str]], places: list[str]) -> list[str]:
    """Run all variants, one per place at once, and return those that failed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    devices: SimpleQueue[str] = SimpleQueue()
    for place in places:
        devices.put(place)
    names = list(of_variant)
    with ThreadPoolExecutor(len(places)) as pool:
        codes = pool.map(lambda name: run_variant(name, of_variant[name], devices), names)
        return [name for name, code in zip(names, codes, strict=True) if code]


def choose_places(devices: str, jobs: int) -> list[str]:
    """Return the devices, or one empty text per job.

    Raise UserError unless exactly one of both is given.
    """
    numbers = [number.strip() for number in devices.split(",") if number.strip()]
    if bool(numbers) == bool(jobs):
        fix = "name GPUs by --devices 0,1, or a number of jobs by --jobs 2"
        raise UserError("score", "it needs either --devices or --jobs", fix)
    return numbers or [""] * jobs


def run_all(places: list[str]) -> None:
    """Run the stages before the variants, the variants, and the stages after them.

    Raise UserError if a stage fails.
    """
    shared, of_variant = read_stages()
    run_dvc("repro", *shared)
    failed = run_variants(of_variant, places)
    if failed:
        logs = ", ".join(str(log_of(name)) for name in failed)
        raise UserError("score", f"these variants failed: {', '.join(failed)}", f"read {logs}")
    run_dvc("repro")


def score(
    devices: Annotated[str, typer.Option(help="Numbers of GPUs, such as 0,1,2,3.")] = "",
    jobs: Annotated[int, typer.Option(min=0, help="Variants at once, where no GPU is named.")] = 0,
) -> None:
    """Run the pipeline with the variants beside each other."""
    places = choose_places(devices, jobs)
    try:
        run_all(places)
    finally:
        # An error of the run is the one to show.
        with suppress(UserError):
            keep_finished(Path())
