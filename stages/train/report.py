"""Write what training produces: metrics, curves, and the adapter with its documents.

This module also measures convergence, and checks the training rows that the chat template produced.
"""

import math
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from bula.adapter_files import save_adapter
from bula.errors import UserError
from bula.files import sha256_values
from bula.hardware import processor
from bula.model_cards import Base, Documents
from bula.models import end_token_ids
from bula.records import Example
from bula.reports import peak_memory_gb, write_metrics, write_plot
from bula.scoring import unwrap_adapter
from stages.train.trainer import AnswerTrainer

LogLine = dict[str, float]
# The step, the group (the split) and the value of one point of a curve.
Point = dict[str, float | str]
# A rise of dev loss by a hundredth of a nat is noise on a small dev set.
OVERFIT_NATS = 0.01
# The plots are in git, so their size must not grow with the run. A screen shows no more points.
MOST_POINTS_PER_CURVE = 250
TEMPLATE = "models/base"
TEMPLATE_FIX = "correct the base's chat template, or take another base in params.yaml"


def curves(history: list[LogLine]) -> dict[str, list[Point]]:
    """Return the points of the training curves, one table per curve.

    `history` is the trainer's log, and the column `group` names the split.
    """
    tables: dict[str, list[Point]] = defaultdict(list)
    for line in history:
        for mode, split in (("train", "train"), ("eval", "dev")):
            if f"{mode}_loss_nats" in line:
                loss = line[f"{mode}_loss_nats"]
                accuracy = line[f"{mode}_token_accuracy"]
                point: Point = {"step": line["step"], "group": split}
                tables["loss"].append({**point, "loss_nats": loss})
                tables["accuracy"].append({**point, "token_accuracy": accuracy})
        if "learning_rate" in line:
            rate = line["learning_rate"]
            tables["learning_rate"].append(
                {"step": line["step"], "group": "train", "learning_rate": rate}
            )
    return tables


def thin(points: list[Point]) -> list[Point]:
    """Return at most `MOST_POINTS_PER_CURVE` points of each group, in the order of their steps.

    They are evenly spaced over the logged steps, the first and the last one included. No values are
    averaged: each point is a logged one.
    """
    kept = []
    for group in ("train", "dev"):
        curve = [point for point in points if point["group"] == group]
        count = min(len(curve), MOST_POINTS_PER_CURVE)
        last = len(curve) - 1
        for number in range(count):
            place = number * last // max(1, count - 1)
            kept.append(curve[place])
    return sorted(kept, key=lambda point: float(point["step"]))


def summarise(trainer: AnswerTrainer, dev: list[Example]) -> dict[str, Any]:
    """Return the content of metrics/train.json.

    The figures are those of the run, of the last training loss, of dev at the kept checkpoint, and
    of convergence.
    """
    history = trainer.state.log_history
    last = [line for line in history if "train_loss_nats" in line][-1]
    kept = _kept_evaluation(trainer)
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
        "dev": _dev_figures(kept, trainer.eval_dataset["labels"], dev),
        "convergence": converge(history),
    }


def _kept_evaluation(trainer: AnswerTrainer) -> LogLine:
    """Return the log line of the evaluation whose checkpoint is kept."""
    evaluations: list[LogLine] = [
        line for line in trainer.state.log_history if "eval_loss_nats" in line
    ]
    if trainer.args.load_best_model_at_end:
        return min(evaluations, key=lambda line: line["eval_loss_nats"])
    return evaluations[-1]


def _dev_figures(kept: LogLine, labels: list[list[int]], dev: list[Example]) -> dict[str, Any]:
    """Return the figures of the dev split at the kept checkpoint."""
    tokens = sum(map(_count_supervised, labels))
    loss = float(kept["eval_loss_nats"])
    bits = loss * tokens / math.log(2)
    answers = [turn.answer for example in dev for turn in example.turns]
    return {
        "items": len(dev),
        "tokens": tokens,
        "loss_nats": loss,
        "perplexity": math.exp(loss),
        "bits_per_token": loss / math.log(2),
        "bits_per_character": bits / sum(map(len, answers)),
        "bits_per_byte": bits / sum(len(answer.encode()) for answer in answers),
        "token_accuracy": kept["eval_token_accuracy"],
    }


def _count_supervised(labels: list[int]) -> int:
    """Return the number of supervised tokens of a row."""
    return sum(label != -100 for label in labels)


def converge(history: list[LogLine]) -> dict[str, Any]:
    """Return the convergence figures of the trainer's log.

    docs/metrics.md defines each figure. Means are taken over thirds of the run, since the loss of a
    single step is the loss of one batch.
    """
    train = [line["train_loss_nats"] for line in history if "train_loss_nats" in line]
    dev = [line["eval_loss_nats"] for line in history if "eval_loss_nats" in line]
    third = max(1, len(train) // 3)
    first = _mean(train[:third])
    middle = _mean(train[-2 * third : -third] or train[:third])
    last = _mean(train[-third:])
    above_best = dev[-1] - min(dev)
    return {
        "train_perplexity_first_third": math.exp(first),
        "train_perplexity_last_third": math.exp(last),
        "train_perplexity_reduction": 1 - math.exp(last - first),
        "train_bits_per_token_change_last_third": (last - middle) / math.log(2),
        "dev_perplexity_reduction": 1 - math.exp(dev[-1] - dev[0]),
        "dev_minus_train_loss_nats": dev[-1] - last,
        "dev_above_best_loss_nats": above_best,
        "overfitted": above_best > OVERFIT_NATS,
    }


def _mean(values: list[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def template_figures(
    tokenizer: PreTrainedTokenizerBase, rows: Dataset, examples: list[Example]
) -> dict[str, Any]:
    """Return token counts of the training rows after the chat template.

    The figures are counted on the ids that are trained on. Raise UserError if the rows are unfit
    for training.
    """
    inputs = list(rows["input_ids"])
    labels = list(rows["labels"])
    end_ids = end_token_ids(tokenizer)
    supervised = [_count_supervised(row) for row in labels]
    bos_counts = {_count_leading(row, tokenizer.bos_token_id) for row in inputs}
    truncated = [
        not _contains_answers(tokenizer, row, example)
        for row, example in zip(labels, examples, strict=True)
    ]
    figures = {
        "rows": len(inputs),
        "sample_sha256": sha256_values(tokenizer.decode(inputs[0])),
        "bos_tokens_at_start": max(bos_counts),
        "supervised_share": sum(supervised) / sum(map(len, inputs)),
        "shared_tokens": _count_shared(inputs),
        "end_of_turn_supervised": all(_ends_turns(row, end_ids) for row in labels),
        "rows_truncated": sum(truncated),
        "rows_without_supervised_token": supervised.count(0),
        "pad_is_end_of_turn": tokenizer.pad_token_id == tokenizer.eos_token_id,
    }
    _refuse_unsupervised_rows(figures)
    if tokenizer.bos_token_id is not None:
        _refuse_bos_counts(bos_counts)
    return figures


def _count_shared(rows: list[list[int]]) -> int:
    """Return the number of tokens with which every row begins."""
    # Tokens that the first and the last row in sorted order share are shared by all between them.
    first = min(rows)
    last = max(rows)
    for place, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return place
    return len(first)


def _refuse_unsupervised_rows(figures: dict[str, Any]) -> None:
    """Raise a UserError if a row lacks supervised tokens or end-of-turn."""
    unfit = (
        figures["rows_without_supervised_token"],
        figures["rows_truncated"],
        not figures["end_of_turn_supervised"],
        figures["pad_is_end_of_turn"],
    )
    if any(unfit):
        what = f"some rows lack supervised answer tokens or the end-of-turn token: {figures}"
        raise UserError(TEMPLATE, what, TEMPLATE_FIX)


def _refuse_bos_counts(counts: set[int]) -> None:
    """Raise a UserError unless each row starts with exactly one BOS token.

    Some templates (ChatML's) open every message with the token that the tokenizer calls BOS, so
    only the tokens at the start of the row are counted.
    """
    if counts == {1}:
        return
    if len(counts) > 1:
        what = f"the number of BOS tokens at the start differs between rows: {sorted(counts)}"
    elif counts == {0}:
        what = "rows start without the tokenizer's BOS token, which the model was trained with"
    else:
        what = f"rows start with {max(counts)} BOS tokens; a second one costs accuracy everywhere"
    raise UserError(TEMPLATE, what, TEMPLATE_FIX)


def _supervised_spans(labels: list[int]) -> list[list[int]]:
    """Return the runs of supervised labels, one per answer."""
    runs = groupby(labels, key=lambda label: label != -100)
    return [list(run) for is_supervised, run in runs if is_supervised]


def _ends_turns(labels: list[int], end_ids: list[int]) -> bool:
    """Return whether the row and each answer end with a supervised end-of-turn token."""
    lasts = [span[-1] for span in _supervised_spans(labels)]
    return all(last in end_ids for last in [*lasts, labels[-1]])


def _contains_answers(
    tokenizer: PreTrainedTokenizerBase, labels: list[int], example: Example
) -> bool:
    """Return whether the supervised tokens of a row are its complete answers."""
    texts = []
    for span in _supervised_spans(labels):
        text = tokenizer.decode(span, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        texts.append(str(text).strip())
    return texts == [turn.answer for turn in example.turns]


def _count_leading(row: list[int], token: int | None) -> int:
    """Return how many times a row repeats a token at its start."""
    return next((place for place, found in enumerate(row) if found != token), len(row))


def save_trained(
    trainer: AnswerTrainer, base: Base, documents: Documents, path: Path | None
) -> None:
    """Write the adapter and its documents to `path`.

    Every process calls this function, since shards are gathered, and the process with a path
    writes.
    """
    weights = None
    if trainer.is_fsdp_enabled:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if path is not None:
        save_adapter(trainer.model, base, documents, path, weights)


def write_figures(
    history: list[LogLine],
    summary: dict[str, Any],
    template: dict[str, Any],
    seconds: float,
    metrics: Path,
    plots: Path,
) -> None:
    """Write the metrics, the speed and the curves of the run."""
    write_metrics(metrics / "train.json", summary)
    write_metrics(metrics / "template.json", template)
    rates = [line["tokens_per_second"] for line in history if "tokens_per_second" in line]
    speed: dict[str, float | str] = {
        "processor": processor(),
        "seconds": seconds,
        "tokens_per_second": median(rates),
        "peak_memory_gb": peak_memory_gb(),
    }
    write_metrics(metrics / "speed/train.json", speed)
    for name, points in curves(history).items():
        write_plot(plots / f"{name}.json", thin(points))
