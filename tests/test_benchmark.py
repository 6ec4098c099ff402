"""Test lm-eval's backends, tasks and rows, and a server that scores like the model itself."""

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import load_yaml
from transformers import AutoTokenizer

from bench.clones import ROOT, Edit, edit_params, small
from bench.llama import save_tokenizer
from bula.errors import UserError
from bula.hardware import compute_dtype
from bula.item_scores import _benchmark_scores, benchmark_groups
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import VllmBackend, load_params
from bula.records import Row, read_rows
from bula.serving import Endpoint, VllmSettings
from bula.task_files import REVIEWED
from stages.benchmark import __main__ as benchmark
from stages.benchmark import backends, reuse
from stages.benchmark.items import draw_items
from stages.benchmark.scores import Sample, answer_of, score_settings, summarise
from stages.benchmark.tasks import PREFIX, find_tasks, load_task, task_facts
from tests.conftest import write_jsonl

# Task and metrics.
METRICS = {
    "bula_medmcqa": ["acc"],
    "bula_medqa_4options": ["acc"],
    "bula_medmcqa_cloze": ["acc_norm"],
    "bula_medqa_4options_cloze": ["acc_norm"],
    "bula_squad_completion": ["contains"],
    "bula_contrast": ["acc", "acc_norm"],
}
# The cloze tasks read the items of the tasks with letters.
ITEMS = [task for task in METRICS if not task.endswith("_cloze")]
LETTER_TASKS = ["bula_medmcqa", "bula_medqa_4options"]
OPTION_TASKS = [task for task in METRICS if task != "bula_squad_completion"]
SLICES = ["negation", "dose", "emergency", "interaction", "population"]
VLLM = {
    "kind": "vllm",
    "gpu_memory_utilization": 0.5,
    "max_model_len": 512,
    "tensor_parallel_size": 1,
}
# Takes the parsed body of a request and returns the body of the reply.
Answer = Callable[[dict[str, Any]], dict[str, Any]]


def openai_backend(url: str) -> dict[str, Any]:
    """Return the parameters of a server that speaks OpenAI's protocol."""
    return {
        "kind": "openai",
        "base_url": url,
        "model": "tiny",
        "num_concurrent": 1,
        "timeout_seconds": 60,
    }


def set_benchmark(**values: Any) -> Edit:
    """Return an edit of the parameters of the benchmark stage."""
    return lambda params: params["benchmark"].update(values)


@contextmanager
def serve(
    answer: Answer, content_type: str = "application/json"
) -> Iterator[tuple[str, list[str | None]]]:
    """Serve POST requests on this machine.

    Yields the address up to /v1, and a list of the Authorization headers of all requests.
    """
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            keys.append(self.headers.get("Authorization"))
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            body = json.dumps(answer(request)).encode()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", keys
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completions_of(path: Path) -> Answer:
    """Return a server's /v1/completions with echoed log-probabilities of a real model."""
    model = load_model(path, "float32")

    @torch.inference_mode()
    def choice(index: int, prompt: list[int]) -> dict[str, Any]:
        logits = model(torch.tensor([prompt])).logits[0]
        log_p = logits.log_softmax(-1)
        # The first token has no probability, and one token is generated after the prompt.
        echoed: list[float | None] = [None]
        for place, token in enumerate(prompt[1:]):
            echoed.append(float(log_p[place, token]))
        best = log_p.max(-1).values.tolist()
        tops = [{"best": value} for value in best]
        return {
            "index": index,
            "text": "",
            "finish_reason": "length",
            "logprobs": {
                "token_logprobs": [*echoed, best[-1]],
                "top_logprobs": [None, *tops],
            },
        }

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        assert request["echo"]
        assert request["logprobs"] == 1
        prompts = request["prompt"]
        choices = [choice(index, prompt) for index, prompt in enumerate(prompts)]
        return {"model": request["model"], "choices": choices}

    return answer


def pin_items(folder: Path) -> None:
    """Write the items of all tasks where ingest would pin them."""
    for task in ITEMS:
        name = task.removeprefix("bula_")
        rows = list(read_rows(ROOT / f"data/demo/benchmarks/{name}.jsonl"))
        write_jsonl(folder / f"data/benchmarks/{task}.jsonl", rows)


def values(rows: list[Row], key: str) -> list[Any]:
    return [row[key] for row in rows]


def rows_of(folder: Path) -> list[Row]:
    return list(read_rows(folder / "data/samples/base.jsonl"))


def metrics_of(folder: Path) -> dict[str, Any]:
    text = (folder / "metrics/benchmark/base.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


@pytest.fixture
def items(workspace: Path, tiny: Path) -> Path:
    """Return the workspace with pinned items and a base model.

    The parameters name the tasks with options, and 2 or 3 items each.
    """
    pin_items(workspace)
    (workspace / "models/base").symlink_to(tiny)

    def edit(params: dict[str, Any]) -> None:
        params["dtype"] = "float32"
        limits = {"bula_contrast": 3}
        params["benchmark"].update(tasks=OPTION_TASKS, limit=2, task_limits=limits)

    edit_params(workspace / "params.yaml", edit)
    return workspace


@pytest.fixture(scope="module")
def scored(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the scores of all tasks."""
    folder = tmp_path_factory.mktemp("scored")
    pin_items(folder)
    shutil.copytree(ROOT / "tasks", folder / "tasks")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    edit_params(folder / "params.yaml", small(tiny))
    (folder / "models").mkdir()
    (folder / "models/base").symlink_to(tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        benchmark.main("base")
    return folder


def test_every_task_has_one_row_per_item(scored: Path) -> None:
    rows = rows_of(scored)
    seed = load_params(scored / "params.yaml").sampling_seed
    expected = []
    for task in METRICS:
        items = list(read_rows(scored / f"data/benchmarks/{task.removesuffix('_cloze')}.jsonl"))
        expected += draw_items(len(items), 4, seed)
    assert values(rows, "item") == expected
    tasks = dict.fromkeys(values(rows, "task"))
    assert list(tasks) == list(METRICS)


@pytest.mark.parametrize(("task", "names"), METRICS.items())
def test_metrics_summarise_the_item_scores(task: str, names: list[str], scored: Path) -> None:
    rows = [row for row in rows_of(scored) if row["task"] == task]
    answers = values(rows, "answer")
    commonest = max(map(answers.count, answers)) / 4
    expected: dict[str, Any] = {"items": 4, "commonest_answer_share": commonest}
    for name in names:
        scores = [row["scores"][name] for row in rows]
        mean = sum(scores) / 4
        # The scores are 0 or 1, so their variance with divisor n - 1 is 4 / 3 * mean * (1 - mean).
        error = math.sqrt(mean * (1 - mean) / 3)
        expected[name] = mean
        expected[f"{name}_stderr"] = pytest.approx(error, rel=1e-5)
    if task == "bula_squad_completion":
        # No two items of the demo share a text.
        expected["groups"] = 4
    if task in OPTION_TASKS:
        expected["constant_answer_share"] = commonest
    assert metrics_of(scored)[task] == expected


@pytest.mark.parametrize("task", OPTION_TASKS)
def test_an_option_scores_one_exactly_if_it_is_the_target(task: str, scored: Path) -> None:
    rows = [row for row in rows_of(scored) if row["task"] == task]
    correct = [float(row["answer"] == row["target"]) for row in rows]
    metric = METRICS[task][0]
    assert [row["scores"][metric] for row in rows] == correct
    options = 2 if task == "bula_contrast" else 4
    assert values(rows, "options") == [options] * 4


def test_rows_of_contrast_pairs_have_their_slice_and_other_rows_have_none(scored: Path) -> None:
    rows = rows_of(scored)
    pairs = list(read_rows(scored / "data/benchmarks/bula_contrast.jsonl"))
    contrast = [row for row in rows if row["task"] == "bula_contrast"]
    assert values(contrast, "slice") == [pairs[row["item"]]["slice"] for row in contrast]
    assert not any("slice" in row for row in rows if row["task"] != "bula_contrast")


def test_a_cloze_task_has_the_items_of_its_letter_task(scored: Path) -> None:
    rows = rows_of(scored)
    for task in LETTER_TASKS:
        letters = [row for row in rows if row["task"] == task]
        cloze = [row for row in rows if row["task"] == f"{task}_cloze"]
        assert values(cloze, "document") == values(letters, "document")
        assert values(cloze, "target") == values(letters, "target")


def task_over(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return lm-eval's object of one task over the pinned items of a folder."""
    monkeypatch.chdir(folder)
    manager = find_tasks(ROOT / "tasks", [name])
    return manager.load([name])["tasks"][name]


def test_the_options_of_a_cloze_task_are_texts_that_the_prompt_lacks(
    scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bula_medmcqa_cloze", "bula_medqa_4options_cloze"):
        task = task_over(scored, name, monkeypatch)
        for item in task.eval_docs:
            options = task.doc_to_choice(item)
            prompt = task.doc_to_text(item)
            assert len(options) == 4
            assert prompt.startswith("Pergunta: ")
            assert prompt.endswith("\nResposta:")
            assert "A." not in prompt
            assert prompt.count("\n") == 1


def test_the_correct_text_of_a_contrast_pair_is_the_target_and_first_in_half_of_them(
    scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_over(scored, "bula_contrast", monkeypatch)
    targets: dict[str, list[int]] = {}
    for pair in task.eval_docs:
        target = task.doc_to_target(pair)
        options = task.doc_to_choice(pair)
        assert options[target] == pair["right"]
        assert options[1 - target] == pair["wrong"]
        assert task.doc_to_text(pair) == f"Pergunta: {pair['question']}\nResposta:"
        targets.setdefault(pair["slice"], []).append(target)
    assert sorted(targets) == sorted(SLICES)
    for found in targets.values():
        assert found.count(0) == found.count(1)


# --- figures by hand ---


def sample(metrics: list[str], values: list[float], options: list[str], **doc: str) -> Sample:
    """Return an item as lm-eval logs it: the first option is correct, and chosen by `metrics`."""
    return {
        "doc_id": 0,
        "doc": doc,
        "doc_hash": "d" * 64,
        "target": 0,
        "filter": "none",
        "arguments": [("Pergunta: x?\nResposta:", f" {option}") for option in options],
        "filtered_resps": [(value, False) for value in values],
        "metrics": metrics,
        **dict.fromkeys(metrics, 1.0),
    }


@pytest.mark.parametrize(
    ("metrics", "answer"),
    [(["acc"], "0"), (["acc", "acc_norm"], "0"), (["acc_norm"], "1")],
)
def test_the_answer_is_the_option_that_the_first_metric_chooses(
    metrics: list[str], answer: str
) -> None:
    # -52 > -55, but -52 / 40 = -1.3 < -55 / 44 = -1.25.
    logged = sample(metrics, [-52.0, -55.0], ["a" * 40, "b" * 44])
    assert answer_of(logged) == answer


def contrast_row(part: str, answer: str, correct: float) -> Row:
    """Return a row of a contrast pair as the stage writes it."""
    return {
        "task": "bula_contrast",
        "slice": part,
        "options": 2,
        "answer": answer,
        "scores": {"acc": correct},
    }


def test_figures_of_slices_by_hand() -> None:
    # The example of docs/metrics.md.
    rows = [
        contrast_row("negation", "0", 1.0),
        contrast_row("negation", "1", 1.0),
        contrast_row("negation", "1", 0.0),
        contrast_row("dose", "0", 1.0),
        contrast_row("dose", "0", 0.0),
    ]
    found = summarise(rows, load_params(ROOT / "profiles/smollm2-135m.yaml"))
    expected = {
        "bula_contrast": (5, 0.6, 0.244949, 0.6),
        "bula_contrast_negation": (3, 2 / 3, 1 / 3, 2 / 3),
        "bula_contrast_dose": (2, 0.5, 0.5, 1.0),
    }
    assert found.keys() == expected.keys() | {"settings"}
    for name, (items, acc, error, share) in expected.items():
        assert found[name] == {
            "items": items,
            "acc": pytest.approx(acc),
            "acc_stderr": pytest.approx(error, rel=1e-5),
            "commonest_answer_share": share,
            "constant_answer_share": share,
        }


def test_task_limits_replace_the_limit_of_single_tasks(items: Path) -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    limits = {task: params.benchmark.limit_of(task) for task in METRICS}
    assert limits == dict.fromkeys(METRICS, 40) | {"bula_contrast": 0}
    benchmark.main("base")
    rows = rows_of(items)
    counts = [values(rows, "task").count(task) for task in OPTION_TASKS]
    assert counts == [2, 2, 2, 2, 3]


def test_drawn_items_are_equal_for_equal_seeds_and_sorted() -> None:
    drawn = draw_items(100, 10, 7)
    assert drawn == draw_items(100, 10, 7) == sorted(set(drawn))
    assert len(drawn) == 10
    assert drawn != list(range(10))
    assert drawn != draw_items(100, 10, 8)


@pytest.mark.parametrize("limit", [0, 3, 4])
def test_a_limit_of_zero_or_beyond_the_items_takes_all(limit: int) -> None:
    assert draw_items(3, limit, 7) == [0, 1, 2]


def test_rows_have_the_log_likelihood_of_each_option(scored: Path) -> None:
    for row in rows_of(scored):
        if row["task"] == "bula_squad_completion":
            assert "loglikelihoods" not in row
            continue
        found = row["loglikelihoods"]
        assert len(found) == row["options"]
        assert max(found) < 0
        if METRICS[row["task"]][0] == "acc":
            assert row["answer"] == str(found.index(max(found)))


def test_metrics_name_version_and_pin_of_each_task(scored: Path) -> None:
    settings = metrics_of(scored)["settings"]
    for task in METRICS:
        assert settings[f"{task}_version"] == "1"
        assert settings[f"{task}_pinned"] == 1


def test_metrics_name_the_settings_that_change_scores(scored: Path) -> None:
    settings = metrics_of(scored)["settings"]
    assert settings["lm_eval"] == "0.4.13"
    assert settings["chat_template"] is False
    assert settings["compute_dtype"] == compute_dtype("bfloat16")


def test_metrics_of_another_backend_name_no_precision() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    vllm = VllmBackend.model_validate(VLLM)
    changed = params.benchmark.model_copy(update={"backend": vllm})
    other = params.model_copy(update={"benchmark": changed})
    settings = score_settings(other)
    assert settings["backend"] == "vllm"
    assert not {"dtype", "compute_dtype"} & settings.keys()


def test_the_benchmark_stops_at_the_end_tokens_of_generate(tiny: Path) -> None:
    # The model's file names one of the two; a directory and its GGUF file may name different ones.
    end_ids = end_token_ids(load_tokenizer(tiny))
    assert len(end_ids) == 2
    with backends.backend(tiny, load_params(ROOT / "profiles/smollm2-135m.yaml")) as backend:
        assert backend["model"].model.generation_config.eos_token_id == end_ids


def test_a_server_scores_like_the_model_and_never_receives_the_key(
    items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark.main("base")
    own = rows_of(items)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY")
    with serve(completions_of(items / "models/base")) as (url, keys):
        edit_params(items / "params.yaml", set_benchmark(backend=openai_backend(url)))
        benchmark.main("base")
    served = rows_of(items)
    assert values(served, "answer") == values(own, "answer")
    assert values(served, "scores") == values(own, "scores")
    assert keys
    assert "CANARY" not in str(keys)
    assert metrics_of(items)["settings"]["backend"] == "openai"


def test_a_host_that_is_not_allowed_is_refused_before_a_request(
    items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY")
    backend = openai_backend("https://api.example.org/v1")
    edit_params(items / "params.yaml", set_benchmark(backend=backend))
    with pytest.raises(UserError, match=r"api\.example\.org"):
        benchmark.main("base")
    assert not (items / "data/samples").exists()


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_a_reply_of_another_form_is_reported_without_the_words_of_the_server(
    content_type: str, items: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(lambda request: {"error": "CANARY \x1b[31m"}, content_type) as (url, _):
        edit_params(items / "params.yaml", set_benchmark(backend=openai_backend(url)))
        with pytest.raises(UserError, match="a request failed, or its reply has another form"):
            benchmark.main("base")
    printed = capfd.readouterr()
    assert "CANARY" not in printed.out + printed.err
    assert not (items / "data/samples").exists()


def test_vllm_serves_the_model_by_the_backends_parameters(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", set_benchmark(backend=VLLM))
    params = load_params()
    chosen = params.benchmark.backend
    assert chosen.kind == "vllm"
    assert backends.vllm_settings(params, chosen) == VllmSettings(
        parallel=16,
        context_tokens=512,
        dtype="bfloat16",
        seed=params.sampling_seed,
        gpu_memory_share=0.5,
        gpus=1,
    )


def test_vllm_scores_like_the_model(items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark.main("base")
    own = rows_of(items)
    started: list[tuple[Path, VllmSettings]] = []

    with serve(completions_of(items / "models/base")) as (url, keys):

        @contextmanager
        def serve_vllm(model: Path, settings: VllmSettings) -> Iterator[list[Endpoint]]:
            started.append((model, settings))
            yield [Endpoint(url, "own-key")] * settings.parallel

        monkeypatch.setattr(backends, "serve_vllm", serve_vllm)
        edit_params(items / "params.yaml", set_benchmark(backend=VLLM))
        benchmark.main("base")
    assert [model for model, _ in started] == [Path("models/base")]
    assert set(keys) == {"Bearer own-key"}
    assert values(rows_of(items), "answer") == values(own, "answer")
    assert values(rows_of(items), "scores") == values(own, "scores")


def test_vllm_stops_generating_at_the_end_tokens(
    items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[list[int]] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        stops.append(request["stop_token_ids"])
        choices = [{"index": index, "text": " x"} for index in range(len(request["prompt"]))]
        return {"choices": choices}

    with serve(answer) as (url, _):

        @contextmanager
        def serve_vllm(model: Path, settings: VllmSettings) -> Iterator[list[Endpoint]]:
            yield [Endpoint(url, "own-key")]

        monkeypatch.setattr(backends, "serve_vllm", serve_vllm)
        task = ["bula_squad_completion"]
        changes = set_benchmark(backend=VLLM, tasks=task, task_limits={})
        edit_params(items / "params.yaml", changes)
        benchmark.main("base")
    end_ids = end_token_ids(load_tokenizer(items / "models/base"))
    assert stops
    assert all(found == end_ids for found in stops)


@pytest.mark.parametrize(("chat_template", "expected"), [(False, True), (True, False)])
def test_a_server_receives_the_bos_token_of_the_tokenizer_once(
    chat_template: bool, expected: bool, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder has a tokenizer and no model, which load_tokenizer would refuse.
    monkeypatch.setattr(backends, "load_tokenizer", AutoTokenizer.from_pretrained)
    save_tokenizer(workspace / "llama")
    edit_params(workspace / "params.yaml", set_benchmark(chat_template=chat_template))
    arguments = backends.completions_arguments(workspace / "llama", load_params())
    assert arguments["add_bos_token"] is expected


def test_vllm_cannot_score_a_gguf_file(workspace: Path) -> None:
    edit_params(workspace / "params.yaml", set_benchmark(backend=VLLM))
    with pytest.raises(UserError, match="cannot score the GGUF file"):
        benchmark.main("quantized")


def test_an_unknown_variant_is_refused_with_the_known_names(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"variants has no 'tunned'\. Name one of base, "):
        benchmark.main("tunned")


def test_an_unknown_task_is_refused_before_any_output(workspace: Path, tiny: Path) -> None:
    (workspace / "models/base").symlink_to(tiny)
    edit_params(workspace / "params.yaml", set_benchmark(tasks=["medmcqa_pt"], task_limits={}))
    message = r"benchmark\.tasks names medmcqa_pt, neither in tasks/ nor a reviewed task"
    with pytest.raises(UserError, match=message):
        benchmark.main("base")
    assert not (workspace / "data/samples").exists()


@pytest.mark.parametrize("task", ["humaneval", "realtoxicityprompts", "no_such_task"])
def test_a_task_that_was_not_reviewed_is_refused(task: str) -> None:
    message = rf"benchmark\.tasks names {task}, neither in .*tasks/ nor a reviewed task"
    with pytest.raises(UserError, match=message):
        find_tasks(ROOT / "tasks", ["bula_medmcqa", task])


def test_a_task_in_the_folder_cannot_replace_a_task_of_lm_eval(tmp_path: Path) -> None:
    text = (ROOT / "tasks/bula_medqa_4options.yaml").read_text(encoding="utf-8")
    renamed = text.replace("task: bula_", "task: ")
    (tmp_path / "medqa_4options.yaml").write_text(renamed, encoding="utf-8")
    message = "medqa_4options is a task of lm-eval, which this one would replace"
    with pytest.raises(UserError, match=message):
        find_tasks(tmp_path, ["medqa_4options"])


def test_lm_eval_has_the_reviewed_tasks_and_no_task_with_our_prefix() -> None:
    known = set(TaskManager().all_tasks)
    assert not [name for name in known if name.startswith(PREFIX)]
    assert set(REVIEWED) <= known


# --- lm-eval's own tasks ---

MEDQA = {"ending0": "um", "ending1": "dois", "ending2": "três", "ending3": "quatro"}
# Tasks of lm-eval, with an item in the form of each.
OWN_FORMS: dict[str, list[Row]] = {
    "medqa_4options": [MEDQA | {"sent1": f"Quanto é {n}?", "label": n} for n in range(3)],
    "arc_easy": [
        {
            "question": f"Quanto é {n}?",
            "choices": {"text": ["um", "dois"], "label": ["A", "B"]},
            "answerKey": "AB"[n % 2],
        }
        for n in range(3)
    ],
    "squad_completion": [
        {"text": " A capital da França é ", "value": " Paris "},
        {"text": "O sol nasce no", "value": "leste"},
    ],
}


def use_own_tasks(items: Path) -> None:
    """Pin items of lm-eval's own tasks, and name these tasks in the parameters."""
    for task, rows in OWN_FORMS.items():
        write_jsonl(items / f"data/benchmarks/{task}.jsonl", rows)
    changes = set_benchmark(tasks=list(OWN_FORMS), task_limits={}, limit=0)
    edit_params(items / "params.yaml", changes)


def test_lm_evals_own_tasks_read_the_pinned_items(
    items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_own_tasks(items)
    sources: list[str] = []
    load_dataset = datasets.load_dataset

    def spy(path: str, *positional: Any, **named: Any) -> Any:
        sources.append(path)
        return load_dataset(path, *positional, **named)

    monkeypatch.setattr(datasets, "load_dataset", spy)
    benchmark.main("base")
    assert set(sources) == {"json"}
    rows = rows_of(items)
    counts = [values(rows, "task").count(task) for task in OWN_FORMS]
    assert counts == [3, 3, 2]
    assert [row["target"] for row in rows if row["task"] == "squad_completion"] == [
        "Paris",
        "leste",
    ]
    settings = metrics_of(items)["settings"]
    assert [settings[f"{task}_pinned"] for task in OWN_FORMS] == [1, 1, 1]
    assert settings["arc_easy_version"] == "1.0"


def test_a_task_without_pinned_items_uses_the_cache_of_the_user() -> None:
    found: list[tuple[Any, Any]] = []
    task = SimpleNamespace(config=SimpleNamespace(dataset_kwargs=None), VERSION=2)

    def load(specs: list[Any]) -> dict[str, Any]:
        found.append((specs[0], datasets.config.HF_DATASETS_CACHE))
        return {"tasks": {"piqa": task}}

    usual = datasets.config.HF_DATASETS_CACHE
    manager: Any = SimpleNamespace(load=load)
    assert load_task("piqa", manager, Path("empty")) is task
    assert found == [("piqa", usual)]
    facts = task_facts({"piqa": task})
    assert facts == {"piqa_version": "2", "piqa_pinned": 0}


def test_a_task_of_our_own_uses_an_empty_cache(tmp_path: Path) -> None:
    found: list[Any] = []

    def load(specs: list[Any]) -> dict[str, Any]:
        found.append(datasets.config.HF_DATASETS_CACHE)
        return {"tasks": {specs[0]: "task"}}

    usual = datasets.config.HF_DATASETS_CACHE
    manager: Any = SimpleNamespace(load=load)
    load_task("bula_medmcqa", manager, tmp_path)
    assert found == [tmp_path]
    assert usual == datasets.config.HF_DATASETS_CACHE


def test_a_data_set_that_cannot_be_fetched_is_named_with_the_remedy() -> None:
    def load(specs: list[Any]) -> dict[str, Any]:
        raise ConnectionError("Couldn't reach the Hub")

    manager: Any = SimpleNamespace(load=load)
    message = r"task piqa: its data set cannot be fetched \(ConnectionError\).* the name piqa"
    with pytest.raises(UserError, match=message):
        load_task("piqa", manager, Path("empty"))


@pytest.mark.parametrize(
    ("data_files", "pinned"),
    [
        ("data/benchmarks/piqa.jsonl", 1),
        (["data/benchmarks/a.jsonl", "data/benchmarks/b.jsonl"], 1),
        ({"test": ["data/benchmarks/a.jsonl"]}, 1),
        ({"test": ["data/benchmarks/a.jsonl", "data/sources/b.jsonl"]}, 0),
        ([], 0),
    ],
)
def test_the_files_of_a_task_may_have_any_form_of_lm_eval(data_files: Any, pinned: int) -> None:
    config = SimpleNamespace(dataset_kwargs={"data_files": data_files})
    task: Any = SimpleNamespace(config=config, VERSION=2)
    assert task_facts({"piqa": task})["piqa_pinned"] == pinned


def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a model is loaded."""

    def load(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(backends, "load_model", load)


def change_task(folder: Path, old: str, new: str) -> None:
    """Edit the task of contrast pairs in a workspace, and score this task alone."""
    file = folder / "tasks/bula_contrast.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    changes = set_benchmark(tasks=["bula_contrast"], task_limits={})
    edit_params(folder / "params.yaml", changes)


@pytest.mark.parametrize("aggregation", ["f1", "perplexity", "median"])
def test_a_metric_that_is_no_mean_is_refused_before_the_model_is_loaded(
    aggregation: str, items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_model(monkeypatch)
    old = "metric: acc_norm, aggregation: mean"
    change_task(items, old, f"metric: acc_norm, aggregation: {aggregation}")
    message = "task bula_contrast: metric acc_norm is no mean over items"
    with pytest.raises(UserError, match=message):
        benchmark.main("base")


def test_a_bad_slice_is_refused_before_the_model_is_loaded(
    items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_model(monkeypatch)
    file = items / "data/benchmarks/bula_contrast.jsonl"
    rows = list(read_rows(file))
    rows[-1]["slice"] = "Dose 1"
    write_jsonl(file, rows)
    with pytest.raises(UserError, match="the items of bula_contrast: a `slice` of an item"):
        benchmark.main("base")


def test_missing_items_are_named_with_the_remedy(
    items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_model(monkeypatch)
    (items / "data/benchmarks/bula_contrast.jsonl").unlink()
    message = r"task bula_contrast: its items cannot be read .*`dvc repro ingest`"
    with pytest.raises(UserError, match=message):
        benchmark.main("base")
    assert not (items / "data/samples").exists()


def test_repeated_items_and_groups_reach_the_rows(items: Path) -> None:
    change_task(items, "version: 1", "version: 1, group: license")
    edit_params(items / "params.yaml", set_benchmark(limit=0))
    file = items / "data/benchmarks/bula_contrast.jsonl"
    pair = next(read_rows(file))
    write_jsonl(file, [pair, pair | {"id": "x-2"}, pair])
    benchmark.main("base")
    first, second, third = rows_of(items)
    assert third["document"] == f"{first['document']}-2"
    assert second["document"] != first["document"]
    assert first["group"] == second["group"] == third["group"]
    assert metrics_of(items)["bula_contrast"]["groups"] == 1
    # compare pairs the items by these names.
    measures = _benchmark_scores(items / "data", "base")
    assert len(measures["bula_contrast_acc"]) == 3
    assert len(set(benchmark_groups(items / "data", "base").values())) == 1


# --- variants of one model ---


def add_prompted(params: dict[str, Any]) -> None:
    """Add a variant that differs from base in its examples."""
    base = params["variants"]["base"]
    params["variants"]["prompted"] = {**base, "few_shot": 3}
    params["benchmark"].update(tasks=["bula_contrast"], task_limits={})


@pytest.fixture
def prompted(items: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a workspace with a prompted variant, where base was scored."""
    edit_params(items / "params.yaml", add_prompted)
    monkeypatch.setattr(reuse, "KEPT", items / ".bula/scores")
    benchmark.main("base")
    return items


def test_a_variant_of_the_same_model_is_not_scored_twice(
    prompted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_model(monkeypatch)
    benchmark.main("prompted")
    rows = list(read_rows(prompted / "data/samples/prompted.jsonl"))
    assert rows == [row | {"variant": "prompted"} for row in rows_of(prompted)]
    figures = (prompted / "metrics/benchmark/prompted.json").read_text(encoding="utf-8")
    assert json.loads(figures) == metrics_of(prompted)


def test_other_items_settings_or_weights_are_scored_again(
    prompted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_model(monkeypatch)
    edit_params(prompted / "params.yaml", set_benchmark(batch_size=3))
    with pytest.raises(AssertionError, match="a model was loaded"):
        benchmark.main("prompted")
    edit_params(prompted / "params.yaml", set_benchmark(batch_size=16))
    file = prompted / "data/benchmarks/bula_contrast.jsonl"
    pairs = list(read_rows(file))
    write_jsonl(file, [pairs[0] | {"right": "Outra."}, *pairs[1:]])
    with pytest.raises(AssertionError, match="a model was loaded"):
        benchmark.main("prompted")
    write_jsonl(file, pairs)
    other = prompted / "models/other"
    shutil.copytree(prompted / "models/base", other)
    (prompted / "models/base").unlink()
    (other / "config.json").write_text("{}", encoding="utf-8")
    (prompted / "models/base").symlink_to(other)
    with pytest.raises(AssertionError, match="a model was loaded"):
        benchmark.main("prompted")


def truncate(kept: Path) -> None:
    """Cut the last row in half."""
    kept.write_bytes(kept.read_bytes()[:-40])


def drop_a_row(kept: Path) -> None:
    """Remove a complete row, so that all others are valid."""
    lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
    kept.write_text("".join(lines[1:]), encoding="utf-8")


def change_types(kept: Path) -> None:
    """Replace the scores of each row by a text."""
    write_jsonl(kept, [row | {"scores": "none"} for row in list(read_rows(kept))])


def empty(kept: Path) -> None:
    """Remove all rows."""
    kept.write_bytes(b"")


def replace_by_folder(kept: Path) -> None:
    """Put a folder with a file in the place of the rows."""
    kept.unlink()
    kept.mkdir()
    (kept / "file").touch()


def remove_hash(kept: Path) -> None:
    """Remove the hash, as a run does that is killed before it writes the hash."""
    kept.with_suffix(".sha256").unlink()


def damage_hash(kept: Path) -> None:
    """Replace the hash by bytes that are no text."""
    kept.with_suffix(".sha256").write_bytes(b"\xff")


@pytest.mark.parametrize(
    "damage",
    [truncate, drop_a_row, change_types, empty, replace_by_folder, remove_hash, damage_hash],
)
def test_damaged_rows_of_another_variant_are_deleted_and_scored_again(
    prompted: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    [kept] = (prompted / ".bula/scores/base").glob("*.jsonl")
    damage(kept)
    capsys.readouterr()
    benchmark.main("prompted")
    note = f"benchmark: {kept} was damaged and is deleted; the items are scored again\n"
    assert capsys.readouterr().out.startswith(note)
    rows = list(read_rows(prompted / "data/samples/prompted.jsonl"))
    assert rows == [row | {"variant": "prompted"} for row in rows_of(prompted)]
    assert list((prompted / ".bula/scores/base").iterdir()) == []


def test_the_first_variant_replaces_damaged_rows_and_deletes_older_ones(prompted: Path) -> None:
    [kept] = (prompted / ".bula/scores/base").glob("*.jsonl")
    content = kept.read_bytes()
    replace_by_folder(kept)
    kept.with_name("older.jsonl").mkdir()
    benchmark.main("base")
    assert set(kept.parent.iterdir()) == {kept, kept.with_suffix(".sha256")}
    assert kept.read_bytes() == content
    assert reuse.find_rows("prompted", kept, load_params(prompted / "params.yaml"))


def test_only_the_first_variant_of_a_model_keeps_its_rows(items: Path) -> None:
    params = load_params(items / "params.yaml")
    tasks = Path("tasks")
    assert reuse.kept_path("base", tasks, {}, params) is None
    edit_params(items / "params.yaml", add_prompted)
    params = load_params(items / "params.yaml")
    kept = reuse.kept_path("prompted", tasks, {}, params)
    assert kept is not None
    assert kept.parent.name == "base"
    assert reuse.kept_path("base", tasks, {}, params) == kept
    assert reuse.kept_path("quantized", tasks, {}, params) is None
    edit_params(items / "params.yaml", set_benchmark(backend=openai_backend("http://127.0.0.1")))
    params = load_params(items / "params.yaml")
    assert reuse.kept_path("prompted", tasks, {}, params) is None


def test_the_figures_equal_those_of_lm_eval_by_hand(items: Path) -> None:
    use_own_tasks(items)
    tasks = ["bula_medmcqa", "bula_medmcqa_cloze", "medqa_4options"]
    edit_params(items / "params.yaml", set_benchmark(tasks=tasks, limit=0))
    pinned = list(read_rows(items / "data/benchmarks/bula_medmcqa.jsonl"))
    write_jsonl(items / "data/benchmarks/bula_medmcqa.jsonl", pinned[:5])
    benchmark.main("base")
    ours = metrics_of(items)
    # lm-eval without code of this project: its own loading of the model and of the items.
    local = {"dataset_path": "json", "dataset_name": None, "training_split": None}
    local |= {"validation_split": None, "test_split": "test"}
    files = {"data_files": {"test": str(items / "data/benchmarks/medqa_4options.jsonl")}}
    manager = TaskManager(include_path=str(items / "tasks"))
    config = load_yaml(manager.task_index["medqa_4options"].yaml_path, resolve_func=True)
    by_hand = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(items / "models/base"), "dtype": "float32"},
        tasks=[*tasks[:2], config | local | {"dataset_kwargs": files}],
        task_manager=manager,
        num_fewshot=0,
        batch_size=3,
        device="cpu",
        bootstrap_iters=0,
    )
    for task in tasks:
        theirs = by_hand["results"][task]
        scores = [name for name in ("acc", "acc_norm") if name in ours[task]]
        assert scores
        for name in scores:
            assert ours[task][name] == pytest.approx(theirs[f"{name},none"], rel=1e-5)
        assert ours[task]["items"] == by_hand["n-samples"][task]["effective"]
