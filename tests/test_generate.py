import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import torch

from bench.clones import ROOT, Edit, edit_params, small
from bula import answering, gguf_export, serving
from bula.answering import Answer
from bula.errors import UserError
from bula.generation import until_end
from bula.models import end_token_ids, load_model, load_tokenizer
from bula.params import load_params
from bula.privacy import find_personal_data
from bula.prompts import encode_prompt
from bula.records import Row, read_rows, write_rows
from stages import generate
from tests.conftest import validation_examples, write_validation_sets


def use(model: Path, engine: str) -> Edit:
    """Return an edit that sets the model of the variants."""

    def edit(params: dict[str, Any]) -> None:
        variant = {"model": os.path.relpath(model), "engine": engine}
        params["dtype"] = "float32"
        # Two dictionaries, because one would be written as a YAML alias, which is refused.
        params["variants"] = {"base": dict(variant), "tuned": dict(variant)}

    return edit


def rows_of(folder: Path, variant: str) -> list[Row]:
    return list(read_rows(folder / f"data/answers/{variant}.jsonl"))


def metrics_of(folder: Path, variant: str) -> dict[str, Any]:
    text = (folder / f"metrics/generate/{variant}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def values(rows: list[Row], key: str) -> list[Any]:
    return [row[key] for row in rows]


@pytest.fixture
def validation(workspace: Path) -> Path:
    """Return the workspace with validation sets."""
    write_validation_sets(workspace)
    return workspace


@pytest.fixture(scope="module")
def answered(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the answers of two engines.

    Both have the same model; transformers answered as base and llama.cpp as tuned.
    """
    folder = tmp_path_factory.mktemp("answered")
    write_validation_sets(folder)
    shutil.copytree(tiny, folder / "models/base")
    gguf_export.convert(tiny, "bf16", folder / "models/tiny.gguf")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    edit_params(folder / "params.yaml", small(tiny))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        edit_params(folder / "params.yaml", use(Path("models/base"), "transformers"))
        generate.main("base")
        edit_params(folder / "params.yaml", use(Path("models/tiny.gguf"), "llama.cpp"))
        generate.main("tuned")
    return folder


@pytest.fixture(scope="module")
def loop() -> str:
    """Return an answer that repeats itself.

    It has 14 word 4-grams, of which 6 are distinct: o chá é o, chá é o chá, é o chá e, o chá e o,
    chá e o chá, e o chá é.
    """
    return "O chá é o chá, e o chá é o chá, e o chá é o chá."


def test_an_answer_that_ends_with_an_end_token_has_stopped(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    end = tokenizer.eos_token_id
    ids = tokenizer("Sim.", add_special_tokens=False)["input_ids"]
    found = answering.to_answer(tokenizer, [*ids, end], [end])
    assert found == ("Sim.", "stop", len(ids) + 1)


def test_an_answer_without_an_end_token_has_reached_the_limit(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    ids = tokenizer("Sim.", add_special_tokens=False)["input_ids"]
    found = answering.to_answer(tokenizer, ids, [tokenizer.eos_token_id])
    assert found == ("Sim.", "length", len(ids))


def test_batched_answers_equal_single_answers(answered: Path, tiny: Path) -> None:
    rows = rows_of(answered, "base")
    assert values(rows, "split") == list("AABBCCDDEE")
    tokenizer = load_tokenizer(tiny)
    model = load_model(tiny, "float32")
    end_ids = end_token_ids(tokenizer)
    for row in rows[:4]:
        ids = torch.tensor([encode_prompt(tokenizer, row["question"])])
        # The library's own call, so that bula.generation is not compared with itself.
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=8,
            )
        new_ids = output[0, ids.shape[1] :].tolist()
        found = answering.to_answer(tokenizer, until_end(new_ids, end_ids), end_ids)
        assert found.text == row["generated"]


def test_llama_cpp_returns_the_answers_of_transformers(answered: Path) -> None:
    first = rows_of(answered, "base")
    second = rows_of(answered, "tuned")
    assert values(first, "prompt_hash") == values(second, "prompt_hash")
    assert values(first, "finish_reason") == values(second, "finish_reason")
    pairs = zip(values(first, "generated"), values(second, "generated"), strict=True)
    same = sum(one == other for one, other in pairs)
    # The engines round differently, and a random model has more near ties than a trained one.
    assert same >= 0.8 * len(first)


def test_metrics_name_the_engine_and_its_precision(answered: Path) -> None:
    own = "the engine's own"
    assert metrics_of(answered, "tuned")["settings"] == {
        "engine": "llama.cpp",
        "dtype": own,
        "compute_dtype": own,
        "few_shot": 0,
    }
    assert metrics_of(answered, "base")["settings"] == {
        "engine": "transformers",
        "dtype": "float32",
        "compute_dtype": "float32",
        "few_shot": 0,
    }


def test_metrics_summarise_the_answer_rows(answered: Path) -> None:
    rows = rows_of(answered, "tuned")
    figures = metrics_of(answered, "tuned")
    assert figures["items"] == figures["finish_stop"] + figures["finish_length"] == 10
    assert figures["degenerate"] == sum(values(rows, "degenerate"))
    share = sum(values(rows, "repeated_4gram_share")) / 10
    assert figures["repeated_4gram_share"] == pytest.approx(share, rel=1e-5)


def test_answers_of_llama_cpp_do_not_depend_on_parallel_requests(
    workspace: Path, tiny: Path
) -> None:
    file = workspace / "tiny.gguf"
    gguf_export.convert(tiny, "q8_0", file)
    tokenizer = load_tokenizer(tiny)
    prompts = []
    for number in range(10):
        words = f"{number} copos de água por dia, ou é {'muito ' * (number % 3)}demais?"
        prompts.append(encode_prompt(tokenizer, f"Posso tomar {words}"))
    settings = load_params().generate

    def answers(parallel: int, step: int) -> list[Answer]:
        """Answer the prompts, in reverse with step -1."""
        changed = settings.model_copy(update={"parallel": parallel, "max_new_tokens": 24})
        asked = prompts[::step]
        found = answering.answer_by_server(file, serving.serve_llama_cpp, asked, changed)
        return found[::step]

    one_at_a_time = answers(1, 1)
    assert answers(4, 1) == one_at_a_time
    assert answers(4, -1) == one_at_a_time


def test_llama_cpp_starts_one_server_per_request_up_to_the_processors(
    tiny: Path, tmp_path: Path
) -> None:
    gguf_export.convert(tiny, "bf16", tmp_path / "tiny.gguf")
    with serving.serve_llama_cpp(tmp_path / "tiny.gguf", 1, 64) as urls:
        assert len(urls) == 1
    with serving.serve_llama_cpp(tmp_path / "tiny.gguf", 1000, 64) as urls:
        assert len(set(urls)) == len(urls) == len(os.sched_getaffinity(0))


# A stand-in for vLLM's server: it checks its key, keeps the requests and returns one answer.
VLLM = """
import http.server, json, os, pathlib, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        ours = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.reply(200 if ours else 401, {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("requests.jsonl", "a") as requests:
            print(json.dumps(asked), file=requests)
        choice = {"index": 0, "text": f" {len(asked['prompt'])} ", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        self.reply(200, {"choices": [choice], "usage": usage})

pathlib.Path("arguments.json").write_text(json.dumps(sys.argv))
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def test_vllm_receives_the_token_ids_and_end_tokens_of_transformers(
    workspace: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workspace / "site/vllm/entrypoints/openai"
    place.mkdir(parents=True)
    (place / "api_server.py").write_text(VLLM, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(workspace / "site"))
    tokenizer = load_tokenizer(tiny)
    questions = ("Dói?", "Posso tomar água?", "Quantos copos de água devo beber por dia?")
    prompts = [encode_prompt(tokenizer, question) for question in questions]
    answers = answering.answer(tiny, "vllm", load_params(), tokenizer, prompts)
    # The stand-in answers with the length of the prompt, so that the order is seen.
    assert answers == [Answer(str(len(prompt)), "stop", 3) for prompt in prompts]
    asked = list(read_rows(workspace / "requests.jsonl"))
    assert sorted(values(asked, "prompt")) == sorted(prompts)
    same = {"stop_token_ids": end_token_ids(tokenizer), "temperature": 0, "max_tokens": 8}
    assert [request | same for request in asked] == asked
    arguments = json.loads((workspace / "arguments.json").read_text(encoding="utf-8"))
    longest = max(map(len, prompts))
    assert arguments[arguments.index("--max-model-len") + 1] == str(longest + 8)


@pytest.mark.parametrize(
    ("engine", "gpu_layers", "expected"),
    [
        ("vllm", "all", {"dtype": "bfloat16", "compute_dtype": "bfloat16"}),
        ("llama.cpp", "all", {"gpu_layers": "all"}),
        ("llama.cpp", 8, {"gpu_layers": "8"}),
    ],
)
def test_metrics_name_the_precision_of_vllm_and_the_gpu_layers_of_llama_cpp(
    engine: str, gpu_layers: Any, expected: dict[str, str]
) -> None:
    found = answering.settings(engine, "bfloat16", gpu_layers)
    assert {"engine": engine, **expected}.items() <= found.items()


Reply = Callable[[httpx.Request], httpx.Response]


def client_of(reply: Reply) -> openai.OpenAI:
    """Return a client whose server answers with `reply`."""
    http = openai.DefaultHttpxClient(transport=httpx.MockTransport(reply))
    return openai.OpenAI(
        base_url="http://127.0.0.1:1/v1", api_key="k", max_retries=0, http_client=http
    )


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


JSON_TYPE = {"content-type": "application/json"}
NO_ANSWER = "a reply contains no answer"
REPLIES: dict[str, tuple[Reply, str]] = {
    "an error of the server": (
        lambda _: httpx.Response(500, json={"error": "Pergunta secreta"}),
        r"a request failed \(InternalServerError\)",
    ),
    "no JSON": (
        lambda _: httpx.Response(200, text="{", headers=JSON_TYPE),
        "a request failed|has no answer",
    ),
    "a web page": (
        lambda _: httpx.Response(200, text="<html>"),
        NO_ANSWER,
    ),
    "an error with code 200": (
        lambda _: httpx.Response(200, json={"error": "x"}),
        NO_ANSWER,
    ),
    "no choices": (
        lambda _: httpx.Response(200, json={"choices": []}),
        NO_ANSWER,
    ),
    "no text": (
        lambda _: httpx.Response(200, json={"choices": [{"index": 0}]}),
        NO_ANSWER,
    ),
}


def test_a_lost_connection_is_left_to_the_code_that_started_the_server() -> None:
    with client_of(refuse) as client, pytest.raises(openai.APIConnectionError):
        answering.complete(client, "m", [1], 2)


@pytest.mark.parametrize(("reply", "message"), REPLIES.values(), ids=REPLIES)
def test_a_failed_request_is_reported_without_the_words_of_the_server(
    reply: Any, message: str
) -> None:
    with (
        client_of(reply) as client,
        pytest.raises(UserError, match=f"the server of m: ({message})") as caught,
    ):
        answering.complete(client, "m", [1, 2], 8)
    assert "secreta" not in str(caught.value)


def to_rows(answers: list[Answer], max_share: float) -> list[Row]:
    """Return the rows of answers to as many examples of set A."""
    examples = validation_examples("A", len(answers))
    prompts = [[1]] * len(answers)
    return generate.to_rows("tuned", examples, prompts, answers, max_share)


def test_degenerate_answers_are_counted_by_hand(loop: str) -> None:
    answers = [
        Answer("Beba água e descanse.", "stop", 5),
        Answer(loop, "length", 20),
        Answer("", "stop", 1),
    ]
    figures = generate.summarise(to_rows(answers, 0.3), [[], [], []])
    assert figures["degenerate"] == 2
    assert figures["empty"] == 1
    assert figures["degenerate_share"] == pytest.approx(2 / 3)
    assert figures["repeated_4gram_share"] == pytest.approx((8 / 14) / 3)
    # The shares 0, 8/14, 0 have the standard deviation 8/14 / sqrt(3), divided by sqrt(3).
    assert figures["repeated_4gram_share_stderr"] == pytest.approx(8 / 14 / 3)
    # At a limit of 0.6 only the empty answer is degenerate.
    figures = generate.summarise(to_rows(answers, 0.6), [[], [], []])
    assert figures["degenerate"] == 1


ANSWERS = [Answer("Ligue para (11) 91234-5678.", "stop", 9), Answer("Beba água.", "length", 4)]
FOUND = [find_personal_data(text) for text, _, _ in ANSWERS]


def test_personal_data_in_answers_is_redacted_and_counted() -> None:
    redacted = answering.redact_answers("generate@tuned", ANSWERS, FOUND, "redact")
    assert redacted == [("Ligue para [TELEFONE].", "stop", 9), ("Beba água.", "length", 4)]
    figures = generate.summarise(to_rows(redacted, 0.3), FOUND)
    assert figures["personal_data_answers"] == 1
    assert figures["personal_data_phone"] == 1
    assert figures["personal_data_cpf"] == 0


def test_personal_data_in_answers_stops_the_stage_under_the_rule_fail() -> None:
    message = r"answers of tuned contain personal data \(phone\), and privacy\.answers is fail"
    with pytest.raises(UserError, match=message):
        answering.redact_answers("generate@tuned", ANSWERS, FOUND, "fail")


def test_answers_without_personal_data_pass_the_rule_fail() -> None:
    assert answering.redact_answers("generate@tuned", ANSWERS[1:], FOUND[1:], "fail") == ANSWERS[1:]


def test_an_unknown_variant_is_refused_with_the_known_names(validation: Path) -> None:
    with pytest.raises(UserError, match=r"variants has no 'tunned'\. Name one of base, "):
        generate.main("tunned")
    assert not (validation / "data/answers").exists()


def test_a_question_in_two_sets_is_refused(validation: Path) -> None:
    write_rows(validation / "data/clean/validation/B.jsonl", validation_examples("A"))
    message = (
        r"data/clean/validation: 2 questions appear more than once \(first: a0+\)\. "
        "Run `dvc repro preprocess`"
    )
    with pytest.raises(UserError, match=message):
        generate.main("base")
    assert not (validation / "data/answers").exists()


def test_a_folder_without_weights_is_refused(validation: Path, tiny: Path) -> None:
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(tiny, validation / "models/base", ignore=weights)
    with pytest.raises(UserError, match="models/base"):
        generate.main("base")
    assert not (validation / "data/answers").exists()


def test_a_missing_model_is_refused(validation: Path) -> None:
    with pytest.raises(UserError, match="models/base"):
        generate.main("base")
    assert not (validation / "data/answers").exists()
