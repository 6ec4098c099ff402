"""Format the mean and standard deviation over training seeds as cells."""

import math
from pathlib import Path
from typing import NamedTuple

from bula.params import Params
from bula.tables.benchmark import benchmark_label, benchmark_tasks, first_metric, pin_note
from bula.tables.cells import Column, plus_minus
from bula.tables.figures import (
    LIKELIHOOD,
    ROUGE,
    degenerate_share,
    group,
    read_figures,
    variant_group,
)
from bula.tables.measures import (
    BITS_LABEL,
    KINDS,
    degenerate_label,
    rouge_label,
    withhold,
    worth_label,
)

# Metrics files have six digits, so equal figures may differ in the last one.
SEED_TOLERANCE = 1e-5


class Seeded(NamedTuple):
    """One figure of a variant that may have a spread over seeds."""

    measure: str
    """Name of the measure in metrics/seeds.json."""
    label: str
    """Label of its row in the table of results."""
    value: float
    """The figure of this run."""
    scale: int
    """Factor of the table: 100 for percent."""
    digits: int
    """Digits after the point in the table."""


def seed_column(folder: Path, variant: str, params: Params) -> dict[str, Column]:
    """Return a column with the mean and standard deviation of each figure over seeds.

    The result is empty if no seed was measured, or if the spreads belong to another run.
    """
    path = folder / "seeds.json"
    spreads = read_figures(path, "") if path.exists() else {}
    cells = {}
    for figure in _seeded_figures(folder, variant, params):
        name = f"{variant}__{figure.measure}"
        if name not in spreads:
            continue
        spread = group(spreads, name, ["first", "mean", "stdev"], path, "")
        tolerance = {"rel_tol": SEED_TOLERANCE, "abs_tol": SEED_TOLERANCE**2}
        if not math.isclose(spread["first"], figure.value, **tolerance):
            return {}
        mean = spread["mean"] * figure.scale
        cells[figure.label] = plus_minus(mean, spread["stdev"] * figure.scale, figure.digits)
    if not cells:
        return {}
    share = degenerate_share(folder, variant)
    title = f"{variant}, mean ± sd of {spreads['seeds']} seeds"
    return {title: withhold(cells, share, params)}


def _seeded_figures(folder: Path, variant: str, params: Params) -> list[Seeded]:
    """Return the figures of one variant that `make seeds` measures."""
    generate = variant_group(folder, "generate", variant, "", ["items", "degenerate_share"])
    likelihood = variant_group(folder, "likelihood", variant, "pooled", LIKELIHOOD)
    rouge = variant_group(folder, "rouge", variant, "pooled", ROUGE)
    label = degenerate_label(generate["items"])
    bits = likelihood["bits_per_character"]
    figures = [
        Seeded("degenerate", label, generate["degenerate_share"], 100, 1),
        Seeded("bits_per_character", BITS_LABEL, bits, 1, 3),
    ]
    if "question_worth_items" in likelihood:
        label = worth_label(likelihood["question_worth_items"])
        figures.append(Seeded("question_worth", label, likelihood["question_worth_bits"], 1, 3))
    for kind in KINDS:
        label = rouge_label(kind, rouge["items"] + generate.get("failed", 0))
        figures.append(Seeded(f"{kind}_f", label, rouge[f"{kind}_f"], 1, 3))
    for task, scores in benchmark_tasks(folder, variant, params.benchmark.tasks).items():
        name = first_metric(scores)
        label = benchmark_label(task, name, scores["items"], pin_note(folder, variant, task))
        figures.append(Seeded(f"{task}_{name}", label, scores[name], 100, 1))
    return figures
