"""Set the style of figures, and write them with reproducible bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bula.files import staged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Two colours of Okabe and Ito's palette, which stay apart for colour-blind readers. Their marks
# differ in shape too, so that a grey print is enough.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREY = "#595959"
# Fewer values have no shape that a box could show, so each one is drawn.
FEW = 20


def save_png(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as a PNG file.

    The file has no date, and no version of matplotlib, so that every run writes the same bytes.
    """
    with staged(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def remove_frame(axis: Axes) -> None:
    """Remove the upper and the right edge of a panel."""
    axis.spines[["top", "right"]].set_visible(False)
