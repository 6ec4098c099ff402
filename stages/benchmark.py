"""Score one variant on multiple-choice and completion tasks with lm-eval, in process, keeping one row an item.

The tasks of tasks/ read the items that ingest pinned; params.yaml may name lm-eval's own tasks and backends instead.

    python -m stages.benchmark base models/base
"""

import os
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

# Before lm-eval imports datasets, which reads it once: the copy that it makes of local files is of no use to the next run
# and could be stale. It goes when this process ends.
CACHE = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = CACHE.name

import typer
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from bula.models import device, end_tokens, load_model, load_tokenizer, precisions, prepare
from bula.params import Params, load_params
from bula.privacy import find, redact
from bula.prompts import DATE, SYSTEM_PROMPT
from bula.records import Row, write_rows
from bula.reports import write_metrics
from bula.stats import standard_error


def backend(model: Path, params: Params) -> dict[str, Any]:
    """Arguments of simple_evaluate that name the model: an object for hf, lm-eval's own loading for other backends."""
    settings = params.benchmark
    if settings.backend != "hf":
        return {"model": settings.backend, "model_args": {"pretrained": str(model), **settings.backend_args}}
    loaded, tokenizer = load_model(model, params.dtype), load_tokenizer(model)
    # lm-eval leaves the end to the model's own settings, and a GGUF file keeps one token of the three of Llama 3.
    loaded.generation_config.eos_token_id = end_tokens(tokenizer)
    # Else a chat template that writes the date takes today's.
    date = {"date_string": DATE}
    return {"model": HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=settings.batch_size, device=device(), chat_template_args=date)}


def evaluate(model: Path, tasks: Path, params: Params) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's logged samples by task, zero-shot; ValueError names a task that does not exist."""
    settings = params.benchmark
    manager = TaskManager(include_path=str(tasks))
    unknown = sorted(set(settings.tasks) - set(manager.all_tasks))
    if unknown:
        raise ValueError(f"no task named {', '.join(unknown)} in {tasks} or lm-eval {version('lm_eval')}; correct benchmark.tasks")
    result = simple_evaluate(
        **backend(model, params),
        tasks=list(settings.tasks),
        task_manager=manager,
        num_fewshot=0,
        batch_size=settings.batch_size,
        limit=settings.limit or None,
        apply_chat_template=settings.chat_template,
        # A chat opens as it did in training; plain text has no place for it.
        system_instruction=SYSTEM_PROMPT if settings.chat_template else None,
        bootstrap_iters=0,
        random_seed=params.seed,
        numpy_random_seed=params.seed,
        torch_random_seed=params.seed,
        fewshot_random_seed=params.seed,
    )
    return dict(result["samples"])


def number(task: str, metric: str, value: object) -> float:
    """An item's score; ValueError for metrics that are no mean over items (F1 over a corpus, perplexity)."""
    if not isinstance(value, int | float):
        raise ValueError(f"task {task} has metric {metric}, which gives no number for each item; choose another task")
    return float(value)


def choose(sample: dict[str, Any]) -> str:
    """What the model answered: the likeliest option's number, or the generated text, without personal data (it was scored with it)."""
    responses = sample["filtered_resps"]
    if isinstance(responses[0], str):
        text = str(responses[0]).strip()
        return redact(text, find(text))
    scores = [float(response[0]) for response in responses]
    return str(scores.index(max(scores)))


def to_rows(samples: dict[str, list[dict[str, Any]]], variant: str) -> list[Row]:
    """One row an item: task, the item's number, target, answer, and its score under each metric."""
    rows = []
    for task, items in samples.items():
        # A task with several filters logs an item once for each; the first is lm-eval's own headline.
        first = items[0]["filter"]
        for sample in sorted((item for item in items if item["filter"] == first), key=lambda item: item["doc_id"]):
            scores = {name: number(task, name, sample[name]) for name in sample["metrics"]}
            fixed = {"task": task, "item": int(sample["doc_id"]), "variant": variant, "document": sample["doc_hash"][:16]}
            rows.append(fixed | {"target": str(sample["target"]), "answer": choose(sample), "scores": scores})
    return rows


def summarise(rows: list[Row], params: Params) -> dict[str, dict[str, Any]]:
    """Mean and standard error of each metric by task, how often the commonest answer was given, and the settings that move scores."""
    settings = params.benchmark
    run: dict[str, Any] = {"lm_eval": version("lm_eval"), "backend": settings.backend, "batch_size": settings.batch_size}
    run |= {"chat_template": settings.chat_template, "shots": 0}
    if settings.backend == "hf":
        # lm-eval's other backends take their precision from backend_args.
        run |= precisions(params.dtype)
    metrics: dict[str, dict[str, Any]] = {"settings": run}
    for task in dict.fromkeys(row["task"] for row in rows):
        scores = [row["scores"] for row in rows if row["task"] == task]
        given = Counter(row["answer"] for row in rows if row["task"] == task)
        metrics[task] = {"items": len(scores), "commonest_answer_share": max(given.values()) / len(scores)}
        for name in scores[0]:
            values = [score[name] for score in scores]
            metrics[task] |= {name: sum(values) / len(values), f"{name}_stderr": standard_error(values)}
    return metrics


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    model: Annotated[Path, typer.Argument(help="Its model directory or GGUF file.")],
    tasks: Annotated[Path, typer.Option(help="Folder of task definitions.")] = Path("tasks"),
    out: Annotated[Path, typer.Option(help="Folder for the row of each item.")] = Path("data/samples"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/benchmark"),
) -> None:
    """Run the benchmarks."""
    params = load_params()
    prepare(params.seed)
    try:
        rows = to_rows(evaluate(model, tasks, params), variant)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", summarise(rows, params))
    print(f"benchmark: {len(rows)} items of {variant} in {out / variant}.jsonl")


if __name__ == "__main__":
    typer.run(main)
