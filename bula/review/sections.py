"""Write the tables of a review, whose rows may be left out."""

from collections.abc import Iterable
from typing import NamedTuple

from bula.review.answers import STATED, Answers, Changed
from bula.review.cells import CELL_BYTES, code, number, row, short, value
from bula.review.changes import Change
from bula.review.gate import Outcome
from bula.review.report import Review
from bula.review.verdicts import NOISE, NOT_COMPARABLE, NOT_MEANINGFUL, UNCHANGED, Figure
from bula.tables.cells import HIGHER, LOWER

TEXT_BYTES = 700
MARKS = {"committed figures": "\\*"}
LEGEND = (
    "≈ no difference beyond noise, = unchanged, \\* from committed figures (unpaired), "
    "† on shared items only, ‡ within the range over training seeds (metrics/seeds.json), so that "
    "another seed may explain it, – no such figure."
)
FIGURE_HEAD = (
    "figure",
    "before → after",
    "difference [interval]",
    "p (Holm)",
    "items",
    "compared by",
    "verdict",
)
ANSWER_HEAD = ("variant, distance", "question", "before", "after")


class Section(NamedTuple):
    """A part of the report whose rows may be left out."""

    head: str
    rows: list[str]
    tail: str = ""


def gate_section(review: Review) -> Section:
    """Return the table of the gates."""
    head = (
        "| gate | allowed loss | floor | before → after | difference | p (Holm) | result |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return Section(head, [_gate_row(outcome) for outcome in review.outcomes], "\n")


def _gate_row(outcome: Outcome) -> str:
    """Return the row of one gate."""
    gate, figure = outcome.gate, outcome.figure
    result = outcome.result if outcome.result == "pass" else f"**{outcome.result}**"
    cells = [f"{code(gate.figure)} {LOWER if gate.direction == 'lower' else HIGHER}"]
    cells += [f"{gate.max_drop:g}", "–" if gate.floor is None else f"{gate.floor:g}"]
    cells += ["–", "–", "–"] if figure is None else _measured(figure)
    return row([*cells, f"{result}: {short(outcome.reason, CELL_BYTES)}"])


def _measured(figure: Figure) -> list[str]:
    """Return the cells of levels, difference and p-value."""
    interval = ""
    if figure.low is not None:
        interval = f" [{number(figure.low, '+')}, {number(figure.high, '+')}]"
    p_value = "–"
    if figure.p_holm is not None:
        p_value = f"{'≤ ' if figure.p_at_floor and figure.p_holm < 1 else ''}{figure.p_holm:.2g}"
    return [
        f"{number(figure.before)} → {number(figure.after)}",
        f"{number(figure.difference, '+')}{interval}",
        p_value,
    ]


def matrix_section(figures: list[Figure]) -> Section:
    """Return the table of the verdicts by measure and variant."""
    variants = list(dict.fromkeys(figure.variant for figure in figures))
    cells: dict[str, dict[str, str]] = {}
    for figure in figures:
        arrow = LOWER if figure.lower_is_better else HIGHER
        cells.setdefault(f"{code(figure.measure)} {arrow}", {})[figure.variant] = _cell(figure)
    head = row(["figure", *map(code, variants)]) + "\n|" + "---|" * (len(variants) + 1) + "\n"
    rows = [row([name, *(found.get(v, "–") for v in variants)]) for name, found in cells.items()]
    return Section(head, rows, f"\n{LEGEND}\n\n")


def _cell(figure: Figure) -> str:
    """Return the verdict on a figure in a few words."""
    if figure.before is None or figure.after is None:
        return "new" if figure.before is None else "**missing**"
    if figure.verdict in (NOT_COMPARABLE, NOT_MEANINGFUL):
        return figure.verdict
    mark = MARKS.get(figure.source, " †" if figure.reason.startswith("on shared") else "")
    mark += " ‡" if figure.seeds else ""
    if figure.verdict == UNCHANGED:
        return f"={mark}"
    if figure.verdict != NOISE:
        return f"**{figure.verdict}** {number(figure.difference, '+')}{mark}"
    return f"≈ {number(figure.difference, '+')}{mark}"


def figures_section(figures: Iterable[Figure]) -> Section:
    """Return the table of all figures with their numbers."""
    return _fold("All figures", FIGURE_HEAD, map(_figure_row, figures))


def _figure_row(figure: Figure) -> str:
    """Return the row of one figure with all its numbers."""
    arrow = LOWER if figure.lower_is_better else HIGHER
    reason = f": {short(figure.reason, CELL_BYTES)}" if figure.reason else ""
    source = figure.source if figure.source != "none" else "–"
    items = str(figure.items) if figure.items else "–"
    cells = [f"{code(figure.name)} {arrow}", *_measured(figure), items, source]
    return row([*cells, f"{figure.verdict}{reason}"])


def _fold(title: str, head: Iterable[str], rows: Iterable[str]) -> Section:
    """Return a table that the reader must unfold."""
    cells = list(head)
    found = list(rows)
    opening = f"<details><summary>{title} ({len(found)})</summary>\n\n"
    table = row(cells) + "\n|" + "---|" * len(cells) + "\n"
    return Section(opening + table, found, "\n</details>\n\n")


def changes_section(title: str, changes: list[Change]) -> Section:
    """Return the table of changed values."""
    rows = [row([code(key), value(before), value(after)]) for key, before, after in changes]
    return _fold(f"{title} that changed", ("key", "before", "after"), rows)


def answers_section(answers: Answers) -> Section:
    """Return the answers that changed most."""
    hidden = ""
    if answers.hidden:
        hidden = (
            f"{answers.hidden} changed answers are not shown, because their source does not allow "
            "redistribution. "
        )
    section = _fold("Answers that changed most", ANSWER_HEAD, map(_answer_row, answers.shown))
    tail = f"\n{hidden}{STATED}.\n{section.tail}"
    if not answers.shown and hidden:
        return Section(f"{hidden}\n\n", [])
    return section._replace(tail=tail)


def _answer_row(changed: Changed) -> str:
    """Return the row of one answer."""
    texts = (changed.question, changed.before, changed.after)
    cells = [short(text, TEXT_BYTES) or "(empty)" for text in texts]
    return row([f"{code(changed.variant)}, {changed.distance:.2f}", *cells])


def missing_section(review: Review) -> Section:
    """Return the files of rows that are missing, with the reason."""
    rows = []
    for run in (review.before, review.after):
        for path, reason in run.missing.items():
            rows.append(row([short(run.name, CELL_BYTES), code(path), short(reason, CELL_BYTES)]))
    return _fold("Rows that are missing", ("run", "file", "why"), rows)
