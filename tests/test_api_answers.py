"""Test engine openai with servers that fail in many ways."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from bench.clones import ROOT, edit_params
from bula import answering, api_answers, server_answers
from bula.answers import Answer
from bula.api_answers import RequestError, ask_chat, chat_fields, connect, use_server
from bula.errors import UserError
from bula.models import load_tokenizer
from bula.params import Decoding, Params, Variant, load_params
from bula.prompts import SYSTEM_PROMPT
from bula.records import Turn, read_rows
from bula.server_answers import Asked
from bula.serving import Endpoint
from stages import check, generate
from tests.conftest import write_validation_sets
from tests.judge_server import JudgeServer, Reply, completion, error_body

BODY = {"model": "m", "messages": [{"role": "user", "content": "Dói?"}]}


class Servers:
    """Start servers that repeat a list of replies."""

    def __init__(self) -> None:
        self.started: list[JudgeServer] = []

    def __call__(self, *replies: Reply) -> JudgeServer:
        server = JudgeServer(list(replies))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.started.append(server)
        return server


@pytest.fixture
def serve() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    for server in servers.started:
        server.shutdown()
        server.server_close()


def ask(server: JudgeServer) -> tuple[str, str, int]:
    with connect(Endpoint(server.url, "local")) as client:
        return ask_chat(client, BODY)


def body(choice: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"choices": [choice], **fields}).encode()


def test_an_answer_has_the_servers_reason_and_count(serve: Servers) -> None:
    reply = completion(" Sim. ", usage={"prompt_tokens": 9, "completion_tokens": 3})
    assert ask(serve(reply)) == ("Sim.", "stop", 3)
    assert ask(serve("Sim.")) == ("Sim.", "stop", 0)


def test_a_refusal_and_an_empty_cut_answer_are_answers(serve: Servers) -> None:
    refusal = {"finish_reason": "stop", "message": {"content": None, "refusal": "Não posso."}}
    assert ask(serve(body(refusal))) == ("Não posso.", "stop", 0)
    # A reasoning model may spend all its tokens on thoughts.
    cut = {"finish_reason": "length", "message": {"content": None}}
    assert ask(serve(body(cut, usage={"completion_tokens": 8}))) == ("", "length", 8)


def refuse(status: int, **fields: str) -> Reply:
    return lambda request: (status, error_body("Dói?", **fields))


NO_ANSWER = "a reply contains no answer"
FAILURES: dict[str, tuple[Reply, str, float | None]] = {
    "an error of the server": (500, "HTTP 500", 0.0),
    "a rate limit": (429, "HTTP 429", 0.0),
    "no money": (refuse(429, code="insufficient_quota"), "HTTP 429 insufficient_quota", None),
    "a field": (
        refuse(400, code="unsupported_value", param="temperature"),
        "HTTP 400 unsupported_value temperature",
        None,
    ),
    "a code with words of the prompt": (refuse(400, code="Dói muito?"), "HTTP 400", None),
    "a cut connection": (None, "APIConnectionError", 0.0),
    "a web page": (b"<html><body>Bad gateway</body></html>", NO_ANSWER, 0.0),
    "no choices": (b'{"choices": []}', NO_ANSWER, 0.0),
    "no text": (body({"finish_reason": "stop", "message": {"content": None}}), NO_ANSWER, 0.0),
    **{
        f"finish_reason {reason}": (
            body({"finish_reason": reason, "message": {"content": "Tome"}}),
            f"a reply has finish_reason {reason}",
            0.0,
        )
        for reason in ("error", "abort", "failed")
    },
    "no object": (b"null", NO_ANSWER, 0.0),
}


@pytest.mark.parametrize(("reply", "reason", "wait"), FAILURES.values(), ids=FAILURES)
def test_a_failure_has_a_reason_without_words_of_the_prompt(
    serve: Servers, reply: Reply, reason: str, wait: float | None
) -> None:
    with pytest.raises(RequestError) as caught:
        ask(serve(reply))
    assert (str(caught.value), caught.value.wait) == (reason, wait)


@pytest.mark.parametrize(
    ("asked", "wait"), [("7", 7.0), ("9999", 60.0), ("-1", 0.0), ("nan", 0.0), ("soon", 0.0)]
)
def test_the_wait_that_a_server_asks_for_is_bounded(asked: str, wait: float) -> None:
    request = httpx2.Request("POST", "http://a")
    reply = httpx2.Response(429, headers={"retry-after": asked}, request=request)
    error = openai.RateLimitError("no", response=reply, body=None)
    assert api_answers._wait(error) == wait


def test_a_reply_of_any_length_is_cut(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_answers, "LONGEST_REPLY", 100)
    with pytest.raises(RequestError, match="a reply is longer than 100 bytes"):
        ask(serve("Sim. " * 100))


def test_a_refused_key_and_a_redirect_stop_the_stage(serve: Servers) -> None:
    with pytest.raises(UserError, match="Start that server without a key"):
        ask(serve(401))
    server = serve(302, "Sim.")
    with pytest.raises(UserError, match=r"redirects the request \(HTTP 302\)"):
        ask(server)
    assert len(server.requests) == 1


def test_a_key_is_sent_to_its_own_host_only(
    serve: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    server = serve("Sim.")
    with use_server(server.url, 2) as endpoints:
        assert endpoints == [Endpoint(server.url, "local")] * 2
    ask(server)
    assert "secret" not in json.dumps(server.headers)
    message = r"OPENAI_API_KEY may not be sent to example\.org"
    with pytest.raises(UserError, match=message), use_server("https://example.org/v1", 1):
        pass


def params_with(**changes: Any) -> Params:
    """Return the default parameters with changes of the section generate."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    changed = params.generate.model_copy(update={"parallel": 1, "max_new_tokens": 8, **changes})
    return params.model_copy(update={"generate": changed})


def variant_at(url: str) -> Variant:
    return Variant(model="models/base", engine="openai", base_url=url, served_model="m")


def decoding(temperature: float) -> Decoding:
    return Decoding(temperature=temperature, repetition_penalty=1, no_repeat_ngram=0)


def test_requests_state_the_decoding_rules() -> None:
    limits = params_with(decoding=decoding(0)).generate
    assert chat_fields(variant_at("http://127.0.0.1:1/v1"), limits) == {
        "model": "m",
        "max_tokens": 8,
        "temperature": 0,
    }
    limits = params_with(decoding=decoding(0.5)).generate
    assert chat_fields(variant_at("https://api.openai.com/v1"), limits) == {
        "model": "m",
        "max_completion_tokens": 8,
        "temperature": 0.5,
        "top_p": 1,
    }


def test_an_answer_is_drawn_with_a_seed_of_its_own() -> None:
    params = params_with(decoding=decoding(0.5))
    variant = variant_at("http://127.0.0.1:1/v1")
    fields = server_answers.api_fields(variant, params, Asked(PROMPTS, CHATS))
    seeds = {fields(prompt)["seed"] for prompt in PROMPTS}
    assert len(seeds) == len(PROMPTS)
    assert fields([3])["messages"] == CHATS[3]


PROMPTS = [[number] for number in range(6)]
CHATS = [[{"role": "user", "content": str(number)}] for number in range(6)]
# The replies to each question before its answer; a question with more than three has none.
TROUBLE: dict[str, list[Any]] = {
    "0": [(500, error_body("no"))],
    "1": [(200, b"<html>")] * 9,
    "2": [(200, b'{"choices": []}'), (429, error_body("slow down"))],
    "3": [(503, b"<html>")] * 2,
}


def answer_with(server: JudgeServer, params: Params) -> list[Answer]:
    """Return the answers of a server to PROMPTS."""
    variant = variant_at(server.url)
    asked = Asked(PROMPTS, CHATS)
    servers = server_answers.servers_of(variant, params, PROMPTS)
    fields = server_answers.request_fields(variant, params, [], asked)
    return server_answers.answer_by_server(servers, PROMPTS, fields, lambda prompts, answers: None)


def test_one_failed_request_is_one_failed_answer(
    serve: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_answers, "PAUSE_SECONDS", 0)
    counts: Counter[str] = Counter()

    def reply(request: dict[str, Any]) -> tuple[int, bytes]:
        question = request["messages"][0]["content"]
        counts[question] += 1
        trouble = TROUBLE.get(question, [])
        if counts[question] <= len(trouble):
            found: tuple[int, bytes] = trouble[counts[question] - 1]
            return found
        return 200, completion(f"Resposta {question}")

    answers = answer_with(serve(reply), params_with(max_failed_share=0.2))
    expected = [Answer(f"Resposta {number}", "stop", 0) for number in range(6)]
    expected[1] = Answer("", "failed", 0)
    assert answers == expected
    assert counts == {"0": 2, "1": 3, "2": 3, "3": 3, "4": 1, "5": 1}


def test_too_many_failures_and_cut_connections_stop_the_stage(
    serve: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_answers, "PAUSE_SECONDS", 0)
    server = serve(None)
    message = (
        rf"the server of m at {server.url}: 2 questions have no answer "
        r"\(the last one: APIConnectionError\), and generate\.max_failed_share allows 1\. Check "
        "that the server works"
    )
    with pytest.raises(UserError, match=message):
        answer_with(server, params_with(max_failed_share=0.2))


def test_a_request_that_can_never_succeed_is_sent_once(serve: Servers) -> None:
    server = serve(refuse(400, param="temperature"))
    with pytest.raises(UserError, match=r"1 questions have no answer \(.*HTTP 400 temperature\)"):
        answer_with(server, params_with(max_failed_share=0))
    assert len(server.requests) <= len(PROMPTS)
    asked = Counter(request["messages"][0]["content"] for request in server.requests)
    assert set(asked.values()) == {1}


def test_equal_prompts_share_one_answer(serve: Servers, smollm2: Path) -> None:
    def reply(request: dict[str, Any]) -> tuple[int, bytes]:
        question = request["messages"][0]["content"]
        asked.append(question)
        # A second request for the same answer fails.
        if asked.count(question) > 1:
            return 400, error_body("no")
        return 200, completion(f"Resposta {question}", usage={"completion_tokens": 3})

    asked: list[str] = []
    variant = variant_at(serve(reply).url)
    params = params_with(max_failed_share=0.9)
    equal = Asked([[0], [1], [0]], [CHATS[0], CHATS[1], CHATS[0]])
    tokenizer = load_tokenizer(smollm2)
    with answering.answer("generate@api", variant, params, tokenizer, equal) as (answers, tokens):
        texts = [given.text for given in answers]
    assert texts == ["Resposta 0", "Resposta 1", "Resposta 0"]
    assert sorted(asked) == ["0", "1"]
    assert tokens == 6


# The stage


@pytest.fixture
def repository(workspace: Path, tiny: Path) -> Path:
    """Return the workspace with validation sets and a base model."""
    write_validation_sets(workspace)
    shutil.copytree(tiny, workspace / "models/base")
    return workspace


def use(folder: Path, server: JudgeServer) -> None:
    """Write params.yaml with one variant, which the server answers one by one."""

    def edit(params: dict[str, Any]) -> None:
        variant = {"model": "models/base", "engine": "openai", "served_model": "m"}
        params["variants"] = {"api": {**variant, "base_url": server.url}}
        params["compare"]["pairs"] = []
        params["generate"].update(parallel=1)

    edit_params(folder / "params.yaml", edit)


def test_a_killed_stage_asks_only_for_the_missing_answers(repository: Path, serve: Servers) -> None:
    fifth = threading.Event()
    go_on = threading.Event()

    def reply(request: dict[str, Any]) -> tuple[int, bytes]:
        question = request["messages"][-1]["content"]
        if len(server.requests) == 5 and not go_on.is_set():
            fifth.set()
            go_on.wait(60)
        return 200, completion(f"Resposta a: {question}")

    server = serve(reply)
    use(repository, server)
    command = [sys.executable, "-m", "stages.generate", "api"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment) as process:
        assert fifth.wait(300)
        process.send_signal(signal.SIGKILL)
    go_on.set()
    assert not (repository / "data/answers").exists()
    generate.main("api")
    rows = list(read_rows(repository / "data/answers/api.jsonl"))
    assert len(rows) == 10
    assert [row["generated"] for row in rows] == [f"Resposta a: {row['question']}" for row in rows]
    asked = Counter(request["messages"][-1]["content"] for request in server.requests)
    # Only the request in which the kill fell is sent twice.
    assert sorted(asked.values()) == [1] * 9 + [2]
    assert list((repository / ".bula/answers/generate@api").iterdir()) == []


def test_the_rule_fail_leaves_no_answer_on_disk(repository: Path, serve: Servers) -> None:
    use(repository, serve("Ligue para (11) 91234-5678."))
    edit_params(repository / "params.yaml", lambda params: params["privacy"].update(answers="fail"))
    message = "Nothing was written, and the finished answers were deleted"
    with pytest.raises(UserError, match=message):
        generate.main("api")
    for folder in ("data/answers", "metrics", ".bula"):
        assert [path for path in (repository / folder).rglob("*") if path.is_file()] == []


def test_failed_requests_are_counted_in_the_metrics(repository: Path, serve: Servers) -> None:
    def reply(request: dict[str, Any]) -> tuple[int, bytes]:
        if len(server.requests) == 3:
            return 400, error_body("no")
        return 200, completion("<think>Hum.</think>Beba água.")

    server = serve(reply)
    use(repository, server)
    edit_params(
        repository / "params.yaml", lambda params: params["generate"].update(max_failed_share=0.1)
    )
    generate.main("api")
    figures = json.loads((repository / "metrics/generate/api.json").read_text(encoding="utf-8"))
    expected = {"items": 10, "failed": 1, "failed_share": 0.1, "degenerate": 0, "empty": 0}
    assert {name: figures[name] for name in expected} == expected
    assert figures["reasoning_removed"] == 9
    assert sum(figures[name]["failed"] for name in "ABCDE") == 1
    rows = list(read_rows(repository / "data/answers/api.jsonl"))
    assert {row["generated"] for row in rows} == {"Beba água.", ""}


def test_the_server_receives_system_prompt_question_and_nothing_else(
    repository: Path, serve: Servers
) -> None:
    server = serve("Sim.")
    use(repository, server)
    generate.main("api")
    first = server.requests[0]
    assert set(first) == {"model", "messages", "max_tokens", "temperature"}
    system, question = first["messages"]
    assert system == {"role": "system", "content": SYSTEM_PROMPT}
    assert question["role"] == "user"
    figures = json.loads((repository / "metrics/generate/api.json").read_text(encoding="utf-8"))
    own = "the engine's own"
    assert figures["settings"] == {
        "engine": "openai",
        "dtype": own,
        "compute_dtype": own,
        "few_shot": 0,
        "served_model": "m",
        "other_decoding_rules": own,
    }


def test_history_and_few_shot_examples_are_messages(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    shot = Turn(question="Posso correr?", answer="Sim.")
    earlier = Turn(question="E nadar?", answer="Também.")
    [chat] = answering.to_chats(tokenizer, [("E pular?", [earlier])], [shot])
    assert [message["content"] for message in chat[1:]] == [
        "Posso correr?",
        "Sim.",
        "E nadar?",
        "Também.",
        "E pular?",
    ]


def test_check_refuses_a_served_model_without_weights(workspace: Path) -> None:
    (workspace / "models/base").mkdir(parents=True)
    params = params_with().model_copy(update={"variants": {"api": variant_at("http://a/v1")}})
    message = r"variants\.api: models/base has no weights .* API gives no log-likelihoods"
    with pytest.raises(UserError, match=message):
        check.check_weights(params)
    (workspace / "models/base/model.safetensors").touch()
    check.check_weights(params)
