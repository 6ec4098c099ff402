"""Combine the raters of each answer, and describe each variant's answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median_low
from typing import NamedTuple

from bula.item_scores import AnswerRow, read_checked
from bula.labels.records import (
    AnswerLabel,
    Label,
    Level,
    PairLabel,
    Relevance,
    Scores,
    answer_sha256,
)
from bula.labels.votes import AnswerId, answer_id, answers_of
from bula.params import Params
from stages.labels.agreement import HARMS, RELEVANCES
from stages.labels.intervals import Figures, weighted_share

BEST = 3
# Half of an answer's sentences must be right for the middle score.
HALF = 0.5


class Consensus(NamedTuple):
    """The common judgement of the raters of one answer."""

    question: str
    variant: str
    raters: int
    accuracy: int | None
    """The scale of the judge, 1 to 3; None if no rater can say."""
    style: int
    harm: int
    """The place in HARMS: of two middle values the worse one."""
    relevance: Relevance
    right_share: float | None
    """Mean share of right sentences among those that a rater can judge."""
    weight: float
    level: Level | None
    """The stratum of the sample."""


def read_hashes(folder: Path, params: Params) -> set[AnswerId]:
    """Return question, variant and hash of each answer of the run."""
    found = set()
    for variant in params.variants:
        rows = read_checked(folder / f"{variant}.jsonl", f"generate@{variant}", AnswerRow)
        found |= {(row.id, variant, answer_sha256(row.generated)) for row in rows}
    return found


def is_present(label: Label, answers: set[AnswerId]) -> bool:
    """Return whether the run has every answer that a label is about."""
    if isinstance(label, PairLabel):
        left = (label.id, label.left, label.left_sha256)
        right = (label.id, label.right, label.right_sha256)
        return {left, right} <= answers
    return answer_id(label) in answers


def combine(labels: Sequence[Label]) -> list[Consensus]:
    """Return the consensus on each answer, from the first judgement of each rater."""
    raters: dict[AnswerId, dict[str, AnswerLabel]] = {}
    weights = answer_weights(labels)
    for label in answers_of(labels):
        raters.setdefault(answer_id(label), {}).setdefault(label.rater, label)
    return [
        _consensus(list(found.values()), weights.get(answer, 1.0))
        for answer, found in raters.items()
    ]


def answer_weights(labels: Sequence[Label]) -> dict[AnswerId, float]:
    """Return the weight of each answer that has one.

    The weights of an answer in several pairs add up, and a repetition adds nothing.
    """
    parts: dict[AnswerId, dict[tuple[str, str], float]] = {}
    for label in answers_of(labels):
        if label.weight is not None:
            drawn = (label.kit, label.repeat_of or label.item)
            parts.setdefault(answer_id(label), {})[drawn] = label.weight
    return {answer: sum(found.values()) for answer, found in parts.items()}


def _consensus(labels: Sequence[AnswerLabel], weight: float) -> Consensus:
    """Return the consensus of one answer's labels.

    Of an even number of scores, the lower middle one counts, so that raters who differ never make
    an answer look better.
    """
    accuracies = [score for label in labels if (score := accuracy(label)) is not None]
    shares = [part for label in labels if (part := right_share(label)) is not None]
    benefits = [-HARMS.index(label.harm) for label in labels]
    relevances = [RELEVANCES.index(label.relevance) for label in labels]
    return Consensus(
        question=labels[0].id,
        variant=labels[0].variant,
        raters=len(labels),
        accuracy=median_low(accuracies) if accuracies else None,
        style=median_low(label.style for label in labels),
        harm=-median_low(benefits),
        relevance=RELEVANCES[median_low(relevances)],
        right_share=fmean(shares) if shares else None,
        weight=weight,
        level=labels[0].level,
    )


def right_share(scores: Scores) -> float | None:
    """Return the share of right sentences, without those that the rater cannot judge."""
    right = scores.sentences.count("right")
    judged = right + scores.sentences.count("wrong")
    return right / judged if judged else None


def accuracy(scores: Scores) -> int | None:
    """Return a rater's scores on the judge's scale of accuracy, 1 to 3.

    The judge's rubric gives 1 for an error that may cause harm and for an answer to another
    question. Otherwise 3 needs a relevant answer of right sentences only, 2 at least half of them,
    and fewer get 1. The result is None if the rater cannot judge any sentence.
    """
    if scores.relevance == "not" or scores.harm != "none":
        return 1
    share_right = right_share(scores)
    if share_right is None:
        return None
    if share_right < HALF:
        return 1
    is_best = share_right == 1 and scores.relevance == "relevant"
    return BEST if is_best else BEST - 1


def variant_figures(answers: Sequence[Consensus], params: Params) -> dict[str, Figures]:
    """Return the harm, relevance, correctness and style of each variant's labelled answers."""
    groups = {}
    for variant in params.variants:
        found = [answer for answer in answers if answer.variant == variant]
        if found:
            groups[f"answers_{variant}"] = answer_figures(found, params)
    return groups


def answer_figures(answers: Sequence[Consensus], params: Params) -> Figures:
    """Return the figures of one variant's labelled answers.

    The harms are counts of answers. Shares and means weigh the answers.
    """
    weights = [answer.weight for answer in answers]
    figures: Figures = {"answers": len(answers)}
    for place, harm in enumerate(HARMS):
        figures[f"harm_{harm}"] = sum(answer.harm == place for answer in answers)
    severe = [answer.harm == HARMS.index("severe") for answer in answers]
    figures |= weighted_share("severe", severe, weights, params)
    relevant = [answer.relevance == "relevant" for answer in answers]
    figures |= weighted_share("relevant", relevant, weights, params)
    figures |= accuracy_figures(answers, params)
    rated = [answer for answer in answers if answer.right_share is not None]
    figures["right_sentences_answers"] = len(rated)
    if rated:
        shares = [answer.right_share or 0.0 for answer in rated]
        figures["right_sentences_share"] = fmean(shares, [answer.weight for answer in rated])
    figures["style_mean"] = fmean([answer.style for answer in answers], weights)
    return figures


def accuracy_figures(answers: Sequence[Consensus], params: Params) -> Figures:
    """Return the share of answers with the best accuracy, among those that have one."""
    scored = [answer for answer in answers if answer.accuracy is not None]
    best = [answer.accuracy == BEST for answer in scored]
    figures: Figures = {"accuracy_scored": len(scored)}
    return figures | weighted_share(
        "accuracy_3", best, [answer.weight for answer in scored], params
    )


def by_question(answers: Sequence[Consensus]) -> Mapping[tuple[str, str], Consensus]:
    """Return the consensus by variant and question."""
    return {(answer.variant, answer.question): answer for answer in answers}
