"""Format the judge's scores of one variant as labelled cells."""

from pathlib import Path

from bula.calibration import withheld_note
from bula.escaping import markdown
from bula.tables.cells import HIGHER, UNKNOWN, Column, plus_minus
from bula.tables.figures import Metrics, variant_group

PARTS = ("accuracy", "style")
KAPPA = ("kappa", "kappa_low", "kappa_high", "withheld")
JUDGE = (
    "items",
    "scored",
    *(f"{part}_{name}" for part in PARTS for name in KAPPA),
)


def judge_cells(folder: Path, variant: str) -> Column:
    """Return the cells of the judge."""
    figures = variant_group(folder, "judge", variant, "", JUDGE)
    judge = markdown(str(figures.get("judge", "")))
    cells = {}
    for part in PARTS:
        label = f"judge: {part}, 1 to 3 ({judge}) {HIGHER}"
        # The judge may have abstained on every answer, so that there is no mean.
        if figures["scored"] > figures.get(f"{part}_abstained", 0):
            needed = [f"{part}_mean", f"{part}_stderr"]
            variant_group(folder, "judge", variant, "", needed)
        cells[label] = _judge_cell(figures, part)
    return cells


def _judge_cell(figures: Metrics, part: str) -> str:
    """Return the mean score with the corrected share of the score 3, unless withheld."""
    if figures[f"{part}_withheld"]:
        return kappa_note(figures, part)
    abstained = figures.get(f"{part}_abstained", 0)
    said = figures["scored"] - abstained
    count = f"{said} of {figures['items']} answers"
    if abstained:
        count += f", {abstained} cannot say"
    if not said:
        return f"{UNKNOWN} ({count})"
    mean = plus_minus(figures[f"{part}_mean"], figures[f"{part}_stderr"], digits=2)
    scored = f"{mean} ({count})"
    name = f"{part}_3_corrected_share"
    if name not in figures:
        return scored
    share, low, high = (figures[f"{name}{end}"] * 100 for end in ("", "_low", "_high"))
    return f"{scored}, corrected share of 3: {share:.0f} % [{low:.0f}, {high:.0f}]"


def kappa_note(figures: Metrics, part: str) -> str:
    """Return the kappa that a table shows in place of scores."""
    low, high = figures[f"{part}_kappa_low"], figures[f"{part}_kappa_high"]
    return withheld_note(figures[f"{part}_kappa"], low, high)
