"""Fine-tune a LoRA adapter on the answers of the training split, watching dev; the best checkpoint by dev loss is kept.

Checkpoints live outside DVC's outputs, in .bula/checkpoints/FINGERPRINT, so that a killed run goes on where it stopped
and a run on other data, parameters, base model or code never picks them up.

    python -m stages.train
"""

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from bula.models import model_files, prepare
from bula.params import load_params
from bula.records import read_examples
from stages.train.checkpoints import CHECKPOINTS, CODE, alone, fingerprint, last_checkpoint
from stages.train.report import card, converge, save_adapter, summarise, template_figures, write_all
from stages.train.trainer import make_trainer


def main(
    clean: Annotated[Path, typer.Option(help="Folder of train.jsonl and dev.jsonl.")] = Path("data/clean"),
    base: Annotated[Path, typer.Option(help="Model to tune.")] = Path("models/base"),
    adapter: Annotated[Path, typer.Option(help="Folder for the adapter.")] = Path("models/adapter"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics"),
    plots: Annotated[Path, typer.Option(help="Folder for the curves.")] = Path("plots/train"),
) -> None:
    """Train the adapter."""
    params = load_params()
    prepare(params.seed)
    try:
        train = read_examples(clean / "train.jsonl")
        folder = CHECKPOINTS / fingerprint(params, [clean / "train.jsonl", clean / "dev.jsonl", *model_files(base), *CODE])
        with alone(folder):
            trainer = make_trainer(params, base, clean, folder)
            template = template_figures(trainer.processing_class, trainer.train_dataset, train)
            started = time.perf_counter()
            trainer.train(resume_from_checkpoint=last_checkpoint(folder))
            seconds = time.perf_counter() - started
            summary = summarise(trainer, read_examples(clean / "dev.jsonl")) | {"convergence": converge(trainer.state.log_history)}
            save_adapter(trainer.model, card(params, summary), adapter)
            write_all(metrics, plots, summary, template, trainer, seconds)
            # Only now: a kill before this line costs no step.
            shutil.rmtree(folder)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    print(f"train: {params.train.max_steps} steps, dev perplexity {summary['dev']['perplexity']:.4g}, adapter in {adapter}")


if __name__ == "__main__":
    typer.run(main)
