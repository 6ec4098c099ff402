"""Choose which labels count, and combine those of several raters."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

from bula.labels.raters import LabelKind
from bula.labels.records import AnswerLabel, Label, PairLabel

# An answer: its question, its variant, and the hash of its text.
AnswerId = tuple[str, str, str]
# The answer of a pair that a patient may get.
Vote = Literal["first", "second", "both", "neither"]
AnyLabel = TypeVar("AnyLabel", AnswerLabel, PairLabel)


class PairId(NamedTuple):
    """Two answers to one question, in the order of their variants."""

    question: str
    first: AnswerId
    second: AnswerId


def trusted_kind(labels: Iterable[Label]) -> LabelKind:
    """Return the kind of labels that figures use.

    Labels of clinicians replace those of authors.
    """
    is_clinical = any(label.labels == "clinician_labels" for label in labels)
    return "clinician_labels" if is_clinical else "author_labels"


def answers_of(labels: Iterable[Label]) -> list[AnswerLabel]:
    """Return the labels of answers; a repetition comes after all firsts."""
    found = [label for label in labels if isinstance(label, AnswerLabel)]
    return firsts_first(found)


def pairs_of(labels: Iterable[Label]) -> list[PairLabel]:
    """Return the labels of pairs; a repetition comes after all firsts."""
    found = [label for label in labels if isinstance(label, PairLabel)]
    return firsts_first(found)


def firsts_first(labels: Sequence[AnyLabel]) -> list[AnyLabel]:
    """Return the labels in their order, with repetitions last."""
    return sorted(labels, key=lambda label: label.repeat_of is not None)


def answer_id(label: AnswerLabel) -> AnswerId:
    """Return what identifies the judged answer."""
    return label.id, label.variant, label.sha256


def pair_id(label: PairLabel) -> PairId:
    """Return what identifies the judged pair, whichever side its answers stand on."""
    left = (label.id, label.left, label.left_sha256)
    right = (label.id, label.right, label.right_sha256)
    return PairId(label.id, *sorted([left, right]))


def vote(label: PairLabel) -> Vote:
    """Return the preference for the first or the second answer of `pair_id`."""
    if label.prefer == "both" or label.prefer == "neither":
        return label.prefer
    left_is_first = pair_id(label).first == (label.id, label.left, label.left_sha256)
    return "first" if (label.prefer == "left") == left_is_first else "second"


def votes_by_pair(labels: Iterable[PairLabel]) -> dict[PairId, list[Vote]]:
    """Return the first vote of each rater on each pair."""
    votes: dict[PairId, dict[str, Vote]] = {}
    for label in firsts_first(list(labels)):
        votes.setdefault(pair_id(label), {}).setdefault(label.rater, vote(label))
    return {pair: list(of_raters.values()) for pair, of_raters in votes.items()}


def majority(votes: Sequence[Vote]) -> Vote | None:
    """Return the vote of more than half of the raters, or None."""
    most, count = Counter(votes).most_common(1)[0]
    return most if 2 * count > len(votes) else None
