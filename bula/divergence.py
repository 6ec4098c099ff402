"""What a step from one form of a model to the next costs: adapter, merged, 16-bit GGUF, quantized GGUF, all by one measure.

Over the full vocabulary, at every supervised token of the same answers, in float32, with the weights as the form holds them.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bula.errors import UserError
from bula.prompts import Encoded, encode
from bula.records import read_validation_sets
from bula.scoring import supervised_logits
from bula.stats import ratio_standard_error

# Float32 logits (tokens, vocabulary) and targets (tokens,) of one example.
Scored = tuple[torch.Tensor, torch.Tensor]


def sample_validation(clean: Path, tokenizer: PreTrainedTokenizerBase, items: int) -> list[Encoded]:
    """The first `items` validation answers, taken from A to E in turn."""
    columns = zip(*read_validation_sets(clean / "validation").values(), strict=False)
    return [encode(tokenizer, example) for row in columns for example in row][:items]


def score_examples(model: PreTrainedModel, encoded: list[Encoded], pad_id: int) -> Iterator[Scored]:
    """Logits and targets, one example after the other."""
    for item in encoded:
        parts = list(supervised_logits(model, [item], pad_id))
        yield (
            torch.cat([logits for logits, _ in parts]),
            torch.cat([targets for _, targets in parts]),
        )


def divergence_metrics(reference: list[Scored], other: Iterable[Scored]) -> dict[str, float | int]:
    """Figures of `other` against `reference`; docs/metrics.md defines each.

    KL(reference || other) is a mean in nats a token, its standard error takes answers as clusters.
    """
    divergences, sizes = [], []
    largest = largest_logit = total = nats = 0.0
    agree = values = 0
    for (a, targets), (b, _) in zip(reference, other, strict=True):
        difference = (a - b).abs()
        largest, total = (
            max(largest, float(difference.max())),
            total + float(difference.sum(dtype=torch.float64)),
        )
        values, largest_logit = (
            values + difference.numel(),
            max(largest_logit, float(a.abs().max())),
        )
        p, q = a.log_softmax(-1), b.log_softmax(-1)
        # KL of a distribution with itself is 0, and rounding must not make it negative.
        divergences.append(max(0.0, float((p.exp() * (p - q)).sum(dtype=torch.float64))))
        sizes.append(len(targets))
        nats -= float(q.gather(1, targets[:, None]).sum(dtype=torch.float64))
        agree += int((a.argmax(-1) == b.argmax(-1)).sum())
    tokens = sum(sizes)
    # Python's max passes over a NaN, and a difference that is none would be 0; the sums hold it.
    if not (math.isfinite(total) and math.isfinite(nats)):
        raise _broken("a logit is not a finite number")
    return {
        "items": len(sizes),
        "tokens": tokens,
        "logit_difference_largest": largest,
        "logit_difference_relative": largest / largest_logit,
        "logit_difference_mean": total / values,
        "kl_nats": sum(divergences) / tokens,
        "kl_nats_stderr": ratio_standard_error(divergences, sizes),
        "greedy_agreement": agree / tokens,
        "perplexity": _perplexity(nats / tokens),
        "bits_per_token": nats / tokens / math.log(2),
    }


def _perplexity(nats: float) -> float:
    """Return exp of the loss; UserError where no number holds it."""
    try:
        return math.exp(nats)
    except OverflowError as error:
        raise _broken(f"the loss is {nats:.0f} nats per token") from error


def _broken(what: str) -> UserError:
    """Return the UserError for a model whose logits cannot be compared."""
    fix = "run the stage that wrote the model again, or train with a smaller learning_rate"
    return UserError("a compared model", f"{what}, so its weights are broken", fix)
