"""Test the search for personal data on labelled lines.

The first 233 lines of privacy.jsonl were labelled before the first rules were written, by somebody
who had not seen the rules. Each later line repeats a mistake that was found and corrected. When the
project began to search names, profiles, mistyped documents and longer addresses, a script took 31
labels from the findings of the new rules, so these measure no recall. tests/data/privacy/ does.
"""

import json
from collections import Counter
from typing import Any

import pytest

from bench.clones import ROOT
from bula.privacy import PERSONAL_DATA_KINDS, PLACEHOLDER, Finding, find_personal_data, redact

BLIND = 233
# A label is a kind and the exact value. All values are invented, with computed check digits.
LINES: list[dict[str, Any]] = [
    json.loads(line)
    for line in (ROOT / "tests/data/privacy.jsonl").read_text(encoding="utf-8").splitlines()
]


def labelled(line: dict[str, Any]) -> list[Finding]:
    """Return the labelled findings of a line."""
    findings = []
    for label in line["found"]:
        start = line["text"].index(label["value"])
        end = start + len(label["value"])
        findings.append(Finding(label["kind"], start, end))
    return findings


def redacted(text: str) -> str:
    """Return the text with placeholders for personal data."""
    return redact(text, find_personal_data(text))


def covers(finding: Finding, label: Finding) -> bool:
    """Return whether a finding covers a label and has its kind."""
    return finding.kind == label.kind and finding.start <= label.start and label.end <= finding.end


def test_the_set_is_large_and_has_no_repetitions() -> None:
    assert len(LINES) >= 120
    assert len({line["text"] for line in LINES}) == len(LINES)


def test_half_of_the_lines_are_negatives_and_the_others_contain_every_kind() -> None:
    negatives = [line for line in LINES if not line["found"]]
    kinds = [label["kind"] for line in LINES for label in line["found"]]
    assert len(negatives) >= len(LINES) / 2
    assert set(kinds) <= set(PERSONAL_DATA_KINDS)


def test_recall_and_precision_reach_the_goals() -> None:
    counts: Counter[str] = Counter()
    for line in LINES:
        labels = labelled(line)
        findings = find_personal_data(line["text"])
        hits = [label for label in labels if any(covers(f, label) for f in findings)]
        counts["hit"] += len(hits)
        counts["label"] += len(labels)
        counts["finding"] += len(findings)
    assert counts["hit"] / counts["label"] >= 0.98
    assert counts["hit"] / counts["finding"] >= 0.95


@pytest.mark.parametrize("line", LINES[BLIND:], ids=lambda line: line["text"])
def test_a_corrected_mistake_does_not_return(line: dict[str, Any]) -> None:
    assert find_personal_data(line["text"]) == labelled(line)


def test_redaction_leaves_no_labelled_value() -> None:
    for line in LINES:
        clean = redacted(line["text"])
        left = [label["value"] for label in line["found"] if label["value"] in clean]
        assert find_personal_data(clean) == []
        assert left == []


def test_a_text_is_redacted_by_kind() -> None:
    # 529.982.247-25: 5*10+2*9+9*8+9*7+8*6+2*5+2*4+4*3+7*2 = 295, and 295*10 mod 11 = 2. The second
    # digit is computed in the same way.
    text = (
        "Ana, CPF 529.982.247-25, nascida em 12/03/1985, ana@exemplo.com.br, fone (11) 91234-5678."
    )
    clean = "[NOME], CPF [CPF], nascida em [DATA DE NASCIMENTO], [E-MAIL], fone [TELEFONE]."
    assert redacted(text) == clean


def test_every_kind_has_a_placeholder() -> None:
    assert set(PLACEHOLDER) == set(PERSONAL_DATA_KINDS)


@pytest.mark.parametrize(
    "text",
    [
        "Tome 500 mg de 8 em 8 horas por 7 dias.",
        "Pressão 120/80, glicemia 110, 126, 130 e 145.",
        "529.982.247-26",
        "Ligue 192 ou para o Disque-Intoxicação, 0800 722 6001.",
        "Consulta em 12/03/2024, cirurgia em 4 de julho de 2024.",
        "Lote 12345678, validade 05/2026.",
    ],
)
def test_numbers_that_are_no_personal_data_stay(text: str) -> None:
    assert find_personal_data(text) == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("tel: 98765-4321/98765-4322", "tel: [TELEFONE]/[TELEFONE]"),
        ("tel 4729-6083", "tel [TELEFONE]"),
        ("fone 99998888 ou 3333 4444", "fone [TELEFONE] ou [TELEFONE]"),
        ("(11) 98765-4321 / 98765-4322", "[TELEFONE] / [TELEFONE]"),
        ("celular 99999-8888 ou 98888-7777", "celular [TELEFONE] ou [TELEFONE]"),
        ("Me chama no 11987654321", "Me chama no [TELEFONE]"),
        ("+351 912 345 678", "[TELEFONE]"),
        # A hyphen of a word processor, a minus sign, commas, full-width digits, no-break spaces.
        ("CPF 529.982.247\u201125", "CPF [CPF]"),
        ("CPF 529.982.247\u221225", "CPF [CPF]"),
        ("529,982,247-25", "[CPF]"),
        ("CPF n.52998224725", "CPF n.[CPF]"),
        ("\uff15\uff12\uff19\uff19\uff18\uff12\uff12\uff14\uff17\uff12\uff15", "[CPF]"),
        ("529\u00a0982\u00a0247\u00a025", "[CPF]"),
        ("crm 123456 SP", "[CRM]"),
        ("rg nº 12345678-90", "rg nº [RG]"),
        ("CRM 98765-4321", "[CRM]"),
    ],
)
def test_everyday_spellings_are_redacted_completely(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.timeout(60)
def test_a_long_row_of_signs_is_searched_in_linear_time() -> None:
    text = "CRM" + "-" * 100_000 + "x1234 12345678"
    assert find_personal_data(text) == []


# About 2 s each. A search through all the text before each number took minutes.
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "kind"),
    [("(11) 98765-4321 ", "phone"), ("85999998888 ", "phone"), ("a@b.co ", "email")],
)
def test_a_long_text_of_findings_is_searched_in_linear_time(text: str, kind: str) -> None:
    findings = find_personal_data(text * 12_000)
    assert [finding.kind for finding in findings] == [kind] * 12_000
