"""Collect the content of the page from the report's texts and figures."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bula.params import Params, is_trained
from bula.tables.differences import differences_table
from bula.tables.fidelity import fidelity_table
from bula.tables.results import results_table
from stages.compare.conclusion import Facts, conclusion_in
from stages.compare.contrast import contrast_section
from stages.compare.figure import Panel
from stages.compare.header import base_name, header
from stages.compare.inputs import Answers
from stages.compare.judge import judge_section
from stages.compare.page import notes
from stages.compare.page.answers import (
    SLICE_NAMES,
    Example,
    Question,
    limited,
    read_example,
    read_questions,
)
from stages.compare.page.charts import Chart, curve_charts, panel_charts
from stages.compare.page.graph import Box, read_columns
from stages.compare.page.labels import Labels, read_labels
from stages.compare.page.missing import not_measured
from stages.compare.page.sources import privacy_note, source_tables
from stages.compare.page.tables import Block, Table, grouped, read_blocks, read_table
from stages.compare.page.words import Both, both
from stages.compare.pairs import Results
from stages.compare.portuguese import PORTUGUESE
from stages.compare.safety import safety_table
from stages.compare.sentences import ENGLISH


class Conclusion(NamedTuple):
    """The conclusion in both languages."""

    en: list[list[Block]]
    pt: list[list[Block]]


class Content(NamedTuple):
    """All that the page shows."""

    base: str
    facts: list[Both]
    conclusion: Conclusion
    example: Example | None
    columns: list[list[Box]]
    sources: list[Table]
    privacy: Both | None
    curves: list[Chart]
    panels: list[Chart]
    results: Table
    results_notes: list[Both]
    differences: Table
    differences_notes: list[Both]
    contrast: Table | None
    contrast_note: Both
    safety: Table
    safety_note: Both
    judge: Table
    judge_note: Both
    labels: Labels
    fidelity: Table | None
    fidelity_note: Both
    missing: list[Both]
    questions: list[Question]
    left_out: int
    """Questions beyond the limit of the page."""
    sets: dict[str, Both]
    specialties: list[str]
    variants: list[str]
    compared: tuple[str, str] | None
    """The baseline and the variant whose words are compared."""


class Folders(NamedTuple):
    """The folders that the page reads."""

    data: Path
    figures: Path
    plots: Path


def read_content(
    folders: Folders,
    results: Results,
    facts: Facts,
    answers: Answers,
    panels: list[Panel],
    params: Params,
) -> Content:
    """Return the content of the page. `results` are marked by `mark_families`."""
    figures = folders.figures
    found = read_questions(folders.data, answers, params)
    questions = limited(found)
    pairs = params.compare.pairs
    return Content(
        base=base_name(params),
        facts=_facts(figures, params),
        conclusion=_conclusion(results, facts, params),
        example=read_example(found, params),
        columns=read_columns(params),
        sources=source_tables(figures),
        privacy=privacy_note(figures),
        curves=curve_charts(folders.plots),
        panels=panel_charts(panels, list(params.variants)),
        results=read_table(results_table(figures, params), Both("Results", "Resultados")),
        results_notes=_present(notes.results_note(params), notes.withheld_note(figures, params)),
        differences=_differences(results),
        differences_notes=[notes.differences_note(params), notes.seeds_note(results)],
        contrast=_contrast(figures, params),
        contrast_note=notes.CONTRAST,
        safety=read_table(safety_table(figures, params), Both("Safety", "Segurança")),
        safety_note=notes.RULES,
        judge=read_table(judge_section(figures, params), Both("The judge", "O juiz")),
        judge_note=notes.judge_note(figures, params),
        labels=read_labels(figures, params),
        fidelity=_fidelity(figures, params),
        fidelity_note=notes.FIDELITY,
        missing=not_measured(figures, results, params),
        questions=questions,
        left_out=len(found) - len(questions),
        sets=_sets(questions),
        specialties=sorted({question.specialty for question in questions} - {""}),
        variants=list(params.variants),
        compared=(pairs[0].baseline, pairs[0].variant) if pairs else None,
    )


def _present(*texts: Both | None) -> list[Both]:
    """Return the notes that exist."""
    return [text for text in texts if text is not None]


def _facts(figures: Path, params: Params) -> list[Both]:
    """Return the lines of the report's header."""
    blocks = read_blocks(header(figures, params))
    return [both("".join(run.text for run in block.runs)) for block in blocks]


def _conclusion(results: Results, facts: Facts, params: Params) -> Conclusion:
    """Return the sentences of the conclusion in both languages."""
    found = []
    for language in (ENGLISH, PORTUGUESE):
        blocks = read_blocks(conclusion_in(language, results, facts, params))
        found.append(grouped(blocks))
    return Conclusion(*found)


def _differences(results: Results) -> Table:
    """Return the paired differences, with measures in words."""
    caption = Both("Paired differences", "Diferenças pareadas")
    table = read_table(differences_table(results), caption)
    rows = [[_measure(row[0]), *row[1:]] for row in table.rows]
    return table._replace(rows=rows)


def _measure(label: Both) -> Both:
    """Return a label such as `tuned − base: rouge1_f ↑` in words."""
    texts = []
    for text, language in ((label.en, ENGLISH), (label.pt, PORTUGUESE)):
        pair, _, measure = text.partition(": ")
        name, _, arrow = measure.partition(" ")
        texts.append(f"{pair}: {language.measures.get(name, name)} {arrow}")
    return Both(*texts)


def _contrast(figures: Path, params: Params) -> Table | None:
    """Return the table of contrast pairs, if they were scored."""
    text = contrast_section(figures, params)
    return read_table(text, Both("Contrast pairs", "Pares de contraste")) if text else None


def _fidelity(figures: Path, params: Params) -> Table | None:
    """Return the table of the trained model's forms, if this run trained one."""
    if not is_trained(params):
        return None
    return read_table(fidelity_table(figures), Both("Fidelity", "Fidelidade"))


def _sets(questions: Iterable[Question]) -> dict[str, Both]:
    """Return the titles of the sets of questions, in their order."""
    titles = {}
    for question in questions:
        name = question.set
        titles[name] = SLICE_NAMES.get(name, Both(f"validation {name}", f"validação {name}"))
    return titles
