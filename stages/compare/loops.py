"""Prepare the answers that the report shows."""

from bula.item_scores import ShownAnswer
from bula.loops import cut_loops

__all__ = ["cut_loops", "missing_text"]


def missing_text(row: ShownAnswer) -> str:
    """Return the words that replace an answer without text."""
    return "(empty)" if row.has_answer else "(no answer: the request failed)"
