"""Measure the variance of each metric across training seeds.

Each further seed is one DVC experiment (`dvc exp run --temp -S seed=...`) over the scoring stages
of the variants that training makes. A stopped measurement resumes: finished experiments are kept,
and DVC's run-cache has every stage that an earlier run finished.

    python -m bula seeds --count 3
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from bula.commands.plan import find_launch
from bula.errors import UserError
from bula.files import sha256_values
from bula.item_scores import ROWS, means, read_item_scores
from bula.params import Params, load_params
from bula.reports import write_metrics
from bula.stats import spread

MERGED = "models/merged"
# The judge is left out because its calls may cost money.
SCORING = ("likelihood", "generate", "benchmark", "rouge")
# The stages before training, and the folders that DVC copies into an experiment if git tracks them.
DATA_STAGES = ("ingest", "preprocess")
INPUTS = ("accelerate", "bula", "data", "stages", "tasks")


def trained_variants(params: Params) -> list[str]:
    """Return the variants with the merged model. Raise UserError if there is none."""
    names = [name for name, variant in params.variants.items() if variant.model == MERGED]
    if not names:
        what = f"no variant has the model {MERGED}, so no figure depends on the training seed"
        raise UserError("params.yaml", what, "add such a variant")
    return names


def refuse_unusable_folder() -> None:
    """Raise a UserError if DVC's copy of the repository would fail or miss an input."""
    if not str(Path.cwd()).isascii():
        fix = "move the repository to a path of plain ASCII letters"
        raise UserError(Path.cwd(), "DVC's experiments do not start in this folder", fix)
    command = ["git", "ls-files", "--others", "--exclude-standard", "--", *INPUTS]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # DVC writes a .gitignore beside each output.
    found = [name for name in listed.splitlines() if not name.endswith(".gitignore")]
    if found:
        fix = "run `git add` on each, after `dvc add` for data"
        raise UserError(found[0], f"git does not track this input ({len(found)} in all)", fix)


def run_dvc(*arguments: str) -> None:
    """Run dvc with this interpreter's programs on PATH. Raise UserError if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", *arguments]
    with subprocess.Popen(command, env=os.environ | {"PATH": path}) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached dvc too, and training saves its step before it exits.
            process.wait()
            raise
    if code:
        raise UserError(f"dvc {' '.join(arguments)}", "it failed", "read its messages above")


def read_lock(folder: Path) -> dict[str, Any]:
    """Return the stages of a dvc.lock by name."""
    text = (folder / "dvc.lock").read_text(encoding="utf-8")
    stages: dict[str, Any] = YAML(typ="safe").load(text)["stages"]
    return stages


def experiment_name(seed: int, targets: list[str]) -> str:
    """Return a name that depends on all inputs of the pipeline's run."""
    lock = read_lock(Path())
    stages = [lock[name] for name in ("train", "merge", *targets)]
    inputs = [[stage[key] for key in ("cmd", "deps", "params")] for stage in stages]
    return f"seed-{seed}-{sha256_values(inputs)[:8]}"


def run_experiments(first_seed: int, count: int, targets: list[str]) -> list[str]:
    """Run one experiment per further seed, and return all names."""
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
            run_dvc("exp", "run", "--temp", "--name", name, "-S", f"seed={seed}", *targets)
    return names


def fetch_run(experiment: str, variants: list[str], folder: Path) -> None:
    """Copy the files that `read_run` needs from an experiment."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    paths = ["dvc.lock", "metrics/train.json"]
    for name in variants:
        paths += [f"metrics/{stage}/{name}.json" for stage in SCORING]
        paths += [f"data/{ROWS[stage][0]}/{name}.jsonl" for stage in SCORING]
    try:
        files = DVCFileSystem(rev=experiment)
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            files.get_file(path, str(folder / path))
    except (DvcException, FileNotFoundError) as error:
        fix = f"run `dvc exp remove {experiment}`, then this command again"
        raise UserError(f"the experiment {experiment}", "its results are missing", fix) from error


def read_run(folder: Path, variants: list[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the figures of one run, and the conditions that all runs must share.

    The conditions are the precision of each stage, and the hashes of the data.
    """
    train = json.loads((folder / "metrics/train.json").read_text(encoding="utf-8"))
    figures = {"train__dev_loss_nats": train["dev"]["loss_nats"]}
    conditions: dict[str, Any] = {"train": train["run"]["compute_dtype"]}
    for name in variants:
        for measure, mean in means(read_item_scores(folder / "data", name)).items():
            figures[f"{name}__{measure}"] = mean
        for stage in SCORING:
            file = folder / f"metrics/{stage}/{name}.json"
            settings = json.loads(file.read_text(encoding="utf-8")).get("settings", {})
            # A server has its own arithmetic.
            if settings.get("compute_dtype") in ("bfloat16", "float32"):
                conditions[f"{stage}@{name}"] = settings["compute_dtype"]
    lock = read_lock(folder)
    for stage in DATA_STAGES:
        conditions[f"data of {stage}"] = lock.get(stage, {}).get("outs")
    return figures, conditions


def refuse_other_conditions(run: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise a UserError if a run differs from the pipeline's in more than the seed."""
    others = [name for name in expected if found[name] != expected[name]]
    if others:
        what = f"its data or its precision of computing differ ({', '.join(others)})"
        fix = "run `dvc repro --force` on this kind of machine, with all data tracked"
        raise UserError(run, what, fix)


def here(conditions: dict[str, Any], params: Params) -> dict[str, Any]:
    """Return the conditions that a run on this machine would have."""
    # Imported here because the other commands need no torch.
    from bula.hardware import compute_dtype

    expected = dict(conditions)
    for name in conditions:
        if not name.startswith("data of "):
            expected[name] = compute_dtype(params.dtype)
    if find_launch(params, Path()).get("use_cpu"):
        expected["train"] = compute_dtype(params.dtype, "cpu")
    return expected


def seeds(
    count: Annotated[int, typer.Option(min=2, help="Number of seeds, including params.yaml's.")],
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/seeds.json"),
) -> None:
    """Train and score under further seeds, and write the spread of each figure."""
    refuse_unusable_folder()
    params = load_params()
    variants = trained_variants(params)
    targets = [f"{stage}@{name}" for name in variants for stage in SCORING]
    run_dvc("repro", *targets)
    first, conditions = read_run(Path(), variants)
    refuse_other_conditions("metrics", conditions, here(conditions, params))
    runs = [first]
    for experiment in run_experiments(params.seed, count, targets):
        with tempfile.TemporaryDirectory() as folder:
            fetch_run(experiment, variants, Path(folder))
            figures, found = read_run(Path(folder), variants)
        refuse_other_conditions(f"the experiment {experiment}", found, conditions)
        runs.append(figures)
    spreads = {name: spread([run[name] for run in runs]) for name in first}
    write_metrics(metrics, {"seeds": count, **spreads})
    print(f"seeds: the spread of {len(spreads)} figures over {count} seeds is in {metrics}")
