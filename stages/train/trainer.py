"""TRL's trainer with a loss over the answer alone, batches of like length, and an order that a resumed run repeats."""

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from bula.models import base_of, load_model, load_tokenizer, supervised_hidden
from bula.params import Params
from bula.prompts import encode
from bula.records import Example, read_examples
from stages.train.checkpoints import seal

# PEFT 0.21 still asks by the old name; nothing here can change that.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


class EpochSampler(LengthGroupedSampler):  # type: ignore[misc]
    """Batches of like length in an order that depends on seed and epoch alone.

    transformers draws the order from the global generator, whose state differs when a run resumes: the resumed run
    would then see some examples twice and others never.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        """`batch_size` examples are of like length; `seed` fixes the order of the first epoch."""
        self.seed = seed
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(seed))

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.generator.manual_seed(self.seed + epoch)


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose loss applies the head to supervised positions alone and counts loss and accuracy by token.

    TRL's own loss scores every position on the CPU, in slices, with entropy: three times the time for the same gradient.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As SFTTrainer's; the sums are total loss in nats, tokens predicted right, and supervised tokens."""
        self.sums = {"train": torch.zeros(3, dtype=torch.float64), "eval": torch.zeros(3, dtype=torch.float64)}
        super().__init__(*args, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Sum of the negative log-likelihood in nats over the number of supervised tokens of the optimizer step."""
        plain = self.accelerator.unwrap_model(model)
        hidden, targets = supervised_hidden(plain, inputs)
        logits = base_of(plain).get_output_embeddings()(hidden).float()
        total = cross_entropy(logits, targets, reduction="sum")
        correct = (logits.detach().argmax(-1) == targets).sum()
        mode = "train" if self.model.training else "eval"
        self.sums[mode] += torch.tensor([total.detach(), correct, len(targets)], dtype=torch.float64)
        return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        """The order of the training examples."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochSampler(batch, [len(ids) for ids in dataset["input_ids"]], self.args.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add loss and token accuracy over all supervised tokens since the last line of this kind."""
        mode = "train" if self.model.training else "eval"
        total, correct, tokens = self.sums[mode].tolist()
        if tokens:
            logs |= {f"{mode}_loss_nats": total / tokens, f"{mode}_token_accuracy": correct / tokens}
            self.sums[mode].zero_()
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, and say that the checkpoint is whole. Rotation, inside, keeps the one before this and the best."""
        super()._save_checkpoint(model, trial)
        seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")


def tokenise(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> Dataset:
    """input_ids and labels of each example; -100 outside the answer."""
    encoded = [encode(tokenizer, example) for example in examples]
    return Dataset.from_dict({"input_ids": [e.input_ids for e in encoded], "labels": [e.labels for e in encoded]})


def configure(params: Params, folder: Path) -> SFTConfig:
    """TRL's settings; what TRL would do by default and should not is named here."""
    train = params.train
    on_cpu = not torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder),
        seed=params.seed,
        max_steps=train.max_steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.scheduler,
        warmup_steps=math.ceil(train.warmup_share * train.max_steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        per_device_eval_batch_size=train.eval_batch_size,
        eval_strategy="steps",
        eval_steps=train.eval_steps,
        save_steps=train.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss_nats",
        greater_is_better=False,
        logging_steps=train.log_steps,
        activation_checkpointing=train.gradient_checkpointing,
        optim="adamw_torch",
        bf16=params.dtype == "bfloat16",
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        # Truncation is preprocess's to refuse, not ours to do.
        max_length=None,
        report_to="none",
        # Quiet loggers would take the progress bar with them.
        disable_tqdm=False,
    )


def make_trainer(params: Params, base: Path, clean: Path, folder: Path) -> AnswerTrainer:
    """Model, adapter, data and settings, ready to train."""
    if torch.cuda.device_count() > 1:
        raise ValueError("train uses one GPU and sees several; say which one with CUDA_VISIBLE_DEVICES=0")
    tokenizer = load_tokenizer(base)
    lora = params.train.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return AnswerTrainer(
        model=load_model(base, params.dtype),
        args=configure(params, folder),
        train_dataset=tokenise(tokenizer, read_examples(clean / "train.jsonl")),
        eval_dataset=tokenise(tokenizer, read_examples(clean / "dev.jsonl")),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"),
    )
