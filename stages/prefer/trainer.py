"""Train with TRL's DPOTrainer on encoded pairs.

The reference is the tuned adapter: TRL copies the loaded adapter into a frozen one named "ref". So
the loss before the first step is ln 2.
"""

import math
import warnings
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback
from trl import DPOConfig, DPOTrainer

from bula.adapter_files import TRAINED
from bula.errors import UserError
from bula.params import Params, Prefer
from stages.prefer.pairs import Pair

LogLine = dict[str, float]
# TRL's names of the figures of one step, and ours.
STEP_FIGURES = {
    "loss": "loss_nats",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
}


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """Train on pairs that bula/prompts.py has encoded.

    TRL would render the chat template without its fixed date, and keep the text behind the
    end-of-turn token.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Return the pairs as they are."""
        return dataset


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


def configure(params: Params, entry: Prefer, pairs: int, folder: str) -> DPOConfig:
    """Return TRL's settings, with its unwanted defaults switched off."""
    steps = count_steps(pairs, entry)
    return DPOConfig(
        output_dir=folder,
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
        # The run is short, and its only output is the last adapter.
        save_strategy="no",
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
    folder: str,
) -> PairTrainer:
    """Return a trainer whose reference is the adapter that `model` has now.

    Raise UserError unless accelerate chose one process on the device of params.yaml.
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
    trainer.add_callback(Progress())
    return trainer


def train_pairs(
    params: Params,
    entry: Prefer,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
) -> dict[str, dict[str, float | int]]:
    """Train the adapter of `model` in place, and return the figures of the run.

    Raise UserError if the loss is no longer finite.
    """
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # TRL 1.16 still uses transformers' old names.
        warnings.filterwarnings("ignore", message="`gradient_checkpointing_.*` is deprecated")
        trainer = make_trainer(params, entry, model, tokenizer, pairs, folder)
        trainer.train()
    lines = [line for line in trainer.state.log_history if "rewards/margins" in line]
    if not all(math.isfinite(line["loss"]) for line in lines):
        what = "the loss is not a finite number"
        raise UserError("params.yaml", what, "lower learning_rate in the section prefer")
    steps = int(trainer.state.global_step)
    last_epoch = lines[-(steps // entry.epochs) :]
    return {
        "run": {"steps": steps, "first_loss_nats": lines[0]["loss"]},
        "train": {
            name: fmean(line[key] for line in last_epoch) for key, name in STEP_FIGURES.items()
        },
    }
