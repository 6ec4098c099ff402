"""Show on the page what people say about the answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bula.params import Params
from bula.tables.figures import Metrics, read_figures
from stages.compare.labels import (
    PEOPLE,
    STAGE,
    agreement_table,
    answers_table,
    corrected_share,
    is_weighted,
    pairs_table,
    statistic,
)
from stages.compare.page.tables import Table, read_table
from stages.compare.page.words import Both, both, figures

AGREEMENT = Both("Agreement of the raters", "Concordância dos avaliadores")
ANSWERS = Both("Answers as people judged them", "Respostas como as pessoas as avaliaram")
PAIRS = Both("Which answer people prefer", "Que resposta as pessoas preferem")
JUDGE = Both(
    "Correct answers by the judge, corrected by these labels",
    "Respostas corretas segundo o juiz, corrigidas por estas avaliações",
)
JUDGE_HEAD = [
    Both("variant", "variante"),
    Both("correct, % [interval] ↑", "corretas, % [intervalo] ↑"),
]
WITHHELD = Both("withheld", "omitido")
UNWEIGHTED = Both(
    "The labels have no weights. The shares describe the labelled answers. A review kit draws "
    "doubtful answers more often than they occur, also by the judge's score. So the shares of "
    "all answers of the run can be different, and the corrected shares of the judge are usually "
    "too high.",
    "As avaliações não têm pesos. As proporções descrevem as respostas avaliadas. O sorteio "
    "escolhe respostas duvidosas com mais frequência do que elas ocorrem, também pela nota "
    "do juiz. Por isso as proporções de todas as respostas da execução podem ser outras, e as "
    "proporções corrigidas do juiz costumam ser altas demais.",
)
WEIGHTED = Both(
    "Shares, means, the kappa of the judge and its corrected shares weigh each answer by the "
    "inverse of its probability to be drawn. So they estimate all answers of the run that "
    "the kit could draw. Counts are of labelled answers.",
    "As proporções, as médias, o kappa do juiz e as proporções corrigidas dão a cada resposta um "
    "peso: o inverso da probabilidade de ser sorteada. Assim elas estimam todas as respostas da "
    "execução que podiam ser sorteadas. As contagens são das respostas avaliadas.",
)
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


def read_labels(folder: Path, params: Params) -> Labels:
    """Return what metrics/labels.json says, with the cells of report.md."""
    path = folder / "labels.json"
    content = read_figures(path, STAGE)
    who = content.get("labelled_by")
    if not content["judgements"] or who not in PEOPLE:
        return Labels([NOBODY], [])
    return Labels(list(_notes(content, who)), list(_tables(content, path, params)))


def _notes(content: Metrics, who: str) -> Iterator[Both]:
    """Yield who judged, what the labels cover, and the judge's agreement."""
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

    if any(name.startswith("answers_") for name in content):
        yield WEIGHTED if is_weighted(content) else UNWEIGHTED
        weightless = content.get("unweighted_labels", 0)
        if weightless:
            yield Both(
                f"{weightless} judgements have no weight and weigh 1.",
                f"{weightless} avaliações não têm peso e valem 1.",
            )
    kappas = [statistic(content, f"{who}_kappa_{part}") for part in ("accuracy", "style")]
    accuracy, style = kappas
    yield Both(
        f"Kappa of the judge and these people: accuracy {accuracy}, style {style}.",
        f"Kappa entre o juiz e estas pessoas: correção {figures(accuracy)}, estilo "
        f"{figures(style)}.",
    )


def _judge_table(content: Metrics, params: Params) -> Table:
    """Return the corrected share of each variant, or that it is withheld."""
    rows = []
    for variant in params.variants:
        share = corrected_share(content.get(f"judge_{variant}", {}))
        rows.append([Both(variant, variant), both(share) if share else WITHHELD])
    return Table(JUDGE, JUDGE_HEAD, rows)


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
    yield _judge_table(content, params)
