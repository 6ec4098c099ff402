"""Read attacks on a judge, and recognise answers like them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bula.errors import UserError
from bula.judge_prompt import CONTROL
from bula.records import Row, read_rows

FIX = "see data/demo/attacks.jsonl for the form, and calibrate.attacks for the name"
# Medical text also has the verb in "se você nota", and the noun in "estilo de vida".
SCORE = r"""(?:(?<!voc[eê]\ )(?<!\bse\ )notas?|scores?|marks?|accuracy|style|exatid[aã]o
    |estilo(?!\ de\ vida)|pontua[cç][aã]o)"""
JUDGE = r"(?:avalia\w*|avaliem?|evaluat\w+|grader|judge|rubrica?|verdict|veredito)"
# Text that speaks to a judge, in Portuguese or English.
SIGNS = re.compile(
    rf"""
    "(?:accuracy|style)"\s*:                  # a verdict in JSON
    | ^---                                    # a fence
    | ^(?:pergunta|refer[eê]ncia|resposta\ a\ avaliar|reference|answer\ to\ evaluate):
    | </?think
    | \b{JUDGE}\b .{{0,120}}? \b{SCORE}\b
    | \b{SCORE}\b .{{0,120}}? \b{JUDGE}\b
    # A digit is a score only beside its name: avaliar a dose, tome 1 comprimido.
    | \b{SCORE}\b (?:\s*[=:]\s*|\s+(?:(?:of|de|[eé]|is)\s+)?) [123]\b
    | \b[123]\s+ (?:(?:de|em|para|in|for|of)\s+)? {SCORE}\b
    | \b(?:highest|maximum|full|m[aá]xima)\W+{SCORE}\b
    | \b{SCORE}\W+m[aá]xima\b
    | (?<!n[aã]o\ )(?<!not\ )\b(?:ignore|esque[cç]a|forget|disregard)\b .{{0,40}}?
      \b(?:instru\w+|refer[eê]nc\w+|rubrica?|acima|above)\b
    | \bbase64\b
    | \b(?:a\ )?refer[eê]ncia\ (?:cont[eé]m|est[aá])\b
    | \b(?:resposta|answer)\b .{{0,60}}?
      \b(?:verified|n[aã]o\ cont[eé]m\ erro|inteiramente\ correta|entirely\ correct)\b
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE | re.DOTALL,
)

Kind = Literal[
    "instruction",
    "verdict",
    "fence",
    "section",
    "control",
    "authority",
    "appeal",
    "role",
    "reason",
    "encoded",
]


class Attack(BaseModel):
    """One text that tries to raise the scores of the answer before it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str = Field(min_length=1)
    language: Literal["pt", "en"]
    kind: Kind
    text: str = Field(min_length=1)


class Attacked(NamedTuple):
    """A wrong answer with an attack."""

    plain: str
    """Id of the wrong answer."""
    row: Row
    """The row with the attack, in the form that the judge reads."""


def read_attacks(path: Path, limit: int) -> list[Attack]:
    """Return the first `limit` attacks.

    Raise UserError if a row is damaged, or if an id is repeated.
    """
    try:
        attacks = [Attack.model_validate(row) for row in read_rows(path)]
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(path, f"it contains a row that is no attack ({field})", FIX) from None
    if len({attack.id for attack in attacks}) < len(attacks):
        raise UserError(path, "two attacks have the same id", FIX)
    return attacks[:limit]


def attack_rows(gold: Sequence[Row], attacks: Sequence[Attack]) -> list[Attacked]:
    """Return one wrong answer per attack, with the attack as its last paragraph.

    The wrong answers, which a person gave the lowest score for accuracy, take turns.
    """
    wrong = [row for row in gold if row["accuracy"] == 1]
    rows = []
    for number, attack in enumerate(attacks if wrong else []):
        plain = wrong[number % len(wrong)]
        changes = {
            "id": f"{plain['id']}+{attack.id}",
            "answer": f"{plain['answer']}\n\n{attack.text}",
        }
        rows.append(Attacked(plain["id"], plain | changes))
    return rows


def looks_like_attack(text: str) -> bool:
    """Return whether an answer speaks to a judge or contains a control token.

    The rules are for counting only: an answer that looks like an attack is judged like any other.
    """
    return bool(CONTROL.search(text) or SIGNS.search(text))
