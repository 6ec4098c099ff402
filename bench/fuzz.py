"""Run thousands of damaged files through ingest and preprocess.

The test suite draws 300 files from the same strategy and checks them in the same way. The first
file that fails is printed, shrunk.

    python -m bench.fuzz [--files 10000]
"""

import contextlib
import io
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy
import typer
from hypothesis import HealthCheck, given, settings
from tqdm import tqdm

from bench.clones import ROOT
from bench.damaged_files import Case, damaged_files
from bench.summary import show
from bula.errors import UserError
from bula.params import FilesSource, Params, load_params
from stages.ingest.__main__ import ingest_source
from stages.preprocess.__main__ import preprocess
from stages.preprocess.report import quarantine_rows
from stages.preprocess.table import rows_at

BASE = ROOT / "models/base"
PROFILE = ROOT / "profiles/smollm2-135m.yaml"
COLUMNS = {"question": "pergunta", "answer": "resposta", "specialty": "", "kind": ""}
# The only errors that may stop a stage.
EXPECTED_MESSAGES = ("no row could be used", "cannot be read: ", "no column", "no list of rows")


class Outcome(NamedTuple):
    """What ingest and preprocess made of a file."""

    kept: set[str]
    """Questions without white space."""
    quarantine: list[dict[str, Any]]
    message: str
    """The error that stopped a stage, or an empty text."""


def count_rows(files: int, bar: "tqdm[None]") -> Counter[str]:
    """Check damaged files, and count files, good rows and kept rows."""
    total: Counter[str] = Counter()

    @settings(
        max_examples=files,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=damaged_files())
    def check_drawn_files(case: Case) -> None:
        # ingest names refused rows on stderr, and ten thousand files refuse many rows.
        with contextlib.redirect_stderr(io.StringIO()):
            kept, promised = check(case, BASE)
        total.update(files=1, kept=kept, promised=promised)
        total[f"files_{case.suffix}"] += 1
        bar.update()

    check_drawn_files()
    return total


def check(case: Case, base: Path) -> tuple[int, int]:
    """Check that a file loses nothing silently.

    Return how many good rows were kept, and how many were promised.
    """
    params = load_params(PROFILE)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_stages(case, params, base, Path(folder))
    promised = {without_spaces(question) for question, _ in case.promised}
    assert promised <= outcome.kept, (promised - outcome.kept, outcome)
    check_quarantine(case, outcome)
    if outcome.message:
        check_message(promised, outcome.message)
    else:
        check_damage_is_reported(case, len(promised), outcome)
    return len(promised & outcome.kept), len(promised)


def check_quarantine(case: Case, outcome: Outcome) -> None:
    """Check that each quarantined row names its place and a reason."""
    for row in outcome.quarantine:
        assert row["reason"], outcome
        assert row["file"] == f"file-001.{case.suffix}", outcome
        assert row["line"] >= 0, outcome


def check_message(promised: set[str], message: str) -> None:
    """Check that a stage stopped as expected, and at no good row."""
    assert any(expected in message for expected in EXPECTED_MESSAGES), message
    assert not promised, message


def check_damage_is_reported(case: Case, promised: int, outcome: Outcome) -> None:
    """Check that each damaged record is kept or quarantined.

    In JSON Lines each damaged record counts; in other formats neighbours may be refused as one.
    """
    least_damaged = case.damaged if case.suffix == "jsonl" else min(case.damaged, 1)
    reported = len(outcome.kept) + len(outcome.quarantine)
    assert reported >= promised + least_damaged, outcome


def source_of(path: Path, encoding: str, rows: str) -> FilesSource:
    """Return a source of one file."""
    fields: dict[str, object] = {
        "kind": "files",
        "name": "mine",
        "path": "p",
        "columns": COLUMNS,
        "encoding": encoding,
        "license": "cc0-1.0",
        "names": "removed",
        "redistribution": "allowed",
        "filter": {},
        "limit": 0,
        "role": "train",
        "rows": rows or None,
    }
    # params.yaml may not name an absolute path.
    return FilesSource.model_validate(fields).model_copy(update={"path": str(path)})


def run_stages(case: Case, params: Params, base: Path, folder: Path) -> Outcome:
    """Run ingest and preprocess on one file."""
    raw = folder / "raw"
    raw.mkdir()
    file = folder / f"file.{case.suffix}"
    file.write_bytes(case.content)
    source = source_of(file, case.encoding, case.rows)
    changes = {"sources": [source], "unreadable_share": 1.0}
    settings = params.ingest.model_copy(update=changes)
    try:
        ingest_source(source, raw, settings)
    except UserError as error:
        return Outcome(set(), [], str(error))
    only_this_source = params.model_copy(update={"ingest": settings})
    table, decision, _, parts, *_ = preprocess(raw, [], base, folder, only_this_source)
    alive = numpy.flatnonzero(decision.alive)
    questions = [row["example"]["question"] for row in rows_at(table, folder, alive)]
    quarantine = quarantine_rows(table, decision, folder, parts)
    return Outcome(set(map(without_spaces, questions)), list(quarantine), "")


def without_spaces(text: str) -> str:
    """Return a text without its white space, which preprocess normalises."""
    return "".join(text.split())


def main(files: Annotated[int, typer.Option(help="Files to draw.")] = 10_000) -> None:
    """Damage files, and count the good rows that survive."""
    if not BASE.exists():
        raise SystemExit(
            "models/base is missing; run `make repro` or `python -m stages.models` first"
        )
    started = time.perf_counter()
    with tqdm(total=files, unit="file") as bar:
        total = count_rows(files, bar)
    share = total["kept"] / total["promised"]
    figures = {
        **total,
        "good_rows_kept_share": share,
        "seconds": time.perf_counter() - started,
    }
    goals = {"good_rows_kept_share": 1.0, "files": files}
    met = share == 1 and total["files"] >= files
    show("fuzz", figures, goals, met)


if __name__ == "__main__":
    typer.run(main)
