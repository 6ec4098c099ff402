"""Merge the adapter into the unquantized base in float32, cast, and measure what merging and casting change.

python -m stages.merge
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from peft import PeftModel
from transformers import PreTrainedModel

from bula.models import load_model, load_tokenizer, prepare, save_model, supervised_logits
from bula.params import load_params
from bula.prompts import Encoded, encode
from bula.records import read_examples
from bula.reports import write_metrics


def load_adapted(base: Path, adapter: Path) -> PeftModel:
    """Base and adapter in float32, in evaluation mode: dropout would hide a wrong merge."""
    model = load_model(base, "float32")
    return PeftModel.from_pretrained(model, adapter, is_trainable=False).eval()


def all_logits(model: PreTrainedModel, encoded: list[Encoded], pad_id: int) -> list[torch.Tensor]:
    """Float32 logits (tokens, vocabulary) at every supervised token, one tensor an example."""
    return [torch.cat([logits for logits, _ in supervised_logits(model, [item], pad_id)]) for item in encoded]


def compare(reference: list[torch.Tensor], logits: list[torch.Tensor]) -> dict[str, float]:
    """Largest and mean absolute logit difference, and the share of tokens at which both choose the same one."""
    differences = [(a - b).abs() for a, b in zip(reference, logits, strict=True)]
    agree = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(reference, logits, strict=True))
    tokens = sum(len(a) for a in reference)
    return {
        "logit_difference_largest": max(float(d.max()) for d in differences),
        "logit_difference_mean": sum(float(d.double().sum()) for d in differences) / sum(d.numel() for d in differences),
        "greedy_agreement": agree / tokens,
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
        model = load_adapted(base, adapter)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    reference = all_logits(model, encoded, tokenizer.pad_token_id)
    model = model.merge_and_unload(safe_merge=True)
    before = compare(reference, all_logits(model, encoded, tokenizer.pad_token_id))
    model = model.to(getattr(torch, params.dtype))
    after = compare(reference, all_logits(model, encoded, tokenizer.pad_token_id))
    save_model(model, tokenizer, merged)
    checked = {"items": len(encoded), "tokens": sum(map(len, reference)), "dtype": params.dtype}
    write_metrics(metrics, {"checked": checked, "before_cast": before, "after_cast": after})
    print(f"merge: greedy agreement {before['greedy_agreement']:.2%} before the cast, {after['greedy_agreement']:.2%} after, in {merged}")


if __name__ == "__main__":
    typer.run(main)
