"""Write the main figures and three answers for a README."""

from pathlib import Path

from bula.escaping import markdown
from bula.item_scores import ShownAnswer
from bula.params import Params
from bula.tables.controls import control_note
from bula.tables.results import headline_table
from stages.compare.inputs import Answers
from stages.compare.loops import cut_loops, missing_text
from stages.compare.pairs import Results

ANSWERS = 3
# Longest answer that is shown whole; the report has all of it.
WORDS = 60


def headline(figures: Path, results: Results, answers: Answers, params: Params) -> str:
    """Return the main table, what no variant beats, and answers of the first pair.

    The answers are those to the first question of each of the first validation sets. They were not
    chosen by their content. A question that only one of the two variants answered is skipped.
    """
    notes = control_note(figures, params, results)
    return f"{headline_table(figures, params)}{notes}\n{_answers(answers, params)}"


def _answers(answers: Answers, params: Params) -> str:
    """Return a table of the first questions with the answers of baseline and variant."""
    shown = list(params.variants)[:2]
    if params.compare.pairs:
        shown = [params.compare.pairs[0].baseline, params.compare.pairs[0].variant]
    firsts: dict[str, str] = {}
    for row in answers[shown[0]].values():
        if row.id in answers[shown[-1]]:
            firsts.setdefault(row.split, row.id)
    lines = [f"| question | {' | '.join(shown)} |", "|---|" + "---|" * len(shown)]
    for split in sorted(firsts)[:ANSWERS]:
        rows = [answers[variant][firsts[split]] for variant in shown]
        cells = [markdown(rows[0].question), *map(_cut, rows)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cut(row: ShownAnswer) -> str:
    """Return the start of an answer on one line, with its loops cut."""
    words = cut_loops(row.generated).split()
    text = " ".join(words[:WORDS]) + (" …" if len(words) > WORDS else "")
    mark = " *(degenerate)*" if row.degenerate else ""
    return f"{markdown(text) or missing_text(row)}{mark}"
