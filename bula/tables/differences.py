"""Build the table of the paired differences."""

from collections.abc import Mapping
from decimal import Decimal

from bula.degeneration import NOT_MEANINGFUL
from bula.escaping import markdown
from bula.tables.cells import HIGHER, LOWER, UNKNOWN, table_line
from bula.tables.controls import NGRAM, PREDICTORS, STOCK
from bula.tables.figures import Metrics

DIFFERENCES_HEAD = (
    "difference",
    "mean [interval]",
    "p",
    "smallest detectable",
    "items",
    "mean ± sd over seeds",
)
LOWER_IS_BETTER = ("bits_per_character", "degenerate", "safety_over_refusal")


def differences_table(results: Mapping[str, Metrics]) -> str:
    """Return the Markdown table of the paired differences.

    A difference within the range over seeds is marked. Figures that are not meaningful are
    withheld.
    """
    lines = [table_line(DIFFERENCES_HEAD), "|---" * len(DIFFERENCES_HEAD) + "|"]
    for name, row in results.items():
        cells = _difference_cells(row)
        lines.append(table_line([_difference_label(name), *cells]))
    return "\n".join(lines) + "\n"


def direction(measure: str) -> str:
    """Return the arrow that shows which direction of a measure is better."""
    return LOWER if measure in LOWER_IS_BETTER else HIGHER


def _difference_label(name: str) -> str:
    """Return a row label, such as tuned − base: rouge1_f ↑."""
    pair, _, measure = name.partition("__")
    pair = pair.replace(f"_minus_{STOCK}", " − stock answer")
    pair = pair.replace(f"_minus_{NGRAM}", f" − {PREDICTORS['ngram']}").replace("_minus_", " − ")
    variants = markdown(pair)
    return f"{variants}: {markdown(measure)} {direction(measure)}"


def _difference_cells(row: Metrics) -> list[str]:
    """Return the cells of one difference after its label."""
    items = str(row["items"])
    if row["groups"] < row["items"]:
        items = f"{items} in {row['groups']} groups"
    if "left_out" in row:
        items += f" ({row['left_out']} left out: a request failed)"
    if not row["meaningful"]:
        return [NOT_MEANINGFUL + _reason(row), UNKNOWN, UNKNOWN, items, UNKNOWN]
    mean = f"{row['difference']:+z.4f}"
    if "low" in row:
        mean += f" [{row['low']:+z.4f}, {row['high']:+z.4f}]"
    detectable = f"{row['detectable']:.4f}" if "detectable" in row else UNKNOWN
    return [mean, _p_cell(row), detectable, items, _seeds_cell(row)]


def _reason(row: Metrics) -> str:
    """Return why a difference is not meaningful, or nothing for degenerate answers."""
    if row["constant_answers"]:
        return " (nearly one answer to all)"
    return " (judge withheld)" if row["judge_withheld"] else ""


def _p_cell(row: Metrics) -> str:
    """Return the corrected p-value of a primary measure, or the plain one."""
    if row["primary"]:
        return f"{p_text(row['p_holm'], row)} (Holm)"
    return f"{p_text(row['p'], row)} (exploratory)"


def p_text(p_value: float, row: Metrics) -> str:
    """Return a p-value, or a bound where the test reached its floor."""
    text = f"{Decimal(f'{p_value:.3g}'):f}"
    return f"≤ {text}" if row["p_at_floor"] and p_value < 1 else text


def _seeds_cell(row: Metrics) -> str:
    """Return the spread over seeds, with a mark on differences within."""
    if "seeds" not in row:
        return UNKNOWN
    text = f"{row['seed_mean']:+.4f} ± {row['seed_stdev']:.4f}"
    return f"{text} **within**" if row["within_seed_range"] else text
