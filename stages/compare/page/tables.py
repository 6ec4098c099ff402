"""Read the Markdown of the report as plain tables and sentences.

The page shows the cells of report.md, so no figure is computed twice.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bula.escaping import JOINER
from stages.compare.page.words import Both, both

if TYPE_CHECKING:
    from markdown_it.token import Token


# The statistics of a difference, which stand at the end of its sentence.
DETAIL = re.compile(r" \(p [=≤]")


class Table(NamedTuple):
    """A table with a caption; the first cell of each row is its header."""

    caption: Both
    head: list[Both]
    rows: list[list[Both]]


class Run(NamedTuple):
    """A part of a sentence."""

    text: str
    strong: bool


class Block(NamedTuple):
    """A paragraph, or an item of a list."""

    is_item: bool
    runs: list[Run]

    @property
    def title(self) -> str:
        """Return the strong words at the start, or nothing."""
        return self.runs[0].text.rstrip(".") if self.runs[0].strong else ""

    @property
    def rest(self) -> list[Run]:
        """Return the parts after the title."""
        return self.runs[1:] if self.title else self.runs

    @property
    def plain_and_detail(self) -> tuple[str, str]:
        """Return the part before the test of a difference, and the test."""
        text = "".join(run.text for run in self.rest)
        found = DETAIL.search(text)
        return (text[: found.start()], text[found.start() :]) if found else (text, "")


def read_table(text: str, caption: Both) -> Table:
    """Return the first table of a Markdown text.

    Raise ValueError if there is none.
    """
    rows: list[list[Both]] = []
    in_table = False
    for token in _parse(text):
        if token.type == "table_close":
            return Table(caption, rows[0], rows[1:])
        if token.type == "table_open":
            in_table = True
        elif in_table and token.type == "tr_open":
            rows.append([])
        elif in_table and token.type == "inline":
            rows[-1].append(both(_plain(token)))
    raise ValueError(f"the text contains no table: {text[:80]!r}")


def read_blocks(text: str) -> list[Block]:
    """Return the paragraphs and list items of a Markdown text, without headings and tables."""
    blocks = []
    tokens = _parse(text)
    depth = 0
    for before, token in itertools.pairwise(tokens):
        depth += {"list_item_open": 1, "list_item_close": -1}.get(token.type, 0)
        if before.type == "paragraph_open" and token.type == "inline":
            blocks.append(Block(depth > 0, list(_runs(token))))
    return blocks


def grouped(blocks: Iterable[Block]) -> list[list[Block]]:
    """Return the blocks with neighbouring items of a list together."""
    return [list(found) for _, found in itertools.groupby(blocks, lambda block: block.is_item)]


def _parse(text: str) -> "Sequence[Token]":
    """Return the tokens of a Markdown text."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").parse(text)


def _plain(token: "Token") -> str:
    """Return the text of a cell without its marks."""
    return "".join(run.text for run in _runs(token)).strip()


def _runs(token: "Token") -> Iterator[Run]:
    """Yield the plain parts of a paragraph."""
    strong = False
    for child in token.children or []:
        if child.type in ("strong_open", "strong_close"):
            strong = child.type == "strong_open"
        elif child.type in ("softbreak", "hardbreak"):
            yield Run(" ", strong)
        elif child.content:
            yield Run(child.content.replace(JOINER, ""), strong)
