"""Relate each difference to its spread over training seeds, which metrics/seeds.json has.

A spread counts only if it was measured from this run: its first values must be equal to the
current ones, to the six digits of metrics files.
"""

from pathlib import Path
from typing import Any

from bula.escaping import markdown
from bula.item_scores import means
from bula.params import Params
from bula.reports import as_written
from bula.tables.differences import direction
from stages.compare.inputs import Spreads
from stages.compare.pairs import Results, measures, results_of

# Another kind of CPU moved the ROUGE-L F1 of the untrained base by so much (docs/metrics.md).
CPU_ROUGE_L = 0.012
HEAD = ("figure", "this run", "mean ± standard deviation", "lowest to highest")
Spread = dict[str, Any]


def mark_seeds(results: Results, spreads: Spreads, params: Params) -> None:
    """Write the spread over seeds of each difference that has one.

    A difference is within seed variance if it is no larger than the range over seeds.
    """
    for pair in params.compare.pairs:
        rows = dict(results_of(pair, results))
        current = {measure: float(row["difference"]) for measure, row in rows.items()}
        for measure, spread in _spreads_of(pair.name, current, spreads).items():
            row = rows[measure]
            row["seeds"] = spreads["seeds"]
            row["seed_mean"] = spread["mean"]
            row["seed_stdev"] = spread["stdev"]
            row["seed_range"] = spread["range"]
            row["within_seed_range"] = abs(as_written(current[measure])) <= spread["range"]


def _spreads_of(name: str, current: dict[str, float], spreads: Spreads) -> dict[str, Spread]:
    """Return the spread of each measure of one variant or pair, by measure.

    The result is empty if one of the spreads belongs to another run.
    """
    found = {}
    for measure, value in current.items():
        spread = spreads.get(f"{name}__{measure}")
        if spread is not None:
            found[measure] = spread
            if spread["first"] != as_written(value):
                return {}
    return found


def seeds_table(data: Path, spreads: Spreads, params: Params) -> str:
    """Return a Markdown table of the variants' figures over seeds.

    The text is empty if no spread belongs to this run.
    """
    lines = []
    for variant in params.variants:
        current = means(measures(data, variant))
        for measure, spread in _spreads_of(variant, current, spreads).items():
            label = f"{variant}: {markdown(measure)} {direction(measure)}"
            middle = f"{spread['mean']:.4f} ± {spread['stdev']:.4f}"
            ends = f"{spread['lowest']:.4f} to {spread['highest']:.4f}"
            lines.append(f"| {label} | {spread['first']:.4f} | {middle} | {ends} |")
    if not lines:
        return ""
    head = "| " + " | ".join(HEAD) + " |"
    return "\n".join([head, "|---" * len(HEAD) + "|", *lines]) + "\n"


def seed_note(results: Results) -> str:
    """Return a note about seed variance, and about other kinds of machines."""
    machine = (
        "On another kind of CPU, the ROUGE-L F1 of the untrained base moved by "
        f"{CPU_ROUGE_L}, so a smaller difference in ROUGE-L says nothing (docs/metrics.md)."
    )
    rows = [row for row in results.values() if "seeds" in row and row.get("meaningful", True)]
    if not rows:
        return (
            "The variance of these differences across training seeds was not measured for this "
            f"run. `make seeds N=3` measures it. {machine}\n"
        )
    within = [row for row in rows if row["within_seed_range"]]
    zero = sum(row["difference"] == 0 for row in within)
    return (
        "The last column shows the mean and the standard deviation of the difference over "
        f"{rows[0]['seeds']} runs that differ only in the training seed. **within** marks the "
        f"{len(within)} of {len(rows)} differences that are no larger than the range of these runs "
        f"({zero} of them are 0): seed variance can explain them. It proves nothing about the "
        f"others, because a few seeds underestimate the range. {machine}\n"
    )
