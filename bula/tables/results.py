"""Build the table of results, and its short form for the README."""

from collections.abc import Mapping
from pathlib import Path

from bula.params import Params
from bula.tables.benchmark import benchmark_cells
from bula.tables.cells import Column, table_head, table_line
from bula.tables.controls import ANSWERERS, PREDICTORS, control_group
from bula.tables.figures import ROUGE, variant_group
from bula.tables.judge import judge_cells
from bula.tables.measures import (
    bertscore_cells,
    bits_cell,
    control_bertscore,
    degenerate_cell,
    kind_cells,
    likelihood_cells,
    rouge_cells,
    shown_kinds,
    withhold,
)
from bula.tables.seeds import seed_column

# The first words of the labels in the README's table.
HEADLINE = (
    "degenerate answers",
    "perplexity",
    "bits per character",
    "question's worth",
    "ROUGE-L",
    "bula_contrast,",
    "judge: accuracy",
)


def results_table(folder: Path, params: Params) -> str:
    """Return the Markdown table with a column per variant and per control.

    A mean has its standard error (±) or its bootstrap interval ([low, high]). ROUGE and the
    judge's scores are withheld where too many answers are degenerate
    (`compare.max_degenerate_share`). A trained variant has a second column with the mean and the
    standard deviation over seeds, if metrics/seeds.json belongs to this run.
    """
    columns = _columns(folder, params)
    lines = table_head(columns)
    for label in _labels(columns):
        cells = [column.get(label, "") for column in columns.values()]
        lines.append(table_line([label, *cells]))
    return "\n".join(lines) + "\n"


def headline_table(folder: Path, params: Params) -> str:
    """Return the main figures, with a row per variant and per control."""
    columns = _columns(folder, params)
    labels = [label for label in _labels(columns) if label.startswith(HEADLINE)]
    lines = table_head(labels)
    for name, column in columns.items():
        cells = [column.get(label, "") for label in labels]
        lines.append(table_line([name, *cells]))
    return "\n".join(lines) + "\n"


def _columns(folder: Path, params: Params) -> dict[str, Column]:
    """Return the cells of each variant and of each control."""
    columns = {}
    kinds = shown_kinds(folder, params)
    for variant in params.variants:
        columns[variant] = _column(folder, variant, params, kinds)
        columns |= seed_column(folder, variant, params)
    return columns | _control_columns(folder)


def _labels(columns: Mapping[str, Column]) -> list[str]:
    """Return the labels of all columns, in order."""
    labels: dict[str, None] = {}
    for column in columns.values():
        labels |= dict.fromkeys(column)
    return list(labels)


def _column(folder: Path, variant: str, params: Params, kinds: Mapping[str, str]) -> Column:
    """Return the cells of one variant, with these kinds of answers."""
    generate = variant_group(folder, "generate", variant, "", ["items", "degenerate_share"])
    share = generate["degenerate_share"]
    failed = int(generate.get("failed", 0))
    cells = {
        **degenerate_cell(generate),
        **kind_cells(generate, kinds),
        **likelihood_cells(folder, variant),
        **rouge_cells(variant_group(folder, "rouge", variant, "pooled", ROUGE), failed),
        **bertscore_cells(folder, variant, failed),
        **benchmark_cells(folder, variant, params),
        **judge_cells(folder, variant),
    }
    return withhold(cells, share, params)


def _control_columns(folder: Path) -> dict[str, Column]:
    """Return the cells of each control."""
    columns = {}
    for name, title in ANSWERERS.items():
        figures = control_group(folder, name, [*ROUGE, "degenerate_share"])
        degenerate = degenerate_cell(figures)
        columns[title] = degenerate | rouge_cells(figures) | control_bertscore(folder, name)
    for name, title in PREDICTORS.items():
        figures = control_group(folder, name, ["bits_per_character"])
        columns[title] = bits_cell(figures)
    return columns
