"""TRL's trainer with a loss over the answer alone, batches of like length, and an order that a resumed run repeats."""

import math
import os
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, ProgressCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from bula.errors import UserError
from bula.hardware import compute_dtype
from bula.lora import lora_config
from bula.lora_kernels import add_answer_head, use_kernels
from bula.models import load_model, load_tokenizer
from bula.params import Params
from bula.prompts import encode
from bula.records import Example, read_examples
from bula.scoring import unwrap_adapter
from stages.train.callbacks import EndWell, Patience, Progress
from stages.train.checkpoints import seal, writing

# PEFT 0.21 still asks by the old name; nothing here can change that.
warnings.filterwarnings(
    "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
)

# The newest, to go on from, and the best, to end with.
CHECKPOINTS_KEPT = 2
# Of a checkpoint: loss, right predictions and tokens since the last line of the log; SIGTERM may come between two lines.
SUMS = "sums.pt"


class EpochSampler(LengthGroupedSampler):  # type: ignore[misc]
    """Batches of like length in an order that depends on seed and epoch alone.

    transformers draws the order from the global generator, whose state differs when a run resumes: the resumed run
    would then see some examples twice and others never. An epoch has whole batches only, so that any number of processes
    sees the same ones; what is left over is another part of the rows in every epoch.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        """`batch_size` examples, those of one optimizer step, are of like length; `seed` fixes the order of the first epoch."""
        self.seed = seed
        self.whole = len(lengths) // batch_size * batch_size or len(lengths)
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(seed))

    def __iter__(self) -> Any:
        """Indices of one epoch."""
        return iter(list(super().__iter__())[: self.whole])

    def __len__(self) -> int:
        """Examples of one epoch."""
        return self.whole

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.generator.manual_seed(self.seed + epoch)


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that counts loss and accuracy by token, over all processes, and seals its checkpoints.

    With `kernels` "fused" adapters, attention, MLP, norms and loss are computed by bula/lora_kernels.py, with "trl" by PEFT,
    transformers and TRL.
    """

    # Every loss is divided by the tokens of the whole optimizer step.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, kernels: str, **kwargs: Any) -> None:
        """As SFTTrainer's. The sums are total loss in nats, tokens predicted right, supervised tokens, and all tokens."""
        self.sums = {mode: torch.zeros(4, dtype=torch.float64) for mode in ("train", "eval")}
        self.since = time.perf_counter()
        super().__init__(*args, **kwargs)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                # TRL casts the adapters of a quantized base to bfloat16, where late, small updates round away.
                parameter.data = parameter.data.float()
        self.kernels, self.rows, self.ending = (
            kernels,
            self.train_dataset,
            EndWell(Path(self.args.output_dir), 0),
        )
        self.sums = {mode: sums.to(self.args.device) for mode, sums in self.sums.items()}
        if kernels == "fused":
            use_kernels(self.model)
            add_answer_head(unwrap_adapter(self.model))

    def score(self, model: Any, inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Total loss in nats, tokens predicted right, supervised tokens."""
        if self.kernels == "fused":
            total, right, count = model(**inputs, answer_head=True)
        else:
            output = model(**inputs, use_cache=False, fused_lm_head=True)
            total, right, count = (
                -output.log_probs.sum(),
                output.is_top1.sum(),
                output.label_mask.sum(),
            )
        return total, right, count

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the negative log-likelihood in nats over the number of supervised tokens of the optimizer step."""
        total, right, count = self.score(model, inputs)
        seen = (
            inputs["attention_mask"].sum()
            if "attention_mask" in inputs
            else count.new_tensor(inputs["input_ids"].numel())
        )
        self.sums["train" if self.model.training else "eval"] += torch.stack(
            [total.detach().double(), right, count, seen]
        )
        if num_items_in_batch is None:
            # A row that only fills up a batch has no token.
            return total / count.clamp(min=1)
        # The number is that of all processes, whose gradients are then averaged.
        return total / num_items_in_batch * self.accelerator.num_processes

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        """The order of the training examples."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        batch = (
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.accelerator.num_processes
        )
        self.sampler = EpochSampler(
            batch, [len(ids) for ids in dataset["input_ids"]], self.args.seed
        )
        return self.sampler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add loss and token accuracy over all supervised tokens since the last line of this kind, and how fast it goes."""
        mode = "train" if self.model.training else "eval"
        total, right, tokens, seen = self.accelerator.reduce(
            self.sums[mode], reduction="sum"
        ).tolist()
        if tokens:
            logs |= {f"{mode}_loss_nats": total / tokens, f"{mode}_token_accuracy": right / tokens}
            if mode == "train":
                logs["tokens_per_second"] = seen / (time.perf_counter() - self.since)
            self.sums[mode].zero_()
        super().log(logs, start_time)
        self.since = time.perf_counter()

    def _run_epoch(self, **kwargs: Any) -> None:
        """Nothing where the run goes on from its last step: transformers would take one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        # Where several processes go on inside an epoch, the call of transformers and accelerate does not reach through the loader
        # that skips batches, and the rest of that epoch would have the order of the first one.
        self.sampler.set_epoch(kwargs["epoch"])
        super()._run_epoch(**kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, say that the checkpoint is whole once every process has written its part, and only then let older ones go."""
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with writing(checkpoint):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            sums = self.accelerator.reduce(self.sums["train"], reduction="sum")
            if self.args.should_save:
                torch.save(sums.cpu(), checkpoint / SUMS)
                seal(checkpoint)
        if self.args.should_save:
            rotate_checkpoints(
                self.args.output_dir, CHECKPOINTS_KEPT, self.state.best_model_checkpoint
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """And the sums since the last line of the log, which are those of all processes: the first one takes them."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and self.is_world_process_zero():
            self.sums["train"] = torch.load(Path(checkpoint) / SUMS, weights_only=True).to(
                self.args.device
            )


def tokenise(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example], multiple: int = 1
) -> Dataset:
    """input_ids and labels of each example, -100 outside the answer; rows without any label fill up to a multiple.

    So every process has as many batches of dev, and no example counts twice.
    """
    encoded = [encode(tokenizer, example) for example in examples]
    rows = [(e.input_ids, e.labels) for e in encoded]
    blank = encoded[0].input_ids
    rows += [(blank, [-100] * len(blank))] * (-len(rows) % multiple)
    return Dataset.from_dict(
        {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}
    )


def configure(params: Params, folder: Path) -> SFTConfig:
    """TRL's settings; what TRL would do by default and should not is named here."""
    train, tracker = params.train, params.compute.tracker
    on_cpu = not torch.cuda.is_available()
    # Not in the folder of checkpoints, which goes when the run is done.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", f".bula/tensorboard/{folder.name}")
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
        # Further checkpoints come from EndWell.
        save_steps=train.eval_steps,
        # The trainer would drop older checkpoints before the new one is sealed.
        save_total_limit=None,
        load_best_model_at_end=train.keep == "best",
        metric_for_best_model="eval_loss_nats",
        greater_is_better=False,
        logging_steps=train.log_steps,
        activation_checkpointing=train.gradient_checkpointing,
        activation_offloading=train.activation_offload,
        packing=train.packing,
        eval_packing=False,
        use_liger_kernel=train.liger,
        optim="adamw_torch",
        # The fused functions keep the base's precision by themselves; autocast would convert at every step.
        bf16=compute_dtype(params.dtype) == "bfloat16" and train.kernels == "trl",
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        # Truncation is preprocess's to refuse, not ours to do; packing fills rows up to the longest example.
        max_length=params.preprocess.max_tokens if train.packing else None,
        report_to=tracker,
        # Quiet loggers would take the progress bar with them.
        disable_tqdm=False,
    )


def refuse(params: Params) -> None:
    """Raise a UserError that names what this machine lacks for the parameters."""
    train, cuda = params.train, torch.cuda.is_available()
    package = {"flash_attention_2": "flash_attn", "sdpa": None}[train.attention]
    needs = [
        ("attention", train.attention, train.attention != "sdpa", True, package),
        ("liger", "true", train.liger, True, "liger_kernel"),
        ("activation_offload", "true", train.activation_offload, True, None),
        ("base_weights", train.base_weights, train.base_weights != "full", False, "bitsandbytes"),
    ]
    for name, value, wanted, gpu, package in needs:
        if wanted and gpu and not cuda:
            what = f"train.{name} is {value}, which needs a CUDA GPU, and torch sees none"
            raise UserError("params.yaml", what, f"change train.{name}, or run on a GPU")
        if wanted and package and not find_spec(package):
            what = f"train.{name} is {value}, which needs the package {package}"
            raise UserError("params.yaml", what, "install it with pip")
    tracker = params.compute.tracker
    if tracker != "none" and not any(
        map(find_spec, (tracker, "tensorboardX") if tracker == "tensorboard" else (tracker,))
    ):
        what = f"compute.tracker is {tracker}, which is not installed"
        raise UserError("params.yaml", what, "install it with pip, or set it to none")
    if torch.cuda.device_count() > 1 and "LOCAL_RANK" not in os.environ:
        what = "train is one process and sees several GPUs"
        raise UserError("params.yaml", what, "set train.launch to ddp, or CUDA_VISIBLE_DEVICES=0")


def make_trainer(params: Params, base: Path, clean: Path, folder: Path) -> AnswerTrainer:
    """Model, adapter, data and settings, ready to train; UserError says what this machine lacks."""
    refuse(params)
    train, lora = params.train, params.train.lora
    arguments = configure(params, folder)
    tokenizer = load_tokenizer(base)
    # Asking for the device starts the process group and picks this process's GPU, on which the model is then loaded.
    together = arguments.eval_batch_size * max(1, arguments.world_size) if arguments.device else 1
    ending = EndWell(folder, train.save_steps)
    rows = tokenise(tokenizer, read_examples(clean / "train.jsonl"))
    trainer = AnswerTrainer(
        model=load_model(base, params.dtype, weights=train.base_weights, attention=train.attention),
        args=arguments,
        train_dataset=rows,
        eval_dataset=tokenise(tokenizer, read_examples(clean / "dev.jsonl"), multiple=together),
        processing_class=tokenizer,
        peft_config=lora_config(lora),
        callbacks=[ending, *([Patience(train.patience)] if train.patience else [])],
        kernels=train.kernels,
    )
    # Packing makes other rows of them; the template is looked at in those that were written.
    trainer.rows, trainer.ending = rows, ending
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    return trainer
