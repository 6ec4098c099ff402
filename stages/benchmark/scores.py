"""Score items with lm-eval, and compute rows and figures."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bula.errors import UserError
from bula.hardware import precision_settings
from bula.params import Params
from bula.privacy import find_personal_data, redact
from bula.prompts import SYSTEM_PROMPT
from bula.records import Row
from bula.stats import clustered_standard_error
from stages.benchmark.items import Items, draw_items

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

# One item as lm-eval logs it.
Sample = dict[str, Any]


def run_tasks(
    served: dict[str, Any],
    tasks: dict[str, Task],
    items: Items,
    manager: TaskManager,
    params: Params,
) -> dict[str, list[Sample]]:
    """Return lm-eval's logged samples of each task over the drawn items, zero-shot."""
    from lm_eval import simple_evaluate

    settings = params.benchmark
    drawn = {}
    for name, members in items.items():
        drawn[name] = draw_items(len(members), settings.limit_of(name), params.sampling_seed)
    results: dict[str, Any] = simple_evaluate(
        **served,
        tasks=list(tasks.values()),
        task_manager=manager,
        num_fewshot=0,
        batch_size=settings.batch_size,
        samples=drawn,
        apply_chat_template=settings.chat_template,
        # A chat starts as in training; plain text has no system prompt.
        system_instruction=SYSTEM_PROMPT if settings.chat_template else None,
        bootstrap_iters=0,
        random_seed=params.sampling_seed,
        numpy_random_seed=params.sampling_seed,
        torch_random_seed=params.sampling_seed,
        fewshot_random_seed=params.sampling_seed,
    )
    samples: dict[str, list[Sample]] = results["samples"]
    return samples


def item_score(task: str, metric: str, value: object) -> float:
    """Return an item's score under one metric.

    Raise UserError if the task's own code returned no number for the item.
    """
    if not isinstance(value, int | float):
        what = f"task {task} has metric {metric}, which has no number for each item"
        raise UserError("params.yaml", what, "remove the task from benchmark.tasks")
    return float(value)


def answer_of(sample: Sample) -> str:
    """Return the answer of the model: an option's number or a text.

    The option has the highest value. Personal data in a text is redacted, after it was scored.
    """
    if has_options(sample):
        values = option_values(sample)
        return str(values.index(max(values)))
    text = str(sample["filtered_resps"][0]).strip()
    return redact(text, find_personal_data(text))


def has_options(sample: Sample) -> bool:
    """Return whether the item is multiple choice; other tasks log texts."""
    return not isinstance(sample["filtered_resps"][0], str)


def option_values(sample: Sample) -> list[float]:
    """Return the value by which the task's first metric ranks each option.

    The value is the log-likelihood. For acc_norm it is divided by the characters of the option.
    """
    values = loglikelihoods(sample)
    if sample["metrics"][0] != "acc_norm":
        return values
    # lm-eval puts a space between prompt and option, which is no part of the option.
    options = [option.removeprefix(" ") for _, option in sample["arguments"]]
    return [value / len(option) for value, option in zip(values, options, strict=True)]


def loglikelihoods(sample: Sample) -> list[float]:
    """Return the log-likelihood of each option, in nats."""
    return [float(response[0]) for response in sample["filtered_resps"]]


def to_rows(samples: dict[str, list[Sample]], items: Items, variant: str) -> list[Row]:
    """Return one row per item, in the order of the tasks and their items."""
    rows = []
    for task, logged in samples.items():
        # lm-eval logs an item once per filter of its task, and reports the first filter's scores.
        first = logged[0]["filter"]
        chosen = [sample for sample in logged if sample["filter"] == first]
        for sample in sorted(chosen, key=lambda sample: sample["doc_id"]):
            rows.append(to_row(task, sample, items, variant))
    return rows


def to_row(task: str, sample: Sample, items: Items, variant: str) -> Row:
    """Return the row of one item, with its target, answer and scores.

    A multiple-choice item also has its number of options and the log-likelihood of each option. An
    item of a slice or a group has its name.
    """
    index = int(sample["doc_id"])
    item = items[task][index]
    row: Row = {
        "task": task,
        "item": index,
        "variant": variant,
        "document": item.document,
        "target": str(sample["target"]),
        "answer": answer_of(sample),
        "scores": item_scores(task, sample),
    }
    if has_options(sample):
        row["options"] = len(sample["filtered_resps"])
        row["loglikelihoods"] = loglikelihoods(sample)
    if item.slice:
        row["slice"] = item.slice
    if item.group:
        row["group"] = item.group
    return row


def item_scores(task: str, sample: Sample) -> dict[str, float]:
    """Return the scores of one item, by metric."""
    return {name: item_score(task, name, sample[name]) for name in sample["metrics"]}


def summarise(rows: list[Row], params: Params) -> dict[str, dict[str, Any]]:
    """Return the figures of each task and slice, and the settings that change scores."""
    metrics: dict[str, dict[str, Any]] = {"settings": score_settings(params)}
    for name, members in group_rows(rows).items():
        metrics[name] = summarise_task(members)
    return metrics


def group_rows(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of each task and of each TASK_SLICE."""
    tasks: dict[str, list[Row]] = {}
    slices: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
        if "slice" in row:
            slices.setdefault(f"{row['task']}_{row['slice']}", []).append(row)
    return tasks | slices


def summarise_task(rows: list[Row]) -> dict[str, int | float]:
    """Return the mean and standard error of each metric of one task.

    Groups of items are the clusters of the standard error. `commonest_answer_share` is 1 if the
    model returned the same answer for every item. For multiple choice, `constant_answer_share` is
    the same share over the indexes of the options.
    """
    answers = Counter(row["answer"] for row in rows)
    commonest = max(answers.values()) / len(rows)
    figures: dict[str, int | float] = {"items": len(rows), "commonest_answer_share": commonest}
    if "options" in rows[0]:
        figures["constant_answer_share"] = commonest
    groups = [row.get("group", str(place)) for place, row in enumerate(rows)]
    if any("group" in row for row in rows):
        figures["groups"] = len(set(groups))
    for name in rows[0]["scores"]:
        values = [row["scores"][name] for row in rows]
        figures[name] = sum(values) / len(values)
        figures[f"{name}_stderr"] = clustered_standard_error(values, groups)
    return figures


def score_settings(params: Params) -> dict[str, str | int | bool]:
    """Return the settings that change scores."""
    chosen = params.benchmark
    settings: dict[str, str | int | bool] = {
        "lm_eval": version("lm_eval"),
        "backend": chosen.backend.kind,
        "batch_size": chosen.batch_size,
        "chat_template": chosen.chat_template,
        "shots": 0,
    }
    if chosen.backend.kind == "hf":
        # The other backends choose their precision themselves.
        settings |= precision_settings(params.dtype)
    return settings
