"""Read one run's figures, and the conditions that comparable runs share."""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bula.errors import UserError
from bula.item_scores import (
    ROWS,
    SampleRow,
    mean_difference,
    means,
    paired,
    read_checked,
    read_item_scores,
)
from bula.params import Pair, Params, scored_as

# The judge is left out because its calls may cost money.
SCORING = ("likelihood", "generate", "benchmark", "rouge")
# The stages before training whose outputs training reads, directly or indirectly.
FIRST_STAGES = ("models", "ingest", "preprocess")


def read_lock(folder: Path) -> dict[str, Any]:
    """Return the stages of a dvc.lock by name."""
    text = (folder / "dvc.lock").read_text(encoding="utf-8")
    stages: dict[str, Any] = YAML(typ="safe").load(text)["stages"]
    return stages


def fetch_run(experiment: str, variants: list[str], folder: Path) -> None:
    """Copy the files that `read_run` needs from an experiment."""
    # Imported here because DVC takes a second to load.
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    paths = ["dvc.lock", "metrics/train.json"]
    for name in variants:
        paths += [f"metrics/{stage}/{name}.json" for stage in SCORING]
        paths += [f"data/{ROWS[stage][0]}/{name}.jsonl" for stage in SCORING]
    try:
        files = DVCFileSystem(rev=experiment)
        for path in paths:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(path, str(target))
    except (DvcException, FileNotFoundError) as error:
        fix = f"run `dvc exp remove {experiment}`, then this command again"
        raise UserError(f"the experiment {experiment}", "its results are missing", fix) from error


def _read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    text = file.read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def read_run(folder: Path, variants: list[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the figures and the conditions of one run.

    All runs of a comparison must have the same conditions. The conditions are the precision of each
    stage, and the hashes of the models and the data.
    """
    train = _read_json(folder / "metrics/train.json")
    figures = {"train__dev_loss_nats": train["dev"]["loss_nats"]}
    conditions: dict[str, Any] = {"train": train["run"]["compute_dtype"]}
    for name in variants:
        scores = read_item_scores(folder / "data", name)
        for measure, mean in means(scores).items():
            figures[f"{name}__{measure}"] = mean
        for stage in SCORING:
            metrics = _read_json(folder / f"metrics/{stage}/{name}.json")
            precision = metrics.get("settings", {}).get("compute_dtype")
            # A server has its own arithmetic.
            if precision in ("bfloat16", "float32"):
                conditions[f"{stage}@{name}"] = precision
    lock = read_lock(folder)
    for stage in FIRST_STAGES:
        entry = lock.get(stage, {})
        conditions[f"outputs of {stage}"] = entry.get("outs")
    return figures, conditions


def read_differences(
    folder: Path, pairs: list[Pair], variants: list[str], params: Params
) -> dict[str, float]:
    """Return the mean paired difference of each pair and measure in one run.

    `variants` are the variants that the run scored. The other ones do not depend on its training,
    so their rows in the current folder count. A pair with borrowed benchmark scores has no measure
    of a benchmark, as in metrics/compare.json. A measure without shared items is left out.
    """

    def data_of(name: str) -> Path:
        return (folder if name in variants else Path()) / "data"

    figures = {}
    for pair in pairs:
        baseline = read_item_scores(data_of(pair.baseline), pair.baseline)
        found = read_item_scores(data_of(pair.variant), pair.variant)
        borrowed: set[str] = set()
        if _has_borrowed_scores(pair, params):
            borrowed = _benchmark_measures(data_of(pair.variant), pair.variant)
        for measure, values in found.items():
            if measure not in borrowed and paired(baseline[measure], values):
                key = f"{pair.name}__{measure}"
                figures[key] = mean_difference(baseline[measure], values)
    return figures


def _has_borrowed_scores(pair: Pair, params: Params) -> bool:
    """Return whether a variant of a pair has the benchmark scores of another one."""
    return any(scored_as(params, name) != name for name in (pair.variant, pair.baseline))


def _benchmark_measures(data: Path, variant: str) -> set[str]:
    """Return the names of the measures that come from benchmark tasks."""
    path = data / "samples" / f"{variant}.jsonl"
    rows = read_checked(path, f"benchmark@{variant}", SampleRow)
    return {f"{row.task}_{metric}" for row in rows for metric in row.scores}


def refuse_other_conditions(run: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise a UserError if a run has other conditions than expected.

    A condition that only one of the two has differs, too.
    """
    names = sorted(found.keys() | expected.keys())
    others = [name for name in names if found.get(name) != expected.get(name)]
    if others:
        what = f"its models, its data or its precision of computing differ ({', '.join(others)})"
        fix = "run `dvc repro --force` on this kind of machine, with all data tracked"
        raise UserError(run, what, fix)
