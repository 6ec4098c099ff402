"""Score pairs under the tuned adapter and under the preferred one.

DPO's reward of an answer is beta times the log ratio of its likelihoods under the two (Rafailov et
al. 2023, arXiv:2305.18290, equation 5 without the term that cancels in a margin).
"""

import math
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from bula.errors import UserError
from bula.params import Prefer
from bula.prompts import Encoded
from bula.scoring import supervised_logits
from bula.stats import MIN_BOOTSTRAP, bootstrap_groups, clustered_standard_error
from stages.prefer.pairs import Pair

Figures = dict[str, float | int]


class LogLikelihoods(NamedTuple):
    """The log-likelihoods of both answers of a pair, in nats."""

    chosen: float
    rejected: float


def score_pairs(model: PreTrainedModel, pairs: list[Pair], pad_id: int) -> list[LogLikelihoods]:
    """Return the log-likelihoods of the answers of each pair."""
    return [
        LogLikelihoods(
            chosen=_log_likelihood(model, pair.chosen, pad_id),
            rejected=_log_likelihood(model, pair.rejected, pad_id),
        )
        for pair in pairs
    ]


def _log_likelihood(model: PreTrainedModel, item: Encoded, pad_id: int) -> float:
    """Return the log-likelihood of an answer in nats, end-of-turn token included."""
    total = 0.0
    for logits, targets in supervised_logits(model, [item], pad_id):
        scores = logits.log_softmax(-1).gather(1, targets[:, None])
        total += float(scores.sum(dtype=torch.float64))
    return total


def preference_figures(
    tuned: list[LogLikelihoods],
    preferred: list[LogLikelihoods],
    groups: list[str],
    entry: Prefer,
    seed: int,
) -> Figures:
    """Return loss, rewards and their margin over pairs, as docs/metrics.md defines them.

    `groups` has the question of each pair, since the pairs of a question are not independent.
    Raise UserError if a figure is not finite.
    """
    chosen = [
        entry.beta * (after.chosen - before.chosen)
        for before, after in zip(tuned, preferred, strict=True)
    ]
    rejected = [
        entry.beta * (after.rejected - before.rejected)
        for before, after in zip(tuned, preferred, strict=True)
    ]
    margins = [one - other for one, other in zip(chosen, rejected, strict=True)]
    if not all(map(math.isfinite, margins)):
        what = "a likelihood under the preferred adapter is not a finite number"
        raise UserError("params.yaml", what, "lower learning_rate in the section prefer")
    measures = {
        "loss_nats": [_loss(margin) for margin in margins],
        "reward_accuracy": [float(margin > 0) for margin in margins],
        "reward_margin": margins,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
    }
    figures: Figures = {"items": len(margins), "questions": len(set(groups))}
    for name, values in measures.items():
        figures |= _mean(name, values, groups, entry, seed)
    return figures


def _loss(margin: float) -> float:
    """Return -ln(sigmoid(margin)), which is ln 2 at a margin of 0."""
    # exp of a large number overflows.
    return max(0.0, -margin) + math.log1p(math.exp(-abs(margin)))


def _mean(name: str, values: list[float], groups: list[str], entry: Prefer, seed: int) -> Figures:
    """Return the mean, its standard error and, with enough questions, its interval."""
    figures: Figures = {
        name: sum(values) / len(values),
        f"{name}_stderr": clustered_standard_error(values, groups),
    }
    if len(set(groups)) >= MIN_BOOTSTRAP:
        low, high = bootstrap_groups(values, groups, entry.resamples, entry.confidence, seed)
        figures |= {f"{name}_low": low, f"{name}_high": high}
    return figures
