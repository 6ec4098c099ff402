"""Stop training at the first loss or gradient that is not finite.

Such a gradient would make every weight NaN, and each later step and checkpoint worthless. The step
is refused before the optimizer takes it, so the newest checkpoint stays good.
"""

import math
from pathlib import Path

from bula.checkpoints import last_complete_step
from bula.errors import UserError

FIX = "lower train.learning_rate or train.max_grad_norm, or raise train.warmup_share"


def refuse_step(step: int, loss: float, gradient_norm: float, rate: float, folder: Path) -> None:
    """Raise a UserError if the loss or the gradient is not finite.

    `loss` is in nats per token, `rate` the learning rate, and `folder` has the checkpoints. All
    processes pass the same figures, so they stop together.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    figures = f"loss {loss:.4g}, gradient norm {gradient_norm:.4g}, learning rate {rate:.3g}"
    what = f"training diverged at step {step} ({figures}), so the step was not taken; "
    raise UserError("params.yaml", what + _kept(folder), FIX)


def refuse_evaluation(step: int, loss: float, rate: float, folder: Path) -> None:
    """Raise a UserError if the dev loss after a step is not finite."""
    if math.isfinite(loss):
        return
    what = f"training diverged: the dev loss is {loss} after step {step} (learning rate {rate:.3g})"
    raise UserError("params.yaml", f"{what}; {_kept(folder)}", FIX)


def _kept(folder: Path) -> str:
    """Return a clause about the newest checkpoint."""
    step = last_complete_step(folder)
    return f"the checkpoint of step {step} is kept" if step else "there is no checkpoint yet"
