"""Try training and export on a small cut of the base.

The cut (stages/dry_run/cut.py) has the base's architecture, tokenizer and chat template, and random
weights. It goes through everything that the later stages do to the base: template, padding,
adapter, kernels, an optimizer step, merge, and each GGUF file, which transformers and llama.cpp
read back; llama.cpp also reads the adapter's file. A base that fails is refused here, before any
data is read.

    python -m stages.dry_run
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.errors import UserError, run_stage
from bula.files import staged
from bula.hardware import prepare_device, seed_everything
from bula.models import load_config, load_tokenizer, save_model
from bula.params import Params, load_params
from bula.prompts import FIX as FIX_TEMPLATE
from bula.reports import write_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from stages.dry_run.export import Figures


def try_base(directory: Path, params: Params) -> Figures:
    """Try training and export of a base model, and return the figures.

    `directory` is the base that the stage models wrote. Raise UserError at the first step that
    fails.
    """
    from stages.dry_run.cut import build_cut
    from stages.dry_run.export import try_merge_and_export
    from stages.dry_run.template import encode_trials, try_conversation
    from stages.dry_run.training import try_training
    from stages.dry_run.trial import OTHER_BASE, Trial, as_saved, name_of, step

    started = time.perf_counter()
    base = name_of(params.ingest.base)
    tokenizer = load_tokenizer(directory)
    config = load_config(directory)
    refuse_images(base, config)
    with tempfile.TemporaryDirectory() as name:
        with step(base, "chat template and padding", FIX_TEMPLATE):
            encoded = encode_trials(tokenizer, config)
        trial = Trial(base, params, config, tokenizer, encoded, Path(name))
        with step(base, "a cut with random weights", OTHER_BASE):
            save_model(as_saved(trial, build_cut(config)), tokenizer, trial.folder / "cut")
        try_conversation(trial)
        try_training(trial)
        figures = try_merge_and_export(trial)
    print(f"dry_run: all steps, {time.perf_counter() - started:.1f} s", flush=True)
    return figures


def refuse_images(base: str, config: PreTrainedConfig) -> None:
    """Raise UserError if a model also reads images."""
    if getattr(config, "vision_config", None) is not None:
        what = "the model also reads images (vision_config in config.json)"
        raise UserError(base, what, "use a base model in ingest.base that reads only text")


def main(
    base: Annotated[Path, typer.Option(help="Folder of the base model.")] = Path("models/base"),
    out: Annotated[Path, typer.Option(help="File that records the dry run.")] = Path(
        "data/tried.txt"
    ),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/dry_run.json"),
) -> None:
    """Try training and export of the base model."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.sampling_seed)
    figures = try_base(base, params)
    # The text never changes, so that a repeated dry run does not run the later stages again.
    with staged(out) as temporary:
        temporary.write_text("the base model passed the dry run\n", encoding="utf-8")
    write_metrics(metrics, figures)
    print(f"dry_run: {figures['gguf_files']} GGUF files were read back, in {out}")


if __name__ == "__main__":
    run_stage(main)
