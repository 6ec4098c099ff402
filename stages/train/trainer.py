"""Train with TRL on the loss of the answers only.

Batches contain examples of similar length, in an order that a resumed run repeats.
"""

import math
import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, ProgressCallback, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from bula.checkpoints import mark_complete, report_failed_write
from bula.errors import UserError
from bula.hardware import compute_dtype
from bula.lora import check_target_modules, lora_config
from bula.model_kernels import add_answer_head, use_kernels
from bula.models import load_model, load_tokenizer
from bula.params import Params, Train
from bula.prompts import encode_turns
from bula.records import Example, read_examples
from bula.save_and_stop import SaveAndStop
from bula.scoring import unwrap_adapter
from stages.train.callbacks import EarlyStopping, Progress
from stages.train.loss_guard import refuse_evaluation, refuse_step
from stages.train.packing import drop_padding_mask, keep_rows_apart, refuse_mixed_examples

# The newest checkpoint to resume from, and the best one to keep.
CHECKPOINTS_KEPT = 2
# The sums since the last line of the log: SIGTERM may come between two lines.
SUMS_FILE = "sums.pt"
# The compilers that torch.compile looks for on a CPU, and that Triton looks for on a GPU.
CPP_COMPILERS = ("g++",)
C_COMPILERS = ("gcc", "clang")
# Total loss in nats, tokens predicted correctly, supervised tokens, all tokens.
SUM_COUNT = 4


class EpochSampler(LengthGroupedSampler):  # type: ignore[misc]
    """Group rows of similar length, ordered by seed and epoch.

    transformers draws the order from the global generator, whose state differs when a run resumes:
    the resumed run would see some examples twice and skip others. An epoch contains complete
    batches only, so that any number of processes sees the same batches; each epoch leaves out other
    rows.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        """Take the examples per optimizer step and the first epoch's seed."""
        self.seed = seed
        # A data set smaller than one batch is an epoch too.
        self.size = len(lengths) // batch_size * batch_size or len(lengths)
        generator = torch.Generator().manual_seed(seed)
        super().__init__(batch_size, lengths=lengths, generator=generator)

    def __iter__(self) -> Any:
        """Return the indices of one epoch."""
        indices = list(super().__iter__())
        return iter(indices[: self.size])

    def __len__(self) -> int:
        """Return the number of examples of one epoch."""
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Set the order of an epoch; the data loader calls this."""
        self.generator.manual_seed(self.seed + epoch)


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """Count loss and accuracy per token, and mark complete checkpoints.

    The counts are those of all processes. With `kernels` "fused", bula/lora_kernels.py computes
    adapters, attention, MLP, norms and loss; with "trl", PEFT, transformers and TRL compute them.
    """

    # Every loss is divided by the tokens of the complete optimizer step.
    loss_is_scaled_for_ga = True
    # make_trainer sets both: the rows before packing, and the callback that handles signals.
    rows: Dataset
    save_and_stop: SaveAndStop

    def __init__(self, *args: Any, kernels: str, **kwargs: Any) -> None:
        """Take SFTTrainer's arguments and the kernels."""
        super().__init__(*args, **kwargs)
        self.since = time.perf_counter()
        self.kernels = kernels
        self.sums = {
            mode: torch.zeros(SUM_COUNT, dtype=torch.float64, device=self.args.device)
            for mode in ("train", "eval")
        }
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                # TRL casts adapters of a quantized base to bfloat16, which loses small updates.
                parameter.data = parameter.data.float()
        if self.args.packing and self.model.config._attn_implementation == "sdpa":
            keep_rows_apart(self.data_collator)
            refuse_mixed_examples(unwrap_adapter(self.model))
        if kernels == "fused":
            use_kernels(self.model)
            add_answer_head(unwrap_adapter(self.model))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss in nats per supervised token of the optimizer step."""
        total, correct, supervised = self._score(model, inputs)
        if "attention_mask" in inputs:
            tokens = inputs["attention_mask"].sum()
        else:
            tokens = supervised.new_tensor(inputs["input_ids"].numel())
        counts = torch.stack([total.detach().double(), correct, supervised, tokens])
        self.sums[self._mode()] += counts
        if num_items_in_batch is None:
            # A row that only fills up a batch has no supervised token.
            return total / supervised.clamp(min=1)
        # num_items_in_batch counts the tokens of all processes, whose gradients are then averaged.
        return total / num_items_in_batch * self.accelerator.num_processes

    def _mode(self) -> str:
        """Return "train" or "eval"."""
        return "train" if self.model.training else "eval"

    def _score(self, model: Any, inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return total loss in nats, correctly predicted tokens, supervised tokens."""
        inputs = drop_padding_mask(inputs)
        if self.kernels == "fused":
            total, correct, supervised = model(**inputs, answer_head=True)
            return total, correct, supervised
        output = model(**inputs, use_cache=False, fused_lm_head=True)
        return -output.log_probs.sum(), output.is_top1.sum(), output.label_mask.sum()

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        """Return the order of the training examples."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(ids) for ids in dataset["input_ids"]]
        batch_size = (
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.accelerator.num_processes
        )
        self.sampler = EpochSampler(batch_size, lengths, self.args.seed)
        return self.sampler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add loss, token accuracy and speed to a log line.

        They cover all supervised tokens since the last line of the same mode.
        """
        mode = self._mode()
        sums = self.accelerator.reduce(self.sums[mode], reduction="sum")
        total, correct, supervised, tokens = sums.tolist()
        if supervised:
            logs[f"{mode}_loss_nats"] = total / supervised
            if mode == "eval":
                folder = Path(self.args.output_dir)
                loss = total / supervised
                refuse_evaluation(self.state.global_step, loss, self._get_learning_rate(), folder)
            logs[f"{mode}_token_accuracy"] = correct / supervised
            if mode == "train":
                logs["tokens_per_second"] = tokens / (time.perf_counter() - self.since)
            self.sums[mode].zero_()
        super().log(logs, start_time)
        self.since = time.perf_counter()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the gradient's norm; stop if it or the loss is not finite.

        transformers calls this method in each step, before the optimizer.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        sums = self.accelerator.reduce(self.sums["train"], reduction="sum")
        loss = float(sums[0] / sums[2])
        step = self.state.global_step + 1
        folder = Path(self.args.output_dir)
        refuse_step(step, loss, float(norm), self._get_learning_rate(), folder)
        return norm

    def _run_epoch(self, **kwargs: Any) -> None:
        """Run an epoch, unless the run resumes from its last step.

        transformers would take one more step there.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        # accelerate's own call misses the sampler when several processes resume in an epoch.
        self.sampler.set_epoch(kwargs["epoch"])
        super()._run_epoch(**kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint, mark it as complete, and delete older ones.

        The marker is written once every process has written its part.
        """
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with report_failed_write(checkpoint):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            sums = self.accelerator.reduce(self.sums["train"], reduction="sum")
            if self.args.should_save:
                torch.save(sums.cpu(), checkpoint / SUMS_FILE)
                mark_complete(checkpoint)
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(self.args.output_dir, CHECKPOINTS_KEPT, best)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the sums since the last line of the log as well.

        The file contains the sums of all processes, so only the first process takes them.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and self.is_world_process_zero():
            sums = torch.load(Path(checkpoint) / SUMS_FILE, weights_only=True)
            self.sums["train"] = sums.to(self.args.device)


def tokenise(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example], multiple: int = 1
) -> Dataset:
    """Return the input_ids and labels of each example, -100 outside its answers.

    Rows without any label fill the set up to a multiple of `multiple`, so that every process has
    the same number of dev batches and no example counts twice.
    """
    encoded = [encode_turns(tokenizer, example) for example in examples]
    input_ids = [item.input_ids for item in encoded]
    labels = [item.labels for item in encoded]
    filler = input_ids[0]
    missing = -len(encoded) % multiple
    input_ids += [filler] * missing
    labels += [[-100] * len(filler)] * missing
    return Dataset.from_dict({"input_ids": input_ids, "labels": labels})


def configure(params: Params, folder: Path) -> SFTConfig:
    """Return TRL's settings, with its unwanted defaults switched off."""
    train = params.train
    on_cpu = params.device == "cpu"
    # The folder of the checkpoints is deleted when the run is finished, so the log lies elsewhere.
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
        # SaveAndStop requests further checkpoints.
        save_steps=train.eval_steps,
        # transformers would delete older checkpoints before the new one is marked complete.
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
        # The fused kernels keep the base's precision; autocast would convert at every step.
        bf16=compute_dtype(params.dtype) == "bfloat16" and train.kernels == "trl",
        use_cpu=on_cpu,
        **_speed_options(params),
        # preprocess refuses examples that are too long; packing fills rows to this length.
        max_length=params.preprocess.max_tokens if train.packing else None,
        report_to=params.compute.tracker,
        # Quiet loggers would switch the progress bar off.
        disable_tqdm=False,
    )


def _speed_options(params: Params) -> dict[str, Any]:
    """Return the settings of compiler and data loader."""
    train = params.train
    return {
        "dataloader_num_workers": params.compute.loader_workers,
        "dataloader_pin_memory": params.device != "cpu",
        "torch_compile": train.compile,
        # With torch.compile, transformers would round float32 matmuls to TF32.
        "tf32": False if train.compile else None,
    }


def check_requirements(params: Params) -> None:
    """Raise a UserError if this machine lacks what the parameters need."""
    _check_train_options(params.train)
    _check_tracker(params.compute.tracker)
    if torch.cuda.device_count() > 1 and "LOCAL_RANK" not in os.environ:
        what = "train.launch starts one process, but torch sees several GPUs"
        raise UserError("params.yaml", what, "set train.launch to ddp, or CUDA_VISIBLE_DEVICES=0")


def _check_train_options(train: Train) -> None:
    """Raise a UserError at the first option that this machine cannot run."""
    if train.attention == "flash_attention_2":
        _require_gpu("attention", train.attention)
        _require_package("attention", train.attention, "flash_attn")
    if train.liger:
        _require_gpu("liger", "true")
        _require_package("liger", "true", "liger_kernel")
    if train.activation_offload:
        _require_gpu("activation_offload", "true")
    if train.base_weights != "full":
        _require_package("base_weights", train.base_weights, "bitsandbytes")
    if train.compile:
        _require_compiler()


def _require_gpu(option: str, value: str) -> None:
    """Raise a UserError if an option's GPU is missing."""
    if not torch.cuda.is_available():
        what = f"train.{option} is {value}, which needs a CUDA GPU, and torch sees none"
        raise UserError("params.yaml", what, f"change train.{option}, or run on a GPU")


def _require_package(option: str, value: str, package: str) -> None:
    """Raise a UserError if an option's package is missing."""
    if not find_spec(package):
        what = f"train.{option} is {value}, which needs the package {package}"
        raise UserError("params.yaml", what, "install it with pip")


def _require_compiler() -> None:
    """Raise a UserError if torch.compile would find no compiler.

    On a CPU it writes C++; on a GPU, Triton builds its launcher in C.
    """
    variable = "CC" if torch.cuda.is_available() else "CXX"
    names = C_COMPILERS if variable == "CC" else CPP_COMPILERS
    chosen = os.environ.get(variable)
    if not any(map(shutil.which, [chosen] if chosen else names)):
        what = f"train.compile is true, which needs a compiler ({', '.join(names)}) on PATH"
        fix = f"install one, name it in the environment variable {variable}, or set compile: false"
        raise UserError("params.yaml", what, fix)


def _check_tracker(tracker: str) -> None:
    """Raise a UserError if the tracker's package is missing."""
    packages = ["tensorboard", "tensorboardX"] if tracker == "tensorboard" else [tracker]
    if tracker != "none" and not any(map(find_spec, packages)):
        what = f"compute.tracker is {tracker}, which is not installed"
        raise UserError("params.yaml", what, "install it with pip, or set it to none")


def make_trainer(params: Params, base: Path, clean: Path, folder: Path) -> AnswerTrainer:
    """Return a trainer with model, adapter, data and settings.

    Raise UserError if this machine lacks what the parameters need.
    """
    check_requirements(params)
    train = params.train
    arguments = configure(params, folder)
    tokenizer = load_tokenizer(base)
    dev_multiple = _start_processes(arguments, params.device) * arguments.eval_batch_size
    rows = tokenise(tokenizer, read_examples(clean / "train.jsonl"))
    save_and_stop = SaveAndStop("train", folder, train.save_steps)
    callbacks: list[TrainerCallback] = [save_and_stop]
    if train.patience:
        callbacks.append(EarlyStopping(train.patience))
    model = load_model(base, params.dtype, weights=train.base_weights, attention=train.attention)
    check_target_modules(model, train.lora)
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=tokenise(tokenizer, read_examples(clean / "dev.jsonl"), multiple=dev_multiple),
        processing_class=tokenizer,
        peft_config=lora_config(train.lora),
        callbacks=callbacks,
        kernels=train.kernels,
    )
    trainer.rows = rows
    trainer.save_and_stop = save_and_stop
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    return trainer


def _start_processes(arguments: SFTConfig, device: str) -> int:
    """Start the process group and return the number of processes.

    Reading the device starts the group and selects the GPU on which this process then loads the
    model. Raise a UserError if accelerate chose another device than `device`.
    """
    found = arguments.device.type
    if found != device:
        what = f"device is {device}, but accelerate chose {found}"
        fix = "start training by ./stage train, and unset the variables ACCELERATE_*"
        raise UserError("params.yaml", what, fix)
    return max(1, int(arguments.world_size))
