"""What training tells: metrics, curves, how it converged, what the template made of the rows, and the adapter with its card."""

import math
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.files import sha256_values, staged
from bula.params import Params
from bula.records import Example
from bula.reports import peak_memory_gb, write_metrics, write_plot
from bula.scoring import unwrap_adapter
from stages.train.trainer import AnswerTrainer

# Dev loss may lie so far above its own minimum before the run is called overfitted: a hundredth of a nat is noise on a small dev set.
OVERFIT_NATS = 0.01
# Where a fault of the chat template is mended.
TEMPLATE = "models/base"
TEMPLATE_FIX = "correct the base's chat template, or take another base in params.yaml"


def curves(history: list[dict[str, float]]) -> dict[str, list[dict[str, float | str]]]:
    """Points of the training curves from the trainer's log, one table a curve; `group` is the split."""
    tables: dict[str, list[dict[str, float | str]]] = defaultdict(list)
    for line in history:
        for mode, split in (("train", "train"), ("eval", "dev")):
            if f"{mode}_loss_nats" in line:
                tables["loss"].append(
                    {"step": line["step"], "group": split, "loss_nats": line[f"{mode}_loss_nats"]}
                )
                tables["accuracy"].append(
                    {
                        "step": line["step"],
                        "group": split,
                        "token_accuracy": line[f"{mode}_token_accuracy"],
                    }
                )
        if "learning_rate" in line:
            tables["learning_rate"].append(
                {"step": line["step"], "group": "train", "learning_rate": line["learning_rate"]}
            )
    return tables


def _refuse_divergence(history: list[dict[str, float]]) -> None:
    """Raise a UserError at the first logged loss that is not a finite number."""
    for line in history:
        loss = line.get("train_loss_nats", line.get("eval_loss_nats", 0.0))
        if not math.isfinite(loss):
            what = f"training diverged: the loss is {loss} at step {line['step']}"
            raise UserError("params.yaml", what, "lower train.learning_rate or train.max_grad_norm")


def summarise(trainer: AnswerTrainer, dev: list[Example]) -> dict[str, Any]:
    """metrics/train.json: what was trained, the last training loss, and dev at the checkpoint that was kept."""
    history = trainer.state.log_history
    _refuse_divergence(history)
    evaluated = [line for line in history if "eval_loss_nats" in line]
    kept = (
        min(evaluated, key=lambda line: line["eval_loss_nats"])
        if trainer.args.load_best_model_at_end
        else evaluated[-1]
    )
    last = [line for line in history if "train_loss_nats" in line][-1]
    labels = trainer.eval_dataset["labels"]
    tokens = sum(label != -100 for row in labels for label in row)
    loss = float(kept["eval_loss_nats"])
    nats = loss * tokens
    trainable, total = trainer.model.get_nb_trainable_parameters()
    return {
        "parameters": {
            "trainable": trainable,
            "total": total,
            "trainable_share": trainable / total,
        },
        "run": {
            "steps": trainer.state.global_step,
            "kept_step": int(kept["step"]),
            "epochs": trainer.state.epoch or 0.0,
            "compute_dtype": str(unwrap_adapter(trainer.model).dtype).removeprefix("torch."),
        },
        "train": {
            "loss_nats": last["train_loss_nats"],
            "token_accuracy": last["train_token_accuracy"],
            "step": int(last["step"]),
        },
        "dev": {
            "items": len(dev),
            "tokens": tokens,
            "loss_nats": loss,
            "perplexity": math.exp(loss),
            "bits_per_token": loss / math.log(2),
            "bits_per_character": nats / math.log(2) / sum(len(e.answer) for e in dev),
            "bits_per_byte": nats / math.log(2) / sum(len(e.answer.encode()) for e in dev),
            "token_accuracy": kept["eval_token_accuracy"],
        },
    }


def converge(history: list[dict[str, float]]) -> dict[str, Any]:
    """The convergence table of the reference work, from the trainer's log; docs/metrics.md defines each figure.

    Means over whole thirds of the run, since a single step's loss is one batch's.
    """
    train = [line["train_loss_nats"] for line in history if "train_loss_nats" in line]
    dev = [line["eval_loss_nats"] for line in history if "eval_loss_nats" in line]
    third = max(1, len(train) // 3)
    first, middle, last = (
        sum(part) / len(part)
        for part in (train[:third], train[-2 * third : -third] or train[:third], train[-third:])
    )
    return {
        "train_perplexity_first_third": math.exp(first),
        "train_perplexity_last_third": math.exp(last),
        "train_perplexity_reduction": 1 - math.exp(last - first),
        "train_bits_per_token_change_last_third": (last - middle) / math.log(2),
        "dev_perplexity_reduction": 1 - math.exp(dev[-1] - dev[0]),
        "dev_minus_train_loss_nats": dev[-1] - last,
        "dev_above_best_loss_nats": dev[-1] - min(dev),
        "overfitted": dev[-1] - min(dev) > OVERFIT_NATS,
    }


def template_figures(
    tokenizer: PreTrainedTokenizerBase, rows: Dataset, examples: list[Example]
) -> dict[str, Any]:
    """What the chat template made of the training rows, counted on the very ids that are trained on; UserError if they are unfit.

    Some templates (ChatML's) open every message with the token that the tokenizer calls BOS: what must be one is the number at
    the start of the row.
    """
    inputs, labels = list(rows["input_ids"]), list(rows["labels"])
    supervised = [sum(label != -100 for label in row) for row in labels]
    starts = {_leading(row, tokenizer.bos_token_id) for row in inputs}
    figures = {
        "rows": len(inputs),
        "sample_sha256": sha256_values(tokenizer.decode(inputs[0])),
        "bos_tokens_at_start": max(starts),
        "supervised_share": sum(supervised) / sum(map(len, inputs)),
        "end_of_turn_supervised": all(row[-1] == tokenizer.eos_token_id for row in labels),
        "rows_truncated": sum(
            not _says(tokenizer, row, example.answer)
            for row, example in zip(labels, examples, strict=True)
        ),
        "rows_without_supervised_token": sum(not count for count in supervised),
        "pad_is_end_of_turn": tokenizer.pad_token_id == tokenizer.eos_token_id,
    }
    if (
        figures["rows_without_supervised_token"]
        or figures["rows_truncated"]
        or not figures["end_of_turn_supervised"]
        or figures["pad_is_end_of_turn"]
    ):
        what = f"rows would teach nothing, or never teach to stop: {figures}"
        raise UserError(TEMPLATE, what, TEMPLATE_FIX)
    if tokenizer.bos_token_id is not None and len(starts) != 1:
        what = f"rows start with {sorted(starts)} BOS tokens, and not all with the same number"
        raise UserError(TEMPLATE, what, TEMPLATE_FIX)
    if starts == {0} and tokenizer.bos_token_id is not None:
        what = "rows start without the tokenizer's BOS token, which the model was trained with"
        raise UserError(TEMPLATE, what, TEMPLATE_FIX)
    if max(starts) > 1:
        what = f"rows start with {max(starts)} BOS tokens; a second one costs accuracy everywhere"
        raise UserError(TEMPLATE, what, TEMPLATE_FIX)
    return figures


def _says(tokenizer: PreTrainedTokenizerBase, labels: list[int], answer: str) -> bool:
    """Whether the supervised tokens of a row are the whole answer."""
    text = tokenizer.decode(
        [label for label in labels if label != -100],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return str(text).strip() == answer


def _leading(row: list[int], token: int | None) -> int:
    """How many times a row starts with a token."""
    return next((place for place, found in enumerate(row) if found != token), len(row))


def card(params: Params, metrics: dict[str, Any]) -> str:
    """The adapter's model card."""
    base, dev = params.ingest.base, metrics["dev"]
    name = getattr(base, "id", None) or getattr(base, "package", None) or getattr(base, "path", "")
    sources = ", ".join(f"{source.name} ({source.license})" for source in params.ingest.sources)
    head = [
        "library_name: peft",
        "pipeline_tag: text-generation",
        "language: [pt]",
        f"license: {base.license}",
        "tags: [lora, medical]",
    ]
    lines = [
        f"# LoRA adapter for {name}",
        "",
        "Answers health questions in plain Brazilian Portuguese. Not medical advice, not a medical device.",
        "",
        f"- Trainable parameters: {metrics['parameters']['trainable']}",
        f"- Steps: {metrics['run']['steps']} (kept: {metrics['run']['kept_step']})",
        f"- Dev loss: {dev['loss_nats']:.6g} nats a token, perplexity {dev['perplexity']:.6g}, {dev['items']} items",
        f"- Trained on: {sources}",
    ]
    return "\n".join(["---", *head, "---", "", *lines, ""])


def save_adapter(trainer: AnswerTrainer, text: str, path: Path | None) -> None:
    """Write adapter and card to `path`; every process calls this, since shards are gathered, and the one with a path writes.

    The list of modules is sorted, since a set's order changes from run to run.
    """
    model: PeftModel = trainer.model
    weights = (
        trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.is_fsdp_enabled
        else None
    )
    if path is None:
        return
    for config in model.peft_config.values():
        config.target_modules = sorted(config.target_modules)
        config.base_model_name_or_path = "models/base"
    with staged(path) as temporary:
        model.save_pretrained(temporary, state_dict=weights)
        (temporary / "README.md").write_text(text, encoding="utf-8")


def report(
    trainer: AnswerTrainer,
    dev: list[Example],
    template: dict[str, Any],
    seconds: float,
    folders: tuple[Path, Path] | None,
) -> dict[str, Any]:
    """Figures of the run; written with the curves where `folders`, those of metrics and plots, are given."""
    history = trainer.state.log_history
    summary = summarise(trainer, dev) | {"convergence": converge(history)}
    if folders:
        metrics, plots = folders
        write_metrics(metrics / "train.json", summary)
        write_metrics(metrics / "template.json", template)
        rate = median(line["tokens_per_second"] for line in history if "tokens_per_second" in line)
        write_metrics(
            metrics / "speed/train.json",
            {"seconds": seconds, "tokens_per_second": rate, "peak_memory_gb": peak_memory_gb()},
        )
        for name, rows in curves(history).items():
            write_plot(plots / f"{name}.json", rows)
    return summary
