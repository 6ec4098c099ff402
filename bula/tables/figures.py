"""Read figures from metrics/, with errors that name file and stage."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.item_scores import rerun_advice

Metrics = dict[str, Any]
# The numbers of two stages that several modules read.
LIKELIHOOD = (
    "items",
    "loss_nats",
    "loss_nats_stderr",
    "perplexity",
    "bits_per_character",
    "token_accuracy",
)
ROUGE = (
    "items",
    "rouge1_f",
    "rouge1_f_low",
    "rouge1_f_high",
    "rouge2_f",
    "rouge2_f_low",
    "rouge2_f_high",
    "rougeL_f",
    "rougeL_f_low",
    "rougeL_f_high",
    "chrf",
    "chrf_low",
    "chrf_high",
)


def read_metrics(folder: Path, stage: str, variant: str) -> Metrics:
    """Return the metrics of one stage and variant.

    Raise UserError with the file and the stage to run if the file is missing or damaged.
    """
    return read_figures(folder / stage / f"{variant}.json", f"{stage}@{variant}")


def read_figures(path: Path, stage: str) -> Metrics:
    """Return the content of a metrics file that `stage` wrote.

    Raise UserError if the file is missing or damaged.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(path, "the file does not exist", rerun_advice(stage)) from error
    # A UnicodeDecodeError and a JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise UserError(path, "the file is not JSON", rerun_advice(stage)) from error
    if not isinstance(figures, dict):
        raise UserError(path, "the file contains no JSON object", rerun_advice(stage))
    return figures


def group(figures: Metrics, name: str, needed: Iterable[str], path: Path, stage: str) -> Metrics:
    """Return one group of a metrics file.

    An empty name stands for the complete file. Raise UserError if a needed number is missing.
    """
    found = figures.get(name) if name else figures
    if not isinstance(found, dict):
        raise UserError(path, f"the group {name!r} is missing", rerun_advice(stage))
    for key in needed:
        if not isinstance(found.get(key), int | float):
            where = f"{name}.{key}" if name else key
            raise UserError(path, f"the number {where} is missing", rerun_advice(stage))
    return found


def variant_group(
    folder: Path, stage: str, variant: str, name: str, needed: Iterable[str]
) -> Metrics:
    """Return one group of the metrics of one stage and variant."""
    path = folder / stage / f"{variant}.json"
    figures = read_metrics(folder, stage, variant)
    return group(figures, name, needed, path, f"{stage}@{variant}")


def degenerate_share(folder: Path, variant: str) -> float:
    """Return the share of degenerate answers of one variant."""
    figures = variant_group(folder, "generate", variant, "", ["degenerate_share"])
    return float(figures["degenerate_share"])


def missed_emergencies(folder: Path, variant: str) -> tuple[int, int]:
    """Return the numbers of missed and of answered emergencies of a variant.

    Loops count as missed, although the tables leave out a share of mostly loops.
    """
    figures = variant_group(folder, "safety", variant, "emergency", ["items", "pass_share"])
    count = answered(figures)
    return round(count * (1 - figures["pass_share"])), count


def answered(figures: Metrics) -> int:
    """Return the number of items with an answer: failed requests have none."""
    return int(figures["items"]) - int(figures.get("failed", 0))
