"""Draw all variants and controls, with a panel per measure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bula.degeneration import not_meaningful
from bula.drawing import BLUE, GREY, ORANGE, remove_frame, save_png
from bula.escaping import markdown
from bula.item_scores import LikelihoodRow, read_checked
from bula.params import Params
from bula.safety import SLICES
from bula.stats import LN2, Interval, ratio_standard_error, wilson_interval
from bula.tables.cells import HIGHER, LOWER, UNKNOWN
from bula.tables.controls import ANSWERERS, PREDICTORS, control_group
from bula.tables.figures import (
    Metrics,
    answered,
    degenerate_share,
    group,
    read_metrics,
    variant_group,
)
from stages.compare.safety import PASSED_BY_OMISSION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

NAME = "variants.png"
CONTRAST = "bula_contrast"
CHANCE = 50.0
NOT_MEASURED = "not measured"
SAFETY_TITLES = {
    "emergency": "emergency: sent to care, and no loop",
    "no_dose": "dose questions: no dose and no loop",
    "harmful": "harmful requests: refused",
    "harmless": "harmless questions: neither refused nor a loop",
}
CAUTION = "Differences are tested item by item; overlapping intervals do not mean equal values."
BETTER = {LOWER: "lower is better", HIGHER: "higher is better"}
COLUMNS = 3
DPI = 110
# Longer names of variants would leave no room for the panels.
LONGEST_NAME = 24
# Sizes in inches.
WIDTH = 11.0
LINE_HEIGHT = 0.24
HEAD_HEIGHT = 1.1
LEGEND_HEIGHT = 0.5
# The range of all shares in percent, with room for a mark at each end.
PERCENT_RANGE = (-2.5, 102.5)


class Point(NamedTuple):
    """A figure and its interval, if it has one."""

    value: float
    interval: Interval | None = None


Points = dict[str, Point | str]


class Panel(NamedTuple):
    """One measure of all variants and controls."""

    title: str
    direction: str
    """LOWER or HIGHER, whichever is better."""
    note: str
    """What was measured, and the coverage of the intervals."""
    points: Points
    """The point of each variant or control, or the words in its place."""
    reference: float | None = None
    """The value of a model that knows nothing, if it does not depend on the data."""
    percent: bool = False
    """Whether the points are shares in percent."""


def read_panels(data: Path, figures: Path, params: Params) -> list[Panel]:
    """Return the panels of all measures that at least one variant has.

    The measures that controls have too come first.
    """
    panels = [
        read_bits(data, figures, params),
        read_rouge(figures, params),
        read_degenerate(figures, params),
        read_worth(figures, params),
        read_contrast(figures, params),
        *read_safety(figures, params),
    ]
    return [panel for panel in panels if set(panel.points.values()) != {NOT_MEASURED}]


def read_bits(data: Path, figures: Path, params: Params) -> Panel:
    """Return the panel of bits per character."""
    coverage = params.likelihood.confidence
    points: Points = {}
    for variant in params.variants:
        path = data / "likelihood" / f"{variant}.jsonl"
        rows = read_checked(path, f"likelihood@{variant}", LikelihoodRow)
        bits = [row.nats / LN2 for row in rows]
        characters = [row.characters for row in rows]
        error = ratio_standard_error(bits, characters)
        points[variant] = _normal_point(sum(bits) / sum(characters), error, coverage)
    items = len(rows)
    for name, title in PREDICTORS.items():
        found = control_group(figures, name, ["bits_per_character"])
        error = found.get("bits_per_character_stderr", 0.0)
        points[title] = _normal_point(found["bits_per_character"], error, coverage)
    return Panel("bits per character", LOWER, _note(items, "answers", coverage), points)


def read_worth(figures: Path, params: Params) -> Panel:
    """Return the panel of the question's worth, in bits per character."""
    coverage = params.likelihood.confidence
    points: Points = {}
    items = 0
    for variant in params.variants:
        found = variant_group(figures, "likelihood", variant, "pooled", [])
        points[variant] = NOT_MEASURED
        if "question_worth_items" in found:
            points[variant] = _interval_point(found, "question_worth_bits", "question_worth_bits")
            items = found["question_worth_items"]
    note = _note(items, "answers", coverage)
    return Panel("question's worth, bits per character", HIGHER, note, points, reference=0.0)


def read_contrast(figures: Path, params: Params) -> Panel:
    """Return the panel of the contrast pairs."""
    coverage = params.rouge.confidence
    points: Points = {}
    items = 0
    for variant in params.variants:
        path = figures / "benchmark" / f"{variant}.json"
        stage = f"benchmark@{variant}"
        metrics = read_metrics(figures, "benchmark", variant)
        points[variant] = NOT_MEASURED
        if CONTRAST in metrics:
            found = group(metrics, CONTRAST, ["items", "acc", "acc_stderr"], path, stage)
            share = _normal_point(found["acc"], found["acc_stderr"], coverage)
            points[variant] = _percent(share)
            items = found["items"]
    note = _note(items, "pairs", coverage)
    return Panel("contrast pairs: accuracy", HIGHER, note, points, CHANCE, percent=True)


def read_rouge(figures: Path, params: Params) -> Panel:
    """Return the panel of ROUGE-L.

    Figures of a variant with many degenerate answers are withheld.
    """
    needed = ["items", "rougeL_f", "rougeL_f_low", "rougeL_f_high"]
    points: Points = {}
    for variant in params.variants:
        found = variant_group(figures, "rouge", variant, "pooled", needed)
        share = degenerate_share(figures, variant)
        point = _interval_point(found, "rougeL_f", "rougeL_f")
        points[variant] = _withhold(point, share, params)
    for name, title in ANSWERERS.items():
        # The controls answer all questions, and a variant's requests may fail.
        found = control_group(figures, name, needed)
        points[title] = _interval_point(found, "rougeL_f", "rougeL_f")
    note = _note(found["items"], "answers", params.rouge.confidence)
    return Panel("ROUGE-L F1", HIGHER, note, points)


def read_degenerate(figures: Path, params: Params) -> Panel:
    """Return the panel of the share of degenerate answers."""
    coverage = params.rouge.confidence
    needed = ["items", "degenerate_share"]
    points: Points = {}
    for variant in params.variants:
        found = variant_group(figures, "generate", variant, "", needed)
        points[variant] = _share_point(found, coverage)
    for name, title in ANSWERERS.items():
        points[title] = _share_point(control_group(figures, name, needed), coverage)
    note = _note(found["items"], "answers", coverage)
    return Panel("degenerate answers", LOWER, note, points, percent=True)


def read_safety(figures: Path, params: Params) -> list[Panel]:
    """Return a panel per slice of the safety questions, or none without their metrics."""
    if not (figures / "safety").exists():
        return []
    panels = []
    for name in SLICES:
        points: Points = {}
        for variant in params.variants:
            needed = ["items", "pass_share", "pass_low", "pass_high", "degenerate_share"]
            found = variant_group(figures, "safety", variant, name, needed)
            point = _percent(_interval_point(found, "pass_share", "pass"))
            loops = found["degenerate_share"] if name in PASSED_BY_OMISSION else 0.0
            points[variant] = _withhold(point, loops, params)
        note = _note(found["items"], "questions", params.safety.confidence)
        if name not in PASSED_BY_OMISSION:
            note += ", a loop fails"
        panels.append(Panel(SAFETY_TITLES[name], HIGHER, note, points, percent=True))
    return panels


def _withhold(point: Point, loops: float, params: Params) -> Point | str:
    """Return the point, or the reason against it if too many answers are loops."""
    if loops > params.compare.max_degenerate_share:
        return not_meaningful(loops)
    return point


def _percent(share: Point) -> Point:
    """Return a share in percent."""
    value = share.value * 100
    if share.interval is None:
        return Point(value)
    low, high = share.interval
    return Point(value, (low * 100, high * 100))


def _note(items: int, unit: str, coverage: float) -> str:
    """Return the number of items and the coverage of the intervals."""
    return f"{items} {unit}, {coverage * 100:g}% intervals"


def _interval_point(figures: Metrics, name: str, interval: str) -> Point:
    """Return a figure with the interval in its metrics file."""
    return Point(figures[name], (figures[f"{interval}_low"], figures[f"{interval}_high"]))


def _normal_point(mean: float, error: float, coverage: float) -> Point:
    """Return a mean with the interval of a normal distribution."""
    if error == 0:
        return Point(mean)
    reach = statistics.NormalDist().inv_cdf((1 + coverage) / 2) * error
    return Point(mean, (mean - reach, mean + reach))


def _share_point(figures: Metrics, coverage: float) -> Point:
    """Return the percentage of degenerate answers with Wilson's interval."""
    share = figures["degenerate_share"]
    items = answered(figures)
    return _percent(Point(share, wilson_interval(round(share * items), items, coverage)))


def alt_text(panels: Iterable[Panel]) -> str:
    """Return the content of the figure in words."""
    sentences = ["Variants and controls, with one panel per measure."]
    for panel in panels:
        values = []
        for name, point in panel.points.items():
            values.append(f"{markdown(name)} {value_text(point, percent=panel.percent)}")
        sentences.append(f"{panel.title}, {BETTER[panel.direction]}: {', '.join(values)}.")
    return " ".join([*sentences, CAUTION])


def value_text(point: Point | str, *, percent: bool) -> str:
    """Return a value with the tables' digits, or words in its place."""
    if isinstance(point, str):
        return point
    return f"{point.value:.1f} %" if percent else f"{point.value:.3f}"


def link(panels: Iterable[Panel]) -> str:
    """Return the figure as Markdown, relative to the folder of the report."""
    return f"![{alt_text(panels)}]({NAME})\n"


def draw_panels(panels: Sequence[Panel], variants: Iterable[str], path: Path) -> None:
    """Draw the figure, three panels side by side.

    The panels of a row share their lines: one per variant, and below them one per control.
    """
    from matplotlib.figure import Figure

    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    names = list(variants)
    lines = [[*names, *controls_of(row, names)] for row in rows]
    heights = [HEAD_HEIGHT + LINE_HEIGHT * len(row_lines) for row_lines in lines]
    figure = Figure(figsize=(WIDTH, sum(heights) + LEGEND_HEIGHT), layout="constrained")
    grid = figure.subplots(len(rows), COLUMNS, squeeze=False, height_ratios=heights)
    for axes, row, row_lines in zip(grid, rows, lines, strict=True):
        _draw_row(axes, row, row_lines, len(names))
    figure.legend(
        handles=_legend(panels, names),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        title=CAUTION,
        title_fontsize=9,
    )
    save_png(figure, path, DPI)


def controls_of(panels: Iterable[Panel], variants: Sequence[str]) -> list[str]:
    """Return the controls of some panels: first the answers, then the predictors."""
    found = {name for panel in panels for name in panel.points if name not in variants}
    return [title for title in [*ANSWERERS.values(), *PREDICTORS.values()] if title in found]


def _draw_row(
    axes: Sequence[Axes], row: Sequence[Panel], lines: Sequence[str], variants: int
) -> None:
    """Draw one row of panels, with the names beside the first."""
    for axis in axes[len(row) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, row, strict=False):
        draw_panel(axis, panel, lines, variants)
        axis.set_yticks(range(len(lines)), [""] * len(lines), fontsize=9)
    axes[0].set_yticklabels([_shorten(name) for name in lines])


def _shorten(name: str) -> str:
    """Return the start of a long name."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def draw_panel(axis: Axes, panel: Panel, lines: Sequence[str], variants: int) -> None:
    """Draw the points of one measure. The first `variants` lines belong to variants."""
    if panel.reference is not None:
        axis.axvline(panel.reference, color=GREY, linestyle=":", linewidth=1)
    for place, name in enumerate(lines):
        # A control without a point does not apply to the measure.
        point = panel.points.get(name, UNKNOWN)
        if isinstance(point, str):
            _write_words(axis, place, point)
        elif place < variants:
            _draw_point(axis, place, point, color=BLUE, marker="o", fill=BLUE)
        else:
            _draw_point(axis, place, point, color=ORANGE, marker="s", fill="white")
    if variants < len(lines):
        axis.axhline(variants - 0.5, color=GREY, linewidth=0.6)
    # The direction stands between the title and the panel.
    axis.set_title(panel.title, fontsize=9, loc="left", pad=16)
    _mark_direction(axis, panel.direction)
    axis.set_xlabel(panel.note, fontsize=8, color=GREY)
    _set_scales(axis, len(lines), percent=panel.percent)
    axis.grid(axis="x", alpha=0.3)
    remove_frame(axis)


def _set_scales(axis: Axes, lines: int, *, percent: bool) -> None:
    """Set the range and the ticks of both axes, from the top down."""
    from matplotlib.ticker import PercentFormatter

    axis.set_ylim(lines - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    if percent:
        axis.set_xlim(PERCENT_RANGE)
        axis.set_xticks(range(0, 101, 20))
        axis.xaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    else:
        axis.margins(x=0.12)
        axis.locator_params(axis="x", nbins=5)


def _mark_direction(axis: Axes, direction: str) -> None:
    """Write above a panel which side is better."""
    text, side, edge = ("← better", "left", 0.0)
    if direction == HIGHER:
        text, side, edge = ("better →", "right", 1.0)
    axis.annotate(
        text,
        xy=(edge, 1.0),
        xycoords="axes fraction",
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
        ha=side,
        va="bottom",
    )


def _draw_point(
    axis: Axes, place: int, point: Point, *, color: str, marker: str, fill: str
) -> None:
    """Draw a figure and the line of its interval."""
    if point.interval is not None:
        axis.plot(point.interval, [place, place], color=color, linewidth=2)
    axis.plot(point.value, place, marker, color=color, markerfacecolor=fill, markersize=6)


def _write_words(axis: Axes, place: int, words: str) -> None:
    """Write words at the left edge of a line that has no point."""
    axis.annotate(
        words,
        xy=(0.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        # Portuguese words are longer, and a narrow panel would cut them.
        fontsize=7.5,
        color=GREY,
        style="italic",
        ha="left",
        va="center",
    )


def _legend(panels: Sequence[Panel], variants: Sequence[str]) -> list[Line2D]:
    """Return the entries of the legend for the marks that the panels contain."""
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=BLUE, marker="o", linewidth=2, label="variant")]
    if controls_of(panels, variants):
        control = Line2D([], [], color=ORANGE, marker="s", linewidth=2, label="control")
        control.set_markerfacecolor("white")
        entries.append(control)
        absent = Line2D([], [], color=GREY, linestyle="", marker=f"${UNKNOWN}$")
        absent.set_label("does not apply")
        entries.append(absent)
    if any(panel.reference is not None for panel in panels):
        nothing = Line2D([], [], color=GREY, linestyle=":", linewidth=1)
        nothing.set_label("a model that knows nothing")
        entries.append(nothing)
    return entries
