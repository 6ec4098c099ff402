"""Show the precision, recall and F1 of answers by validation set.

A plot of DVC has five quantiles per set, so that its size does not depend on the number of answers.
A picture has each answer of a small set, and a box for a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bula.drawing import BLUE, FEW, ORANGE, remove_frame, save_png
from bula.records import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

# The name of each part in rows, and in plots.
PARTS = {"precision": "precision", "recall": "recall", "f": "F1"}
QUANTILES = {
    "lowest": 0.0,
    "lower_quartile": 0.25,
    "median": 0.5,
    "upper_quartile": 0.75,
    "highest": 1.0,
}
# One row of the table of quantiles.
Line = dict[str, str | int | float]
# The width of a box, and of the points of a set. The sets are 1 apart.
WIDTH = 0.6
DPI = 72


def group_by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each validation set, from A to E."""
    sets: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["split"]):
        members = sets.setdefault(row["split"], [])
        members.append(row)
    return sets


def to_quantiles(rows: Sequence[Row], kinds: Mapping[str, str]) -> list[Line]:
    """Return the quantiles per set, kind and part as a long table.

    `kinds` maps the name of a kind in rows to its title, which is the column `group`.
    """
    table: list[Line] = []
    for kind, title in kinds.items():
        for part, part_title in PARTS.items():
            for name, members in group_by_set(rows).items():
                values = [row[f"{kind}_{part}"] for row in members]
                labels: Line = {"set": name, "group": title, "part": part_title}
                table.append(labels | describe(values))
    return table


def describe(values: Sequence[float]) -> Line:
    """Return the number of values, their mean and their quantiles."""
    figures: Line = {
        "items": len(values),
        "mean": float(np.mean(values)),
    }
    for name, share in QUANTILES.items():
        figures[name] = float(np.quantile(values, share))
    return figures


def draw_distributions(
    rows: Sequence[Row], kinds: Mapping[str, str], title: str, path: Path
) -> None:
    """Draw a panel per part and kind, with the sets side by side."""
    from matplotlib.figure import Figure

    sets = group_by_set(rows)
    figure = Figure(figsize=(3.6 * len(kinds), 9), layout="constrained")
    grid = figure.subplots(
        nrows=len(PARTS), ncols=len(kinds), sharex=True, sharey=True, squeeze=False
    )
    for line, (part, part_title) in zip(grid, PARTS.items(), strict=True):
        for axis, (kind, kind_title) in zip(line, kinds.items(), strict=True):
            axis.set_title(f"{kind_title}, {part_title}", fontsize=10)
            draw_sets(axis, sets, f"{kind}_{part}")
    for axis in grid[-1]:
        axis.set_xlabel("validation set, number of answers")
    figure.suptitle(title)
    figure.legend(handles=legend_handles(sets), loc="outside lower center", ncols=3, frameon=False)
    save_png(figure, path, DPI)


def draw_sets(axis: Axes, sets: Mapping[str, Sequence[Row]], name: str) -> None:
    """Draw points for each small set and a box for each large one."""
    places = range(len(sets))
    for place, members in zip(places, sets.values(), strict=True):
        values = [row[name] for row in members]
        if len(values) < FEW:
            draw_points(axis, place, values)
        else:
            draw_box(axis, place, values)
        mean = float(np.mean(values))
        axis.plot(place, mean, "D", color=ORANGE, markersize=6, markeredgecolor="black", zorder=3)
    labels = [f"{set_name}\n{len(members)}" for set_name, members in sets.items()]
    axis.set_xticks(list(places), labels)
    axis.grid(axis="y", alpha=0.3)
    remove_frame(axis)


def draw_points(axis: Axes, place: int, values: Sequence[float]) -> None:
    """Draw one point per value, side by side, so that equal values stay visible."""
    # The middles of equal parts: a single point is in the middle.
    middles = np.arange(len(values)) + 0.5
    offsets = middles / len(values) - 0.5
    across = place + WIDTH * offsets
    axis.plot(across, values, "o", color=BLUE, markersize=5, alpha=0.6, markeredgewidth=0)


def draw_box(axis: Axes, place: int, values: Sequence[float]) -> None:
    """Draw the quartiles as a box, and the extremes as whiskers."""
    shares = list(QUANTILES.values())
    lowest, lower, median, upper, highest = np.quantile(values, shares)
    box = {
        "whislo": lowest,
        "q1": lower,
        "med": median,
        "q3": upper,
        "whishi": highest,
    }
    axis.bxp(
        [box],
        positions=[place],
        widths=WIDTH,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": BLUE, "alpha": 0.35},
        medianprops={"color": "black"},
        manage_ticks=False,
    )


def legend_handles(sets: Mapping[str, Sequence[Row]]) -> list[Line2D | Patch]:
    """Return the entries of the legend for the marks that the panels contain."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    sizes = [len(members) for members in sets.values()]
    if min(sizes) < FEW:
        handles.append(Line2D([], [], marker="o", linestyle="", color=BLUE, label="one answer"))
    if max(sizes) >= FEW:
        label = "quartiles, median, lowest and highest"
        handles.append(Patch(facecolor=BLUE, alpha=0.35, edgecolor="black", label=label))
    mean = Line2D([], [], marker="D", linestyle="", color=ORANGE, markeredgecolor="black")
    mean.set_label("mean")
    return [*handles, mean]
