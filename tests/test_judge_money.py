"""Check that no call escapes `judge.max_usd`, over failures and processes."""

import asyncio
import errno
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.clones import edit_params
from bula import judge_client, judge_ledger, judging
from bula.errors import UserError
from bula.judge_client import may_be_billed
from bula.judge_dialects import FIRST, to_request
from bula.judge_ledger import (
    FAILURES,
    LEDGER,
    MARK,
    append_rows,
    failure_line,
    lock_ledger,
    read_ledger,
    write_mark,
)
from bula.judge_limits import UNUSED, Prices, Usage, worst_case
from bula.judge_prompt import to_messages
from bula.judging import judge_rows
from bula.params import Params, load_params
from bula.records import Row
from tests.judge_process import PATIENCE, numbered_rows, start_judge
from tests.judge_server import Answer, StartJudge, completion, verdict

# One token costs one dollar, so that sums are easy.
PRICES = {"usd_per_million_input": 1e6, "usd_per_million_output": 1e6}
PAID = completion(verdict(3, 3), usage={"prompt_tokens": 100, "completion_tokens": 20})


def set_judge(workspace: Path, **values: Any) -> None:
    """Change values of the section judge."""
    edit_params(workspace / "params.yaml", lambda params: params["judge"].update(values))


def spent() -> Usage:
    """Return the usage in the ledger."""
    return read_ledger(LEDGER, "judge-1").spent


def worst_of(row: Row, params: Params) -> Usage:
    """Return the largest usage of the first request about a row."""
    return worst_case(to_request(params.judge, to_messages(row), FIRST), params.judge)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529, 408, 409])
def test_an_error_after_which_the_reply_may_be_billed_costs_its_worst_case(
    status: int, api: StartJudge
) -> None:
    params, _ = api([status])
    judge_rows(numbered_rows(0, 1), params, Path("models/judge"))
    assert spent() == worst_of(numbered_rows(0, 1)[0], params)
    assert may_be_billed(status)


@pytest.mark.parametrize("status", [400, 402, 403, 404, 413, 422, 429])
def test_a_refusal_costs_nothing(status: int, api: StartJudge) -> None:
    params, _ = api([status, PAID])
    try:
        judge_rows(numbered_rows(0, 1), params, Path("models/judge"))
    except UserError as error:
        assert "InsufficientQuota" in str(error)
    assert spent() == UNUSED


@pytest.mark.parametrize(
    ("last", "message"), [(401, "refuses the key"), (307, r"redirects the request \(HTTP 307\)")]
)
def test_cost_of_earlier_attempts_is_kept_when_the_run_ends(
    last: int,
    message: str,
    api: StartJudge,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judge_client, "FIRST_WAIT", 0.001)
    api([None, 503, last])
    set_judge(workspace, retries=3)
    params = load_params()
    with pytest.raises(UserError, match=message):
        judge_rows(numbered_rows(0, 1), params, Path("models/judge"))
    worst = worst_of(numbered_rows(0, 1)[0], params)
    # The cut connection and the error of the server may be billed; the last reply is free.
    assert spent() == Usage(2 * worst.input_tokens, 2 * worst.output_tokens)


def test_cost_of_a_call_in_flight_is_kept_when_the_user_stops_the_run(
    api: StartJudge, workspace: Path
) -> None:
    arrived = threading.Event()
    stopped = threading.Event()

    def hang(request: dict[str, Any]) -> tuple[int, bytes]:
        arrived.set()
        stopped.wait(PATIENCE)
        return 200, PAID

    api([PAID, hang])
    set_judge(workspace, parallel=2)
    params = load_params()
    rows = numbered_rows(0, 2)
    prompts = {row["answer"]: to_messages(row) for row in rows}
    known = read_ledger(LEDGER, "judge-1")
    # The lock of a run creates the folder.
    LEDGER.parent.mkdir(exist_ok=True)

    async def stop_when_it_hangs() -> None:
        with judging._endpoints(params.judge, Path()) as (endpoints, _):
            calls = judging._ask_all(endpoints, prompts, params.judge, known, LEDGER)
            running = asyncio.create_task(calls)
            await asyncio.to_thread(arrived.wait, PATIENCE)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(stop_when_it_hangs())
    stopped.set()
    worst = worst_of(rows[1], params)
    assert spent() == Usage(100 + worst.input_tokens, 20 + worst.output_tokens)


def test_mark_stays_when_neither_the_ledger_nor_the_dialect_can_be_written(
    api: StartJudge, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_file(*arguments: object) -> None:
        raise UserError("judge_dialects.json", "it cannot be written", "make room")

    api([PAID])
    set_judge(workspace, **PRICES, max_usd=1e6)
    monkeypatch.setattr(judge_ledger, "append_rows", no_room)
    monkeypatch.setattr(judging, "record_dialect", no_file)
    with pytest.raises(OSError, match="No space left"):
        judge_rows(numbered_rows(0, 1), load_params(), Path("models/judge"))
    assert LEDGER.with_name(MARK).exists()


def test_the_next_run_counts_the_mark_of_a_run_stopped_by_the_user(api: StartJudge) -> None:
    params, _ = api([PAID])
    with pytest.raises(KeyboardInterrupt), judging._turn(params.judge, LEDGER):
        append_rows(
            LEDGER.with_name(FAILURES), [failure_line("", "judge-1", "x", Usage(20, 5), 0.0)]
        )
        write_mark(LEDGER, "judge-1", Usage(50, 5), Prices(0.0, 0.0))
        raise KeyboardInterrupt
    with judging._turn(params.judge, LEDGER):
        assert spent() == Usage(50, 5)
    assert not LEDGER.with_name(MARK).exists()


# Processes


def run_twice(workspace: Path) -> list[str]:
    """Run two judges at the same time about different rows, and return how they ended."""
    started = [
        start_judge(workspace, numbered_rows(100, 140)),
        start_judge(workspace, numbered_rows(140, 180)),
    ]
    ends = [queue.get(timeout=PATIENCE) for _, queue in started]
    for process, _ in started:
        process.join(PATIENCE)
    return ends


def test_two_processes_together_stay_below_the_limit_of_money(
    api: StartJudge, workspace: Path
) -> None:
    # All prompts are equally long, and each reply costs as much as possible.
    params, server = api([PAID])
    worst = worst_of(numbered_rows(179, 180)[0], params)
    usage = {"prompt_tokens": worst.input_tokens, "completion_tokens": worst.output_tokens}
    server.replies = [completion(verdict(3, 3), usage=usage)]
    # One process needs 40 calls, and both need 80.
    set_judge(workspace, **PRICES, max_usd=60.0 * sum(worst), parallel=4)
    ends = run_twice(workspace)
    assert sorted("judge.max_usd" in end for end in ends) == [False, True], ends
    assert len(server.requests) == 60
    assert spent() == Usage(60 * worst.input_tokens, 60 * worst.output_tokens)


def test_two_processes_never_call_the_judge_at_the_same_time(
    api: StartJudge, workspace: Path
) -> None:
    names: list[str] = []

    def remember(request: dict[str, Any]) -> tuple[int, bytes]:
        text = request["messages"][1]["content"]
        number = int(text.split("Resposta ")[-1].split(".")[0])
        names.append("first" if number < 140 else "second")
        return 200, PAID

    answer: Answer = remember
    api([answer])
    assert run_twice(workspace) == ["all judged", "all judged"]
    changes = sum(one != other for one, other in pairwise(names))
    assert len(names) == 80
    assert changes == 1


def test_a_killed_process_counts_what_it_may_have_paid(api: StartJudge, workspace: Path) -> None:
    arrived = threading.Event()

    def hang(request: dict[str, Any]) -> tuple[int, bytes]:
        arrived.set()
        time.sleep(PATIENCE)
        return 200, PAID

    _, server = api([PAID, hang])
    set_judge(workspace, **PRICES, max_usd=1e6, parallel=2)
    process, _ = start_judge(workspace, numbered_rows(100, 140))
    assert arrived.wait(PATIENCE)
    process.kill()
    process.join()
    server.replies = [PAID]
    before = len(server.requests)
    judge_rows(numbered_rows(0, 1), load_params(), Path("models/judge"))
    worst = worst_of(numbered_rows(100, 101)[0], load_params())
    # All calls before the kill, each at its worst case, are counted beside the last call.
    assert spent().input_tokens >= worst.input_tokens * (before - 1) + 200
    # The mark was written before the first call: itself and 32 more.
    assert spent() == Usage(33 * worst.input_tokens + 100, 33 * worst.output_tokens + 20)
    # The next run counts nothing again.
    last = spent()
    judge_rows(numbered_rows(0, 1), load_params(), Path("models/judge"))
    assert spent() == last


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    ledger = tmp_path / ".bula/ledger.jsonl"
    with pytest.raises(ValueError, match="x"), lock_ledger(ledger):
        raise ValueError("x")
    with lock_ledger(ledger):
        assert not ledger.exists()
