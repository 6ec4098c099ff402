"""Check what one failed call costs, against a server with faults."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from bench.clones import edit_params
from bula import judge_client
from bula.errors import UserError
from bula.judge_client import Session, connect
from bula.judge_limits import make_budget, make_pace
from bula.judge_prompt import to_messages
from bula.judge_words import server_words
from bula.judging import judge_rows, verdicts_or_error
from bula.params import load_params
from bula.records import Row
from bula.serving import Endpoint
from tests.judge_server import Reply, StartJudge, completion, error_body, verdict
from tests.test_judging import ROWS, ask, with_answers

POISON = "Resposta 7."


def set_judge(workspace: Path, **values: Any) -> None:
    """Change values of the section judge."""
    edit_params(workspace / "params.yaml", lambda params: params["judge"].update(values))


def judge_or_error(rows: list[Row]) -> Any:
    """Return the verdicts on `rows`, or raise the error of the stage."""
    return verdicts_or_error(rows, load_params(), Path("models/judge"))


def moderated(request: dict[str, Any]) -> tuple[int, bytes]:
    """Refuse one prompt and answer all others."""
    if POISON in request["messages"][1]["content"]:
        return 403, error_body("input was flagged by moderation")
    return 200, completion(verdict(3, 3))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (403, "PermissionDeniedError"),
        (None, "APIConnectionError"),
        (b'{"choices": [{"mess', "InvalidReply"),
        (b'{"error": {"message": "busy"}}', "InvalidReply"),
        (b"<html>Bad gateway</html>", "InvalidReply"),
        (b'{"choices": []}', "InvalidReply"),
        (b'{"choices": null}', "InvalidReply"),
    ],
)
def test_one_poison_item_is_one_failure(fault: Reply, reason: str, api: StartJudge) -> None:
    replies: list[Reply] = [verdict(3, 3)] * 20
    replies[7] = fault
    api(replies)
    judged = judge_or_error(with_answers(20))
    assert [row.get("failed") for row in judged.rows].count(reason) == 1
    assert sum("accuracy" in row for row in judged.rows) == 19


def test_a_later_run_asks_only_for_the_rest(api: StartJudge) -> None:
    _, server = api([moderated])
    judge_or_error(with_answers(20))
    judge_or_error(with_answers(20))
    assert len(server.requests) == 20 + 1


def test_too_many_failures_write_no_mean_and_name_each_reason(
    api: StartJudge, workspace: Path
) -> None:
    set_judge(workspace, max_failed_share=0.1)
    replies: list[Reply] = [verdict(3, 3)] * 10
    replies[2] = 403
    replies[5] = b"<html>"
    _, server = api(replies)
    message = (
        r"2 of 10 calls failed, more than judge\.max_failed_share allows: "
        r'PermissionDeniedError 1 \(the server: "no"\), InvalidReply 1\. .*asks only for the rest'
    )
    with pytest.raises(UserError, match=message):
        judge_or_error(with_answers(10))
    server.replies = [verdict(3, 3)]
    assert judge_or_error(with_answers(10)).speed["calls"] == 2


def test_failures_in_a_row_stop_the_stage_and_keep_its_verdicts(
    api: StartJudge, workspace: Path
) -> None:
    set_judge(workspace, stop_after_failures=4)
    replies: list[Reply] = [verdict(3, 3)] * 5 + [403] * 40
    _, server = api(replies)
    with pytest.raises(UserError, match=r"4 calls in a row failed: PermissionDeniedError 4"):
        judge_or_error(with_answers(40))
    assert len(server.requests) == 9
    server.replies = [verdict(3, 3)]
    assert judge_or_error(with_answers(40)).speed["known"] == 5


def test_calls_that_wait_for_their_turn_are_not_sent_after_the_stop(
    api: StartJudge, workspace: Path
) -> None:
    _, server = api([verdict(3, 3), 403])
    # 50 ms lie between two requests, and 20 calls wait at the same time.
    set_judge(workspace, stop_after_failures=1, parallel=20, requests_per_minute=1200)
    with pytest.raises(UserError, match="1 calls in a row failed"):
        judge_or_error(with_answers(40))
    assert len(server.requests) <= 4


def test_single_failures_between_verdicts_do_not_stop_the_stage(
    api: StartJudge, workspace: Path
) -> None:
    set_judge(workspace, stop_after_failures=2, max_failed_share=0.6)
    api([403, verdict(3, 3)])
    assert len(judge_or_error(with_answers(12)).failures) == 6


@pytest.mark.parametrize("status", [402, 429])
def test_an_account_without_money_stops_at_once(
    status: int, api: StartJudge, workspace: Path
) -> None:
    body = error_body("You exceeded your current quota", code="insufficient_quota")
    _, server = api([verdict(3, 3), lambda request: (status, body)])
    set_judge(workspace, retries=5)
    message = (
        r'no money is left: InsufficientQuota 1 \(the server: "You exceeded your current quota"\)'
    )
    with pytest.raises(UserError, match=message):
        judge_or_error(with_answers(30))
    assert len(server.requests) == 2


def test_cut_connections_and_busy_servers_are_asked_again(
    api: StartJudge, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_client, "FIRST_WAIT", 0.001)
    _, server = api([None, 429, 503, verdict(2, 1)])
    set_judge(workspace, retries=3)
    rows = ask(ROWS[:1])
    assert len(server.requests) == 4, rows
    assert rows[0]["accuracy"] == 2


def test_a_refused_prompt_is_not_repeated(api: StartJudge, workspace: Path) -> None:
    _, server = api([403, verdict(2, 1)])
    set_judge(workspace, retries=3)
    judge_rows(ROWS[:1], load_params(), Path("models/judge"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [400, 500, b'{"tokens": [{"id": 1, "piece": "a"}]}'])
def test_a_local_judge_that_cannot_split_a_text_is_one_failure(
    fault: Reply, api: StartJudge
) -> None:
    params, server = api([fault])
    settings = params.judge.model_copy(update={"base_url": "local", "max_reply_bytes": 20})

    async def ask_once() -> Any:
        pace = make_pace(settings, 1)
        reserve = make_budget(settings, 0.0, lambda usage: None)
        session = Session(settings, pace, reserve, asyncio.Event(), [])
        async with connect(Endpoint(server.url, "none"), settings) as client:
            return await judge_client.ask(client, session, to_messages(ROWS[0]), [])

    assert asyncio.run(ask_once()).reason == "ControlToken"
    assert len(server.requests) == 1


# The server's own words

KEY = "sk-secret-0123456789"
PROMPT = [
    {"role": "system", "content": "Você avalia respostas."},
    {"role": "user", "content": "Paciente Joana sente dor."},
]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"message": "too long", "param": "messages"}, "too long (messages)"),
        ({"detail": [{"msg": "field required", "loc": "body"}]}, "field required (body)"),
        ("<html><b>Bad</b>\ngateway</html>", "Bad gateway"),
        ({"message": f"wrong key {KEY}"}, "wrong key [key]"),
        ({"message": "wrong key sk-proj-abcdef123456"}, "wrong key [key]"),
        ({"message": "flagged: Paciente Joana sente dor."}, "flagged: … [NOME] …."),
        ({"message": "CPF 529.982.247-25 found"}, "CPF [CPF] found"),
        ({"error": {"reason": "S\\u00f3 texto"}, "loc": ["body", 0]}, "Só texto (['body', 0])"),
        ({"message": "Dor de Joana, sente"}, "… de …"),
        ("<script>x</script><p>Busy</p>", "Busy"),
        ({"message": "\x1b[31mred"}, "\N{REPLACEMENT CHARACTER}[31mred"),
        (None, ""),
        (7, ""),
    ],
)
def test_words_of_a_server_are_shown_without_keys_and_prompt(body: Any, expected: str) -> None:
    assert server_words(body, KEY, PROMPT) == expected


def test_words_of_a_server_are_shortened() -> None:
    assert server_words("long " * 100, KEY, PROMPT) == ("long " * 48) + "…"


def test_error_shows_the_words_of_the_server(api: StartJudge) -> None:
    api([lambda request: (404, error_body("The model `judge-1` does not exist"))])
    said = re.escape('NotFoundError 4 (the server: "The model `judge-1` does not exist")')
    with pytest.raises(UserError, match=said):
        judge_or_error(ROWS)
