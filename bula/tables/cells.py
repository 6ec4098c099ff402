"""Format numbers, and lines of Markdown tables."""

from collections.abc import Iterable, Sequence

from bula.tables.figures import Metrics

# The cells of one variant, by the label of their row.
Column = dict[str, str]
LOWER = "↓"
HIGHER = "↑"
UNKNOWN = "–"


def table_head(names: Iterable[str]) -> list[str]:
    """Return the first two lines of a table whose first column has no name."""
    names = list(names)
    return ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]


def table_line(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def interval_cell(figures: Metrics, name: str) -> str:
    """Return a mean with its bootstrap interval."""
    low = figures[f"{name}_low"]
    high = figures[f"{name}_high"]
    return f"{figures[name]:.3f} [{low:.3f}, {high:.3f}]"


def plus_minus(mean: float, error: float, digits: int) -> str:
    """Return a mean with its standard error."""
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def percent_cell(figures: Metrics, name: str) -> str:
    """Return a mean with its standard error, both in percent."""
    return plus_minus(figures[name] * 100, figures[f"{name}_stderr"] * 100, digits=1)
