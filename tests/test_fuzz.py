"""Test that damaged files lose no good row and cause no traceback.

Quarantine lists every loss with its reason. `python -m bench.fuzz` draws 10,000 files from the same
strategy.
"""

from pathlib import Path

from hypothesis import HealthCheck, given, settings

from bench.damaged_files import Case, damaged_files
from bench.fuzz import check


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(case=damaged_files())
def test_damaged_files_lose_no_good_row_and_cause_no_traceback(case: Case, tiny: Path) -> None:
    check(case, tiny)
