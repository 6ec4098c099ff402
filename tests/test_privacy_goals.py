"""Test the figures of the search for personal data on labelled lines and sentences."""

import pytest

from bench.privacy import count, half, is_found, read_lines, read_sentences
from bula.privacy import PERSONAL_DATA_KINDS, Finding, find_personal_data

LINES = read_lines()
# The documents that count beside their names.
DOCUMENTS = ("cpf", "cnpj", "cns", "pis", "cnh", "voter", "passport", "rg", "crm", "council")


def recall(kinds: tuple[str, ...]) -> float:
    """Return the share of labels of some kinds that is found in all lines."""
    counts = count(LINES)
    found = sum(counts[f"found {kind}"] for kind in kinds)
    return found / sum(counts[f"labels {kind}"] for kind in kinds)


@pytest.mark.parametrize(
    ("kinds", "goal"),
    [(DOCUMENTS, 0.97), (("name",), 0.88), (("address",), 0.85), (("birth_date",), 0.9)],
)
def test_recall_does_not_fall(kinds: tuple[str, ...], goal: float) -> None:
    assert recall(kinds) >= goal


def test_at_most_one_finding_in_a_hundred_is_wrong() -> None:
    counts = count(LINES)
    findings = sum(counts[f"findings {kind}"] for kind in PERSONAL_DATA_KINDS)
    correct = sum(counts[f"correct {kind}"] for kind in PERSONAL_DATA_KINDS)
    assert correct / findings >= 0.99


def test_medical_sentences_cause_no_false_alarm() -> None:
    sentences = read_sentences()
    assert len(sentences) > 7000
    found = [text for text in sentences if find_personal_data(text)]
    assert found == []


def test_the_labelled_lines_have_every_kind_in_both_halves() -> None:
    for number in (0, 1):
        chosen = [line for line in LINES if half(line["text"]) == number]
        kinds = {span["kind"] for line in chosen for span in line["spans"]}
        assert kinds == set(PERSONAL_DATA_KINDS)


def test_a_label_is_found_if_all_its_letters_and_digits_are_covered() -> None:
    text = "CEP 70.123-456"
    label = Finding("address", 0, len(text))
    # The word CEP is no part of the value, and signs need no cover.
    assert is_found(label, text, [Finding("address", 4, 6), Finding("phone", 7, 14)])
    assert not is_found(label, text, [Finding("address", 4, 13)])
