"""Write a review as Markdown for a pull request.

The first lines carry the verdict; two sentences replace them if both runs are equal. The rest is
folded, and lines that would exceed the limit are left out and counted.
"""

from collections.abc import Sequence

from bula.review.opening import equal_line, opening_lines, title
from bula.review.report import Review
from bula.review.sections import (
    Section,
    answers_section,
    changes_section,
    figures_section,
    gate_section,
    matrix_section,
    missing_section,
)

# GitHub refuses comments above 65,536 characters, and a reader refuses more than this.
MOST_BYTES = 19_500
LEFT_OUT = "{others} more lines: `python -m bula review --json` prints all of them."


def as_markdown(review: Review) -> str:
    """Return a review as GitHub Markdown of less than 20 KB."""
    details = [Section("\n".join(opening_lines(review)) + "\n\n", [])]
    details += [gate_section(review), matrix_section(review.figures)]
    if review.is_equal:
        start = f"{equal_line(review)}\n\n<details><summary>Details</summary>\n\n"
        details = [Section(start, []), *details, Section("</details>\n\n", [])]
    sections = [
        Section(f"{title(review)}\n\n", []),
        *details,
        figures_section(review.figures),
        changes_section("Parameters", review.params),
        changes_section("Counts of data and of personal data", review.counts),
        answers_section(review.answers),
        changes_section("Headline figures (metrics/summary.json)", review.headline),
        missing_section(review),
    ]
    kept = [section for section in sections if section.rows or not section.tail]
    return _fit(kept, MOST_BYTES)


def _fit(sections: Sequence[Section], most: int) -> str:
    """Return the sections in at most `most` bytes, and count rows left out."""
    note = len(LEFT_OUT) + 10
    frames = [len(f"{part.head}{part.tail}".encode()) + note for part in sections]
    left = most - sum(frames)
    written = []
    for section in sections:
        rows = []
        for row in section.rows:
            size = len(row.encode()) + 1
            if size > left:
                break
            left -= size
            rows.append(row + "\n")
        others = len(section.rows) - len(rows)
        more = f"\n{LEFT_OUT.format(others=others)}\n" if others else ""
        written.append(section.head + "".join(rows) + more + section.tail)
    return "".join(written)
