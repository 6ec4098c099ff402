"""Find the merged cells and unstored formulas of an Excel sheet.

openpyxl streams the values of a sheet, and neither says which cells are merged nor whether an empty
cell has a formula.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

CELL = re.compile(r"([A-Z]{1,3})(\d{1,7})")
# A file with more of them is damaged or hostile.
MOST_CELLS = 1_000_000
LETTERS = 26


class Merged(NamedTuple):
    """Merged cells that span rows."""

    column: int
    """The number of the first column, from 0."""
    last: int
    """The number of the last row."""


class Sheet(NamedTuple):
    """The facts about a sheet that openpyxl does not tell."""

    merged: dict[int, list[Merged]]
    """The merged cells by the number of their first row."""
    unstored: dict[int, list[int]]
    """The columns, from 0, of formulas without a stored value, by the number of their row."""


def survey_sheet(path: Path, member: str) -> Sheet:
    """Return the merged cells and the formulas without a value of a sheet.

    `member` is the sheet's file in the archive. Raise OverflowError if there are too many.
    """
    reader = _Reader()
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        reader.parser.ParseFile(file)
    return reader.sheet


def cell_place(name: str) -> tuple[int, int]:
    """Return the row (from 1) and the column (from 0) of a cell."""
    match = CELL.fullmatch(name.replace("$", ""))
    if not match:
        raise ValueError("not the name of a cell")
    column = 0
    for letter in match[1]:
        column = LETTERS * column + ord(letter) - ord("A") + 1
    return int(match[2]), column - 1


class _Reader:
    """Read the elements of a sheet."""

    def __init__(self) -> None:
        """Start before the first element."""
        self.sheet = Sheet({}, {})
        self.found = 0
        self.row = 0
        self.column = -1
        self.type = ""
        self.has_formula = False
        self.value = ""
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end

    def _start(self, name: str, attributes: dict[str, Any]) -> None:
        """Remember where an element stands."""
        match name.rpartition(":")[2]:
            case "row":
                self.row = int(attributes.get("r", self.row + 1))
                self.column = -1
            case "c":
                self._start_cell(attributes)
            case "f":
                self.has_formula = True
            case "v" if self.has_formula:
                self.parser.CharacterDataHandler = self._add
            case "mergeCell":
                self._merge(attributes.get("ref", ""))

    def _start_cell(self, attributes: dict[str, Any]) -> None:
        """Remember the place and the type of a cell."""
        self.column += 1
        if "r" in attributes:
            self.row, self.column = cell_place(attributes["r"])
        self.type = attributes.get("t", "")
        self.has_formula = False
        self.value = ""

    def _add(self, text: str) -> None:
        """Remember the stored value of a formula."""
        self.value += text

    def _end(self, name: str) -> None:
        """Record a formula without a value at the end of its cell."""
        match name.rpartition(":")[2]:
            case "v":
                self.parser.CharacterDataHandler = None
            # An empty text is a stored value too.
            case "c" if self.has_formula and not self.value and self.type != "str":
                self._count()
                self.sheet.unstored.setdefault(self.row, []).append(self.column)

    def _merge(self, area: str) -> None:
        """Record merged cells that span rows."""
        first, _, last = area.partition(":")
        (start, column), (end, _) = cell_place(first), cell_place(last or first)
        if end > start:
            self._count()
            self.sheet.merged.setdefault(start, []).append(Merged(column, end))

    def _count(self) -> None:
        """Raise OverflowError after too many cells."""
        self.found += 1
        if self.found > MOST_CELLS:
            raise OverflowError("too many merged cells, or formulas without a value")


class MergedCells:
    """Fill the cells below the first one of merged cells, row by row."""

    def __init__(self, merged: dict[int, list[Merged]]) -> None:
        """Keep the merged cells by their first row."""
        self.merged = merged
        self.open: dict[int, tuple[int, Any]] = {}

    def fill(self, number: int, cells: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[int]]:
        """Return the filled cells of a row, and the columns that were filled.

        An empty row stays empty: it only makes the merged row higher.
        """
        filled = list(self._fill(number, cells)) if self.open else []
        for merged in self.merged.get(number, []):
            if merged.column < len(cells):
                self.open[merged.column] = (merged.last, cells[merged.column])
        if not filled or all(cell is None for cell in cells):
            return cells, []
        width = max(len(cells), 1 + max(column for column, _ in filled))
        row = [*cells, *[None] * (width - len(cells))]
        for column, value in filled:
            row[column] = value
        return tuple(row), [column for column, _ in filled]

    def _fill(self, number: int, cells: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
        """Yield column and value of the empty cells that belong to merged cells."""
        self.open = {column: cell for column, cell in self.open.items() if cell[0] >= number}
        for column, (_, value) in self.open.items():
            is_empty = column >= len(cells) or cells[column] is None
            if is_empty and value is not None:
                yield column, value
