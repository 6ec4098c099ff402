"""Measure the variance of each metric across training seeds, by DVC experiments.

Each further seed is one queued experiment (`dvc exp run --queue -S seed=...`) over the scoring
stages of the variants that training makes. DVC's run-cache answers for every stage that an earlier
run finished, so a stopped measurement resumes.

    python -m bula seeds --count 3
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from ruamel.yaml import YAML

from bula.errors import UserError
from bula.files import sha256_values
from bula.item_scores import ROWS, means, read_item_scores
from bula.params import Params, load_params
from bula.reports import write_metrics
from bula.stats import spread

MERGED = "models/merged"
# The judge is left out because its calls may cost money.
SCORING = ("likelihood", "generate", "benchmark", "rouge")
Figures = dict[str, float]


def trained_variants(params: Params) -> list[str]:
    """Return the variants with the merged model; UserError if there is none."""
    names = [name for name, variant in params.variants.items() if variant.model == MERGED]
    if not names:
        what = f"no variant has the model {MERGED}, so no figure depends on the training seed"
        raise UserError("params.yaml", what, "add such a variant")
    return names


def run_dvc(*arguments: str) -> None:
    """Run dvc with this interpreter's programs on PATH; UserError if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", *arguments]
    if subprocess.run(command, env=os.environ | {"PATH": path}, check=False).returncode:
        raise UserError(f"dvc {' '.join(arguments)}", "it failed", "read its messages above")


def fetch_run(experiment: str, variants: list[str], folder: Path) -> None:
    """Copy what `read_run` reads out of an experiment; UserError if it has no result."""
    # Imported here because DVC takes a second to load.
    from dvc.api import DVCFileSystem
    from dvc.scm import RevError

    paths = ["metrics/train.json"]
    for name in variants:
        paths.append(f"metrics/likelihood/{name}.json")
        paths += [f"data/{ROWS[stage][0]}/{name}.jsonl" for stage in SCORING]
    try:
        files = DVCFileSystem(rev=experiment)
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            files.get_file(path, str(folder / path))
    except (RevError, FileNotFoundError) as error:
        fix = f"read `dvc queue logs {experiment}`, then run this command again"
        raise UserError(f"the experiment {experiment}", "it has no result", fix) from error


def read_run(folder: Path, variants: list[str]) -> tuple[Figures, set[str]]:
    """Return the figures of one run, and the precisions in which they were computed."""
    train = json.loads((folder / "metrics/train.json").read_text(encoding="utf-8"))
    figures = {"train__dev_loss_nats": train["dev"]["loss_nats"]}
    precisions = {train["run"]["compute_dtype"]}
    for name in variants:
        likelihood = (folder / f"metrics/likelihood/{name}.json").read_text(encoding="utf-8")
        precisions.add(json.loads(likelihood)["settings"]["compute_dtype"])
        for measure, mean in means(read_item_scores(folder / "data", name)).items():
            figures[f"{name}__{measure}"] = mean
    return figures, precisions


def experiment_name(seed: int, targets: list[str]) -> str:
    """Return a name that changes with everything that shapes the pipeline's own run."""
    lock = YAML(typ="safe").load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
    shaped_by = [lock[name] for name in ("train", "merge", *targets)]
    return f"seed-{seed}-{sha256_values(shaped_by)[:8]}"


def run_experiments(first_seed: int, count: int, targets: list[str]) -> list[str]:
    """Run one experiment per further seed, and return their names; finished ones are kept."""
    # Imported here because DVC takes a second to load.
    from dvc.repo import Repo

    with Repo() as repo:
        listed = repo.experiments.ls(all_commits=True).values()
    finished = {name for experiments in listed for name, _ in experiments}
    names = []
    for number in range(1, count):
        seed = (first_seed + number) % 2**32
        name = experiment_name(seed, targets)
        names.append(name)
        if name not in finished:
            run_dvc("exp", "run", "--queue", "--name", name, "-S", f"seed={seed}", *targets)
    run_dvc("exp", "run", "--run-all")
    return names


def refuse_other_precision(run: str, found: set[str], expected: set[str]) -> None:
    """Raise a UserError if a run was computed in other precisions than the expected ones."""
    if found != expected:
        what = f"it was computed in {', '.join(sorted(found))}, not {', '.join(sorted(expected))}"
        fix = "rounding would count as seed variance; run `dvc repro --force` on this machine first"
        raise UserError(run, what, fix)


def seeds(
    count: Annotated[int, typer.Option(min=2, help="Seeds, the pipeline's own included.")],
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/seeds.json"),
) -> None:
    """Train and score under further seeds, and write the spread of each figure."""
    # Imported here because the other commands need no torch.
    from bula.hardware import compute_dtype

    if not str(Path.cwd()).isascii():
        fix = "move the repository to a path of plain ASCII letters"
        raise UserError(Path.cwd(), "DVC's queue does not start in this folder", fix)
    params = load_params()
    variants = trained_variants(params)
    targets = [f"{stage}@{name}" for name in variants for stage in SCORING]
    run_dvc("repro", *targets)
    first, precisions = read_run(Path(), variants)
    refuse_other_precision("metrics", precisions, precisions | {compute_dtype(params.dtype)})
    experiments = run_experiments(params.seed, count, targets)
    runs = [first]
    for experiment in experiments:
        with tempfile.TemporaryDirectory() as folder:
            fetch_run(experiment, variants, Path(folder))
            figures, found = read_run(Path(folder), variants)
        refuse_other_precision(f"the experiment {experiment}", found, precisions)
        runs.append(figures)
    spreads = {name: spread([run[name] for run in runs]) for name in first}
    write_metrics(metrics, {"seeds": count, **spreads})
    print(f"seeds: the spread of {len(spreads)} figures over {count} seeds is in {metrics}")
