"""Check that a batch is paid once, and that one item's failure costs one item."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.clones import edit_params
from bula import judge_batch, judge_batch_api
from bula.errors import UserError
from bula.judge_batch import split
from bula.judge_dialects import FIRST, to_request
from bula.judge_ledger import LEDGER, read_ledger
from bula.judge_limits import UNUSED, Usage, worst_case
from bula.judge_pending import BATCHES, read_pending
from bula.judge_prompt import to_messages
from bula.judging import Judged, judge_rows
from bula.params import Judge, load_params
from tests.batch_server import USAGE, BatchServer, answered, batch_server, correct, not_run
from tests.judge_process import PATIENCE, numbered_rows, start_judge
from tests.judge_server import completion, error_body, point_to

POISON = "Resposta 1."
# One token costs one dollar, so that sums are easy.
PRICES = {"usd_per_million_input": 1e6, "usd_per_million_output": 1e6}


@pytest.fixture
def server(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    """Return a server to which params.yaml points, with short waits."""
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setattr(judge_batch_api, "FIRST_POLL", 0.001)
    with batch_server() as started:
        point_to(workspace, started.url)
        set_judge(workspace, batch=True)
        yield started


def set_judge(workspace: Path, **values: Any) -> None:
    """Change values of the section judge."""
    edit_params(workspace / "params.yaml", lambda params: params["judge"].update(values))


def ask(count: int) -> Judged:
    """Return the verdicts on some rows."""
    return judge_rows(numbered_rows(0, count), load_params(), Path("models/judge"))


def spent() -> Usage:
    """Return the usage in the ledger."""
    return read_ledger(LEDGER, "judge-1").spent


def worst() -> Usage:
    """Return the largest usage of one request."""
    settings = load_params().judge
    return worst_case(to_request(settings, to_messages(numbered_rows(0, 1)[0]), FIRST), settings)


def pending_worst() -> list[Usage]:
    """Return the largest usage of each request that is pending."""
    batches = read_pending(LEDGER.with_name(BATCHES), "judge-1")
    return [usage for batch in batches for usage in batch.worst.values()]


def is_poison(request: dict[str, Any]) -> bool:
    """Return whether a request is about one certain answer."""
    return POISON in request["messages"][1]["content"]


def test_a_batch_gives_all_verdicts_and_their_usage(server: BatchServer) -> None:
    judged = ask(3)
    assert [row["accuracy"] for row in judged.rows] == [3, 3, 3]
    assert judged.speed["calls"] == 3
    assert (judged.speed["input_tokens"], judged.speed["output_tokens"]) == (300, 60)
    assert spent() == Usage(300, 60)
    [batch] = server.batches.values()
    assert batch["completion_window"] == "24h"
    assert batch["endpoint"] == "/v1/chat/completions"
    lines = server.requests()
    assert {line["method"] for line in lines} == {"POST"}
    assert {line["custom_id"] for line in lines} == {row["key"] for row in judged.rows}
    assert lines[0]["body"]["temperature"] == 0
    assert json.loads(Path(".bula", BATCHES).read_text(encoding="utf-8")) == []


def test_known_verdicts_are_in_no_later_batch(server: BatchServer) -> None:
    ask(2)
    server.statuses = ["completed"]
    assert ask(3).speed["known"] == 2
    assert len(server.requests()) == 3
    ask(3)
    assert len(server.batches) == 2


@pytest.mark.parametrize(
    ("fields", "reason", "usage"),
    [
        (answered(403, error_body("flagged")), "HTTP403", UNUSED),
        (not_run("batch_expired"), "Expired", UNUSED),
        (answered(200, completion("no JSON", usage=USAGE)), "ValidationError", Usage(100, 20)),
        (answered(200, b"[]"), "InvalidReply", None),
        (answered(500, error_body("crash")), "HTTP500", None),
        (not_run("something_else"), "NoReply", None),
    ],
)
def test_one_failed_item_is_one_failure(
    fields: dict[str, Any], reason: str, usage: Usage | None, server: BatchServer
) -> None:
    server.answer = lambda request: fields if is_poison(request) else correct(request)
    judged = ask(3)
    assert [row.get("failed") for row in judged.rows] == [None, reason, None]
    input_tokens, output_tokens = worst() if usage is None else usage
    assert spent() == Usage(200 + input_tokens, 40 + output_tokens)
    # A later run asks only for the failed item.
    server.answer = correct
    server.statuses = ["completed"]
    assert [row.get("accuracy") for row in ask(3).rows] == [3, 3, 3]
    assert len(server.requests()) == 4


def test_an_expired_batch_keeps_its_verdicts(server: BatchServer) -> None:
    server.statuses = ["in_progress", "expired"]
    server.answer = lambda request: (
        not_run("batch_expired") if is_poison(request) else correct(request)
    )
    judged = ask(4)
    assert [row.get("failed") for row in judged.rows] == [None, "Expired", None, None]
    assert spent() == Usage(300, 60)


def test_an_item_that_no_file_names_costs_its_worst_case(server: BatchServer) -> None:
    original = server.write_outputs

    def damage(batch: dict[str, Any]) -> None:
        original(batch)
        name = batch["output_file_id"]
        first, second = server.files[name].splitlines()
        server.files[name] = first + b"\n" + second[:40]

    server.write_outputs = damage  # type: ignore[method-assign]
    assert [row.get("failed") for row in ask(2).rows] == [None, "NoReply"]
    input_tokens, output_tokens = worst()
    assert spent() == Usage(100 + input_tokens, 20 + output_tokens)


# Killed runs


def run_until(workspace: Path, server: BatchServer, call: str) -> None:
    """Judge in another process, and kill it after a request."""
    process, _ = start_judge(workspace, numbered_rows(0, 3))
    deadline = time.monotonic() + PATIENCE
    while server.count(call) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert server.count(call) > 0


def test_a_killed_run_continues_to_wait_and_pays_once(server: BatchServer, workspace: Path) -> None:
    server.statuses = ["in_progress"]
    run_until(workspace, server, "GET /batches/")
    assert read_ledger(LEDGER, "judge-1").verdicts == {}
    server.statuses = ["completed"]
    judged = ask(4)
    assert [row["accuracy"] for row in judged.rows] == [3, 3, 3, 3]
    # The first batch has three requests, and the second has the new row.
    assert [len(server.batches), len(server.requests())] == [2, 4]
    assert spent() == Usage(400, 80)


def test_a_batch_whose_creation_was_not_confirmed_is_found_again(server: BatchServer) -> None:
    server.loses_creation = True
    with pytest.raises(UserError, match="the creation of a batch failed: APIConnectionError"):
        ask(2)
    server.loses_creation = False
    assert [row["accuracy"] for row in ask(2).rows] == [3, 3]
    assert len(server.batches) == 1


def test_a_batch_that_was_never_created_is_created_from_its_file(server: BatchServer) -> None:
    server.faults = {"POST /batches": [503]}
    with pytest.raises(UserError, match="InternalServerError"):
        ask(2)
    assert server.batches == {}
    assert [row["accuracy"] for row in ask(2).rows] == [3, 3]
    assert server.count("POST /files") == 1


def test_lines_of_a_run_killed_while_it_wrote_are_not_counted_twice(
    server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda request: (
        answered(500, error_body("crash")) if is_poison(request) else correct(request)
    )

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judge_batch, "record_dialect", die)
        with pytest.raises(KeyboardInterrupt):
            ask(3)
    before = spent()
    ask(3)
    assert spent() == before
    assert len(server.batches) == 1


def leave_a_batch(server: BatchServer) -> None:
    """Leave a pending batch of two rows by a run whose polls fail."""
    server.faults = {"GET /batches/": [403]}
    with pytest.raises(UserError, match="batch_0 failed"):
        ask(2)
    assert pending_worst() == [worst(), worst()]


def test_single_calls_first_finish_a_pending_batch(server: BatchServer, workspace: Path) -> None:
    leave_a_batch(server)
    set_judge(workspace, batch=False)
    judged = ask(2)
    assert [row["accuracy"] for row in judged.rows] == [3, 3]
    assert (judged.speed["known"], judged.speed["calls"]) == (2, 0)
    assert server.count("POST /chat") == 0
    assert spent() == Usage(200, 40)
    assert pending_worst() == []


def test_single_calls_forget_an_upload_without_a_batch(
    server: BatchServer, workspace: Path
) -> None:
    server.faults = {"POST /batches": [503]}
    with pytest.raises(UserError, match="InternalServerError"):
        ask(2)
    set_judge(workspace, batch=False)
    assert [row["accuracy"] for row in ask(2).rows] == [3, 3]
    assert (server.batches, pending_worst()) == ({}, [])
    assert server.count("POST /chat") == 2


def test_single_calls_find_a_batch_whose_creation_was_not_confirmed(
    server: BatchServer, workspace: Path
) -> None:
    server.loses_creation = True
    with pytest.raises(UserError, match="APIConnectionError"):
        ask(2)
    set_judge(workspace, batch=False)
    assert [row["accuracy"] for row in ask(2).rows] == [3, 3]
    assert server.count("POST /chat") == 0


def test_a_run_without_new_prompts_finishes_a_pending_batch(server: BatchServer) -> None:
    leave_a_batch(server)
    assert ask(0).rows == []
    assert spent() == Usage(200, 40)
    assert pending_worst() == []


# Faults of the server


def test_failed_polls_are_repeated(server: BatchServer) -> None:
    server.faults = {"GET /batches/": [500, 429, 503]}
    assert [row["accuracy"] for row in ask(1).rows] == [3]


def test_polls_that_fail_in_a_row_stop_the_run_and_keep_the_batch(
    server: BatchServer, workspace: Path
) -> None:
    set_judge(workspace, stop_after_failures=3)
    server.faults = {"GET /batches/": [500] * 3}
    with pytest.raises(UserError, match=r'batch_0 failed: InternalServerError .*"not now"'):
        ask(2)
    assert [row["accuracy"] for row in ask(2).rows] == [3, 3]
    assert len(server.batches) == 1


@pytest.mark.parametrize("call", ["POST /files", "POST /batches"])
def test_a_refused_batch_is_an_error_and_holds_no_money(call: str, server: BatchServer) -> None:
    server.faults = {call: [400]}
    with pytest.raises(UserError, match=r'failed: BadRequestError \(the server: "not now"\)'):
        ask(2)
    assert pending_worst() == []


def test_a_refused_key_is_an_error(server: BatchServer) -> None:
    server.faults = {"POST /files": [401]}
    with pytest.raises(UserError, match="refuses the key"):
        ask(1)


def test_a_batch_that_fails_its_validation_shows_why_and_costs_nothing(
    server: BatchServer,
) -> None:
    original = server.poll

    def fail(identity: str) -> dict[str, Any]:
        errors = {"data": [{"code": "x", "message": "Enqueued token limit reached"}]}
        return {**original(identity), "status": "failed", "errors": errors}

    server.poll = fail  # type: ignore[method-assign]
    message = r'it refused the batch batch_0 \(the server: "Enqueued token limit reached"\)'
    with pytest.raises(UserError, match=message):
        ask(2)
    assert spent() == UNUSED
    assert pending_worst() == []


def test_a_field_that_the_server_refuses_is_left_out_in_a_second_batch(
    server: BatchServer,
) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        for field in ("temperature", "max_tokens"):
            if field in request:
                return answered(400, error_body(f"Unsupported parameter: '{field}'"))
        return correct(request)

    server.answer = answer
    assert [row["accuracy"] for row in ask(2).rows] == [3, 3]
    assert len(server.batches) == 3
    assert spent() == Usage(200, 40)
    # The fields are recorded, so the next run needs one batch.
    ask(3)
    assert len(server.batches) == 4


# Money


def test_a_batch_that_could_exceed_the_limit_is_not_uploaded(
    server: BatchServer, workspace: Path
) -> None:
    set_judge(workspace, **PRICES)
    most = float(3 * sum(worst()))
    set_judge(workspace, max_usd=most - 1)
    with pytest.raises(UserError, match=r"judge\.max_usd: a batch of 3 requests could cost"):
        ask(3)
    assert server.calls == []
    set_judge(workspace, max_usd=most)
    assert [row["accuracy"] for row in ask(3).rows] == [3, 3, 3]


def test_a_pending_batch_holds_its_worst_case(server: BatchServer, workspace: Path) -> None:
    set_judge(workspace, **PRICES)
    server.statuses = ["in_progress"]
    run_until(workspace, server, "GET /batches/")
    assert pending_worst() == [worst()] * 3
    # Single calls at another address must fit beside the batch.
    record = workspace / ".bula" / BATCHES
    text = record.read_text(encoding="utf-8")
    record.write_text(text.replace(server.url, "https://example.org/v1"), encoding="utf-8")
    set_judge(workspace, batch=False, max_usd=float(3 * sum(worst()) + 1))
    with pytest.raises(UserError, match=r"judge\.max_usd: the next call could cost more"):
        ask(4)
    assert server.count("POST /chat") == 0


def test_a_damaged_record_is_an_error(server: BatchServer, workspace: Path) -> None:
    path = workspace / ".bula" / BATCHES
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'[{"id"')
    with pytest.raises(UserError, match=r"judge_batches\.json: it is damaged"):
        ask(1)
    assert server.calls == []


# Parts


def test_requests_are_split_by_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_batch, "MOST_REQUESTS", 2)
    monkeypatch.setattr(judge_batch, "MOST_BYTES", 10)
    lines = {"a": b"1234", "b": b"1234", "c": b"12", "d": b"123456789"}
    assert [list(part) for part in split(lines)] == [["a", "b"], ["c"], ["d"]]
    assert list(split({})) == []


def test_two_parts_are_two_batches(server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_batch, "MOST_REQUESTS", 2)
    assert len(ask(3).failures) == 0
    assert len(server.batches) == 2


# Parameters


def test_a_local_judge_refuses_a_batch(workspace: Path) -> None:
    settings = load_params().judge.model_dump()
    with pytest.raises(ValidationError, match="a local judge has no Batch API"):
        Judge.model_validate({**settings, "base_url": "local", "batch": True})
