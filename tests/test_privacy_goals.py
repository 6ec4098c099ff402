"""Test the figures of the search for personal data on labelled lines and sentences."""

import pytest

from bench.privacy import PARTS, Line, count, is_found, read_lines, read_sentences
from bula.privacy import PERSONAL_DATA_KINDS, Finding, find_personal_data

LINES = {file: read_lines(file) for file in PARTS.values()}
# The documents that count beside their names.
DOCUMENTS = ("cpf", "cnpj", "cns", "pis", "cnh", "voter", "passport", "rg", "crm", "council")


def recall(kinds: tuple[str, ...], lines: list[Line]) -> float:
    """Return the share of labels of some kinds that is found in the lines."""
    counts = count(lines)
    found = sum(counts[f"found {kind}"] for kind in kinds)
    return found / sum(counts[f"labels {kind}"] for kind in kinds)


@pytest.mark.parametrize(
    ("kinds", "goal"),
    [(DOCUMENTS, 0.98), (("name",), 0.8), (("address",), 0.9), (("birth_date",), 0.95)],
)
@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_recall_does_not_fall(kinds: tuple[str, ...], goal: float, lines: list[Line]) -> None:
    assert recall(kinds, lines) >= goal


@pytest.mark.parametrize(("file", "goal"), [("lines.jsonl", 0.99), ("fresh.jsonl", 0.98)])
def test_few_findings_are_wrong(file: str, goal: float) -> None:
    counts = count(LINES[file])
    findings = sum(counts[f"findings {kind}"] for kind in PERSONAL_DATA_KINDS)
    correct = sum(counts[f"correct {kind}"] for kind in PERSONAL_DATA_KINDS)
    assert correct / findings >= goal


def test_medical_sentences_cause_no_false_alarm() -> None:
    sentences = read_sentences()
    assert len(sentences) > 7000
    found = [text for text in sentences if find_personal_data(text)]
    assert found == []


def test_the_labelled_lines_have_every_kind() -> None:
    kinds = {span["kind"] for line in LINES["lines.jsonl"] for span in line["spans"]}
    assert kinds == set(PERSONAL_DATA_KINDS)


def test_no_fresh_line_with_labels_is_among_the_lines_for_the_rules() -> None:
    known = {line["text"] for line in LINES["lines.jsonl"]}
    fresh = {line["text"] for line in LINES["fresh.jsonl"] if line["spans"]}
    assert len(fresh) > 200
    assert known.isdisjoint(fresh)


def test_a_label_is_found_if_all_its_letters_and_digits_are_covered() -> None:
    text = "CEP 70.123-456"
    label = Finding("address", 0, len(text))
    # The word CEP is no part of the value, and signs need no cover.
    assert is_found(label, text, [Finding("address", 4, 6), Finding("phone", 7, 14)])
    assert not is_found(label, text, [Finding("address", 4, 13)])
