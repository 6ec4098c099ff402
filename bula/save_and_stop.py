"""Save checkpoints between training steps, and stop after a signal.

The stages train and prefer share this code.
"""

import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from bula.checkpoints import announce_exit


class SaveAndStop(TrainerCallback):  # type: ignore[misc]
    """Save every `save_steps` steps; on SIGTERM or Ctrl-C save and stop.

    The checkpoint is written at the end of the step in which the signal arrives. SIGTERM also
    arrives when dvc exits (stages/__init__.py). A second Ctrl-C stops at once.
    """

    def __init__(self, stage: str, folder: Path, save_steps: int) -> None:
        """Keep the stage's name, the folder of the checkpoints and the interval in steps."""
        self.stage = stage
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
        print(f"\n{self.stage}: received {name}; saving after this step", flush=True)
