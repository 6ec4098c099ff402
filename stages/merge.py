"""Merge the adapter into the unquantized base in float32, cast, and measure what merging and casting change.

python -m stages.merge
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedModel

from bula.models import load_adapted, load_model, load_tokenizer, prepare, save_model, supervised_logits
from bula.params import load_params
from bula.prompts import Encoded, encode
from bula.records import read_examples
from bula.reports import write_metrics


def each_logits(model: PreTrainedModel, encoded: list[Encoded], pad_id: int) -> Iterator[torch.Tensor]:
    """Float32 logits (tokens, vocabulary) at every supervised token, one example after the other."""
    for item in encoded:
        yield torch.cat([logits for logits, _ in supervised_logits(model, [item], pad_id)])


def compare(reference: list[torch.Tensor], logits: Iterable[torch.Tensor]) -> dict[str, float]:
    """Largest and mean absolute logit difference, and the share of tokens at which both choose the same one."""
    largest = total = 0.0
    agree = 0
    for a, b in zip(reference, logits, strict=True):
        difference = (a - b).abs()
        largest, total = max(largest, float(difference.max())), total + float(difference.sum(dtype=torch.float64))
        agree += int((a.argmax(-1) == b.argmax(-1)).sum())
    return {
        "logit_difference_largest": largest,
        "logit_difference_mean": total / sum(a.numel() for a in reference),
        "greedy_agreement": agree / sum(len(a) for a in reference),
    }


def main(
    base: Annotated[Path, typer.Option(help="Base model.")] = Path("models/base"),
    adapter: Annotated[Path, typer.Option(help="Adapter.")] = Path("models/adapter"),
    clean: Annotated[Path, typer.Option(help="Folder of dev.jsonl.")] = Path("data/clean"),
    merged: Annotated[Path, typer.Option(help="Folder for the merged model.")] = Path("models/merged"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/merge.json"),
) -> None:
    """Merge, check, cast, check again, save."""
    params = load_params()
    prepare(params.seed)
    try:
        tokenizer = load_tokenizer(base)
        encoded = [encode(tokenizer, e) for e in read_examples(clean / "dev.jsonl")[: params.merge.check_items]]
        model = load_adapted(base, adapter, "float32")
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    # The one set of logits that is held: tokens x vocabulary x 4 bytes.
    reference = list(each_logits(model, encoded, tokenizer.pad_token_id))
    model = model.merge_and_unload(safe_merge=True)
    before = compare(reference, each_logits(model, encoded, tokenizer.pad_token_id))
    save_model(model.to(getattr(torch, params.dtype)), tokenizer, merged)
    # Read back, since a cast in memory also rounds the rotary frequencies, which no file holds and no user sees.
    after = compare(reference, each_logits(load_model(merged, params.dtype), encoded, tokenizer.pad_token_id))
    checked = {"items": len(encoded), "tokens": sum(map(len, reference)), "dtype": params.dtype}
    write_metrics(metrics, {"checked": checked, "before_cast": before, "after_cast": after})
    print(f"merge: greedy agreement {before['greedy_agreement']:.2%} before the cast, {after['greedy_agreement']:.2%} after, in {merged}")


if __name__ == "__main__":
    typer.run(main)
