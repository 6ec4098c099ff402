"""Score one variant on benchmark tasks with lm-eval.

lm-eval runs in this process. The tasks in tasks/ read the items that ingest pinned. params.yaml may
name reviewed tasks of lm-eval instead, and one of three backends. The stage writes one row per
item.

    python -m stages.benchmark base
"""

import logging
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import aiohttp
import datasets
import typer
from lm_eval import simple_evaluate
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import load_yaml
from lm_eval.tasks.squad_completion.task import SQUADCompletion
from tenacity import RetryError

from bula.api_keys import key_for
from bula.errors import UserError, run_stage
from bula.hardware import device, precision_settings, prepare_device, seed_everything
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import ApiBackend, Backend, Params, VllmBackend, load_params, variant_of
from bula.privacy import find_personal_data, redact
from bula.prompts import DATE, SYSTEM_PROMPT
from bula.records import Row, write_rows
from bula.reports import write_metrics
from bula.serving import Endpoint, VllmSettings, serve_vllm
from bula.stats import standard_error

# The names of this project's tasks start with this prefix, and no task of lm-eval does.
PREFIX = "bula_"
# The code of these tasks of lm-eval 0.4.13 was read: it runs no downloaded code, calls no server.
# Some of the other 15,000 tasks load code from the hub (humaneval, mbpp, meddialog) or send a key
# to an API (pisa, realtoxicityprompts).
REVIEWED = (
    "arc_challenge",
    "arc_easy",
    "boolq",
    "hellaswag",
    "medmcqa",
    "medqa_4options",
    "piqa",
    "pubmedqa",
    "squad_completion",
)
# What aiohttp, tenacity and lm-eval raise over a request that failed or a reply of another shape.
SERVER_ERRORS = (
    OSError,
    aiohttp.ClientError,
    RetryError,
    LookupError,
    TypeError,
    ValueError,
)
# Longest time of one request to the stage's own server.
REQUEST_SECONDS = 600
# The name of a slice: it becomes part of the name of a figure.
SLICE = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Where ingest writes the items of benchmarks.
ITEMS = "data/benchmarks"
# What datasets raises if a data set cannot be fetched.
FETCH_ERRORS = (OSError, ValueError, datasets.exceptions.DatasetsError)
# One item as lm-eval logs it.
Sample = dict[str, Any]


class Scored(NamedTuple):
    """The result of lm-eval."""

    samples: dict[str, list[Sample]]
    """Logged items per task."""
    facts: dict[str, str | int]
    """Version of each task, and whether ingest pinned its items."""


@contextmanager
def backend(model: Path, params: Params) -> Iterator[dict[str, Any]]:
    """Yield the arguments of simple_evaluate that name the model.

    All arguments are chosen here, so that no text of params.yaml can name another model or make
    lm-eval run code.
    """
    chosen = params.benchmark.backend
    if chosen.kind == "hf":
        yield hf_backend(model, params)
        return
    if chosen.kind == "openai":
        yield {"model": "local-completions", "model_args": api_arguments(model, params, chosen)}
        return
    with serve_vllm(model, vllm_settings(params, chosen)) as [endpoint, *_]:
        end_ids = end_token_ids(load_tokenizer(model))
        yield {
            "model": "local-completions",
            "model_args": vllm_arguments(model, params, chosen, endpoint),
            "gen_kwargs": {"stop_token_ids": end_ids},
        }


def refuse_gguf_file(model: Path, chosen: Backend) -> None:
    """Raise UserError if the backend cannot read a GGUF file."""
    if chosen.kind != "hf" and model.suffix == ".gguf":
        what = f"benchmark.backend {chosen.kind} cannot score the GGUF file {model}"
        raise UserError("params.yaml", what, "set benchmark.backend to {kind: hf}")


def completions_arguments(model: Path, params: Params) -> dict[str, Any]:
    """Return the arguments of lm-eval's client that do not depend on the server.

    The prompt is tokenized here, as the hf backend does it: with the BOS token that the tokenizer
    adds by itself. A chat template writes its own.
    """
    # Loading checks the tokenizer's files before lm-eval opens them.
    tokenizer = load_tokenizer(model)
    adds_bos = tokenizer.bos_token_id in tokenizer("")["input_ids"]
    return {
        "tokenizer": str(model),
        "tokenizer_backend": "huggingface",
        "add_bos_token": adds_bos and not params.benchmark.chat_template,
        "trust_remote_code": False,
        "seed": params.sampling_seed,
    }


def vllm_settings(params: Params, chosen: VllmBackend) -> VllmSettings:
    """Return the settings of the vLLM server that scores."""
    return VllmSettings(
        parallel=params.benchmark.batch_size,
        context_tokens=chosen.max_model_len,
        dtype=params.dtype,
        seed=params.sampling_seed,
        gpu_memory_share=chosen.gpu_memory_utilization,
        gpus=chosen.tensor_parallel_size,
    )


def vllm_arguments(
    model: Path, params: Params, chosen: VllmBackend, endpoint: Endpoint
) -> dict[str, Any]:
    """Return the arguments of lm-eval's client of the vLLM server."""
    return {
        **completions_arguments(model, params),
        "model": model.name,
        "base_url": f"{endpoint.url}/completions",
        "header": {"Authorization": f"Bearer {endpoint.key}"},
        "max_length": chosen.max_model_len,
        # With one request at a time lm-eval uses a client that obeys proxy variables.
        "num_concurrent": 2,
        "timeout": REQUEST_SECONDS,
    }


def api_arguments(model: Path, params: Params, chosen: ApiBackend) -> dict[str, Any]:
    """Return the arguments of lm-eval's client of an OpenAI-compatible server.

    lm-eval reads the key from the environment, so this function sets the key for this host there.
    """
    os.environ["OPENAI_API_KEY"] = key_for(chosen.base_url)
    return {
        **completions_arguments(model, params),
        "model": chosen.model,
        "base_url": f"{chosen.base_url.rstrip('/')}/completions",
        "num_concurrent": chosen.num_concurrent,
        "timeout": chosen.timeout_seconds,
    }


def hf_backend(model: Path, params: Params) -> dict[str, Any]:
    """Return the arguments for a model that this process loads."""
    loaded = load_model(model, params.dtype)
    tokenizer = load_tokenizer(model)
    # lm-eval stops at the end tokens of the model's own settings. A GGUF file stores only one of
    # Llama 3's three.
    loaded.generation_config.eos_token_id = end_token_ids(tokenizer)
    served = HFLM(
        pretrained=loaded,
        tokenizer=tokenizer,
        batch_size=params.benchmark.batch_size,
        device=device(),
        # Without a fixed date, Llama 3.2's chat template writes today's.
        chat_template_args={"date_string": DATE},
    )
    return {"model": served}


def find_tasks(folder: Path, names: list[str]) -> TaskManager:
    """Return lm-eval's task manager for the named tasks.

    The manager reads lm-eval's own 15,000 names, which takes seconds, only if they may be needed.
    Raise UserError if a name is unknown or not reviewed, or if a task in `folder` replaces lm-
    eval's.
    """
    own = TaskManager(include_path=str(folder), include_defaults=False)
    own_names = set(own.all_tasks)
    unknown = sorted(set(names) - own_names - set(REVIEWED))
    if unknown:
        listed = ", ".join(unknown)
        what = f"benchmark.tasks names {listed}, neither in {folder}/ nor a reviewed task"
        use = f"name tasks of {folder}/ or {', '.join(REVIEWED)}"
        copy = f"to use another task, review its code and copy it to {folder}/"
        raise UserError("params.yaml", what, f"{use}; {copy}")
    foreign = {name for name in own_names if not name.startswith(PREFIX)}
    if own_names.issuperset(names) and not foreign:
        return own
    refuse_replacing(foreign, folder)
    return TaskManager(include_path=str(folder))


def refuse_replacing(names: set[str], folder: Path) -> None:
    """Raise a UserError if lm-eval has a task with the same name."""
    if not names:
        return
    replaced = sorted(names.intersection(TaskManager().all_tasks))
    if replaced:
        what = f"{', '.join(replaced)} is a task of lm-eval, which this one would replace"
        raise UserError(folder, what, f"rename it, such as {PREFIX}{replaced[0]}")


def evaluate(model: Path, tasks: Path, params: Params) -> Scored:
    """Return lm-eval's logged samples per task, zero-shot."""
    settings = params.benchmark
    refuse_gguf_file(model, settings.backend)
    manager = find_tasks(tasks, settings.tasks)
    # datasets copies local files into its cache, where a later run could find a stale copy. The
    # folder must exist until all items are scored.
    with tempfile.TemporaryDirectory() as cache:
        loaded = [load_task(name, manager, Path(cache)) for name in settings.tasks]
        with server_errors(settings.backend), backend(model, params) as served:
            result = run_tasks(served, loaded, manager, params)
    return Scored(result["samples"], task_facts(settings.tasks, loaded))


def load_task(name: str, manager: TaskManager, cache: Path) -> Task:
    """Return a task over the items that ingest pinned, if there are such items.

    Pinned items go through an empty cache. Another task of lm-eval fetches its data set, or finds
    it in the user's own cache. Raise UserError if it cannot.
    """
    items = Path(ITEMS) / f"{name}.jsonl"
    if name in REVIEWED and not items.exists():
        return fetch_task(name, manager)
    spec: str | dict[str, Any] = pinned_task(name, items, manager) if name in REVIEWED else name
    usual = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = cache
    try:
        return manager.load([spec])["tasks"][name]
    finally:
        datasets.config.HF_DATASETS_CACHE = usual


def fetch_task(name: str, manager: TaskManager) -> Task:
    """Return a task of lm-eval that fetches its own data set."""
    try:
        return manager.load([name])["tasks"][name]
    except FETCH_ERRORS as error:
        what = f"its data set cannot be fetched ({type(error).__name__}), and no items are pinned"
        fix = f"add an entry with the name {name} to ingest.benchmarks, or check the network"
        raise UserError(f"task {name}", what, fix) from error


def pinned_task(name: str, items: Path, manager: TaskManager) -> dict[str, Any]:
    """Return the configuration of an lm-eval task that reads the pinned items."""
    config: dict[str, Any] = load_yaml(manager.task_index[name].yaml_path, resolve_func=True)
    if "class" in config:
        return config | {"class": squad_over(items)}
    return config | {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(items)}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }


def squad_over(items: Path) -> type[SQUADCompletion]:
    """Return lm-eval's squad_completion over pinned items; its class names a data set."""

    class Pinned(SQUADCompletion):  # type: ignore[misc]
        def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
            files = {"data_files": {"validation": str(items)}}
            self.config.dataset_kwargs = files
            self.dataset = datasets.load_dataset("json", **files)

    return Pinned


def task_facts(names: list[str], tasks: list[Task]) -> dict[str, str | int]:
    """Return each task's version, and 1 if ingest pinned its items."""
    facts: dict[str, str | int] = {}
    for name, task in zip(names, tasks, strict=True):
        files = (task.config.dataset_kwargs or {}).get("data_files") or {"": ""}
        places = [str(file) for file in files.values()]
        facts[f"{name}_version"] = str(task.VERSION)
        facts[f"{name}_pinned"] = int(all(place.startswith(f"{ITEMS}/") for place in places))
    return facts


def draw_items(count: int, limit: int, seed: int) -> list[int]:
    """Return the sorted indexes of `limit` items of `count`, where 0 takes all.

    Tasks over the same items draw the same indexes, and so do all variants.
    """
    if not limit or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))


@contextmanager
def server_errors(chosen: Backend) -> Iterator[None]:
    """Turn a failed request to a server into a UserError.

    The error does not repeat the server's words, which may contain the key. lm-eval logs every
    reply, so its log is switched off.
    """
    if chosen.kind == "hf":
        yield
        return
    where = "the vLLM server"
    fix = "lower benchmark.batch_size if the GPU's memory is full, and run the stage again"
    if chosen.kind == "openai":
        where = f"the server at {chosen.base_url}"
        fix = "check that it serves this model and supports `echo` with `logprobs`"
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL + 1)
    try:
        yield
    except SERVER_ERRORS as error:
        what = f"a request failed, or its reply has another form ({type(error).__name__})"
        raise UserError(where, what, fix) from None


def run_tasks(
    served: dict[str, Any], tasks: list[Task], manager: TaskManager, params: Params
) -> dict[str, Any]:
    """Return lm-eval's results of the tasks over the drawn items."""
    settings = params.benchmark
    drawn = {}
    for name, task in zip(settings.tasks, tasks, strict=True):
        count = len(task.eval_docs)
        drawn[name] = draw_items(count, settings.limit_of(name), params.sampling_seed)
    results: dict[str, Any] = simple_evaluate(
        **served,
        tasks=tasks,
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
    return results


def item_score(task: str, metric: str, value: object) -> float:
    """Return an item's score under one metric.

    Raise UserError if the metric is no mean over items, such as a corpus F1 or perplexity.
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


def slice_of(task: str, sample: Sample) -> str:
    """Return an item's part of the task, or an empty string.

    Raise UserError if the name cannot be part of a figure's name.
    """
    name = str(sample["doc"].get("slice", ""))
    if name and not SLICE.fullmatch(name):
        what = "a `slice` of an item is not of the form lower_case_1"
        raise UserError(f"the items of {task}", what, "rename the slice")
    return name


def to_rows(samples: dict[str, list[Sample]], variant: str) -> list[Row]:
    """Return one row per item, with its target, answer and scores.

    A multiple-choice item also has its number of options and the log-likelihood of each option. An
    item of a slice has the slice.
    """
    rows = []
    for task, items in samples.items():
        # lm-eval logs an item once per filter of its task, and reports the first filter's scores.
        first = items[0]["filter"]
        logged = [item for item in items if item["filter"] == first]
        for sample in sorted(logged, key=lambda item: item["doc_id"]):
            row = {
                "task": task,
                "item": int(sample["doc_id"]),
                "variant": variant,
                "document": sample["doc_hash"][:16],
                "target": str(sample["target"]),
                "answer": answer_of(sample),
                "scores": item_scores(task, sample),
            }
            if has_options(sample):
                row["options"] = len(sample["filtered_resps"])
                row["loglikelihoods"] = loglikelihoods(sample)
            if slice_of(task, sample):
                row["slice"] = slice_of(task, sample)
            rows.append(row)
    return rows


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
    """Return the rows of each task and of each TASK_SLICE.

    Raise UserError if a slice has the name of another task.
    """
    tasks: dict[str, list[Row]] = {}
    slices: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
        if "slice" in row:
            slices.setdefault(f"{row['task']}_{row['slice']}", []).append(row)
    shared = sorted(tasks.keys() & slices.keys())
    if shared:
        what = f"{shared[0]} names a task and a slice of another task"
        raise UserError("params.yaml", what, "rename the slice, or remove one task")
    return tasks | slices


def summarise_task(rows: list[Row]) -> dict[str, int | float]:
    """Return the mean and standard error of each metric of one task.

    `commonest_answer_share` is 1 if the model returned the same answer for every item. For
    multiple choice, `constant_answer_share` is the same share over the indexes of the options.
    """
    answers = Counter(row["answer"] for row in rows)
    commonest = max(answers.values()) / len(rows)
    figures: dict[str, int | float] = {"items": len(rows), "commonest_answer_share": commonest}
    if "options" in rows[0]:
        figures["constant_answer_share"] = commonest
    for name in rows[0]["scores"]:
        values = [row["scores"][name] for row in rows]
        figures[name] = sum(values) / len(values)
        figures[f"{name}_stderr"] = standard_error(values)
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


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    tasks: Annotated[Path, typer.Option(help="Folder of task definitions.")] = Path("tasks"),
    out: Annotated[Path, typer.Option(help="Folder for item scores.")] = Path("data/samples"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/benchmark"),
) -> None:
    """Run the benchmarks."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.sampling_seed)
    model = Path(variant_of(params, variant).model)
    scored = evaluate(model, tasks, params)
    rows = to_rows(scored.samples, variant)
    figures = summarise(rows, params)
    figures["settings"] |= scored.facts
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", figures)
    print(f"benchmark: {len(rows)} items of {variant} in {out / variant}.jsonl")


if __name__ == "__main__":
    run_stage(main, less_memory="lower benchmark.batch_size")
