"""List the values of files that differ between two runs."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bula.review.runs import PROFILES, Run

# The files with counts of data and of personal data in it.
COUNTS = ("ingest", "preprocess")
PERSONAL = "personal_data_"
# The sections of params.yaml on which no stage depends.
NO_OUTPUT = ("compute.", "review.")
# Stands for a key that one of two files lacks.
ABSENT = "–"


class Change(NamedTuple):
    """One value that differs."""

    key: str
    before: Any
    after: Any


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each leaf, such as a.b[0]."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from flat(part, f"{name}[{number}]")
    else:
        yield name, value


def differences(before: Any, after: Any, prefix: str = "") -> list[Change]:
    """Return each leaf that differs, in the order of the keys."""
    first = dict(flat(before, prefix)) if before else {}
    second = dict(flat(after, prefix)) if after else {}
    found = []
    for key in sorted(first.keys() | second.keys()):
        values = (first.get(key, ABSENT), second.get(key, ABSENT))
        # 1 and True are equal in Python, and mean other things in a file.
        if values[0] != values[1] or type(values[0]) is not type(values[1]):
            found.append(Change(key, *values))
    return found


def changed_params(before: Run, after: Run) -> list[Change]:
    """Return the parameters that differ, those that change no output last."""
    found = differences(before.params, after.params)
    return sorted(found, key=lambda change: change.key.startswith(NO_OUTPUT))


def changed_headline(before: Run, after: Run) -> list[Change]:
    """Return the main figures of metrics/summary.json that differ."""
    return differences(before.metrics("summary"), after.metrics("summary"))


def changed_counts(before: Run, after: Run) -> list[Change]:
    """Return the counts of rows, tokens and personal data that differ."""
    found = []
    for name in COUNTS:
        found += differences(before.metrics(name), after.metrics(name), name)
    for variant in dict.fromkeys([*after.variants, *before.variants]):
        first, second = (_personal(run, variant) for run in (before, after))
        found += differences(first, second, f"generate.{variant}")
    return found


def _personal(run: Run, variant: str) -> dict[str, Any]:
    """Return the counts of personal data in the answers of one variant."""
    metrics = run.metrics(f"generate/{variant}")
    return {key: value for key, value in metrics.items() if key.startswith(PERSONAL)}


def profile_of(run: Run) -> str:
    """Return the profile with the parameters of a run, or "own parameters"."""
    for file in sorted((run.folder / PROFILES).glob("*.yaml")):
        if file.read_bytes() == (run.folder / "params.yaml").read_bytes():
            return file.stem
    return "own parameters"


def base_of(run: Run) -> str:
    """Return the name of a run's base model."""
    base = run.params.get("ingest", {}).get("base", {})
    return str(base.get("hub_id") or base.get("id") or base.get("path") or "unknown")
