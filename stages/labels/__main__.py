"""Compute figures from what people say about the answers.

`bula labels import` writes the labels. Agreement is computed on all labels. Figures about variants
and about the judge use only labels of answers that this run has, with the same text, and the
others are counted. If clinicians judged, their labels decide, else those of the authors.

Answers are weighted by the inverse of their probability to be drawn, which the labels have. Labels
without it, from older kits, weigh 1.

    python -m stages.labels
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bula.calibration import Labeller
from bula.errors import run_stage
from bula.labels.files import read_labels
from bula.labels.records import Label
from bula.labels.votes import trusted_kind
from bula.params import Params, load_params
from bula.reports import Scalar, write_metrics
from stages.labels.agreement import agreement_figures
from stages.labels.answers import combine, is_present, read_hashes, variant_figures
from stages.labels.intervals import Figures
from stages.labels.judge import correction_figures, kappa_figures, read_verdicts
from stages.labels.preferences import preference_figures

# The figures of metrics/labels.json: flat ones, and groups about variants and pairs.
Content = dict[str, Scalar | Figures]
LABELLERS: tuple[Labeller, ...] = ("author", "clinician")


def of_kind(labels: Sequence[Label], who: Labeller) -> list[Label]:
    """Return the labels of one kind of people."""
    return [label for label in labels if label.labels == f"{who}_labels"]


def counts(labels: Sequence[Label], present: Sequence[Label]) -> Figures:
    """Return the numbers of raters, of judgements and of labels without an answer."""
    figures: Figures = {
        "judgements": len(labels),
        "labels_without_answer": len(labels) - len(present),
    }
    for who in LABELLERS:
        found = of_kind(labels, who)
        figures[f"{who}_judgements"] = len(found)
        figures[f"{who}_raters"] = len({label.rater for label in found})
    return figures


def weight_counts(labels: Sequence[Label]) -> Figures:
    """Return the numbers of labels with and without a weight.

    There are no figures if no label has one.
    """
    weighted = sum(label.weight is not None for label in labels)
    if not weighted:
        return {}
    return {"weighted_labels": weighted, "unweighted_labels": len(labels) - weighted}


def summarise(labels: Sequence[Label], data: Path, params: Params) -> Content:
    """Return all figures; without labels, the counts alone."""
    answers = read_hashes(data / "answers", params)
    verdicts = read_verdicts(data / "verdicts", params)
    present = [label for label in labels if is_present(label, answers)]
    figures: Content = {**counts(labels, present)}
    if not labels:
        return figures
    trusted: Labeller = "clinician" if trusted_kind(labels) == "clinician_labels" else "author"
    figures["labelled_by"] = trusted
    figures |= agreement_figures(of_kind(labels, trusted), params)
    for who in LABELLERS:
        if of_kind(labels, who):
            judged = combine(of_kind(present, who))
            figures |= kappa_figures(who, judged, verdicts, params)
    counted = of_kind(present, trusted)
    figures |= weight_counts(counted)
    consensus = combine(counted)
    figures |= variant_figures(consensus, params)
    figures |= correction_figures(trusted, consensus, verdicts, params)
    figures |= preference_figures(counted, params)
    return figures


def main(
    data: Annotated[Path, typer.Option(help="Folder of answers and verdicts.")] = Path("data"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/labels.json"),
) -> None:
    """Compute the figures of people's labels."""
    params = load_params()
    labels = read_labels(Path(path) for path in params.labels.files)
    figures = summarise(labels, data, params)
    write_metrics(metrics, figures)
    without = figures["labels_without_answer"]
    print(f"labels: {len(labels)} judgements, {without} without their answer, in {metrics}")


if __name__ == "__main__":
    run_stage(main)
