"""Test lm-eval's backends, tasks and rows, and a server that scores like the model itself."""

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from bench.clones import ROOT, Edit, edit_params, small
from bench.llama import save_tokenizer
from bula.errors import UserError
from bula.hardware import compute_dtype
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import VllmBackend, load_params
from bula.records import Row, read_rows
from bula.serving import Endpoint, VllmSettings
from stages import benchmark
from tests.conftest import write_jsonl

# Task and metric.
METRICS = {
    "bula_medmcqa": "acc",
    "bula_medqa_4options": "acc",
    "bula_squad_completion": "contains",
}
OPTION_TASKS = ["bula_medmcqa", "bula_medqa_4options"]
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
    for task in METRICS:
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

    The parameters name the two tasks with options.
    """
    pin_items(workspace)
    (workspace / "models/base").symlink_to(tiny)

    def edit(params: dict[str, Any]) -> None:
        params["dtype"] = "float32"
        params["benchmark"]["tasks"] = OPTION_TASKS

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
    assert values(rows, "item") == [0, 1, 2, 3] * 3
    tasks = dict.fromkeys(values(rows, "task"))
    assert list(tasks) == list(METRICS)


@pytest.mark.parametrize(("task", "metric"), METRICS.items())
def test_metrics_summarise_the_item_scores(task: str, metric: str, scored: Path) -> None:
    rows = [row for row in rows_of(scored) if row["task"] == task]
    scores = [row["scores"][metric] for row in rows]
    answers = values(rows, "answer")
    mean = sum(scores) / 4
    # The scores are 0 or 1, so their variance with divisor n - 1 is 4 / 3 * mean * (1 - mean).
    error = math.sqrt(mean * (1 - mean) / 3)
    assert metrics_of(scored)[task] == {
        "items": 4,
        metric: mean,
        f"{metric}_stderr": pytest.approx(error, rel=1e-5),
        "commonest_answer_share": max(map(answers.count, answers)) / 4,
    }


def test_an_option_scores_one_exactly_if_it_is_the_target(scored: Path) -> None:
    rows = [row for row in rows_of(scored) if row["task"] in OPTION_TASKS]
    correct = [float(row["answer"] == row["target"]) for row in rows]
    assert [row["scores"]["acc"] for row in rows] == correct


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
    settings = benchmark.score_settings(other)
    assert settings["backend"] == "vllm"
    assert not {"dtype", "compute_dtype"} & settings.keys()


def test_the_benchmark_stops_at_the_end_tokens_of_generate(tiny: Path) -> None:
    # The model's file names one of the two; a directory and its GGUF file may name different ones.
    end_ids = end_token_ids(load_tokenizer(tiny))
    assert len(end_ids) == 2
    with benchmark.backend(tiny, load_params(ROOT / "profiles/smollm2-135m.yaml")) as backend:
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
    assert benchmark.vllm_settings(params, chosen) == VllmSettings(
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

        monkeypatch.setattr(benchmark, "serve_vllm", serve_vllm)
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

        monkeypatch.setattr(benchmark, "serve_vllm", serve_vllm)
        task = ["bula_squad_completion"]
        edit_params(items / "params.yaml", set_benchmark(backend=VLLM, tasks=task))
        benchmark.main("base")
    end_ids = end_token_ids(load_tokenizer(items / "models/base"))
    assert stops
    assert all(found == end_ids for found in stops)


@pytest.mark.parametrize(("chat_template", "expected"), [(False, True), (True, False)])
def test_a_server_receives_the_bos_token_of_the_tokenizer_once(
    chat_template: bool, expected: bool, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder has a tokenizer and no model, which load_tokenizer would refuse.
    monkeypatch.setattr(benchmark, "load_tokenizer", AutoTokenizer.from_pretrained)
    save_tokenizer(workspace / "llama")
    edit_params(workspace / "params.yaml", set_benchmark(chat_template=chat_template))
    arguments = benchmark.completions_arguments(workspace / "llama", load_params())
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
    edit_params(workspace / "params.yaml", set_benchmark(tasks=["medmcqa_pt"]))
    message = r"benchmark\.tasks names medmcqa_pt, neither in tasks/ nor a reviewed task"
    with pytest.raises(UserError, match=message):
        benchmark.main("base")
    assert not (workspace / "data/samples").exists()


@pytest.mark.parametrize("task", ["humaneval", "realtoxicityprompts", "no_such_task"])
def test_a_task_that_was_not_reviewed_is_refused(task: str) -> None:
    message = rf"benchmark\.tasks names {task}, neither in .*tasks/ nor a reviewed task"
    with pytest.raises(UserError, match=message):
        benchmark.find_tasks(ROOT / "tasks", ["bula_medmcqa", task])


def test_a_task_in_the_folder_cannot_replace_a_task_of_lm_eval(tmp_path: Path) -> None:
    text = (ROOT / "tasks/bula_medqa_4options.yaml").read_text(encoding="utf-8")
    renamed = text.replace("task: bula_", "task: ")
    (tmp_path / "medqa_4options.yaml").write_text(renamed, encoding="utf-8")
    message = "medqa_4options is a task of lm-eval, which this one would replace"
    with pytest.raises(UserError, match=message):
        benchmark.find_tasks(tmp_path, ["medqa_4options"])


def test_lm_eval_has_the_reviewed_tasks_and_no_task_with_our_prefix() -> None:
    from lm_eval.tasks import TaskManager

    known = set(TaskManager().all_tasks)
    assert not [name for name in known if name.startswith(benchmark.PREFIX)]
    assert set(benchmark.REVIEWED) <= known
