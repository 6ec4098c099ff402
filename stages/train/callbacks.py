"""Act between training steps: save, stop and show progress."""

import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback

from stages.train.checkpoints import announce_exit


class SaveAndStop(TrainerCallback):  # type: ignore[misc]
    """Save every `save_steps` steps; on SIGTERM or Ctrl-C save and stop.

    The checkpoint is written at the end of the step in which the signal arrives. SIGTERM also
    arrives when dvc exits (stages/__init__.py). A second Ctrl-C stops at once.
    """

    def __init__(self, folder: Path, save_steps: int) -> None:
        """Keep the folder of the checkpoints and the interval in steps."""
        self.folder = folder
        self.save_steps = save_steps
        self.stop_requested = False
        self.previous_handlers: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Install the signal handlers."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.previous_handlers[number] = signal.signal(number, self._request_stop)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Request a checkpoint when it is due; stop after a signal."""
        stop = self._any_process_must_stop(args)
        if stop or state.global_step % self.save_steps == 0:
            control.should_save = True
        if stop:
            self.stop_requested = True
            control.should_training_stop = True

    def _any_process_must_stop(self, args: Any) -> bool:
        """Return whether any process received a signal.

        All processes agree, so they stop at the same step.
        """
        if args.world_size <= 1:
            return self.stop_requested
        requested = torch.tensor([float(self.stop_requested)], device=args.device)
        dist.all_reduce(requested, op=dist.ReduceOp.MAX)
        return bool(requested.item())

    def _request_stop(self, number: int, frame: Any) -> None:
        """Record the request to stop and announce the exit."""
        if self.stop_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.stop_requested:
            return
        self.stop_requested = True
        announce_exit(self.folder)
        name = signal.Signals(number).name
        print(f"\ntrain: received {name}; saving after this step", flush=True)


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Stop after `evaluations` evaluations without a new lowest dev loss.

    The losses come from the trainer's log, so a resumed run counts the same evaluations.
    """

    def __init__(self, evaluations: int) -> None:
        """Keep the number of evaluations."""
        self.evaluations = evaluations

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the evaluations since the lowest loss."""
        losses = [line["eval_loss_nats"] for line in state.log_history if "eval_loss_nats" in line]
        evaluations_since_best = len(losses) - 1 - losses.index(min(losses))
        if evaluations_since_best >= self.evaluations:
            control.should_training_stop = True
            # A run that resumed from a checkpoint of this step would take one step too many.
            control.should_save = False


class Progress(ProgressCallback):  # type: ignore[misc]
    """Show loss and speed in the progress bar, and print each evaluation."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar at the step where the run resumes.

        Earlier steps would otherwise make the remaining time look too short.
        """
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
            loss = logs["train_loss_nats"]
            speed = logs["tokens_per_second"]
            self.training_bar.set_postfix_str(f"loss {loss:.3f} nats, {speed:.0f} tokens/s")
        if "eval_loss_nats" in logs:
            loss = logs["eval_loss_nats"]
            accuracy = logs["eval_token_accuracy"]
            self.training_bar.write(
                f"step {state.global_step}: dev loss {loss:.4f} nats, token accuracy {accuracy:.1%}"
            )
