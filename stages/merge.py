"""Merge the adapter into the unquantized base in float32, cast, and measure what merging and casting change.

python -m stages.merge
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from bula.fidelity import fidelity, sample, score
from bula.models import load_adapted, load_model, load_tokenizer, prepare, save_model
from bula.params import load_params
from bula.reports import write_metrics


def main(
    base: Annotated[Path, typer.Option(help="Base model.")] = Path("models/base"),
    adapter: Annotated[Path, typer.Option(help="Adapter.")] = Path("models/adapter"),
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    merged: Annotated[Path, typer.Option(help="Folder for the merged model.")] = Path("models/merged"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/merge.json"),
) -> None:
    """Merge, check, cast, check again, save."""
    params = load_params()
    prepare(params.seed)
    try:
        tokenizer = load_tokenizer(base)
        encoded = sample(clean, tokenizer, params.merge.check_items)
        model = load_adapted(base, adapter, "float32")
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    # The one set of logits that is held: tokens x vocabulary x 4 bytes.
    reference = list(score(model, encoded, tokenizer.pad_token_id))
    model = model.merge_and_unload(safe_merge=True)
    before = fidelity(reference, score(model, encoded, tokenizer.pad_token_id))
    save_model(model.to(getattr(torch, params.dtype)), tokenizer, merged)
    # Read back, since a cast in memory also rounds the rotary frequencies, which no file holds and no user sees; and run in
    # float32, so that the difference is that of the weights alone. In the precision it is served in, rounding comes on top.
    after = fidelity(reference, score(load_model(merged, "float32"), encoded, tokenizer.pad_token_id))
    served = fidelity(reference, score(load_model(merged, params.dtype), encoded, tokenizer.pad_token_id))
    figures = {"adapter": fidelity(reference, reference), "before_cast": before, "after_cast": after, "as_served": served}
    write_metrics(metrics, {"checked": {"dtype": params.dtype}, **figures})
    print(f"merge: greedy agreement {before['greedy_agreement']:.2%} before the cast, {after['greedy_agreement']:.2%} after, in {merged}")


if __name__ == "__main__":
    typer.run(main)
