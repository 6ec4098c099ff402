"""What happens between two steps: checkpoints, an orderly end on a signal, early stopping, and the progress bar."""

import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback

from stages.train.checkpoints import say_ending


class EndWell(TrainerCallback):  # type: ignore[misc]
    """A checkpoint every `save_steps`, and one at the end of the step in which SIGTERM or Ctrl-C comes; then the run ends.

    dvc's own end arrives as SIGTERM too (stages/__init__.py). A second Ctrl-C ends at once.
    """

    def __init__(self, folder: Path, save_steps: int) -> None:
        """`folder` is that of the checkpoints."""
        self.folder, self.save_steps, self.told = folder, save_steps, False
        self.before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the signals."""
        self.before = {
            number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give them back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save when it is time; all processes agree on the step at which they end."""
        told = self.told
        if args.world_size > 1:
            heard = torch.tensor([float(told)], device=args.device)
            dist.all_reduce(heard, op=dist.ReduceOp.MAX)
            told = bool(heard.item())
        if told or state.global_step % self.save_steps == 0:
            control.should_save = True
        if told:
            self.told = control.should_training_stop = True

    def _hear(self, number: int, frame: Any) -> None:
        """Remember that the end was asked for; a later run waits for it."""
        if self.told and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.told:
            self.told = True
            say_ending(self.folder)
            print(
                f"\ntrain: told to end ({signal.Signals(number).name}); saving after this step",
                flush=True,
            )


class Patience(TrainerCallback):  # type: ignore[misc]
    """Stop after `evaluations` evaluations without a new lowest dev loss, as the log has them: a resumed run counts the same."""

    def __init__(self, evaluations: int) -> None:
        """See the class."""
        self.evaluations = evaluations

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count."""
        losses = [line["eval_loss_nats"] for line in state.log_history if "eval_loss_nats" in line]
        if len(losses) - 1 - losses.index(min(losses)) >= self.evaluations:
            control.should_training_stop = True
            # A run that resumed from here would take one step too many.
            control.should_save = False


class Progress(ProgressCallback):  # type: ignore[misc]
    """The progress bar with loss and speed in it, and a line at each evaluation."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A bar that begins where the run goes on: steps taken before must not make the time left look short."""
        if state.is_world_process_zero:
            self.training_bar = tqdm(
                total=state.max_steps, initial=state.global_step, dynamic_ncols=True
            )
        self.current_step = state.global_step

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest figures."""
        if self.training_bar is None or not logs:
            return
        if "train_loss_nats" in logs:
            self.training_bar.set_postfix_str(
                f"loss {logs['train_loss_nats']:.3f} nats, {logs['tokens_per_second']:.0f} tokens/s"
            )
        if "eval_loss_nats" in logs:
            figures = f"loss {logs['eval_loss_nats']:.4f} nats, token accuracy {logs['eval_token_accuracy']:.1%}"
            self.training_bar.write(f"step {state.global_step}: dev {figures}")
