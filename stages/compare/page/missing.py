"""List the measurements that a run lacks.

A reader would take silence for success.
"""

from pathlib import Path

from bula.params import Params
from bula.tables.figures import read_figures, read_metrics
from bula.tables.judge import PARTS
from stages.compare.page.words import Both
from stages.compare.pairs import Results

CLINICIANS = Both(
    "No clinician has judged these answers (bula review-kit writes the page for them).",
    "Nenhum profissional de saúde avaliou estas respostas (bula review-kit escreve a página para "
    "isso).",
)
SEEDS = Both(
    "The spread over training seeds (make seeds N=3).",
    "A variação entre sementes de treino (make seeds N=3).",
)
GPU = Both(
    "A run on a GPU: everything here was computed on CPUs.",
    "Uma execução em GPU: tudo aqui foi calculado em CPUs.",
)
SEMANTIC = Both(
    "The search for paraphrases by an encoder, within the data and against the evaluation items "
    "(preprocess.encoder).",
    "A busca de paráfrases por um codificador, nos dados e contra os itens de avaliação "
    "(preprocess.encoder).",
)
NAMES = Both(
    "The search for people's names by a model (privacy.names).",
    "A busca de nomes de pessoas por um modelo (privacy.names).",
)
# Groups of metrics/labels.json that only labels of this run's answers have.
GROUPS_OF_LABELS = ("answers_", "prefer_")
PARTS_OF_JUDGE = {
    "accuracy": Both(
        "The judge's scores of accuracy: the judge agrees too little with people.",
        "As notas de correção do juiz: o juiz concorda pouco com as pessoas.",
    ),
    "style": Both(
        "The judge's scores of style: the judge agrees too little with people.",
        "As notas de estilo do juiz: o juiz concorda pouco com as pessoas.",
    ),
}


def not_measured(figures: Path, results: Results, params: Params) -> list[Both]:
    """Return a sentence per measurement that this run lacks."""
    found = []
    if not has_clinicians(figures):
        found.append(CLINICIANS)
    found += _withheld(figures, params)
    if not any("seeds" in row for row in results.values()):
        found.append(SEEDS)
    if params.preprocess.encoder.kind == "none":
        found.append(SEMANTIC)
    if params.privacy.names.kind == "none":
        found.append(NAMES)
    if params.device == "cpu":
        found.append(GPU)
    return found + _judged_part(figures, params)


def has_clinicians(figures: Path) -> bool:
    """Return whether clinicians judged answers that this run has."""
    path = figures / "labels.json"
    if not path.exists():
        return False
    content = read_figures(path, "labels")
    is_about_run = any(name.startswith(GROUPS_OF_LABELS) for name in content)
    return content.get("labelled_by") == "clinician" and is_about_run


def _withheld(figures: Path, params: Params) -> list[Both]:
    """Return the parts of the judge's scores that are withheld for all variants."""
    found = [read_metrics(figures, "judge", variant) for variant in params.variants]
    withheld = []
    for part in PARTS:
        if all(metrics.get(f"{part}_withheld") for metrics in found):
            withheld.append(PARTS_OF_JUDGE[part])
    return withheld


def _judged_part(figures: Path, params: Params) -> list[Both]:
    """Return that the judge rated only a part of the answers, where it did."""
    variant = next(iter(params.variants))
    judged = read_metrics(figures, "judge", variant).get("items", 0)
    items = read_metrics(figures, "generate", variant).get("items", 0)
    if judged >= items:
        return []
    text = Both(
        f"The judge saw {judged} of the {items} answers of each variant.",
        f"O juiz viu {judged} das {items} respostas de cada variante.",
    )
    return [text]
