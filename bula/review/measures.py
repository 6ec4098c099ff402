"""Name the figures of a review, and read the committed ones.

A committed figure replaces the rows of items where these are not at hand.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from bula.paired import SLICE_OF_MEASURE, rates_answers
from bula.params import Params, scored_as
from bula.review.runs import Run
from bula.safety import SLICES
from bula.tables.benchmark import CONSTANT_SHARE, constant_share

# Measures per variant, beside those that a gate names.
MOST = 10
JUDGE = "judge_accuracy"
SAFETY = "safety_"
OVER_REFUSAL = "safety_over_refusal"
# The measures of one stage alone.
STAGES = {"degenerate": "generate", "bits_per_character": "likelihood"}
STAGES |= {"question_worth": "likelihood"}
# The stage whose machine computed what another stage rates.
ANSWERED_BY = {"rouge": "generate", "judge": "generate"}
# The dependency in dvc.lock that holds the items of each stage.
VALIDATION = "data/clean/validation"
ITEMS = {"benchmark": "data/benchmarks"}
# The precisions that a machine decides; an engine has its own.
PRECISIONS = ("bfloat16", "float32")
UNTRAINED = "models/base"
# The settings in metrics/benchmark/ by which two scores of a task differ.
TASK_SETTINGS = ("lm_eval", "chat_template", "shots", "backend")


class Level(NamedTuple):
    """A committed figure of one run."""

    value: float
    error: float | None
    """Its standard error, if it has one."""
    items: int


def shown_measures(params: Params) -> list[str]:
    """Return at most `MOST` measures: primary ones, safety, judge."""
    safety = [f"{SAFETY}{name}" for name in SLICES]
    return list(dict.fromkeys([*params.compare.primary, *safety, JUDGE]))[:MOST]


def figure_names(before: Run, after: Run, params: Params) -> list[tuple[str, str]]:
    """Return the variant and the measure of each figure.

    Figures of gates are included. A variant with the model of an earlier one repeats its benchmark
    scores, so it has none here.
    """
    names = []
    for variant in dict.fromkeys([*after.variants, *before.variants]):
        for measure in shown_measures(params):
            if not _is_borrowed(variant, measure, params):
                names.append((variant, measure))
    names += [(gate.variant, gate.measure) for gate in params.review.gates]
    return list(dict.fromkeys(names))


def _is_borrowed(variant: str, measure: str, params: Params) -> bool:
    """Return whether a figure repeats that of another variant."""
    known = variant in params.variants
    return known and stage_of(measure) == "benchmark" and scored_as(params, variant) != variant


def stage_of(measure: str) -> str:
    """Return the stage that writes the rows of a measure."""
    if measure in STAGES:
        return STAGES[measure]
    first = measure.partition("_")[0]
    if first.startswith("rouge"):
        return "rouge"
    return first if first in ("judge", "safety") else "benchmark"


def committed(run: Run, variant: str, measure: str) -> Level | None:
    """Return a committed figure with its standard error, if git has it."""
    stage = stage_of(measure)
    metrics = run.metrics(f"{stage}/{variant}")
    if stage == "generate":
        return _share(metrics, "degenerate_share")
    if stage == "likelihood":
        return _likelihood(_group(metrics, "pooled"), measure)
    if stage == "rouge":
        return _rouge(_group(metrics, "pooled"), measure, run)
    if stage == "judge":
        part = measure.removeprefix("judge_")
        return _mean(metrics, f"{part}_mean", f"{part}_stderr", "scored")
    if stage == "safety":
        name = "refuses_share" if measure == OVER_REFUSAL else "pass_share"
        return _share(_group(metrics, slice_of(measure)), name)
    task, metric = task_of(measure, metrics)
    return _mean(_group(metrics, task), metric, f"{metric}_stderr", "items")


def slice_of(measure: str) -> str:
    """Return the slice of the safety questions that a measure is about."""
    return SLICE_OF_MEASURE.get(measure, measure.removeprefix(SAFETY))


def task_of(measure: str, metrics: Iterable[str]) -> tuple[str, str]:
    """Return the task and the metric of a measure, or empty texts."""
    tasks = [name for name in metrics if measure.startswith(f"{name}_")]
    task = max(tasks, key=len, default="")
    return (task, measure.removeprefix(f"{task}_")) if task else ("", "")


def _group(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a group of a metrics file, or nothing without it."""
    found = metrics.get(name)
    return found if isinstance(found, dict) else {}


def _number(figures: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a metrics file, or None without it."""
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else None


def _mean(figures: Mapping[str, Any], name: str, error: str, items: str) -> Level | None:
    """Return a mean with its own standard error."""
    value = _number(figures, name)
    if value is None:
        return None
    return Level(value, _number(figures, error), int(_number(figures, items) or 0))


def _share(figures: Mapping[str, Any], name: str) -> Level | None:
    """Return a share of items.

    Its standard error is that of the share after two more items of each kind were seen in the two
    runs together (Agresti & Caffo 2000), because the plain one is 0 for a share of 0.
    """
    share = _number(figures, name)
    # A failed request has no answer, and counts in no share.
    items = (_number(figures, "items") or 0) - (_number(figures, "failed") or 0)
    if share is None or not items:
        return None
    adjusted = (share * items + 1) / (items + 2)
    return Level(share, math.sqrt(adjusted * (1 - adjusted) / (items + 2)), int(items))


def _likelihood(pooled: Mapping[str, Any], measure: str) -> Level | None:
    """Return bits per character, or the question's worth.

    The relative error of bits per character is about that of the loss per token.
    """
    if measure == "question_worth":
        name = "question_worth_bits"
        return _mean(pooled, name, f"{name}_stderr", "question_worth_items")
    level = _mean(pooled, "bits_per_character", "", "items")
    loss = _number(pooled, "loss_nats")
    error = _number(pooled, "loss_nats_stderr")
    if level is None or not loss or error is None:
        return level
    return level._replace(error=level.value * error / loss)


def _rouge(pooled: Mapping[str, Any], measure: str, run: Run) -> Level | None:
    """Return ROUGE with its standard error.

    The error is half the bootstrap interval over the normal quantile of its coverage.
    """
    level = _mean(pooled, measure, "", "items")
    low = _number(pooled, f"{measure}_low")
    high = _number(pooled, f"{measure}_high")
    coverage = _number(_group(run.params, "rouge"), "confidence")
    if level is None or low is None or high is None or coverage is None:
        return level
    quantile = statistics.NormalDist().inv_cdf((1 + coverage) / 2)
    return level._replace(error=(high - low) / 2 / quantile)


# Reasons against a comparison


def machine(run: Run) -> str:
    """Return the device and the precision that trained a run's model."""
    precision = _group(run.metrics("train"), "run").get("compute_dtype", "unknown precision")
    return f"{run.params.get('device', 'unknown device')}, {precision}"


def processor(run: Run) -> str:
    """Return the GPU or CPU that trained a run's model, or an empty text."""
    return str(run.metrics("speed/train").get("processor", ""))


def _machine_of(run: Run, variant: str, measure: str) -> list[str]:
    """Return the machines that one figure depends on."""
    stage = stage_of(measure)
    metrics = run.metrics(f"{ANSWERED_BY.get(stage, stage)}/{variant}")
    precision = str(_group(metrics, "settings").get("compute_dtype", "unknown precision"))
    device = str(run.params.get("device", "unknown device"))
    model = _group(_group(run.params, "variants"), variant).get("model")
    machines = [machine(run)]
    if precision in PRECISIONS:
        machines = [f"{device}, {precision}"]
        if model != UNTRAINED:
            machines.append(machine(run))
    return machines


def not_comparable(before: Run, after: Run, variant: str, measure: str) -> str:
    """Return why two figures cannot be compared, or an empty text."""
    stage = stage_of(measure)
    if stage == "judge" and (reason := _other_judge(before, after, variant, measure)):
        return reason
    machines = [_machine_of(run, variant, measure) for run in (before, after)]
    for first, second in zip(*machines, strict=False):
        if first != second:
            return f"other machine kind ({first} → {second})"
    if stage == "benchmark":
        return _other_task(before, after, variant, measure)
    return ""


def _other_judge(before: Run, after: Run, variant: str, measure: str) -> str:
    """Return why two scores of judges cannot be compared, or an empty text."""
    metrics = [run.metrics(f"judge/{variant}") for run in (before, after)]
    names = [str(figures.get("judge")) for figures in metrics]
    if names[0] != names[1]:
        return f"other judge ({names[0]} → {names[1]})"
    part = measure.removeprefix("judge_")
    withheld = any(figures.get(f"{part}_withheld") for figures in metrics)
    return "judge withheld (its kappa is too low)" if withheld else ""


def _other_task(before: Run, after: Run, variant: str, measure: str) -> str:
    """Return why two benchmark scores cannot be compared, or an empty text."""
    metrics = [run.metrics(f"benchmark/{variant}") for run in (before, after)]
    task, _ = task_of(measure, metrics[1])
    settings = [_group(figures, "settings") for figures in metrics]
    for name in (f"{task}_version", *TASK_SETTINGS):
        values = [str(setting.get(name, "unknown")) for setting in settings]
        if values[0] != values[1]:
            return f"other {name} of the benchmark ({values[0]} → {values[1]})"
    return ""


def other_items(before: Run, after: Run, measure: str) -> str:
    """Return why two committed figures may have other items, or an empty text.

    dvc.lock has the hash of the files with the items.
    """
    path = _items_path(after, measure)
    hashes = [_hash_of(run, path) for run in (before, after)]
    if not all(hashes):
        return f"other items (a dvc.lock has no hash of {path})"
    return f"other items ({path} changed)" if hashes[0] != hashes[1] else ""


def _items_path(run: Run, measure: str) -> str:
    """Return the path in dvc.lock of the items of a measure."""
    stage = stage_of(measure)
    if stage == "safety":
        return str(_group(run.params, "safety").get("questions", "the safety questions"))
    return ITEMS.get(stage, VALIDATION)


def _hash_of(run: Run, path: str) -> str:
    """Return the hash of a dependency in dvc.lock, or an empty text."""
    for stage in run.lock.values():
        for entry in stage.get("deps", []):
            if entry["path"] == path:
                return str(entry.get("md5", ""))
    return ""


def not_meaningful_in(runs: Iterable[Run], variant: str, measure: str, limit: float) -> str:
    """Return why a figure says nothing, or an empty text.

    The rules are those of the compare stage: text overlap and the judge's scores of loops, safety
    slices to which a loop is no answer, and tasks with nearly one answer to all items.
    """
    runs = list(runs)
    shares = [_loops(run, variant, measure) for run in runs]
    worst = max(shares)
    if worst > limit:
        return f"too many answers are loops ({worst * 100:.0f} %)"
    constant = all(_is_constant(run, variant, measure) for run in runs)
    return "nearly one answer to all items" if constant else ""


def _loops(run: Run, variant: str, measure: str) -> float:
    """Return the share of degenerate answers that a measure rates."""
    if measure in SLICE_OF_MEASURE:
        figures = _group(run.metrics(f"safety/{variant}"), slice_of(measure))
    elif rates_answers(measure):
        figures = run.metrics(f"generate/{variant}")
    else:
        return 0.0
    return _number(figures, "degenerate_share") or 0.0


def _is_constant(run: Run, variant: str, measure: str) -> bool:
    """Return whether a variant gave nearly one answer to a benchmark task."""
    if stage_of(measure) != "benchmark":
        return False
    metrics = run.metrics(f"benchmark/{variant}")
    task, _ = task_of(measure, metrics)
    return constant_share(dict(_group(metrics, task))) >= CONSTANT_SHARE
