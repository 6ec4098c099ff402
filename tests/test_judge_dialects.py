"""Check that each server gets fields that it accepts, and that its replies are understood."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT
from bula.judge_dialects import (
    FIRST,
    FORM,
    Dialect,
    find_verdict,
    next_dialect,
    read_dialect,
    record_dialect,
    to_request,
)
from bula.judge_prompt import Verdict, to_messages
from bula.params import load_params
from tests.judge_server import Answer, StartJudge, completion, error_body, verdict
from tests.test_judging import ROWS, ask, with_answers

RECORD = Path(".bula/judge_dialects.json")
PLAIN = Dialect(token_limit="max_completion_tokens", temperature=False, seed=False, format="text")


def refuse(*fields: str, formats: tuple[str, ...] = ("json_schema",)) -> Answer:
    """Return a server that refuses some fields, and formats that it does not know."""

    def answer(request: dict[str, Any]) -> tuple[int, bytes]:
        for field in fields:
            if field in request:
                return 400, error_body(f"Unsupported parameter: '{field}'", param=field)
        kind = request.get("response_format", {"type": "text"})["type"]
        if kind not in formats:
            return 422, json.dumps({"detail": f"unknown response_format {kind}"}).encode()
        return 200, completion(verdict(3, 2))

    return answer


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (refuse(), FIRST),
        (
            refuse("max_tokens", "temperature"),
            FIRST.model_copy(update={"token_limit": "max_completion_tokens", "temperature": False}),
        ),
        (refuse(formats=("json_object",)), FIRST.model_copy(update={"format": "json_object"})),
        (refuse("max_tokens", "temperature", "seed", formats=("text",)), PLAIN),
    ],
)
def test_capability_is_found_once_and_recorded(
    server: Answer, expected: Dialect, api: StartJudge, workspace: Path
) -> None:
    params, started = api([server])
    assert {row["accuracy"] for row in ask(ROWS[:3])} == {3}
    assert read_dialect(RECORD, params.judge) == expected
    changes = len(started.requests) - 3
    assert changes == sum(
        getattr(FIRST, field) != getattr(expected, field)
        for field in ("token_limit", "temperature", "seed")
    ) + ["json_schema", "json_object", "text"].index(expected.format)
    before = len(started.requests)
    ask(with_answers(2))
    # A later run sends no field that was refused before.
    assert len(started.requests) == before + 2


def test_another_model_at_the_same_address_has_its_own_record(tmp_path: Path) -> None:
    settings = load_params(ROOT / "profiles/llama-3.2-1b.yaml").judge
    record_dialect(tmp_path / "x.json", settings, PLAIN)
    slash = settings.model_copy(update={"base_url": f"{settings.base_url}/"})
    assert read_dialect(tmp_path / "x.json", slash) == PLAIN
    other = settings.model_copy(update={"model": "another"})
    assert read_dialect(tmp_path / "x.json", other) is None
    record_dialect(tmp_path / "x.json", other, FIRST)
    assert read_dialect(tmp_path / "x.json", settings) == PLAIN


def test_damaged_record_is_found_again(tmp_path: Path) -> None:
    settings = load_params(ROOT / "profiles/llama-3.2-1b.yaml").judge
    (tmp_path / "x.json").write_bytes(b'{"half')
    assert read_dialect(tmp_path / "x.json", settings) is None


def test_refused_prompt_is_no_missing_capability(api: StartJudge) -> None:
    def too_long(request: dict[str, Any]) -> tuple[int, bytes]:
        return 400, error_body("the prompt is too long")

    _, server = api([too_long, verdict(3, 3)])
    assert ask(ROWS[:2])[0]["failed"] == "BadRequestError"
    assert len(server.requests) == 2
    assert "max_tokens" in server.requests[1]


def test_server_that_refuses_both_names_of_the_limit_fails(api: StartJudge) -> None:
    _, server = api([refuse("max_tokens", "max_completion_tokens"), verdict(3, 3)])
    server.replies.insert(1, server.replies[0])
    rows = ask(ROWS[:2])
    assert rows[0]["failed"] == "BadRequestError"
    assert len(server.requests) == 3


def test_next_dialect_prefers_the_field_that_is_named() -> None:
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    changed = next_dialect(FIRST, said)
    assert changed is not None
    assert changed.token_limit == "max_completion_tokens"
    assert next_dialect(changed, "no such model") is None
    assert next_dialect(PLAIN, "temperature, seed and response_format") is None


def test_request_of_a_server_without_a_schema_describes_the_form() -> None:
    settings = load_params(ROOT / "profiles/llama-3.2-1b.yaml").judge
    messages = to_messages(ROWS[0])
    request = to_request(settings, messages, PLAIN)
    assert request["messages"][0]["content"] == f"{messages[0]['content']}\n{FORM}"
    assert request["messages"][1:] == messages[1:]
    assert set(request) == {"model", "messages", "max_completion_tokens"}
    # OpenAI refuses json_object unless the prompt contains the word.
    assert "JSON" in FORM


GOOD = '{"reason": "Correta.", "accuracy": 3, "style": 2}'
OTHER = '{"reason": "Errada.", "accuracy": 1, "style": 1}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Aqui está:\n```\n{GOOD}\n```\nEspero ter ajudado {{}}.",
        f"<think>{OTHER} ou outra?</think>\n{GOOD}",
        f"{OTHER} ou outra?</think>{GOOD}",
        f"<thinking>{OTHER}</thinking>{GOOD}",
        f"{GOOD}\n{GOOD}",
        f"{{aqui {GOOD}",
    ],
)
def test_verdict_is_found_in_the_text_of_a_reply(text: str) -> None:
    found = find_verdict(text, Verdict)
    assert found is not None
    assert (found.accuracy, found.style) == (3, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3 e 2",
        GOOD[:-1],
        f"{GOOD}\n{OTHER}",
        f'{{"nested": {GOOD}}}',
        f"<think>{GOOD}</think>",
        GOOD.replace("3", "4"),
        GOOD.replace("3", '"3"'),
        GOOD.replace("3", "3.0"),
        GOOD.replace("3", "true"),
        GOOD.replace("}", ', "tone": 1}'),
        '{"a":' * 100_000,
        "{" * 100_000,
    ],
)
def test_text_without_one_clear_verdict_has_none(text: str) -> None:
    assert find_verdict(text, Verdict) is None
