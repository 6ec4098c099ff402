"""Measure the search for personal data on labelled lines.

The lines of tests/data/privacy have `text` and `spans` (kind, start, end). The rules may be
improved on lines.jsonl, and fresh.jsonl only measures. sentences.txt has medical sentences without
personal data, in which every finding is a false alarm.

    python -m bench.privacy
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.clones import ROOT
from bula.privacy import PERSONAL_DATA_KINDS, Finding, find_personal_data
from bula.stats import wilson_interval

FOLDER = ROOT / "tests/data/privacy"
NAMING_WORD = re.compile("CEP|RG|CPF")
PARTS = {"improved on": "lines.jsonl", "measured only": "fresh.jsonl"}
Line = dict[str, Any]


def read_lines(name: str = "lines.jsonl", folder: Path = FOLDER) -> list[Line]:
    """Return the labelled lines of a file."""
    text = (folder / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def read_sentences(folder: Path = FOLDER) -> list[str]:
    """Return the sentences without personal data."""
    return (folder / "sentences.txt").read_text(encoding="utf-8").splitlines()


def labels(line: Line) -> list[Finding]:
    """Return the labelled findings of a line."""
    return [Finding(span["kind"], span["start"], span["end"]) for span in line["spans"]]


def is_found(label: Finding, text: str, findings: list[Finding]) -> bool:
    """Return whether findings cover all letters and digits of a label.

    The word that names a value is no part of it. Of an address all digits must be covered, because
    labels end at the house, at the apartment or at the district.
    """
    covered: set[int] = set()
    for finding in findings:
        covered.update(range(finding.start, finding.end))
    word = NAMING_WORD.match(text, label.start, label.end)
    places = range(word.end() if word else label.start, label.end)
    has_digits = any(text[place].isdigit() for place in places)
    is_part = str.isdigit if label.kind == "address" and has_digits else str.isalnum
    return all(place in covered for place in places if is_part(text[place]))


def overlaps(finding: Finding, found: list[Finding]) -> bool:
    """Return whether a finding has a character of one of the labels."""
    return any(finding.start < label.end and label.start < finding.end for label in found)


def count(lines: Iterable[Line]) -> Counter[str]:
    """Count labels, found labels, findings and correct findings of each kind."""
    counts: Counter[str] = Counter()
    for line in lines:
        text = line["text"]
        wanted = labels(line)
        findings = find_personal_data(text)
        for label in wanted:
            counts[f"labels {label.kind}"] += 1
            counts[f"found {label.kind}"] += is_found(label, text, findings)
        for finding in findings:
            counts[f"findings {finding.kind}"] += 1
            counts[f"correct {finding.kind}"] += overlaps(finding, wanted)
    return counts


def share(part: int, total: int) -> str:
    """Return a share with its Wilson interval of 95 %, or a dash."""
    if not total:
        return "-"
    low, high = wilson_interval(part, total, 0.95)
    return f"{part}/{total} {part / total:.3f} [{low:.3f}, {high:.3f}]"


def print_table(lines: list[Line]) -> None:
    """Print recall and precision by kind."""
    counts = count(lines)
    print(f"{'kind':12} {'recall':34} precision")
    for kind in PERSONAL_DATA_KINDS:
        recall = share(counts[f"found {kind}"], counts[f"labels {kind}"])
        precision = share(counts[f"correct {kind}"], counts[f"findings {kind}"])
        print(f"{kind:12} {recall:34} {precision}")


def main() -> None:
    """Print the figures of both files and of the sentences, and the rate."""
    for name, file in PARTS.items():
        lines = read_lines(file)
        print(f"\n{len(lines)} lines, {name}")
        print_table(lines)
    sentences = read_sentences()
    alarms = sum(len(find_personal_data(text)) for text in sentences)
    print(f"\nfalse alarms in sentences: {share(alarms, len(sentences))}")
    lines = read_lines()
    started = time.perf_counter()
    for line in lines:
        find_personal_data(line["text"])
    seconds = time.perf_counter() - started
    print(f"\n{len(lines) / seconds:.0f} lines/s on one core")


if __name__ == "__main__":
    main()
