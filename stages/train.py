"""Fine-tune a LoRA adapter on the answers of the training split, watching dev; the best checkpoint by dev loss is kept.

Checkpoints live outside DVC's outputs, in .bula/checkpoints/FINGERPRINT, so that a killed run goes on where it stopped
and a run on other data, parameters, base model or code never picks them up.

    python -m stages.train
"""

import math
import shutil
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from bula.models import base_of, load_model, load_tokenizer, model_files, prepare, supervised_hidden
from bula.params import Params, load_params
from bula.prompts import encode
from bula.records import Example, read_examples, sha256_file, sha256_values, staged
from bula.reports import peak_memory_gb, write_metrics, write_plot

# PEFT 0.21 still asks by the old name; nothing here can change that.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

CHECKPOINTS = Path(".bula/checkpoints")
CODE = [Path(__file__), *(Path(__file__).parent.parent / "bula" / f"{name}.py" for name in ("models", "prompts", "records"))]


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


def fingerprint(params: Params, files: list[Path]) -> str:
    """Hash of everything that shapes the adapter: seed, precision, train's parameters and the bytes of `files`."""
    settings = [params.seed, params.dtype, params.train.model_dump()]
    return sha256_values(settings, [[file.name, sha256_file(file)] for file in files])[:16]


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint, or None; those that a kill cut short (their last file is missing) are removed."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / TRAINER_STATE_NAME).exists():
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(folder) if folder.exists() else None


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


def curves(history: list[dict[str, float]]) -> dict[str, list[dict[str, float | str]]]:
    """Points of the training curves from the trainer's log, one table a curve; `group` is the split."""
    tables: dict[str, list[dict[str, float | str]]] = defaultdict(list)
    for line in history:
        for mode, split in (("train", "train"), ("eval", "dev")):
            if f"{mode}_loss_nats" in line:
                tables["loss"].append({"step": line["step"], "group": split, "loss_nats": line[f"{mode}_loss_nats"]})
                tables["accuracy"].append({"step": line["step"], "group": split, "token_accuracy": line[f"{mode}_token_accuracy"]})
        if "learning_rate" in line:
            tables["learning_rate"].append({"step": line["step"], "group": "train", "learning_rate": line["learning_rate"]})
    return tables


def summarise(trainer: AnswerTrainer, dev: list[Example]) -> dict[str, Any]:
    """metrics/train.json: what was trained, the last training loss, and dev at the checkpoint that was kept."""
    history = trainer.state.log_history
    best = min((line for line in history if "eval_loss_nats" in line), key=lambda line: line["eval_loss_nats"])
    last = [line for line in history if "train_loss_nats" in line][-1]
    labels = trainer.eval_dataset["labels"]
    tokens = sum(label != -100 for row in labels for label in row)
    loss = float(best["eval_loss_nats"])
    nats = loss * tokens
    trainable, total = trainer.model.get_nb_trainable_parameters()
    return {
        "parameters": {"trainable": trainable, "total": total, "trainable_share": trainable / total},
        "run": {"steps": trainer.state.max_steps, "best_step": int(best["step"]), "epochs": trainer.state.epoch or 0.0},
        "train": {"loss_nats": last["train_loss_nats"], "token_accuracy": last["train_token_accuracy"], "step": int(last["step"])},
        "dev": {
            "items": len(dev),
            "tokens": tokens,
            "loss_nats": loss,
            "perplexity": math.exp(loss),
            "bits_per_token": loss / math.log(2),
            "bits_per_character": nats / math.log(2) / sum(len(e.answer) for e in dev),
            "bits_per_byte": nats / math.log(2) / sum(len(e.answer.encode()) for e in dev),
            "token_accuracy": best["eval_token_accuracy"],
        },
    }


def card(params: Params, metrics: dict[str, Any]) -> str:
    """The adapter's model card."""
    base, dev = params.ingest.base, metrics["dev"]
    name = getattr(base, "id", None) or getattr(base, "package", None) or getattr(base, "path", "")
    sources = ", ".join(f"{source.name} ({source.license})" for source in params.ingest.sources)
    head = ["library_name: peft", "pipeline_tag: text-generation", "language: [pt]", f"license: {base.license}", "tags: [lora, medical]"]
    lines = [
        f"# LoRA adapter for {name}",
        "",
        "Answers health questions in plain Brazilian Portuguese. Not medical advice, not a medical device.",
        "",
        f"- Trainable parameters: {metrics['parameters']['trainable']}",
        f"- Steps: {metrics['run']['steps']} (kept: {metrics['run']['best_step']})",
        f"- Dev loss: {dev['loss_nats']:.6g} nats a token, perplexity {dev['perplexity']:.6g}, {dev['items']} items",
        f"- Trained on: {sources}",
    ]
    return "\n".join(["---", *head, "---", "", *lines, ""])


def save_adapter(model: PeftModel, text: str, path: Path) -> None:
    """Write adapter and card; the list of modules is sorted, since a set's order changes from run to run."""
    for config in model.peft_config.values():
        config.target_modules = sorted(config.target_modules)
        config.base_model_name_or_path = "models/base"
    with staged(path) as temporary:
        model.save_pretrained(temporary)
        (temporary / "README.md").write_text(text, encoding="utf-8")


def main(
    clean: Annotated[Path, typer.Option(help="Folder of train.jsonl and dev.jsonl.")] = Path("data/clean"),
    base: Annotated[Path, typer.Option(help="Model to tune.")] = Path("models/base"),
    adapter: Annotated[Path, typer.Option(help="Folder for the adapter.")] = Path("models/adapter"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/train.json"),
    speed: Annotated[Path, typer.Option(help="Metrics that two runs cannot repeat.")] = Path("metrics/speed/train.json"),
    plots: Annotated[Path, typer.Option(help="Folder for the curves.")] = Path("plots/train"),
) -> None:
    """Train the adapter."""
    params = load_params()
    prepare(params.seed)
    try:
        inputs = [clean / "train.jsonl", clean / "dev.jsonl", *model_files(base)]
        folder = CHECKPOINTS / fingerprint(params, [*inputs, *CODE])
        trainer = make_trainer(params, base, clean, folder)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    seconds = time.perf_counter() - started
    summary = summarise(trainer, read_examples(clean / "dev.jsonl"))
    save_adapter(trainer.model, card(params, summary), adapter)
    write_metrics(metrics, summary)
    write_metrics(speed, {"seconds": seconds, "seconds_per_step": seconds / params.train.max_steps, "peak_memory_gb": peak_memory_gb()})
    for name, rows in curves(trainer.state.log_history).items():
        write_plot(plots / f"{name}.json", rows)
    shutil.rmtree(folder)
    print(f"train: {params.train.max_steps} steps, dev perplexity {summary['dev']['perplexity']:.4g}, adapter in {adapter}")


if __name__ == "__main__":
    typer.run(main)
