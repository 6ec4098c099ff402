"""Check that the benchmark of verify-remote reads every byte."""

import json

import pytest

from bench import remote as bench


def test_the_benchmark_reads_every_byte_and_states_rate_and_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "SMALL_FILES", 2)
    bench.main(megabytes=1)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    figures = summary["figures"]
    assert figures["bytes"] > 1_200_000
    assert figures["share_of_hashing"] > 0
    assert figures["share_of_fetch"] > 0
    assert 0.02 < figures["peak_memory_gb"] < 0.3
    assert summary["goals"] == {"share_of_hashing": 0.85, "peak_memory_gb": 0.3}
