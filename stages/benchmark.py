"""Score one variant on multiple-choice and completion tasks with lm-eval, in process, keeping one row an item.

The tasks of tasks/ read the items that ingest pinned; params.yaml may name lm-eval's own tasks, and one of
three backends, instead.

    python -m stages.benchmark base
"""

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

# Before lm-eval imports datasets, which reads it once: the copy that it makes of local files is of no use to the next run
# and could be stale. It goes when this process ends.
CACHE = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = CACHE.name
# No task of lm-eval has a name that begins so.
PREFIX = "bula_"
# Tasks of lm-eval 0.4.13 whose code was read: it runs nothing that it fetches and calls no server. Others of its
# 15,000 load code from the hub (humaneval, mbpp, meddialog) or send a key to an API (pisa, realtoxicityprompts).
REVIEWED = (
    *("arc_challenge", "arc_easy", "boolq", "hellaswag", "medmcqa"),
    *("medqa_4options", "piqa", "pubmedqa", "squad_completion"),
)

import aiohttp
import typer
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tenacity import RetryError

from bula.api_keys import key_for
from bula.errors import UserError, run_stage
from bula.hardware import device, precision_settings, seed_everything
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import ApiBackend, Backend, Params, VllmBackend, load_params, variant_of
from bula.privacy import find_personal_data, redact
from bula.prompts import DATE, SYSTEM_PROMPT
from bula.records import Row, write_rows
from bula.reports import write_metrics
from bula.stats import standard_error


def backend(model: Path, params: Params) -> dict[str, Any]:
    """Return simple_evaluate's arguments that name the model.

    Every argument is chosen here, so that no string of params.yaml names another model or lets one run code.
    """
    found = params.benchmark.backend
    if found.kind == "hf":
        return hf_backend(model, params)
    if model.suffix == ".gguf":
        what = f"benchmark.backend {found.kind} cannot score the GGUF file {model}"
        raise UserError("params.yaml", what, "set benchmark.backend to {kind: hf}")
    # The tokenizer is checked as everywhere else before another library opens it.
    load_tokenizer(model)
    if found.kind == "vllm":
        return {"model": "vllm", "model_args": vllm_arguments(model, params, found)}
    return {"model": "local-completions", "model_args": api_arguments(model, params, found)}


def vllm_arguments(model: Path, params: Params, found: VllmBackend) -> dict[str, Any]:
    """Return the arguments of lm-eval's vLLM model."""
    fixed = {"pretrained": str(model), "dtype": params.dtype, "seed": params.sampling_seed}
    return {**fixed, "trust_remote_code": False, **found.model_dump(exclude={"kind"})}


def api_arguments(model: Path, params: Params, found: ApiBackend) -> dict[str, Any]:
    """Return the arguments of lm-eval's client of an OpenAI-compatible server.

    lm-eval takes the key from the environment, which is given the one that this host may receive.
    """
    os.environ["OPENAI_API_KEY"] = key_for(found.base_url)
    return {
        "model": found.model,
        "base_url": f"{found.base_url.rstrip('/')}/completions",
        "tokenizer": str(model),
        "tokenizer_backend": "huggingface",
        "trust_remote_code": False,
        "num_concurrent": found.num_concurrent,
        "timeout": found.timeout_seconds,
        "seed": params.sampling_seed,
    }


def hf_backend(model: Path, params: Params) -> dict[str, Any]:
    """Return simple_evaluate's arguments for a model that this process loads."""
    settings = params.benchmark
    loaded, tokenizer = load_model(model, params.dtype), load_tokenizer(model)
    # lm-eval leaves the end to the model's own settings, and a GGUF file keeps one token of the three of Llama 3.
    loaded.generation_config.eos_token_id = end_token_ids(tokenizer)
    served = HFLM(
        pretrained=loaded,
        tokenizer=tokenizer,
        batch_size=settings.batch_size,
        device=device(),
        # Else a chat template that writes the date takes today's.
        chat_template_args={"date_string": DATE},
    )
    return {"model": served}


def find_tasks(folder: Path, names: list[str]) -> TaskManager:
    """Return lm-eval's manager of tasks; UserError for an unknown name, or one taken from lm-eval.

    lm-eval's own 15,000 names take seconds to read, so they are read only where one can be meant.
    """
    own = TaskManager(include_path=str(folder), include_defaults=False)
    unknown = sorted(set(names) - set(own.all_tasks) - set(REVIEWED))
    if unknown:
        what = f"benchmark.tasks has {', '.join(unknown)}, which is no task of {folder}/ and not reviewed"
        fix = f"name tasks of {folder}/ or {', '.join(REVIEWED)}; read the code of another one and copy it to {folder}/"
        raise UserError("params.yaml", what, fix)
    foreign = {name for name in own.all_tasks if not name.startswith(PREFIX)}
    if set(names) <= set(own.all_tasks) and not foreign:
        return own
    shadowed = sorted(foreign and foreign & set(TaskManager().all_tasks))
    if shadowed:
        what = f"{', '.join(shadowed)} is a task of lm-eval, which this one would replace"
        raise UserError(folder, what, f"rename it, such as {PREFIX}{shadowed[0]}")
    return TaskManager(include_path=str(folder))


def evaluate(model: Path, tasks: Path, params: Params) -> dict[str, list[dict[str, Any]]]:
    """Return lm-eval's logged samples by task, zero-shot; UserError names a task that does not exist."""
    settings = params.benchmark
    manager = find_tasks(tasks, settings.tasks)
    with server_errors(settings.backend):
        result = run_tasks(model, manager, params)
    return dict(result["samples"])


@contextmanager
def server_errors(backend: Backend) -> Iterator[None]:
    """Turn the failure of an OpenAI-compatible server into a UserError without the server's words.

    lm-eval logs a server's replies as they are, so its log is switched off: a reply may repeat the key.
    """
    if backend.kind != "openai":
        yield
        return
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL + 1)
    try:
        yield
    except (OSError, aiohttp.ClientError, RetryError, LookupError, TypeError, ValueError) as error:
        what = f"a request failed, or its reply has another form ({type(error).__name__})"
        fix = "see that it serves this model with echoed log-probabilities (`echo`, `logprobs`)"
        raise UserError(f"the server at {backend.base_url}", what, fix) from None


def run_tasks(model: Path, manager: TaskManager, params: Params) -> dict[str, Any]:
    """Return lm-eval's results of all tasks."""
    settings = params.benchmark
    found: dict[str, Any] = simple_evaluate(
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
        random_seed=params.sampling_seed,
        numpy_random_seed=params.sampling_seed,
        torch_random_seed=params.sampling_seed,
        fewshot_random_seed=params.sampling_seed,
    )
    return found


def number(task: str, metric: str, value: object) -> float:
    """Return an item's score; UserError for metrics that are no mean over items (F1 over a corpus, perplexity)."""
    if not isinstance(value, int | float):
        what = f"task {task} has metric {metric}, which has no number for each item"
        raise UserError("params.yaml", what, "take the task out of benchmark.tasks")
    return float(value)


def choose(sample: dict[str, Any]) -> str:
    """What the model answered: the likeliest option's number, or the generated text, without personal data (it was scored with it)."""
    responses = sample["filtered_resps"]
    if isinstance(responses[0], str):
        text = str(responses[0]).strip()
        return redact(text, find_personal_data(text))
    scores = [float(response[0]) for response in responses]
    return str(scores.index(max(scores)))


def to_rows(samples: dict[str, list[dict[str, Any]]], variant: str) -> list[Row]:
    """One row an item: task, the item's number, target, answer, and its score under each metric."""
    rows = []
    for task, items in samples.items():
        # A task with several filters logs an item once for each; the first is lm-eval's own headline.
        first = items[0]["filter"]
        for sample in sorted(
            (item for item in items if item["filter"] == first), key=lambda item: item["doc_id"]
        ):
            scores = {name: number(task, name, sample[name]) for name in sample["metrics"]}
            fixed = {
                "task": task,
                "item": int(sample["doc_id"]),
                "variant": variant,
                "document": sample["doc_hash"][:16],
            }
            rows.append(
                fixed
                | {"target": str(sample["target"]), "answer": choose(sample), "scores": scores}
            )
    return rows


def summarise(rows: list[Row], params: Params) -> dict[str, dict[str, Any]]:
    """Mean and standard error of each metric by task, how often the commonest answer was given, and the settings that move scores."""
    settings = params.benchmark
    told: dict[str, Any] = {
        "lm_eval": version("lm_eval"),
        "backend": settings.backend.kind,
        "batch_size": settings.batch_size,
    }
    told |= {"chat_template": settings.chat_template, "shots": 0}
    if settings.backend.kind == "hf":
        # A server has a precision of its own.
        told |= precision_settings(params.dtype)
    metrics: dict[str, dict[str, Any]] = {"settings": told}
    for task in dict.fromkeys(row["task"] for row in rows):
        scores = [row["scores"] for row in rows if row["task"] == task]
        given = Counter(row["answer"] for row in rows if row["task"] == task)
        metrics[task] = {
            "items": len(scores),
            "commonest_answer_share": max(given.values()) / len(scores),
        }
        for name in scores[0]:
            values = [score[name] for score in scores]
            metrics[task] |= {
                name: sum(values) / len(values),
                f"{name}_stderr": standard_error(values),
            }
    return metrics


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    tasks: Annotated[Path, typer.Option(help="Folder of task definitions.")] = Path("tasks"),
    out: Annotated[Path, typer.Option(help="Folder for the row of each item.")] = Path(
        "data/samples"
    ),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/benchmark"),
) -> None:
    """Run the benchmarks."""
    params = load_params()
    seed_everything(params.sampling_seed)
    model = Path(variant_of(params, variant).model)
    rows = to_rows(evaluate(model, tasks, params), variant)
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", summarise(rows, params))
    print(f"benchmark: {len(rows)} items of {variant} in {out / variant}.jsonl")


if __name__ == "__main__":
    run_stage(main)
