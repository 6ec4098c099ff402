"""Describe the outcomes of the judge's calls, and count failures by reason."""

from collections import Counter
from typing import NamedTuple

from bula.errors import UserError
from bula.judge_limits import Prices, Usage, to_usd
from bula.judge_prompt import Verdict
from bula.params import Judge
from bula.records import Row


class Failure(NamedTuple):
    """Why a call has no verdict."""

    reason: str
    words: str = ""
    """The server's own words, masked."""
    wait: float | None = None
    """Seconds until the call may be repeated; None if repeating does not help."""
    is_final: bool = False
    """Whether every later call would fail too."""
    error: UserError | None = None
    """The error of a refused key or a redirect, which ends the run."""


class Outcome(NamedTuple):
    """The result of one call, and the cost of all its requests."""

    result: Verdict | Failure
    usage: Usage
    usd: float
    """US dollars at the prices of the call."""


def priced(result: Verdict | Failure, usage: Usage, prices: Prices) -> Outcome:
    """Return the outcome of a call that was made at these prices."""
    return Outcome(result, usage, to_usd(usage, prices))


def describe_failures(failures: list[Failure]) -> str:
    """Return the number of failures by reason, with an example of the server's words."""
    counts = Counter(failure.reason for failure in failures)
    parts = []
    for reason, count in counts.most_common():
        said = [failure.words for failure in failures if failure.reason == reason]
        example = next(filter(None, said), "")
        parts.append(f"{reason} {count}{quoted(example)}")
    return ", ".join(parts)


def quoted(words: str) -> str:
    """Return a server's words in brackets, or nothing if it said nothing."""
    return f' (the server: "{words}")' if words else ""


def count_failures(verdicts: list[Row]) -> dict[str, int]:
    """Return the number of failed calls by reason, as keys of the metrics."""
    counts = Counter(row["failed"] for row in verdicts if "failed" in row)
    return {f"failed_{reason}": count for reason, count in counts.items()}


def failure_note(failures: list[Failure]) -> str:
    """Return the end of a stage's last line with its failed calls."""
    return f". Failed calls: {describe_failures(failures)}" if failures else ""


def judge_error(settings: Judge, what: str, fix: str) -> UserError:
    """Return the error of a judge that cannot be used."""
    return UserError(f"the judge {settings.model} at {settings.base_url}", what, fix)
