"""Compare learning rates by their dev loss.

Each rate is one DVC experiment (`dvc exp run --temp -S train.learning_rate=...`) of the stage
train. Dev loss selects the rate, because no choice may depend on the scores on the sets A to E. A
stopped sweep resumes, as `bula seeds` does. A rate whose training fails does not end the sweep.

    python -m bula sweep 1e-4 3e-4 1e-3
"""

import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bula.commands.seeds import (
    finished_experiments,
    here,
    refuse_unusable_folder,
    run_experiment,
)
from bula.errors import UserError
from bula.experiments import run_dvc
from bula.params import load_params
from bula.runs import fetch_run, read_run, refuse_other_conditions

STAGES = ["train"]
DEV_LOSS = "train__dev_loss_nats"


def further_rates(rates: list[float], own: float) -> list[float]:
    """Return each rate but params.yaml's own once, sorted.

    Raise UserError if a rate is not a positive number.
    """
    wrong = [rate for rate in rates if not 0 < rate < math.inf]
    if wrong:
        fix = "name rates such as 1e-4 3e-4 1e-3"
        raise UserError("sweep", f"the learning rate {wrong[0]} is not positive", fix)
    return sorted(set(rates) - {own})


def table(losses: dict[float, float | None]) -> str:
    """Return a table of dev losses by rate, and the best rate.

    A loss of None belongs to a rate whose training failed.
    """
    lines = ["learning rate   dev loss (nats)   perplexity"]
    for rate, loss in sorted(losses.items()):
        cells = "         failed" if loss is None else f"{loss:15.5f}   {math.exp(loss):10.4g}"
        lines.append(f"{rate:13g}   {cells}")
    known = {rate: loss for rate, loss in losses.items() if loss is not None}
    best = min(known, key=lambda rate: known[rate])
    lines.append(f"sweep: the lowest dev loss is that of train.learning_rate: {best:g}")
    if best in (min(losses), max(losses)):
        lines.append("sweep: this is the first or the last rate; try rates beyond it")
    if len(known) < len(losses):
        lines.append("sweep: a rate that failed ended in the error above; diverging rates do")
    return "\n".join(lines)


def train_with(rate: float, finished: set[str], conditions: dict[str, Any]) -> float | None:
    """Return the dev loss of a rate, or None if its training failed."""
    setting = f"train.learning_rate={rate}"
    try:
        name = run_experiment(f"rate-{rate}", setting, STAGES, finished)
    except UserError as error:
        # The loss guard stops a rate that diverges, and the other rates are still of use.
        print(f"sweep: train.learning_rate: {rate:g} failed: {error}")
        return None
    with tempfile.TemporaryDirectory() as folder:
        fetch_run(name, [], Path(folder))
        figures, found = read_run(Path(folder), [])
    refuse_other_conditions(f"the experiment {name}", found, conditions)
    return figures[DEV_LOSS]


def sweep(rates: Annotated[list[float], typer.Argument(help="Learning rates to try.")]) -> None:
    """Train under several learning rates, and print the dev loss of each."""
    refuse_unusable_folder()
    params = load_params()
    own = params.train.learning_rate
    further = further_rates(rates, own)
    run_dvc("repro", *STAGES)
    figures, conditions = read_run(Path(), [])
    refuse_other_conditions("metrics", conditions, here(conditions, params))
    finished = finished_experiments()
    losses: dict[float, float | None] = {own: figures[DEV_LOSS]}
    for rate in further:
        losses[rate] = train_with(rate, finished, conditions)
    print(table(losses))
