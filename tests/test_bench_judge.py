"""Check that the benchmark of the judge's rate measures complete rounds."""

import json
import signal
from collections.abc import Iterator

import pytest

from bench import judge as bench


@pytest.fixture
def sigterm_ignored() -> Iterator[None]:
    """Keep the signal that a trainer of an earlier test handles from ending a process."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm_ignored")
def test_a_short_round_prints_the_share_of_the_ideal_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "IN_FLIGHT", 2)
    bench.main(verdicts=5)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    figures = summary["figures"]
    # Three waves of 0.2 s.
    assert figures["ideal_per_second"] == pytest.approx(5 / 0.6)
    assert 0 < figures["share_of_ideal"] <= 1
    # A verdict takes some work, and far less than the call.
    assert 0 < figures["cpu_ms_per_verdict"] < 200
    assert summary["goals"] == {"share_of_ideal": 0.85}


def test_rows_have_different_answers() -> None:
    assert len({row["answer"] for row in bench.rows(50)}) == 50
