"""Test the requests to servers, with servers that fail in many ways."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx2 as httpx
import openai
import pytest

from bench.clones import ROOT
from bula import server_answers, serving
from bula.answers import Answer, Prompts, without_reasoning
from bula.api_answers import RequestError
from bula.errors import UserError
from bula.params import Params, Variant, load_params
from bula.server_answers import STOP_AFTER, Servers
from bula.serving import Endpoint


def with_share(max_failed_share: float) -> Params:
    """Return the default parameters with another limit of failed requests."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    changed = params.generate.model_copy(update={"max_failed_share": max_failed_share})
    return params.model_copy(update={"generate": changed})


Reply = Callable[[httpx.Request], httpx.Response]


def client_of(reply: Reply) -> openai.OpenAI:
    """Return a client whose server answers with `reply`."""
    http = openai.DefaultHttpxClient(transport=httpx.MockTransport(reply))
    return openai.OpenAI(
        base_url="http://127.0.0.1:1/v1", api_key="k", max_retries=0, http_client=http
    )


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def reply_with(finish_reason: str, request: httpx.Request) -> httpx.Response:
    choice = {"index": 0, "text": "Tome", "finish_reason": finish_reason}
    return httpx.Response(200, json={"choices": [choice]})


JSON_TYPE = {"content-type": "application/json"}
NO_ANSWER = "a reply contains no answer"
REPLIES: dict[str, tuple[Reply, str]] = {
    "an error of the server": (
        lambda _: httpx.Response(500, json={"error": "Pergunta secreta"}),
        "InternalServerError",
    ),
    "no JSON": (
        lambda _: httpx.Response(200, text="{", headers=JSON_TYPE),
        "JSONDecodeError|APIResponseValidationError",
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
    **{
        f"finish_reason {reason}": (
            partial(reply_with, reason),
            f"a reply has finish_reason {reason}",
        )
        for reason in ("error", "abort", "failed")
    },
}


def test_a_lost_connection_is_left_to_the_code_that_started_the_server() -> None:
    with client_of(refuse) as client, pytest.raises(openai.APIConnectionError):
        server_answers.complete(client, "m", [1], {})


@pytest.mark.parametrize(("reply", "message"), REPLIES.values(), ids=REPLIES)
def test_a_failed_request_is_reported_without_the_words_of_the_server(
    reply: Any, message: str
) -> None:
    with (
        client_of(reply) as client,
        pytest.raises(RequestError, match=f"^({message})$") as caught,
    ):
        server_answers.complete(client, "m", [1, 2], {})
    assert "secreta" not in str(caught.value)


@contextmanager
def no_server() -> Iterator[list[Endpoint]]:
    """Yield an endpoint without a server."""
    yield [Endpoint("http://127.0.0.1:1/v1", "k")]


PROMPTS = [[number] for number in range(10)]
Complete = Callable[[Any, str, list[int], dict[str, Any]], Answer]


def servers_with(complete: Complete, most_failures: int, questions: Prompts) -> Servers:
    """Return servers that answer with a function, for these questions."""
    return Servers(
        name="m",
        start=no_server,
        parallel=1,
        questions=Counter(map(tuple, questions)),
        most_failures=most_failures,
        complete=complete,
        connect=serving.open_client,
        fix="look at the server",
    )


def ask_servers(
    monkeypatch: pytest.MonkeyPatch, complete: Complete, most_failures: int
) -> tuple[list[Answer], Prompts]:
    """Return the answers to PROMPTS, and the prompts whose answers were kept."""
    monkeypatch.setattr(server_answers, "PAUSE_SECONDS", 0)
    kept: Prompts = []
    servers = servers_with(complete, most_failures, PROMPTS)
    return ask_all(servers, PROMPTS, kept), kept


def ask_all(servers: Servers, prompts: Prompts, kept: Prompts) -> list[Answer]:
    """Return the answers to prompts, and add the prompts whose answers were kept to a list."""

    def keep(prompts: Prompts, answers: list[Answer]) -> None:
        kept.extend(prompts)

    return server_answers.answer_by_server(servers, prompts, lambda prompt: {}, keep)


def test_a_request_that_fails_twice_has_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[int] = Counter()

    def complete(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
        asked.update(prompt)
        if asked[prompt[0]] == 1:
            raise openai.APIConnectionError(request=httpx.Request("POST", "http://x"))
        if asked[prompt[0]] == 2:
            raise RequestError("InternalServerError")
        return Answer(str(prompt[0]), "stop", 1)

    answers, kept = ask_servers(monkeypatch, complete, 0)
    assert answers == [Answer(str(number), "stop", 1) for number in range(10)]
    assert kept == PROMPTS
    assert set(asked.values()) == {3}


def fail_on_3(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
    if prompt == [3]:
        raise RequestError("InternalServerError")
    return Answer("Sim.", "stop", 1)


def test_a_failed_request_is_one_failed_answer_that_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers, kept = ask_servers(monkeypatch, fail_on_3, 1)
    assert answers[3] == Answer("", "failed", 0)
    assert [given.finish_reason for given in answers].count("stop") == 9
    assert kept == [prompt for prompt in PROMPTS if prompt != [3]]


def test_too_many_failed_requests_stop_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        r"the server of m: 1 questions have no answer \(the last one: InternalServerError\), and "
        r"generate\.max_failed_share allows 0\. Look at the server; it keeps the finished answers"
    )
    with pytest.raises(UserError, match=message):
        ask_servers(monkeypatch, fail_on_3, 0)


def test_the_share_of_failed_requests_counts_all_prompts() -> None:
    assert most_failures(0.05, 30) == 1
    assert most_failures(0.05, 19) == 0
    # In binary, 0.29 * 100 is below 29, but 29 / 100 equals 0.29.
    assert most_failures(0.29, 100) == 29


def most_failures(max_failed_share: float, questions: int) -> int:
    """Return the number of questions that may have no answer."""
    variant = Variant.model_construct(model="m", engine="llama.cpp")
    params = with_share(max_failed_share)
    return server_answers.servers_of(variant, params, [[1]] * questions).most_failures


def test_one_question_needs_an_answer_whatever_the_share() -> None:
    assert most_failures(1.0, 30) == 29


# Failures that stop the stage early

MANY = [[number] for number in range(10_000)]


def test_a_dead_server_ends_the_stage_after_a_few_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_answers, "PAUSE_SECONDS", 0)
    asked: list[int] = []

    def complete(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
        asked.extend(prompt)
        if prompt[0] < 5:
            return Answer("Sim.", "stop", 1)
        raise RequestError("APIConnectionError")

    kept: Prompts = []
    servers = servers_with(complete, 500, MANY)._replace(parallel=4)
    message = r"10 requests in a row have no answer \(the last one: APIConnectionError\)\. Look"
    with pytest.raises(UserError, match=message):
        ask_all(servers, MANY, kept)
    # Each request is sent three times. The other three threads finish their current request.
    assert len(asked) <= 5 + 3 * (STOP_AFTER + 3)
    assert sorted(kept) == MANY[:5]


def test_no_request_starts_after_too_many_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_answers, "PAUSE_SECONDS", 0)
    asked: list[int] = []

    def complete(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
        asked.extend(prompt)
        raise RequestError("HTTP 404", None)

    servers = servers_with(complete, 3, MANY)._replace(parallel=4)
    with pytest.raises(UserError, match="4 questions have no answer"):
        ask_all(servers, MANY, [])
    assert len(asked) <= 4 + 3


def test_a_server_that_refuses_single_questions_is_not_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def complete(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
        if 0 < prompt[0] < 2 * STOP_AFTER:
            raise RequestError("HTTP 400 content_filter", None)
        return Answer("Sim.", "stop", 1)

    prompts = MANY[:30]
    answers = ask_all(servers_with(complete, 25, prompts), prompts, [])
    reasons = [given.finish_reason for given in answers]
    assert reasons == ["stop"] + ["failed"] * 19 + ["stop"] * 10


def test_a_server_that_refuses_every_question_is_given_up() -> None:
    def complete(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
        raise RequestError("HTTP 404 model_not_found", None)

    with pytest.raises(UserError, match="10 requests in a row have no answer"):
        ask_all(servers_with(complete, 500, MANY), MANY, [])


def test_a_request_that_waits_does_not_delay_the_end_of_the_stage() -> None:
    waits = threading.Event()

    def complete(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
        if prompt == [0]:
            waits.set()
            raise RequestError("HTTP 429", wait=60)
        waits.wait(60)
        raise RequestError("HTTP 400", None)

    servers = servers_with(complete, 0, MANY)._replace(parallel=2)
    started = time.monotonic()
    with pytest.raises(UserError, match="1 questions have no answer"):
        ask_all(servers, MANY[:2], [])
    assert time.monotonic() - started < 30


def test_a_failed_request_counts_once_per_question() -> None:
    def complete(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
        raise RequestError("HTTP 400", None)

    # Three of five questions have the prompt [1].
    servers = servers_with(complete, 2, [[1], [1], [1], [2], [3]])
    with pytest.raises(UserError, match="3 questions have no answer"):
        ask_all(servers, [[1], [2], [3]], [])


# Reasoning

REASONING = [
    ("<think>É grave?</think>\n\nProcure um médico.", "stop"),
    # Some templates write the start tag into the prompt.
    ("É grave?</think>Procure um médico.", "stop"),
    ("\n<think>É grave", "length"),
    # Reasoning without an end is no answer, even if the server says that it has stopped.
    ("<think>É grave", "stop"),
    ("Procure <think> um </think> médico.", "stop"),
]


def test_reasoning_is_no_part_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(client: Any, model: str, prompt: list[int], fields: dict[str, Any]) -> Answer:
        text, reason = REASONING[prompt[0] % len(REASONING)]
        return Answer(text, reason, 9)

    answers, _ = ask_servers(monkeypatch, complete, 0)
    advice = Answer("Procure um médico.", "stop", 9, reasoning_removed=True)
    cut = Answer("", "length", 9, reasoning_removed=True)
    other = Answer("Procure <think> um </think> médico.", "stop", 9)
    assert answers == [advice, advice, cut, cut, other] * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think>\n<think>b</think>Tome água", ("Tome água", "stop")),
        ("a</think><think>b</think> <think>c</think>Tome água", ("Tome água", "stop")),
        ("<think>a</think>\n<think>b", ("", "length")),
        ("<think>a</think>Tome <think>b</think>", ("Tome <think>b</think>", "stop")),
    ],
)
def test_every_block_of_reasoning_before_an_answer_is_removed(
    text: str, expected: tuple[str, str]
) -> None:
    found = without_reasoning(Answer(text, "stop", 9))
    assert found == Answer(*expected, 9, reasoning_removed=True)
