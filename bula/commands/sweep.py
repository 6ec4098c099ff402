"""Compare learning rates by their dev loss.

Each rate is one DVC experiment (`dvc exp run --temp -S train.learning_rate=...`) of the stage
train. Dev loss selects the rate, because no choice may depend on the scores on the sets A to E. A
stopped sweep resumes, as `bula seeds` does.

    python -m bula sweep 1e-4 3e-4 1e-3
"""

import math
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bula.commands.seeds import here, refuse_unusable_folder, run_experiments
from bula.errors import UserError
from bula.experiments import run_dvc
from bula.params import load_params
from bula.runs import fetch_run, read_run, refuse_other_conditions

STAGES = ["train"]
DEV_LOSS = "train__dev_loss_nats"


def rate_settings(rates: list[float], own: float) -> dict[str, str]:
    """Return the setting of each rate but params.yaml's own, by label.

    Raise UserError if a rate is not a positive number.
    """
    wrong = [rate for rate in rates if not 0 < rate < math.inf]
    if wrong:
        fix = "name rates such as 1e-4 3e-4 1e-3"
        raise UserError("sweep", f"the learning rate {wrong[0]} is not positive", fix)
    further = sorted(set(rates) - {own})
    return {f"rate-{rate}": f"train.learning_rate={rate}" for rate in further}


def table(losses: dict[float, float]) -> str:
    """Return the lines of a table of dev losses by rate, and the best rate."""
    lines = ["learning rate   dev loss (nats)   perplexity"]
    for rate, loss in sorted(losses.items()):
        lines.append(f"{rate:13g}   {loss:15.5f}   {math.exp(loss):10.4g}")
    best = min(losses, key=lambda rate: losses[rate])
    lines.append(f"sweep: the lowest dev loss is that of train.learning_rate: {best:g}")
    if best in (min(losses), max(losses)):
        lines.append("sweep: this is the first or the last rate; try rates beyond it")
    return "\n".join(lines)


def sweep(rates: Annotated[list[float], typer.Argument(help="Learning rates to try.")]) -> None:
    """Train under several learning rates, and print the dev loss of each."""
    refuse_unusable_folder()
    params = load_params()
    settings = rate_settings(rates, params.train.learning_rate)
    run_dvc("repro", *STAGES)
    figures, conditions = read_run(Path(), [])
    refuse_other_conditions("metrics", conditions, here(conditions, params))
    losses = {params.train.learning_rate: figures[DEV_LOSS]}
    names = run_experiments(settings, STAGES)
    for name, setting in zip(names, settings.values(), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            fetch_run(name, [], Path(folder))
            figures, found = read_run(Path(folder), [])
        refuse_other_conditions(f"the experiment {name}", found, conditions)
        rate = float(setting.partition("=")[2])
        losses[rate] = figures[DEV_LOSS]
    print(table(losses))
