"""Repair, redact and filter one row.

A row becomes an Example, or it is refused with a reason.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bula.errors import UserError
from bula.language import pair_language
from bula.params import Preprocess, Privacy
from bula.privacy import find_personal_data, redact
from bula.privacy.name_model import load_finder
from bula.records import Example, Row, Turn, example_id, row_turns, turn_texts
from bula.text import comparison_key, mask, normalise, words
from stages.preprocess.encoding import has_lost_accents, is_mojibake, repair_mojibake
from stages.preprocess.escapes import keeps_escapes, repair_escapes
from stages.preprocess.html import strip_html
from stages.preprocess.splits import assign_split

# A longer text is damage, not a question or an answer; no filter runs on it.
MAX_CHARACTERS = 100_000
TEXT_FIELDS = ("question", "answer", "specialty", "kind")
# The texts of one turn by field.
Fields = dict[str, str]


class Settings(NamedTuple):
    """The settings that each worker receives."""

    base: Path
    preprocess: Preprocess
    privacy: Privacy
    work: Path


def repair_text(text: str) -> tuple[str, list[str]]:
    """Return the repaired text and the names of the repairs.

    Escapes, mojibake and HTML are removed, and the text is normalised. A repair that changed
    nothing is not named. `escapes_left` names a text with escapes that may be LaTeX or a path.
    """
    unescaped = repair_escapes(text)
    decoded = repair_mojibake(unescaped)
    plain = strip_html(decoded)
    repairs = []
    if unescaped != text:
        repairs.append("escapes_repaired")
    elif keeps_escapes(text):
        repairs.append("escapes_left")
    if decoded != unescaped:
        repairs.append("mojibake_repaired")
    if plain != decoded:
        repairs.append("html_stripped")
    return normalise(plain), repairs


def clean_text(text: str) -> str:
    """Return a text as `clean_row` changes the text of an accepted row."""
    repaired, _ = repair_text(text)
    return redact(repaired, find_personal_data(repaired))


def clean_row(row: Row, settings: Settings, counts: Counter[str]) -> Example | str:
    """Return the row as an Example, or the reason for its refusal.

    Repairs and personal data are added to `counts`.
    """
    if "refused" in row:
        return f"unreadable: {row['refused']}"
    turns = row_turns(row)
    if reason := _first_reason([_unusable_fields(turn) for turn in turns]):
        return reason
    repaired = [_repair_fields(turn, counts) for turn in turns]
    kinds = _redact_turns(repaired, settings.privacy, counts)
    if kinds and (reason := _apply_privacy_rule(row, kinds, settings.privacy)):
        return reason
    if reason := _first_reason(_unfit_turns(repaired, settings.preprocess)):
        return reason
    return _to_example(row, repaired, settings.preprocess)


def refuse(row: Row, reason: str, excerpt: str | None = None) -> Row:
    """Return the quarantine record of a row.

    The record contains the origin, the reason and a masked excerpt.
    """
    question = row_turns(row)[0].get("question")
    return {
        "id": example_id(row["source"], *turn_texts(row)),
        "source": row["source"],
        "file": row["file"],
        "line": row["line"],
        "reason": reason,
        "excerpt": mask(question) if excerpt is None else excerpt,
    }


def _first_reason(reasons: list[str]) -> str:
    """Return the first reason in a list with one text per turn.

    The reason names the number of an earlier turn.
    """
    for number, reason in enumerate(reasons, start=1):
        if reason:
            return reason if number == len(reasons) else f"{reason} (turn {number})"
    return ""


def _unusable_fields(row: Row) -> str:
    """Return why a raw turn has no usable text.

    Like all functions here that return a reason, it returns an empty string if there is none.
    """
    for name in ("question", "answer"):
        value = row.get(name)
        if value is None:
            return f"{name} is missing"
        if not isinstance(value, str):
            return f"{name} is no text"
        if len(value) > MAX_CHARACTERS:
            return f"{name} longer than {MAX_CHARACTERS} characters"
        if not comparison_key(value):
            return f"{name} has no words"
    return ""


def _repair_fields(row: Row, counts: Counter[str]) -> Fields:
    """Return the repaired text of each field, and count repairs.

    A specialty or kind that is too long is dropped.
    """
    fields = {}
    for name in TEXT_FIELDS:
        value = row.get(name)
        if isinstance(value, str) and len(value) <= MAX_CHARACTERS:
            fields[name], repairs = repair_text(value)
            counts.update(f"repaired {repair}" for repair in repairs)
    return fields


def _redact_turns(turns: list[Fields], privacy: Privacy, counts: Counter[str]) -> list[str]:
    """Redact the turns of a row, and return the kinds of personal data found."""
    kinds: set[str] = set()
    for fields in turns:
        kinds.update(_redact_fields(fields, privacy, counts))
    if kinds:
        counts["privacy rows"] += 1
    return sorted(kinds)


def _redact_fields(fields: Fields, privacy: Privacy, counts: Counter[str]) -> set[str]:
    """Redact the fields of a turn, and return the kinds of personal data found."""
    kinds: set[str] = set()
    find_names = load_finder(privacy.names)
    for name, text in fields.items():
        findings = find_personal_data(text, find_names)
        fields[name] = redact(text, findings)
        counts.update(f"privacy {finding.kind}" for finding in findings)
        kinds.update(finding.kind for finding in findings)
    return kinds


def _apply_privacy_rule(row: Row, kinds: list[str], privacy: Privacy) -> str:
    """Return why a row with personal data is refused.

    Raise UserError if `privacy.rows` is fail.
    """
    found = f"personal data ({', '.join(kinds)})"
    if privacy.rows == "fail":
        raise UserError(
            f"source {row['source']}: {row['file']}:{row['line']}",
            f"the row contains {found}, and privacy.rows is fail",
            "remove the row from the source, or set privacy.rows to redact or quarantine",
        )
    return found if privacy.rows == "quarantine" else ""


def _unfit_turns(turns: list[Fields], params: Preprocess) -> list[str]:
    """Return for each repaired turn why it is unfit for training.

    Only the first question needs `min_question_words`: a follow-up such as "E à noite?" is short.
    """
    reasons = []
    for number, turn in enumerate(turns):
        min_words = 1 if number else params.min_question_words
        reasons.append(_unfit_text(turn, min_words, params))
    return reasons


def _unfit_text(turn: Fields, min_question_words: int, params: Preprocess) -> str:
    """Return why a repaired turn is unfit for training."""
    question = turn["question"]
    answer = turn["answer"]
    reason = _unfit_field("question", question, min_question_words)
    reason = reason or _unfit_field("answer", answer, params.min_answer_words)
    if reason:
        return reason
    if comparison_key(question) == comparison_key(answer):
        return "answer equals the question"
    if language := pair_language(question, answer, params):
        return f"in another language ({language})"
    return ""


def _unfit_field(name: str, text: str, min_words: int) -> str:
    """Return why one repaired field is unfit for training."""
    word_count = len(words(text))
    if not word_count:
        return f"{name} has no words"
    if is_mojibake(text):
        return f"{name} is mojibake"
    if has_lost_accents(text):
        return f"accents replaced by ? ({name})"
    if word_count < min_words:
        return f"{name} shorter than {min_words} words"
    return ""


def _to_example(row: Row, turns: list[Fields], params: Preprocess) -> Example:
    """Return an Example of the cleaned turns.

    The first question chooses the split, so that conversations with one start stay together.
    """
    *history, last = turns
    texts = [turn[name] for turn in turns for name in ("question", "answer")]
    return Example(
        id=example_id(row["source"], *texts),
        source=row["source"],
        license=row["license"],
        split=assign_split(row, turns[0]["question"], params),
        question=last["question"],
        answer=last["answer"],
        specialty=last.get("specialty") or None,
        kind=last.get("kind") or None,
        history=[Turn(**turn) for turn in history] or None,
    )
