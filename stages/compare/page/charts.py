"""Draw the page's charts as SVG, with words in both languages."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bula.drawing import BLUE, ORANGE, remove_frame
from bula.records import Row
from stages.compare.figure import Panel, controls_of, draw_panel, value_text
from stages.compare.page.sources import read_plot
from stages.compare.page.words import Both, both

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Sizes in inches. A chart fits the width of a telephone.
WIDTH = 3.7
PANEL_HEIGHT = 0.45
LINE_HEIGHT = 0.24
CURVE_HEIGHT = 2.3
# The salt makes identifiers equal in each run. The text stays text, so that it can be translated.
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bula",
    "font.family": "sans-serif",
    "axes.edgecolor": "#767676",
    "xtick.color": "#767676",
    "ytick.color": "#767676",
}
FIGURE_SPACE = "\N{FIGURE SPACE}"
# The names of the date and of other entries that the charts leave out.
METADATA = ("Creator", "Date", "Format", "Type")
TEXT = re.compile(r"(<text[^>]*>)([^<]*)</text>")
STEP = Both("optimizer step", "passo do otimizador")
# The file, the column and the title of each training curve.
CURVES = (
    ("loss", "loss_nats", Both("loss, nats per token ↓", "perda, nats por token ↓")),
    ("accuracy", "token_accuracy", Both("share of correct tokens ↑", "tokens corretos ↑")),
    ("learning_rate", "learning_rate", Both("learning rate", "taxa de aprendizado")),
)
COLOURS = {"train": BLUE, "dev": ORANGE}


class Chart(NamedTuple):
    """A picture with its title, a note, and its content in words."""

    title: Both
    note: Both
    words: Both
    svg: str


def panel_charts(panels: Iterable[Panel], variants: Sequence[str]) -> list[Chart]:
    """Return a chart per measure of the variants and controls."""
    charts = []
    for panel in panels:
        lines = [*variants, *controls_of([panel], variants)]
        height = PANEL_HEIGHT + LINE_HEIGHT * len(lines)

        def draw(axis: Axes, panel: Panel = panel, lines: list[str] = lines) -> None:
            _draw_panel(axis, panel, lines, len(variants))

        title = both(panel.title)
        charts.append(Chart(title, both(panel.note), _panel_words(panel), _svg(draw, height)))
    return charts


def curve_charts(plots: Path) -> list[Chart]:
    """Return a chart per training curve whose file exists."""
    charts = []
    for name, column, title in CURVES:
        rows = read_plot(plots / f"train/{name}.json")
        if not rows:
            continue

        def draw(axis: Axes, rows: list[Row] = rows, column: str = column) -> None:
            _draw_curve(axis, rows, column)

        charts.append(Chart(title, STEP, _curve_words(rows, column), _svg(draw, CURVE_HEIGHT)))
    return charts


def _draw_panel(axis: Axes, panel: Panel, lines: Sequence[str], variants: int) -> None:
    """Draw a panel; the page writes its title and its note."""
    draw_panel(axis, panel, lines, variants)
    axis.set_yticks(range(len(lines)), map(_padded, lines), fontsize=9)
    axis.set_title("", loc="left")
    axis.set_xlabel("")


def _padded(name: str) -> str:
    """Return a label with room for its longer translation."""
    words = both(name)
    missing = max(0, len(words.pt) - len(words.en))
    return FIGURE_SPACE * missing + name


def _draw_curve(axis: Axes, rows: Sequence[Row], column: str) -> None:
    """Draw one line per group of a training curve."""
    for group, points in _curves(rows, column).items():
        steps, values = zip(*points, strict=True)
        marker = "o" if group == "dev" else ""
        colour = COLOURS.get(group, BLUE)
        axis.plot(steps, values, label=_padded(group), color=colour, marker=marker, markersize=4)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=8)
    axis.legend(frameon=False, fontsize=8)
    remove_frame(axis)


def _curves(rows: Sequence[Row], column: str) -> dict[str, list[tuple[float, float]]]:
    """Return the steps and values of each group."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        curves.setdefault(str(row["group"]), []).append((row["step"], row[column]))
    return curves


def _curve_words(rows: Sequence[Row], column: str) -> Both:
    """Return the first and the last value of each line."""
    words = []
    for group, points in _curves(rows, column).items():
        words.append((group, f"{points[0][1]:.3g} → {points[-1][1]:.3g}"))
    return _joined(words)


def _panel_words(panel: Panel) -> Both:
    """Return the values of a panel."""
    words = []
    for name, point in panel.points.items():
        words.append((name, value_text(point, percent=panel.percent)))
    return _joined(words)


def _joined(words: Iterable[tuple[str, str]]) -> Both:
    """Return names and their values in both languages."""
    parts = [(both(name), both(value)) for name, value in words]
    english = "; ".join(f"{name.en} {value.en}" for name, value in parts)
    return Both(english, "; ".join(f"{name.pt} {value.pt}" for name, value in parts))


def _svg(draw: Callable[[Axes], None], height: float) -> str:
    """Return the SVG of a chart, without the header of a file.

    It has no date and no version of matplotlib, so that each run writes the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        axis = figure.subplots()
        axis.patch.set_visible(False)
        draw(axis)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(METADATA))
    text = buffer.getvalue()
    return TEXT.sub(_translated, text[text.index("<svg") :])


def _translated(found: re.Match[str]) -> str:
    """Return a text element of SVG with the words of both languages."""
    words = both(html.unescape(found[2]).strip())
    if words.same:
        return found[0]
    spans = [
        f'<tspan class="t" lang="{language}">{html.escape(text)}</tspan>'
        for language, text in (("en", words.en), ("pt-BR", words.pt))
    ]
    return f"{found[1]}{''.join(spans)}</text>"
