"""Show on the page what people say about the answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bula.params import Params
from bula.tables.figures import Metrics, read_figures
from stages.compare.labels import PEOPLE, STAGE, agreement_table, answers_table, pairs_table
from stages.compare.page.tables import Table, read_table
from stages.compare.page.words import Both

AGREEMENT = Both("Agreement of the raters", "Concordância dos avaliadores")
ANSWERS = Both("Answers as people judged them", "Respostas como as pessoas as avaliaram")
PAIRS = Both("Which answer people prefer", "Que resposta as pessoas preferem")
NOBODY = Both("Nobody has judged the answers.", "Ninguém avaliou as respostas.")
WHO = {
    "author": Both(
        "They are authors of this project and no clinicians, so these figures show a form only.",
        "São autores deste projeto, e não profissionais de saúde: estes números só mostram o "
        "formato.",
    ),
    "clinician": Both("They are clinicians.", "São profissionais de saúde."),
}


class Labels(NamedTuple):
    """The notes and tables about people's labels."""

    notes: list[Both]
    tables: list[Table]


def read_labels(figures: Path, params: Params) -> Labels:
    """Return what metrics/labels.json says, with the cells of report.md."""
    path = figures / "labels.json"
    content = read_figures(path, STAGE)
    who = content.get("labelled_by")
    if not content["judgements"] or who not in PEOPLE:
        return Labels([NOBODY], [])
    return Labels(list(_notes(content, who)), list(_tables(content, path, params)))


def _notes(content: Metrics, who: str) -> Iterator[Both]:
    """Yield who judged, and how many labels have no answer in this run."""
    raters = content[f"{who}_raters"]
    judgements = content[f"{who}_judgements"]
    yield Both(
        f"{raters} people made {judgements} judgements. {WHO[who].en}",
        f"{raters} pessoas fizeram {judgements} avaliações. {WHO[who].pt}",
    )
    without = content["labels_without_answer"]
    if without:
        yield Both(
            f"{without} judgements are about answers that this run does not have. They count only "
            "for the agreement of the raters.",
            f"{without} avaliações são de respostas que esta execução não tem. Elas só contam para "
            "a concordância dos avaliadores.",
        )


def _tables(content: Metrics, path: Path, params: Params) -> Iterator[Table]:
    """Yield the tables that have rows."""
    texts = (
        (AGREEMENT, agreement_table(content, path)),
        (ANSWERS, answers_table(content, params, path)),
        (PAIRS, pairs_table(content, params, path)),
    )
    for caption, text in texts:
        if text:
            yield read_table(text, caption)
