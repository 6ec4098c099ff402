"""The privacy gate against labelled lines: the first 233 by somebody who had not seen the rules, the others from its mistakes."""

import json
from collections import Counter
from typing import Any

import pytest

from bench.clones import ROOT
from bula.privacy import PERSONAL_DATA_KINDS, PLACEHOLDER, Finding, find_personal_data, redact

# Labels: kind and exact value; invented throughout, numbers with check digits computed. Half are tricky negatives.
BLIND = 233  # lines labelled before the rules were written; those after them name a mistake that was found and mended
LINES: list[dict[str, Any]] = [
    json.loads(line)
    for line in (ROOT / "tests/data/privacy.jsonl").read_text(encoding="utf-8").splitlines()
]


def spans(line: dict[str, Any]) -> list[Finding]:
    """The labelled findings of a line."""
    starts = [
        (label["kind"], line["text"].index(label["value"]), len(label["value"]))
        for label in line["found"]
    ]
    return [Finding(kind, start, start + length) for kind, start, length in starts]


def test_the_set_is_large_enough_and_half_of_it_are_negatives() -> None:
    assert len(LINES) >= 120
    assert sum(not line["found"] for line in LINES) >= len(LINES) / 2
    assert len({line["text"] for line in LINES}) == len(LINES)
    assert {label["kind"] for line in LINES for label in line["found"]} == set(PERSONAL_DATA_KINDS)


def test_recall_and_precision_reach_the_goals() -> None:
    counts: Counter[str] = Counter()
    for line in LINES:
        found = find_personal_data(line["text"])
        hits = [
            w
            for w in spans(line)
            if any(f.kind == w.kind and f.start <= w.start and w.end <= f.end for f in found)
        ]
        # A right finding covers its label wholly: redaction must leave no digit behind.
        counts += Counter(
            hit=len(hits), missed=len(line["found"]) - len(hits), false=len(found) - len(hits)
        )
    assert counts["hit"] / (counts["hit"] + counts["missed"]) >= 0.98
    assert counts["hit"] / (counts["hit"] + counts["false"]) >= 0.95


@pytest.mark.parametrize("line", LINES[BLIND:], ids=lambda line: line["text"])
def test_a_mended_mistake_does_not_come_back(line: dict[str, Any]) -> None:
    assert find_personal_data(line["text"]) == spans(line)


def test_redaction_leaves_none_of_the_values() -> None:
    for line in LINES:
        clean = redact(line["text"], find_personal_data(line["text"]))
        assert find_personal_data(clean) == []
        assert [label["value"] for label in line["found"] if label["value"] in clean] == []


def test_a_text_is_redacted_by_kind() -> None:
    # 529.982.247-25: 5*10+2*9+9*8+9*7+8*6+2*5+2*4+4*3+7*2 = 295, 295*10 mod 11 = 2; second digit 5 likewise.
    text = (
        "Ana, CPF 529.982.247-25, nascida em 12/03/1985, ana@exemplo.com.br, fone (11) 91234-5678."
    )
    assert (
        redact(text, find_personal_data(text))
        == "Ana, CPF [CPF], nascida em [DATA DE NASCIMENTO], [E-MAIL], fone [TELEFONE]."
    )
    assert set(PLACEHOLDER) == set(PERSONAL_DATA_KINDS)


@pytest.mark.parametrize(
    "text",
    [
        "Tome 500 mg de 8 em 8 horas por 7 dias.",
        "Pressão 120/80, glicemia 110, 126, 130 e 145.",
        "CPF 529.982.247-26",
        "Ligue 192 ou para o Disque-Intoxicação, 0800 722 6001.",
        "Consulta em 12/03/2024, cirurgia em 4 de julho de 2024.",
        "Lote 12345678, validade 05/2026.",
    ],
)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
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
        # A hyphen of a word processor, a minus sign, commas, full-width digits, hard spaces.
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
def test_everyday_spellings_are_found_whole(text: str, clean: str) -> None:
    assert redact(text, find_personal_data(text)) == clean


@pytest.mark.timeout(60)
def test_a_long_row_of_signs_ends() -> None:
    assert find_personal_data("CRM" + "-" * 100_000 + "x1234 12345678") == []


# About 2 s each; a look back over all that goes before took minutes.
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("words", "kind"),
    [("(11) 98765-4321 ", "phone"), ("85999998888 ", "phone"), ("a@b.co ", "email")],
)
def test_a_long_text_of_findings_ends(words: str, kind: str) -> None:
    assert [finding.kind for finding in find_personal_data(words * 12_000)] == [kind] * 12_000
