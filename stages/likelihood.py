"""Score the reference answers of the validation sets under one variant: loss, perplexity, bits, accuracy, entropy.

python -m stages.likelihood base
"""

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm
from transformers import PreTrainedModel

from bula.errors import run_stage
from bula.hardware import precision_settings, seed_everything
from bula.models import load_model, load_tokenizer
from bula.params import load_params, variant_of
from bula.prompts import Encoded, encode
from bula.records import Example, Row, read_validation_sets, write_rows
from bula.reports import write_metrics
from bula.scoring import batches_by_length, supervised_logits
from bula.stats import ratio_standard_error


def score(
    model: PreTrainedModel, encoded: list[Encoded], batch_tokens: int, pad_id: int
) -> list[tuple[float, int, float]]:
    """For each example: total negative log-likelihood in nats, tokens predicted right, total entropy in nats."""
    scores: list[tuple[float, int, float]] = [(0.0, 0, 0.0)] * len(encoded)
    for batch in tqdm(batches_by_length(encoded, batch_tokens), desc="likelihood", unit="batch"):
        nats, right, entropy = [], [], []
        for logits, targets in supervised_logits(model, [encoded[i] for i in batch], pad_id):
            log_p = logits.log_softmax(-1)
            nats.append(-log_p.gather(1, targets[:, None])[:, 0])
            right.append(logits.argmax(-1) == targets)
            entropy.append(-(log_p.exp() * log_p).sum(-1))
        sizes = [len(encoded[i].completion) for i in batch]
        parts = zip(
            *(torch.split(torch.cat(x).double().cpu(), sizes) for x in (nats, right, entropy)),
            strict=True,
        )
        for index, (n, r, e) in zip(batch, parts, strict=True):
            scores[index] = (float(n.sum()), int(r.sum()), float(e.sum()))
    return scores


def to_rows(
    sets: dict[str, list[Example]],
    encoded: list[Encoded],
    scores: list[tuple[float, int, float]],
    variant: str,
) -> list[Row]:
    """One row an item; nats and entropy are totals over the answer's tokens, the end-of-turn token included."""
    examples = [example for items in sets.values() for example in items]
    return [
        {
            "id": e.id,
            "split": e.split,
            "variant": variant,
            "tokens": len(c.completion),
            "characters": len(e.answer),
        }
        | {
            "bytes": len(e.answer.encode()),
            "nats": nats,
            "tokens_right": right,
            "entropy_nats": entropy,
        }
        for e, c, (nats, right, entropy) in zip(examples, encoded, scores, strict=True)
    ]


def summarise(rows: list[Row]) -> dict[str, int | float]:
    """Figures of one set, or of all together; docs/metrics.md defines each."""
    tokens, nats = sum(r["tokens"] for r in rows), sum(r["nats"] for r in rows)
    bits = nats / math.log(2)
    return {
        "items": len(rows),
        "tokens": tokens,
        "loss_nats": nats / tokens,
        "loss_nats_stderr": ratio_standard_error(
            [r["nats"] for r in rows], [r["tokens"] for r in rows]
        ),
        "perplexity": math.exp(nats / tokens),
        "bits_per_token": bits / tokens,
        "bits_per_character": bits / sum(r["characters"] for r in rows),
        "bits_per_byte": bits / sum(r["bytes"] for r in rows),
        "token_accuracy": sum(r["tokens_right"] for r in rows) / tokens,
        "token_accuracy_stderr": ratio_standard_error(
            [r["tokens_right"] for r in rows], [r["tokens"] for r in rows]
        ),
        "entropy_bits": sum(r["entropy_nats"] for r in rows) / math.log(2) / tokens,
        "entropy_bits_stderr": ratio_standard_error(
            [r["entropy_nats"] / math.log(2) for r in rows], [r["tokens"] for r in rows]
        ),
    }


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    out: Annotated[Path, typer.Option(help="Folder for the row of each item.")] = Path(
        "data/likelihood"
    ),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/likelihood"),
) -> None:
    """Score the reference answers under one variant."""
    params = load_params()
    seed_everything(params.sampling_seed)
    model = Path(variant_of(params, variant).model)
    # With 0 all: the slice then has no end.
    first = params.likelihood.items_per_set or None
    found = read_validation_sets(clean / "validation").items()
    sets = {name: items[:first] for name, items in found}
    tokenizer = load_tokenizer(model)
    encoded = [encode(tokenizer, example) for items in sets.values() for example in items]
    loaded = load_model(model, params.dtype)
    rows = to_rows(
        sets,
        encoded,
        score(loaded, encoded, params.likelihood.batch_tokens, tokenizer.pad_token_id),
        variant,
    )
    figures = {name: summarise([row for row in rows if row["split"] == name]) for name in sets}
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(
        metrics / f"{variant}.json",
        {"settings": precision_settings(params.dtype), **figures, "pooled": summarise(rows)},
    )
    print(
        f"likelihood: {variant} has perplexity {summarise(rows)['perplexity']:.4g} on {len(rows)} items"
    )


if __name__ == "__main__":
    run_stage(main)
