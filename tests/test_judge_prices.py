"""Check that money is counted at the prices of its time, over runs with other prices."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.clones import edit_params
from bula import judge_batch_api
from bula.errors import UserError
from bula.judge_dialects import FIRST, to_request
from bula.judge_ledger import (
    FAILURES,
    LEDGER,
    MARK,
    Known,
    append_rows,
    failure_line,
    read_ledger,
    settle_mark,
    spent_usd,
    verdict_line,
    write_mark,
)
from bula.judge_limits import Prices, Usage, worst_case
from bula.judge_pending import BATCHES, pending_usd
from bula.judge_prompt import Verdict, to_messages
from bula.judging import Judged, judge_rows
from bula.params import load_params
from bula.records import read_rows
from tests.batch_server import BatchServer, answered, batch_server
from tests.judge_process import numbered_rows
from tests.judge_server import completion, point_to, verdict

VERDICT = Verdict(reason="Correta.", accuracy=3, style=2)


@pytest.fixture
def server(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    """Return a server for batches and single calls, to which params.yaml points."""
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setattr(judge_batch_api, "FIRST_POLL", 0.001)
    with batch_server() as started:
        started.statuses = ["completed"]
        point_to(workspace, started.url)
        yield started


def set_judge(price: float, **values: Any) -> None:
    """Change the section judge, with a price in dollars for each token."""
    prices = {"usd_per_million_input": price * 1e6, "usd_per_million_output": price * 1e6}
    edit_params(Path("params.yaml"), lambda params: params["judge"].update(prices | values))


def ask(count: int) -> Judged:
    """Return the verdicts on some rows."""
    return judge_rows(numbered_rows(0, count), load_params(), Path("models/judge"))


def worst_tokens() -> int:
    """Return the largest number of tokens of one call."""
    settings = load_params().judge
    request = to_request(settings, to_messages(numbered_rows(0, 1)[0]), FIRST)
    return sum(worst_case(request, settings))


def cost_the_worst_case(server: BatchServer) -> int:
    """Let each reply cost as much as possible, and return its number of tokens."""
    tokens = worst_tokens()
    output = load_params().judge.max_tokens
    usage = {"prompt_tokens": tokens - output, "completion_tokens": output}
    body = completion(verdict(3, 3), usage=usage)
    server.answer = lambda request: answered(200, body)
    return tokens


def known() -> Known:
    """Return what the ledger knows."""
    return read_ledger(LEDGER, "judge-1")


def all_usd() -> float:
    """Return the money of all runs at the prices of params.yaml."""
    return spent_usd(known(), load_params().judge)


# Several runs


def test_the_limit_holds_over_runs_with_other_prices_and_batches(server: BatchServer) -> None:
    tokens = cost_the_worst_case(server)
    limit = 2.75 * tokens
    set_judge(0.5, max_usd=limit)
    # Two calls at half a dollar per token.
    ask(2)
    assert all_usd() == 1.0 * tokens
    # Three calls in a batch at half the price.
    set_judge(0.25, max_usd=limit, batch=True)
    assert ask(5).speed["usd"] == 0.75 * tokens
    assert all_usd() == 1.75 * tokens
    # One call at 1 dollar per token fits exactly.
    set_judge(1.0, max_usd=limit, batch=False)
    judged = ask(6)
    assert judged.speed["usd"] == 1.0 * tokens
    assert judged.speed["usd_all_runs"] == limit
    assert judged.speed["ledger_lines_unpriced"] == 0
    # However low the price is, no money is left for another call or batch.
    calls = len(server.calls)
    set_judge(0.001, max_usd=limit)
    with pytest.raises(UserError, match=r"judge\.max_usd: the next call could cost more"):
        ask(7)
    set_judge(0.001, max_usd=limit, batch=True)
    with pytest.raises(UserError, match=r"judge\.max_usd: a batch of 1 requests could cost"):
        ask(7)
    assert len(server.calls) == calls
    assert all_usd() == limit


def test_a_higher_price_does_not_raise_the_cost_of_earlier_calls(server: BatchServer) -> None:
    tokens = cost_the_worst_case(server)
    set_judge(0.25, max_usd=1.5 * tokens)
    ask(2)
    # Half of the tokens' number is spent. At the new price, the two calls would cost all of it.
    set_judge(1.0)
    assert [row["accuracy"] for row in ask(3).rows] == [3, 3, 3]
    assert all_usd() == 1.5 * tokens


def test_each_line_has_the_price_of_its_call(server: BatchServer) -> None:
    # Each reply costs 100 + 20 tokens.
    set_judge(1.0)
    ask(1)
    set_judge(0.5)
    server.answer = lambda request: answered(200, completion("no JSON", usage={}))
    ask(2)
    assert [line["usd"] for line in read_rows(LEDGER)] == [120.0]
    # A call that names no usage costs its worst case.
    [line] = read_rows(LEDGER.with_name(FAILURES))
    assert line["usd"] == 0.5 * worst_tokens()


# Lines of earlier versions


def old_line(key: str, usage: Usage) -> dict[str, Any]:
    """Return a ledger line without a price."""
    line = verdict_line(key, "judge-1", VERDICT, usage, 0.0)
    del line["usd"]
    return line


def test_lines_without_a_price_have_the_price_of_today_and_a_note(
    server: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    set_judge(1.0)
    first = ask(2)
    lines = list(read_rows(LEDGER))
    del lines[1]["usd"]
    LEDGER.unlink()
    append_rows(LEDGER, lines)
    set_judge(0.5)
    capsys.readouterr()
    judged = ask(2)
    # Their verdicts are paid, so nothing is asked again.
    assert judged.rows == first.rows
    assert judged.speed["calls"] == 0
    assert judged.speed["ledger_lines_unpriced"] == 1
    # 120 dollars at the price of the call, and 120 tokens at half a dollar.
    assert judged.speed["usd_all_runs"] == 180.0
    note = "judge: 1 calls of earlier versions have no recorded price, so today's prices count"
    assert note in capsys.readouterr().out


def test_money_is_summed_by_judge_and_by_price(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    failures = tmp_path / FAILURES
    append_rows(ledger, [verdict_line("1", "judge-1", VERDICT, Usage(10, 1), 0.25)])
    append_rows(ledger, [verdict_line("2", "another", VERDICT, Usage(10, 1), 64.0)])
    append_rows(ledger, [old_line("3", Usage(100, 20))])
    append_rows(failures, [failure_line("4", "judge-1", "Timeout", Usage(7, 3), 0.5)])
    append_rows(failures, [{"judge": "judge-1", "usage": [1, 2]}])
    found = read_ledger(ledger, "judge-1")
    assert found.spent == Usage(118, 26)
    assert found.usd == 0.75
    assert (found.unpriced, found.unpriced_usage) == (2, Usage(101, 22))


@pytest.mark.parametrize("usd", ["-1.0", "NaN", '"much"'])
def test_a_line_with_a_damaged_price_is_skipped(usd: str, tmp_path: Path) -> None:
    line = json.dumps(verdict_line("1", "judge-1", VERDICT, Usage(10, 1), 0.25))
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(line.replace("0.25", usd) + "\n", encoding="utf-8")
    found = read_ledger(ledger, "judge-1")
    assert (found.skipped, found.usd) == (1, 0.0)


# Killed runs


def test_the_mark_of_a_killed_run_counts_at_its_own_prices(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    # Input costs 2 dollars per token, and output 4.
    prices = Prices(2e6, 4e6)
    append_rows(ledger, [verdict_line("1", "judge-1", VERDICT, Usage(20, 5), 60.0)])
    write_mark(ledger, "judge-1", Usage(50, 7), prices)
    settle_mark(ledger)
    found = read_ledger(ledger, "judge-1")
    # 30 tokens of input and 2 of output are missing: 60 + 8 dollars.
    assert found.usd == 60.0 + 68.0
    assert (found.spent, found.unpriced) == (Usage(50, 7), 0)


def test_the_mark_of_an_earlier_version_counts_at_prices_of_today(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    (tmp_path / MARK).write_text('{"judge": "judge-1", "usage": [30, 2]}', encoding="utf-8")
    settle_mark(ledger)
    found = read_ledger(ledger, "judge-1")
    assert found.usd == 0.0
    assert (found.unpriced, found.unpriced_usage) == (1, Usage(30, 2))


# Pending batches


def leave_a_batch(server: BatchServer) -> None:
    """Leave a pending batch of two rows by a run whose polls fail."""
    server.faults = {"GET /batches/": [403]}
    with pytest.raises(UserError, match="batch_0 failed"):
        ask(2)


def test_a_pending_batch_keeps_the_prices_of_its_creation(server: BatchServer) -> None:
    set_judge(0.5, batch=True)
    leave_a_batch(server)
    set_judge(1.0, batch=False)
    assert pending_usd(LEDGER, load_params().judge) == 2 * worst_tokens() * 0.5
    ask(2)
    # Two replies of 120 tokens at half a dollar.
    assert all_usd() == 120.0
    assert known().unpriced == 0


def test_a_pending_batch_of_an_earlier_version_has_the_prices_of_today(
    server: BatchServer, capsys: pytest.CaptureFixture[str]
) -> None:
    set_judge(0.5, batch=True)
    leave_a_batch(server)
    record = LEDGER.with_name(BATCHES)
    batches = json.loads(record.read_text(encoding="utf-8"))
    del batches[0]["prices"]
    record.write_text(json.dumps(batches), encoding="utf-8")
    set_judge(1.0)
    assert pending_usd(LEDGER, load_params().judge) == 2 * worst_tokens()
    ask(2)
    assert all_usd() == 240.0
    assert "no prices of the batch batch_0 are recorded" in capsys.readouterr().out


def test_a_batch_that_is_created_later_must_fit_at_the_new_prices(server: BatchServer) -> None:
    tokens = cost_the_worst_case(server)
    set_judge(0.5, batch=True, max_usd=1.0 * tokens)
    server.faults = {"POST /batches": [503]}
    with pytest.raises(UserError, match="InternalServerError"):
        ask(2)
    set_judge(1.0)
    with pytest.raises(UserError, match=r"judge\.max_usd: a batch of 2 requests could") as error:
        ask(2)
    # The recorded worst case does not depend on judge.items_per_set.
    advice = "Raise it, or delete the entry of file-0 from .bula/judge_batches.json"
    assert advice in str(error.value)
    assert "items_per_set" not in str(error.value)
    assert server.batches == {}
    # The batch does not count twice, so twice the tokens' number is enough.
    set_judge(1.0, max_usd=2.0 * tokens)
    assert [row["accuracy"] for row in ask(2).rows] == [3, 3]
    assert all_usd() == 2 * tokens
