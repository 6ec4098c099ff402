"""Fine-tune a LoRA adapter on the answers of the training split, watching dev; the best checkpoint by dev loss is kept.

Checkpoints live outside DVC's outputs, in .bula/checkpoints/FINGERPRINT, so that a killed run goes on where it stopped
and a run on other data, parameters, base model or code never picks them up.

    python -m stages.train        (through accelerate's launcher)
"""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from bula.errors import run_stage
from bula.hardware import seed_everything
from bula.models import list_model_files
from bula.params import load_params
from bula.records import read_examples
from stages.train.checkpoints import CHECKPOINTS, CODE, alone, discard, fingerprint, last_checkpoint
from stages.train.report import card, report, save_adapter, template_figures
from stages.train.trainer import AnswerTrainer, make_trainer


def fit(trainer: AnswerTrainer, folder: Path) -> float:
    """Train from the last whole checkpoint on, and give the seconds; SystemExit if the run was told to end."""
    started = time.perf_counter()
    with trainer.accelerator.main_process_first():
        checkpoint = last_checkpoint(folder)
    if checkpoint and trainer.is_world_process_zero():
        print(f"train: going on from step {checkpoint.rpartition('-')[2]}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.ending.told:
        # The step before, where patience ran out in this one: it has no checkpoint, and the next run takes it again.
        kept = str(last_checkpoint(folder)).rpartition("-")[2]
        raise SystemExit(
            f"train: ended after step {kept}, which is kept; run it again to go on from there"
        )
    return time.perf_counter() - started


def main(
    clean: Annotated[Path, typer.Option(help="Folder of train.jsonl and dev.jsonl.")] = Path(
        "data/clean"
    ),
    base: Annotated[Path, typer.Option(help="Model to tune.")] = Path("models/base"),
    adapter: Annotated[Path, typer.Option(help="Folder for the adapter.")] = Path("models/adapter"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics"),
    plots: Annotated[Path, typer.Option(help="Folder for the curves.")] = Path("plots/train"),
) -> None:
    """Train the adapter; under accelerate every process runs this, and the first one writes."""
    params = load_params()
    seed_everything(params.seed)
    first = os.environ.get("RANK", "0") == "0"
    folder = CHECKPOINTS / fingerprint(
        params, [clean / "train.jsonl", clean / "dev.jsonl", *list_model_files(base), *CODE]
    )
    with alone(folder) if first else nullcontext():
        trainer = make_trainer(params, base, clean, folder)
        template = template_figures(
            trainer.processing_class, trainer.rows, read_examples(clean / "train.jsonl")
        )
        seconds = fit(trainer, folder)
        summary = report(
            trainer,
            read_examples(clean / "dev.jsonl"),
            template,
            seconds,
            (metrics, plots) if first else None,
        )
        save_adapter(trainer, card(params, summary), adapter if first else None)
        if first:
            # Only now: a kill before this line costs no step.
            discard(folder)
    if first:
        print(
            f"train: {summary['run']['steps']} steps, dev perplexity {summary['dev']['perplexity']:.4g}, adapter in {adapter}"
        )


if __name__ == "__main__":
    run_stage(main)
