"""Merge the tuned adapter into the base model and measure the change.

bula/merging.py does the work, and refuses a merge that is not exact.

    python -m stages.merge
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.errors import run_stage
from bula.hardware import prepare_device, seed_everything
from bula.merging import merge_adapter
from bula.model_cards import merged_documents
from bula.params import load_params
from bula.reports import write_metrics


def main(
    base: Annotated[Path, typer.Option(help="Base model.")] = Path("models/base"),
    adapter: Annotated[Path, typer.Option(help="Adapter.")] = Path("models/adapter"),
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    merged: Annotated[Path, typer.Option(help="Merged model.")] = Path("models/merged"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/merge.json"),
) -> None:
    """Merge, check, cast, save, and check the saved model."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.sampling_seed)
    figures = merge_adapter(
        params,
        base,
        adapter,
        clean,
        merged,
        lambda before: merged_documents(params, before, base),
    )
    write_metrics(metrics, figures)
    before = figures["before_cast"]["greedy_agreement"]
    after = figures["after_cast"]["greedy_agreement"]
    print(f"merge: greedy agreement {before:.2%} before the cast, {after:.2%} after, in {merged}")


if __name__ == "__main__":
    run_stage(main, less_memory="lower merge.check_items")
