"""Check that calls stay below the limits of rate and of money."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT, edit_params
from bula import judge_client
from bula.errors import UserError
from bula.judge_dialects import FIRST, to_request
from bula.judge_ledger import LEDGER, read_ledger
from bula.judge_limits import (
    FRAME_TOKENS,
    OutOfMoneyError,
    Usage,
    likely_tokens,
    make_budget,
    make_pace,
    prices_of,
    to_usd,
    total,
    worst_case,
)
from bula.judge_prompt import to_messages
from bula.judging import judge_rows
from bula.params import Judge, load_params
from tests.judge_server import StartJudge, completion, verdict
from tests.test_judging import with_answers

# One token costs one dollar, so that sums are easy.
PRICES = {"usd_per_million_input": 1e6, "usd_per_million_output": 1e6}


def limited(**values: Any) -> Judge:
    """Return the settings of a judge with these limits."""
    settings = load_params(ROOT / "profiles/smollm2-135m.yaml").judge
    return settings.model_copy(update={**PRICES, **values})


def ignore(usage: Usage) -> None:
    """Keep no mark."""


def test_price_of_a_usage_by_hand() -> None:
    settings = limited(usd_per_million_input=0.15, usd_per_million_output=0.6)
    # 2 x 0.15 and 0.5 x 0.6 dollars.
    assert to_usd(Usage(2_000_000, 500_000), prices_of(settings)) == pytest.approx(0.6)
    assert total([Usage(1, 2), Usage(10, 20)]) == Usage(11, 22)


def test_worst_case_and_estimate_by_hand() -> None:
    request = {"messages": "é" * 28}
    settings = limited(max_tokens=160)
    # The JSON has 28 letters of 2 bytes, and 16 signs: {"messages": ""}.
    assert worst_case(request, settings) == Usage(56 + 16 + FRAME_TOKENS, 160)
    # 28 letters and 2 quotes, 3 characters per token.
    assert likely_tokens(request, settings) == 10 + 160


# Money


def test_a_call_that_could_exceed_the_limit_is_refused() -> None:
    async def spend() -> None:
        reserve = make_budget(limited(max_usd=10.0), 0.0, ignore)
        async with reserve(Usage(6, 0)) as charge:
            charge(Usage(4, 1))
        # 5 dollars are spent, so a call of 5 fits, and a call of 6 does not.
        async with reserve(Usage(5, 0)) as charge:
            charge(Usage(0, 0))
        with pytest.raises(OutOfMoneyError):
            async with reserve(Usage(5, 1)):
                pytest.fail("the call was sent")

    asyncio.run(spend())


def test_a_call_of_unknown_usage_costs_its_worst_case() -> None:
    async def spend() -> None:
        reserve = make_budget(limited(max_usd=10.0), 0.0, ignore)
        async with reserve(Usage(6, 0)):
            pass
        with pytest.raises(OutOfMoneyError):
            async with reserve(Usage(5, 0)):
                pytest.fail("the call was sent")

    asyncio.run(spend())


def test_money_of_earlier_runs_counts() -> None:
    async def spend() -> None:
        reserve = make_budget(limited(max_usd=10.0), 9.0, ignore)
        with pytest.raises(OutOfMoneyError):
            async with reserve(Usage(2, 0)):
                pytest.fail("the call was sent")

    asyncio.run(spend())


def test_a_call_waits_while_those_in_flight_may_leave_enough() -> None:
    order = []

    async def spend() -> None:
        reserve = make_budget(limited(max_usd=10.0), 0.0, ignore)

        async def call(name: str) -> None:
            async with reserve(Usage(8, 0)) as charge:
                order.append(f"{name} sent")
                await asyncio.sleep(0)
                order.append(f"{name} done")
                charge(Usage(1, 0))

        await asyncio.gather(call("first"), call("second"))

    asyncio.run(spend())
    assert order == ["first sent", "first done", "second sent", "second done"]


@pytest.mark.parametrize("max_usd", [1e6, 0.0])
def test_the_mark_is_never_below_the_usage(max_usd: float) -> None:
    marks: list[Usage] = []

    async def spend() -> None:
        reserve = make_budget(limited(max_usd=max_usd), 0.0, marks.append)
        for number in range(1, 100):
            async with reserve(Usage(6, 1)) as charge:
                assert marks[-1].input_tokens >= 6 * number
                charge(Usage(6, 1))

    asyncio.run(spend())
    # The first call marks itself and 32 more: 33 x 6 = 198 tokens. The 34th call marks 66 calls.
    assert marks == [Usage(198, 33), Usage(396, 66), Usage(594, 99)]


def test_no_limit_of_money_refuses_no_call() -> None:
    async def spend() -> None:
        reserve = make_budget(limited(max_usd=0.0), 0.0, ignore)
        async with reserve(Usage(10**9, 0)):
            pass

    asyncio.run(spend())


def test_stage_stops_before_the_money_runs_out(api: StartJudge, workspace: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    body = completion(verdict(3, 3), usage=usage)
    _, server = api([body])

    def edit(params: dict[str, Any]) -> None:
        params["judge"].update(**PRICES, max_usd=10_000.0, max_tokens=100, parallel=3)

    edit_params(workspace / "params.yaml", edit)
    with pytest.raises(UserError, match=r"judge\.max_usd: the next call could cost more"):
        judge_rows(with_answers(400), load_params(), Path("models/judge"))
    spent = read_ledger(LEDGER, "judge-1").spent
    sent = len(server.requests)
    assert spent == Usage(100 * sent, 20 * sent)
    assert 10 < sent < 10_000 / 120
    # Another run has no more money than that.
    with pytest.raises(UserError, match=r"judge\.max_usd"):
        judge_rows(with_answers(400), load_params(), Path("models/judge"))
    assert len(server.requests) == sent


def test_cost_of_a_cut_call_counts_when_its_repetition_is_too_expensive(
    api: StartJudge, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_client, "FIRST_WAIT", 0.001)
    params, server = api([None])
    request = to_request(params.judge, to_messages(with_answers(1)[0]), FIRST)
    worst = worst_case(request, params.judge)
    limits = {**PRICES, "max_usd": 1.5 * to_usd(worst, prices_of(limited())), "retries": 3}
    edit_params(workspace / "params.yaml", lambda params: params["judge"].update(limits))
    with pytest.raises(UserError, match=r"no money is left: OutOfMoney 1\."):
        judge_rows(with_answers(1), load_params(), Path("models/judge"))
    assert len(server.requests) == 1
    assert read_ledger(LEDGER, "judge-1").spent == worst


def test_speed_has_the_tokens_and_the_money(api: StartJudge, workspace: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    api([completion(verdict(3, 3), usage=usage)])
    prices = {"usd_per_million_input": 1.0, "usd_per_million_output": 2.0}
    edit_params(workspace / "params.yaml", lambda params: params["judge"].update(prices))
    first = judge_rows(with_answers(3), load_params(), Path("models/judge")).speed
    assert (first["input_tokens"], first["output_tokens"]) == (300, 60)
    assert first["usd"] == pytest.approx(0.00042)
    second = judge_rows(with_answers(4), load_params(), Path("models/judge")).speed
    assert second["usd"] == pytest.approx(0.00014)
    assert second["usd_all_runs"] == pytest.approx(0.00056)


# Rates


async def seconds_of(settings: Judge, tokens: list[int]) -> float:
    """Return the time until calls of these sizes may be sent."""
    pace = make_pace(settings, max(tokens))
    started = time.monotonic()
    for count in tokens:
        await pace(count)
    return time.monotonic() - started


def test_requests_are_spaced_evenly() -> None:
    settings = limited(requests_per_minute=1200)
    # 50 ms lie between two requests, and the first one does not wait.
    assert asyncio.run(seconds_of(settings, [1] * 5)) >= 4 * 0.05 * 0.9


def test_tokens_are_spaced_by_their_number() -> None:
    settings = limited(tokens_per_minute=6000)
    # 100 tokens per second: after 10 tokens at once, 10 tokens take 0.1 s.
    assert asyncio.run(seconds_of(settings, [10, 10, 10])) >= 0.2 * 0.9


def test_a_rate_of_zero_is_no_limit() -> None:
    assert asyncio.run(seconds_of(limited(), [10**9] * 1000)) < 5
