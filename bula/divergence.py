"""Measure how far two forms of one model differ in their logits.

The forms are base with adapter, merged model, 16-bit GGUF file and quantized GGUF file. All are
compared over the full vocabulary, at every supervised token of the same answers, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from bula.errors import UserError
from bula.prompts import Encoded, encode
from bula.records import read_validation_sets
from bula.stats import LN2, ratio_standard_error

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Largest difference of a merged model's logits from base and adapter, as a share of the largest
# logit. Rounding in float32 stays below 1e-5; an adapter on the embeddings, whose weights
# bula/merging.py does not check, exceeds this limit.
LOGIT_TOLERANCE = 1e-4
# Float32 logits (tokens, vocabulary) and targets (tokens,) of one example.
Scored: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"


class Difference(NamedTuple):
    """The difference between the logits of two forms over one example."""

    tokens: int
    logits: int
    difference_largest: float
    difference_total: float
    logit_largest: float
    kl_nats: float
    loss_nats: float
    tokens_agreeing: int


def sample_validation(clean: Path, tokenizer: PreTrainedTokenizerBase, items: int) -> list[Encoded]:
    """Return the first `items` validation examples, from A to E in turn."""
    sets = read_validation_sets(clean / "validation").values()
    rounds = zip(*sets, strict=False)
    return [encode(tokenizer, example) for examples in rounds for example in examples][:items]


def score_examples(model: PreTrainedModel, encoded: list[Encoded], pad_id: int) -> Iterator[Scored]:
    """Yield the logits and targets of one example after the other."""
    import torch

    from bula.scoring import supervised_logits

    for item in encoded:
        logits = []
        targets = []
        for some_logits, some_targets in supervised_logits(model, [item], pad_id):
            logits.append(some_logits)
            targets.append(some_targets)
        yield torch.cat(logits), torch.cat(targets)


def compare_example(
    reference: torch.Tensor, other: torch.Tensor, targets: torch.Tensor
) -> Difference:
    """Return the difference of `other` from `reference` over one example.

    KL(reference || other) and the loss of `other` are totals over the tokens.
    """
    import torch

    difference = (reference - other).abs()
    log_p = reference.log_softmax(-1)
    log_q = other.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(dtype=torch.float64)
    target_log_q = log_q.gather(1, targets[:, None])
    agreeing = reference.argmax(-1) == other.argmax(-1)
    return Difference(
        tokens=len(targets),
        logits=difference.numel(),
        difference_largest=float(difference.max()),
        difference_total=float(difference.sum(dtype=torch.float64)),
        logit_largest=float(reference.abs().max()),
        # The KL of a distribution with itself is 0; rounding must not make it negative.
        kl_nats=max(0.0, float(kl)),
        loss_nats=-float(target_log_q.sum(dtype=torch.float64)),
        tokens_agreeing=int(agreeing.sum()),
    )


def add(first: Difference, second: Difference) -> Difference:
    """Return the sums and the maxima of two differences."""
    return Difference(
        tokens=first.tokens + second.tokens,
        logits=first.logits + second.logits,
        difference_largest=max(first.difference_largest, second.difference_largest),
        difference_total=first.difference_total + second.difference_total,
        logit_largest=max(first.logit_largest, second.logit_largest),
        kl_nats=first.kl_nats + second.kl_nats,
        loss_nats=first.loss_nats + second.loss_nats,
        tokens_agreeing=first.tokens_agreeing + second.tokens_agreeing,
    )


def divergence_metrics(reference: list[Scored], other: Iterable[Scored]) -> dict[str, float | int]:
    """Return the figures of `other` against `reference`.

    docs/metrics.md defines each figure. KL(reference || other) is a mean in nats per token; its
    standard error treats the examples as clusters. Raise UserError if a logit is NaN or infinite.
    """
    found = [
        compare_example(logits, other_logits, targets)
        for (logits, targets), (other_logits, _) in zip(reference, other, strict=True)
    ]
    total = reduce(add, found)
    # The sums are NaN if any logit is, while Python's max skips a NaN.
    if not (math.isfinite(total.difference_total) and math.isfinite(total.loss_nats)):
        raise _broken("a logit is not a finite number")
    loss = total.loss_nats / total.tokens
    kl_nats = [item.kl_nats for item in found]
    tokens = [item.tokens for item in found]
    return {
        "items": len(found),
        "tokens": total.tokens,
        "logit_difference_largest": total.difference_largest,
        "logit_difference_relative": total.difference_largest / total.logit_largest,
        "logit_difference_mean": total.difference_total / total.logits,
        "kl_nats": total.kl_nats / total.tokens,
        "kl_nats_stderr": ratio_standard_error(kl_nats, tokens),
        "greedy_agreement": total.tokens_agreeing / total.tokens,
        "perplexity": _perplexity(loss),
        "bits_per_token": loss / LN2,
    }


def _perplexity(nats: float) -> float:
    """Return exp of the loss. Raise UserError if the result is too large."""
    try:
        return math.exp(nats)
    except OverflowError as error:
        raise _broken(f"the loss is {nats:.0f} nats per token") from error


def _broken(what: str) -> UserError:
    """Return the UserError for a model with unusable logits."""
    fix = "run the stage that wrote the model again, or train with a smaller learning_rate"
    return UserError("a compared model", f"{what}, so its weights are broken", fix)
