"""Damaged files through ingest and preprocess: never a traceback, never a lost good row, every loss in quarantine with a reason.

`python -m bench.fuzz` draws 10,000 files from the same strategy.
"""

from pathlib import Path

from hypothesis import HealthCheck, given, settings

from bench.damaged_files import Record, check, damaged_files


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(case=damaged_files())
def test_damaged_files_cost_no_good_row_and_no_traceback(
    case: tuple[str, str, bytes, list[Record], int], tiny: Path
) -> None:
    check(case, tiny)
