"""Measure the variance of each metric and paired difference across training seeds.

Each further seed is one DVC experiment (`dvc exp run --temp -S seed=...`) over the scoring stages
of the variants that training makes. A stopped measurement resumes with the first experiment that
did not finish.

    python -m bula seeds --count 3
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bula.errors import UserError
from bula.experiments import refuse_untracked_inputs, run_dvc
from bula.files import sha256_values
from bula.params import Pair, Params, load_params
from bula.reports import write_metrics
from bula.runs import (
    SCORING,
    fetch_run,
    read_differences,
    read_lock,
    read_run,
    refuse_other_conditions,
)
from bula.stats import spread

MERGED = "models/merged"
# Models below these paths come from training.
TRAINED = (MERGED, "models/adapter", "models/gguf/", "models/prefer/")


def trained_variants(params: Params) -> list[str]:
    """Return the variants with the merged model.

    Raise UserError if there is none.
    """
    names = [name for name, variant in params.variants.items() if variant.model == MERGED]
    if not names:
        what = f"no variant has the model {MERGED}, so no figure depends on the training seed"
        raise UserError("params.yaml", what, "add such a variant")
    return names


def seed_pairs(params: Params, variants: list[str]) -> list[Pair]:
    """Return the compared pairs whose difference is known for each seed.

    One side is scored for each seed. The other side is, too, or does not come from training.
    """
    pairs = []
    for pair in params.compare.pairs:
        sides = {pair.variant, pair.baseline}
        others = sides - set(variants)
        fixed = [name for name in others if not params.variants[name].model.startswith(TRAINED)]
        if len(others) < len(sides) and len(fixed) == len(others):
            pairs.append(pair)
    return pairs


def note_of_preferences(params: Params) -> str:
    """Return the sentence about prefer, which no seed repeats, or nothing."""
    if not params.prefer:
        return ""
    names = ", ".join(f"prefer@{name}" for name in params.prefer)
    return f"seeds: {names} and the variants of its models are not repeated under other seeds"


def fixed_variants(pairs: list[Pair], variants: list[str]) -> list[str]:
    """Return the variants of the pairs that no seed changes."""
    names = dict.fromkeys(name for pair in pairs for name in (pair.variant, pair.baseline))
    return [name for name in names if name not in variants]


def scoring_stages(variants: list[str]) -> list[str]:
    """Return the stages that score the variants."""
    return [f"{stage}@{name}" for name in variants for stage in SCORING]


def refuse_unusable_folder() -> None:
    """Raise a UserError if DVC's copy of the repository would miss an input."""
    if not str(Path.cwd()).isascii():
        fix = "move the repository to a path of plain ASCII letters"
        raise UserError(Path.cwd(), "DVC's experiments do not start in this folder", fix)
    refuse_untracked_inputs()


def experiment_name(label: str, stages: list[str]) -> str:
    """Return a name that depends on all inputs of the stages' own run."""
    lock = read_lock(Path())
    locked = [lock[name] for name in stages]
    inputs = [[stage[key] for key in ("cmd", "deps", "params")] for stage in locked]
    return f"{label}-{sha256_values(inputs)[:8]}"


def finished_experiments() -> set[str]:
    """Return the names of all experiments of all commits."""
    # Imported here because DVC takes a second to load.
    from dvc.repo import Repo

    with Repo() as repo:
        listed = repo.experiments.ls(all_commits=True).values()
    return {name for experiments in listed for name, _ in experiments}


def run_experiment(label: str, setting: str, stages: list[str], finished: set[str]) -> str:
    """Run one experiment of the stages unless it is finished, and return its name.

    `setting` is `KEY=VALUE` of params.yaml.
    """
    name = experiment_name(label, stages)
    if name not in finished:
        run_dvc("exp", "run", "--temp", "--name", name, "-S", setting, *stages)
    return name


def seed_settings(first: int, count: int) -> dict[str, str]:
    """Return the setting of each seed after the first, by label."""
    further = [(first + number) % 2**32 for number in range(1, count)]
    return {f"seed-{seed}": f"seed={seed}" for seed in further}


def here(conditions: dict[str, Any], params: Params) -> dict[str, Any]:
    """Return the conditions that a run on this machine would have."""
    # Imported here because the other commands need no torch.
    from bula.hardware import compute_dtype

    expected = dict(conditions)
    for name in conditions:
        if not name.startswith("outputs of "):
            expected[name] = compute_dtype(params.dtype, params.device)
    return expected


def common_spreads(runs: list[dict[str, float]]) -> dict[str, dict[str, float | int]]:
    """Return the spread of each figure that all runs have."""
    names = [name for name in runs[0] if all(name in run for run in runs)]
    return {name: spread([run[name] for run in runs]) for name in names}


def seeds(
    count: Annotated[int, typer.Option(min=2, help="Number of seeds, including params.yaml's.")],
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/seeds.json"),
) -> None:
    """Train and score under further seeds, and write the spread of each figure."""
    refuse_unusable_folder()
    params = load_params()
    variants = trained_variants(params)
    pairs = seed_pairs(params, variants)
    if note := note_of_preferences(params):
        print(note, flush=True)
    stages = ["train", "merge", *scoring_stages(variants)]
    run_dvc("repro", *stages, *scoring_stages(fixed_variants(pairs, variants)))
    first, conditions = read_run(Path(), variants)
    refuse_other_conditions("metrics", conditions, here(conditions, params))
    runs = [first | read_differences(Path(), pairs, variants, params)]
    finished = finished_experiments()
    for label, setting in seed_settings(params.seed, count).items():
        experiment = run_experiment(label, setting, stages, finished)
        with tempfile.TemporaryDirectory() as folder:
            fetch_run(experiment, variants, Path(folder))
            figures, found = read_run(Path(folder), variants)
            figures |= read_differences(Path(folder), pairs, variants, params)
        refuse_other_conditions(f"the experiment {experiment}", found, conditions)
        runs.append(figures)
    spreads = common_spreads(runs)
    write_metrics(metrics, {"seeds": count, **spreads})
    print(f"seeds: the spread of {len(spreads)} figures over {count} seeds is in {metrics}")
