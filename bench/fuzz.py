"""Ten thousand damaged files through ingest and preprocess: how many, what was promised, what was kept.

Draws from the strategy of tests/test_fuzz.py, which the test suite runs 300 times; every file is checked as there, and the
first that fails is printed, shrunk.

    python -m bench.fuzz [--files 10000]
"""

import contextlib
import io
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from hypothesis import HealthCheck, given, settings
from tqdm import tqdm

from bench.damaged_files import check, damaged_files
from bench.summary import show

BASE = Path(__file__).resolve().parent.parent / "models/base"


def main(files: Annotated[int, typer.Option(help="Files to draw.")] = 10_000) -> None:
    """Damage files and see what stays of them."""
    if not BASE.exists():
        raise SystemExit(
            "models/base is missing; run `make repro` or `python -m stages.ingest` first"
        )
    total: Counter[str] = Counter()
    started = time.perf_counter()
    with tqdm(total=files, unit="file") as bar:

        @settings(
            max_examples=files,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=damaged_files())
        def run(case: tuple[str, str, bytes, list[tuple[str, str]], int]) -> None:
            # Each refused row is named on stderr; ten thousand files refuse many.
            with contextlib.redirect_stderr(io.StringIO()):
                kept, promised = check(case, BASE)
            total.update(files=1, kept=kept, promised=promised)
            total[f"files_{case[0]}"] += 1
            bar.update()

        run()
    figures = {
        **total,
        "good_rows_kept_share": total["kept"] / total["promised"],
        "seconds": time.perf_counter() - started,
    }
    goals = {"good_rows_kept_share": 1.0, "files": files}
    met = figures["good_rows_kept_share"] == 1 and total["files"] >= files
    show("fuzz", figures, goals, met)


if __name__ == "__main__":
    typer.run(main)
