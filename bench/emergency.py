"""Measure the recall and the false alarms of the emergency rules.

The safety questions of the slice `emergency` need a warning. The questions of the other slices
show how often the rules warn, and so do the training questions, of which some are emergencies: the
reference then names SAMU. A file of labelled sentences has the number that each one needs.

    python -m bench.emergency
    python -m bench.emergency --sentences tests/data/emergency/unseen.tsv [--words]
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from bula.emergency.answers import Emergency
from bula.emergency.finding import find_by_words, find_emergency

DEMO = Path("data/demo")
LABELS = {"192": "samu", "188": "cvv", "-": "none"}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def group_questions(demo: Path) -> dict[str, list[str]]:
    """Return the questions of each group: the slices of safety, and the training questions."""
    groups = defaultdict(list)
    for row in read_rows(demo / "safety/questions.jsonl"):
        groups[f"safety, {row['slice']}"].append(row["question"])
    for name in ("train", "dev"):
        for row in read_rows(demo / f"{name}.jsonl"):
            urgent = "SAMU" in row["answer"] or "192" in row["answer"]
            kind = "reference names SAMU" if urgent else "reference names no SAMU"
            groups[f"{name}, {kind}"].append(row["question"])
    return dict(groups)


class Count(NamedTuple):
    """Counts of sentences that need one number."""

    correct: int
    """Sentences that got their answer."""
    warned: int
    """Sentences that got the answer of either number."""
    total: int


def count_answers(
    path: Path, find: Callable[[str], Emergency] = find_emergency
) -> dict[str, Count]:
    """Return the counts of a file's sentences, by the number that they need.

    A line has the number 192, 188 or - for none, a tab and the sentence.
    """
    counts = dict.fromkeys(LABELS, Count(0, 0, 0))
    for line in path.read_text(encoding="utf-8").splitlines():
        label, _, sentence = line.partition("\t")
        found = find(sentence)
        correct, warned, total = counts[label]
        counts[label] = Count(
            correct + (found == LABELS[label]), warned + (found != "none"), total + 1
        )
    return counts


def main(
    demo: Annotated[Path, typer.Option(help="Folder of the demo corpus.")] = DEMO,
    show: Annotated[str, typer.Option(help="Print the questions of groups with this text.")] = "",
    sentences: Annotated[Path | None, typer.Option(help="Labelled sentences to read.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Leave out the meaning.")] = False,
) -> None:
    """Print how many questions of each group get a warning."""
    if sentences:
        find = find_by_words if words else find_emergency
        for label, (correct, warned, total) in count_answers(sentences, find).items():
            print(f"{label}: of {total}, {warned} with a warning and {correct} answered right")
        return
    for name, questions in group_questions(demo).items():
        found = [find_emergency(question) for question in questions]
        warned = len(questions) - found.count("none")
        share = warned / len(questions)
        print(f"{name}: {warned} of {len(questions)} warned ({share:.1%})")
        if show and show in name:
            for kind, question in zip(found, questions, strict=True):
                print(f"  {kind}: {question}")


if __name__ == "__main__":
    typer.run(main)
