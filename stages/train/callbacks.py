"""Act between training steps: stop early and show progress."""

from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback


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
