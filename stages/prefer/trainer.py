"""Train with TRL's DPOTrainer on encoded pairs.

The reference is the tuned adapter: TRL copies the loaded adapter into a frozen one named "ref". So
the loss before the first step is ln 2.
"""

import math
import warnings
from pathlib import Path
from statistics import fmean
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback
from transformers.trainer_utils import rotate_checkpoints
from trl import DPOConfig, DPOTrainer

from bula.adapter_files import TRAINED
from bula.checkpoints import last_checkpoint, mark_complete, report_failed_write, step_of
from bula.errors import UserError
from bula.params import Params, Prefer
from bula.save_and_stop import SaveAndStop
from stages.prefer.pairs import Pair

LogLine = dict[str, float]
# TRL's names of the figures of one step, and ours.
STEP_FIGURES = {
    "loss": "loss_nats",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
}


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """Train on pairs that bula/prompts.py has encoded, and mark complete checkpoints.

    TRL would render the chat template without its fixed date, and keep the text behind the
    end-of-turn token.
    """

    # make_trainer sets the callback that handles signals.
    save_and_stop: SaveAndStop

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Return the pairs as they are."""
        return dataset

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a line, and stop if the loss is not finite.

        transformers writes the checkpoint of a step after its line.
        """
        if not math.isfinite(logs.get("loss", 0.0)):
            what = f"the loss is not a finite number in step {self.state.global_step}"
            raise UserError("params.yaml", what, "lower learning_rate in the section prefer")
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the trained adapter; the reference is the tuned one on the disk."""
        folder = output_dir or self.args.output_dir
        self.model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=[TRAINED])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, mark it as complete, and delete the older one."""
        folder = Path(self.args.output_dir)
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        with report_failed_write(checkpoint):
            super()._save_checkpoint(model, trial)
            mark_complete(checkpoint)
        rotate_checkpoints(str(folder), save_total_limit=1)


class Progress(ProgressCallback):  # type: ignore[misc]
    """Show the progress bar with loss and margin, and print no line per step."""

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest figures."""
        if self.training_bar is not None and logs and "rewards/margins" in logs:
            margin = logs["rewards/margins"]
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.3f} nats, margin {margin:.3f}")


def to_dataset(pairs: list[Pair]) -> Dataset:
    """Return pairs with the columns that TRL's collator reads."""
    columns = {
        "prompt_ids": [pair.chosen.prompt for pair in pairs],
        "chosen_ids": [pair.chosen.completion for pair in pairs],
        "rejected_ids": [pair.rejected.completion for pair in pairs],
    }
    return Dataset.from_dict(columns)


def count_steps(pairs: int, entry: Prefer) -> int:
    """Return the number of optimizer steps."""
    batches = math.ceil(pairs / entry.batch_size)
    return math.ceil(batches / entry.gradient_accumulation) * entry.epochs


def configure(params: Params, entry: Prefer, pairs: int, folder: Path) -> DPOConfig:
    """Return TRL's settings, with its unwanted defaults switched off."""
    steps = count_steps(pairs, entry)
    return DPOConfig(
        output_dir=str(folder),
        seed=params.seed,
        beta=entry.beta,
        num_train_epochs=entry.epochs,
        learning_rate=entry.learning_rate,
        lr_scheduler_type=entry.scheduler,
        warmup_steps=math.ceil(entry.warmup_share * steps),
        weight_decay=entry.weight_decay,
        max_grad_norm=entry.max_grad_norm,
        per_device_train_batch_size=entry.batch_size,
        gradient_accumulation_steps=entry.gradient_accumulation,
        activation_checkpointing=entry.gradient_checkpointing,
        # read_pairs refuses pairs that are too long, and TRL would cut them.
        max_length=None,
        optim="adamw_torch",
        # The base keeps its own precision and the adapter float32; autocast would round both.
        bf16=False,
        use_cpu=params.device == "cpu",
        dataloader_pin_memory=params.device != "cpu",
        # The last step is saved too. PairTrainer deletes older checkpoints.
        save_strategy="steps",
        save_steps=entry.save_steps,
        save_total_limit=None,
        logging_strategy="steps",
        logging_steps=1,
        # transformers would show the last finite loss instead of NaN.
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=False,
    )


def _check_device(arguments: DPOConfig, device: str) -> None:
    """Raise a UserError unless one process computes on `device`.

    The process may use one GPU at most.
    """
    found = arguments.device.type
    if (found, arguments.world_size) != (device, 1):
        what = f"device is {device}, but accelerate chose {arguments.world_size} x {found}"
        fix = "start by ./stage prefer NAME, without a launcher, and unset ACCELERATE_*"
        raise UserError("params.yaml", what, fix)
    if arguments.n_gpu > 1:
        what = "the stage prefer uses one GPU, but torch sees several"
        raise UserError("params.yaml", what, "set CUDA_VISIBLE_DEVICES=0 for this stage")


def make_trainer(
    params: Params,
    entry: Prefer,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    folder: Path,
) -> PairTrainer:
    """Return a trainer whose reference is the adapter that `model` has now.

    `folder` is for its checkpoints. Raise UserError unless accelerate chose one process on the
    device of params.yaml.
    """
    arguments = configure(params, entry, len(pairs), folder)
    _check_device(arguments, params.device)
    # A loaded adapter is frozen.
    model.set_adapter(TRAINED)
    trainer = PairTrainer(
        model=model,
        args=arguments,
        train_dataset=to_dataset(pairs),
        processing_class=tokenizer,
    )
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.save_and_stop = SaveAndStop("prefer", folder, entry.save_steps)
    trainer.add_callback(trainer.save_and_stop)
    trainer.add_callback(Progress())
    return trainer


def fit(trainer: PairTrainer, folder: Path) -> None:
    """Train from the last complete checkpoint on.

    Raise SystemExit if a signal stopped the run.
    """
    checkpoint = last_checkpoint(folder)
    if checkpoint:
        print(f"prefer: resuming from step {step_of(checkpoint)}", flush=True)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.save_and_stop.stop_requested:
        kept = trainer.state.global_step
        raise SystemExit(f"prefer: stopped; run it again to resume from step {kept}")


def train_pairs(
    params: Params,
    entry: Prefer,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    folder: Path,
) -> dict[str, dict[str, float | int]]:
    """Train the adapter of `model` in place, and return the figures of the run.

    The run resumes from the last checkpoint in `folder`. Raise UserError if the loss is no longer
    finite.
    """
    with warnings.catch_warnings():
        # TRL 1.16 still uses transformers' old names.
        warnings.filterwarnings("ignore", message="`gradient_checkpointing_.*` is deprecated")
        trainer = make_trainer(params, entry, model, tokenizer, pairs, folder)
        fit(trainer, folder)
    # A resumed run has the lines of its earlier steps from the checkpoint.
    lines = [line for line in trainer.state.log_history if "rewards/margins" in line]
    steps = int(trainer.state.global_step)
    last_epoch = lines[-(steps // entry.epochs) :]
    return {
        "run": {"steps": steps, "first_loss_nats": lines[0]["loss"]},
        "train": {
            name: fmean(line[key] for line in last_epoch) for key, name in STEP_FIGURES.items()
        },
    }
