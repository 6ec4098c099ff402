"""lm-eval's backends: what each is told, and a server that scores as the model itself does."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.models import load_model
from bula.params import load_params
from bula.records import read_rows
from stages import benchmark
from tests.conftest import write_jsonl

TASKS = ("medmcqa", "medqa_4options")


@contextmanager
def completions_server(model: Path) -> Iterator[tuple[str, list[str | None]]]:
    """Serve /v1/completions with echoed log-probabilities of a real model; yield its address and the keys it saw."""
    loaded = load_model(model, "float32")
    keys: list[str | None] = []

    @torch.inference_mode()
    def choice(index: int, prompt: list[int]) -> dict[str, Any]:
        log_p = loaded(torch.tensor([prompt])).logits[0].log_softmax(-1)
        told = [float(log_p[place - 1, token]) for place, token in enumerate(prompt) if place]
        best = [float(row.max()) for row in log_p]
        # One token is generated beyond the prompt; the first one of the prompt has no probability.
        logprobs = {
            "token_logprobs": [None, *told, best[-1]],
            "top_logprobs": [None, *({"best": value} for value in best)],
        }
        return {"index": index, "text": "", "finish_reason": "length", "logprobs": logprobs}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            keys.append(self.headers.get("Authorization"))
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert request["echo"] and request["logprobs"] == 1
            choices = [choice(number, prompt) for number, prompt in enumerate(request["prompt"])]
            body = json.dumps({"model": request["model"], "choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
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


@pytest.fixture
def items(workspace: Path, tiny: Path) -> Path:
    """The workspace with pinned items of two tasks, and the model as its base."""
    for task in TASKS:
        rows = list(read_rows(workspace / f"data/demo/benchmarks/{task}.jsonl"))
        write_jsonl(workspace / f"data/benchmarks/bula_{task}.jsonl", rows)
    (workspace / "models/base").symlink_to(tiny)

    def edit(params: dict[str, Any]) -> None:
        params["dtype"] = "float32"
        params["benchmark"]["tasks"] = [f"bula_{task}" for task in TASKS]

    edit_params(workspace / "params.yaml", edit)
    return workspace


def test_a_server_scores_as_the_model_does_and_never_sees_the_key(
    items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark.main("base")
    own = list(read_rows(items / "data/samples/base.jsonl"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY")
    with completions_server(items / "models/base") as (url, keys):
        backend = {
            "kind": "openai",
            "base_url": url,
            "model": "tiny",
            "num_concurrent": 1,
            "timeout_seconds": 60,
        }
        edit_params(
            items / "params.yaml", lambda params: params["benchmark"].update(backend=backend)
        )
        benchmark.main("base")
    served = list(read_rows(items / "data/samples/base.jsonl"))
    assert [row["answer"] for row in served] == [row["answer"] for row in own]
    assert [row["scores"] for row in served] == [row["scores"] for row in own]
    assert keys
    assert not [key for key in keys if "CANARY" in str(key)]
    figures = json.loads((items / "metrics/benchmark/base.json").read_text(encoding="utf-8"))
    assert figures["settings"]["backend"] == "openai"


def test_a_host_that_is_not_allowed_is_refused_before_a_request(
    items: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY")
    backend = {
        "kind": "openai",
        "base_url": "https://api.example.org/v1",
        "model": "tiny",
        "num_concurrent": 1,
        "timeout_seconds": 60,
    }
    edit_params(items / "params.yaml", lambda params: params["benchmark"].update(backend=backend))
    with pytest.raises(UserError, match=r"api\.example\.org"):
        benchmark.main("base")
    assert not (items / "data/samples").exists()


def test_vllm_is_told_this_model_and_to_run_no_code(workspace: Path) -> None:
    backend = {
        "kind": "vllm",
        "gpu_memory_utilization": 0.5,
        "max_model_len": 512,
        "tensor_parallel_size": 1,
    }
    edit_params(
        workspace / "params.yaml", lambda params: params["benchmark"].update(backend=backend)
    )
    params = load_params()
    found = params.benchmark.backend
    assert found.kind == "vllm"
    assert benchmark.vllm_arguments(Path("models/base"), params, found) == {
        "pretrained": "models/base",
        "dtype": "bfloat16",
        "seed": params.seed,
        "trust_remote_code": False,
        "gpu_memory_utilization": 0.5,
        "max_model_len": 512,
        "tensor_parallel_size": 1,
    }


def test_a_server_cannot_score_a_gguf_file(workspace: Path) -> None:
    backend = {
        "kind": "vllm",
        "gpu_memory_utilization": 0.5,
        "max_model_len": 512,
        "tensor_parallel_size": 1,
    }
    edit_params(
        workspace / "params.yaml", lambda params: params["benchmark"].update(backend=backend)
    )
    with pytest.raises(UserError, match="cannot score the GGUF file"):
        benchmark.main("quantized")


def test_an_unknown_variant_lists_the_known_ones(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"variants has no 'tunned'\. Name one of base, "):
        benchmark.main("tunned")


def test_a_task_of_ones_own_does_not_replace_one_of_lm_eval(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tasks/bula_medqa_4options.yaml", tmp_path / "medqa_4options.yaml")
    text = (tmp_path / "medqa_4options.yaml").read_text(encoding="utf-8")
    (tmp_path / "medqa_4options.yaml").write_text(
        text.replace("task: bula_", "task: "), encoding="utf-8"
    )
    with pytest.raises(
        UserError, match="medqa_4options is a task of lm-eval, which this one would replace"
    ):
        benchmark.find_tasks(tmp_path, ["medqa_4options"])


def test_the_reviewed_tasks_are_there_and_none_has_the_prefix_of_ours() -> None:
    from lm_eval.tasks import TaskManager

    known = set(TaskManager().all_tasks)
    assert not [name for name in known if name.startswith(benchmark.PREFIX)]
    assert set(benchmark.REVIEWED) <= known


@pytest.mark.parametrize("task", ["humaneval", "realtoxicityprompts", "no_such_task"])
def test_a_task_whose_code_was_not_read_is_refused(task: str) -> None:
    with pytest.raises(
        UserError,
        match=rf"benchmark\.tasks has {task}, which is no task of .*tasks/ and not reviewed",
    ):
        benchmark.find_tasks(ROOT / "tasks", ["bula_medmcqa", task])


def test_a_server_that_answers_in_another_form_is_a_sentence_without_its_words(
    items: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.dumps({"error": "CANARY \x1b[31m"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    backend = {
        "kind": "openai",
        "base_url": url,
        "model": "tiny",
        "num_concurrent": 1,
        "timeout_seconds": 60,
    }
    edit_params(items / "params.yaml", lambda params: params["benchmark"].update(backend=backend))
    try:
        with pytest.raises(UserError, match="a request failed, or its reply has another form"):
            benchmark.main("base")
    finally:
        server.shutdown()
        server.server_close()
    told = capfd.readouterr()
    assert "CANARY" not in told.out + told.err
    assert not (items / "data/samples").exists()
