"""Fine-tune a LoRA adapter on the answers of the training split.

The dev split is evaluated at intervals, and the checkpoint with the lowest dev loss is kept.
Checkpoints lie outside DVC's outputs, in .bula/checkpoints/FINGERPRINT. A killed run resumes from
them, and a run with other data, parameters, base model or code does not.

    python -m stages.train        (through accelerate's launcher)
"""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from bula.checkpoints import (
    CHECKPOINTS,
    delete_checkpoints,
    exclusive_run,
    last_checkpoint,
    step_of,
)
from bula.errors import run_stage
from bula.hardware import prepare_device, seed_everything
from bula.model_cards import adapter_documents, describe_base
from bula.models import list_model_files
from bula.params import Params, load_params
from bula.records import read_examples
from stages.train.fingerprint import CODE, fingerprint
from stages.train.report import save_trained, summarise, template_figures, write_figures
from stages.train.trainer import AnswerTrainer, make_trainer

CleanFolder = Annotated[Path, typer.Option(help="Folder of train.jsonl and dev.jsonl.")]
BaseFolder = Annotated[Path, typer.Option(help="Model to tune.")]
AdapterFolder = Annotated[Path, typer.Option(help="Folder for the adapter.")]
MetricsFolder = Annotated[Path, typer.Option(help="Folder for metrics.")]
PlotsFolder = Annotated[Path, typer.Option(help="Folder for the curves.")]


def checkpoint_folder(params: Params, clean: Path, base: Path) -> Path:
    """Return the folder for the checkpoints of this run."""
    data = [clean / "train.jsonl", clean / "dev.jsonl"]
    return CHECKPOINTS / fingerprint(params, [*data, *list_model_files(base), *CODE])


def fit(trainer: AnswerTrainer, folder: Path) -> float:
    """Train from the last complete checkpoint on and return the seconds.

    Raise SystemExit if a signal stopped the run.
    """
    started = time.perf_counter()
    with trainer.accelerator.main_process_first():
        checkpoint = last_checkpoint(folder)
    if checkpoint and trainer.is_world_process_zero():
        print(f"train: resuming from step {step_of(checkpoint)}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.save_and_stop.stop_requested:
        # If early stopping came in this step too, the last checkpoint is the one before.
        kept = step_of(str(last_checkpoint(folder)))
        raise SystemExit(f"train: stopped; run it again to resume from step {kept}")
    return time.perf_counter() - started


def main(
    clean: CleanFolder = Path("data/clean"),
    base: BaseFolder = Path("models/base"),
    adapter: AdapterFolder = Path("models/adapter"),
    metrics: MetricsFolder = Path("metrics"),
    plots: PlotsFolder = Path("plots/train"),
) -> None:
    """Train the adapter; every process runs this, and the first one writes."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.seed)
    is_first = os.environ.get("RANK", "0") == "0"
    folder = checkpoint_folder(params, clean, base)
    with exclusive_run(folder) if is_first else nullcontext():
        trainer = make_trainer(params, base, clean, folder)
        examples = read_examples(clean / "train.jsonl")
        template = template_figures(trainer.processing_class, trainer.rows, examples)
        seconds = fit(trainer, folder)
        summary = summarise(trainer, read_examples(clean / "dev.jsonl"))
        if is_first:
            write_figures(trainer.state.log_history, summary, template, seconds, metrics, plots)
        documents = adapter_documents(params, summary, base)
        target = adapter if is_first else None
        save_trained(trainer, describe_base(params.ingest.base), documents, target)
        if is_first:
            # The checkpoints are deleted last, so that a kill before this line costs no step.
            delete_checkpoints(folder)
            perplexity = f"dev perplexity {summary['dev']['perplexity']:.4g}"
            print(f"train: {summary['run']['steps']} steps, {perplexity}, adapter in {adapter}")


if __name__ == "__main__":
    smaller = "lower train.batch_size and train.eval_batch_size"
    run_stage(main, less_memory=f"{smaller}, or set train.gradient_checkpointing: true")
