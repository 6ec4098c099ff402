"""Build kits, rater files, labels and runs for tests of people's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bula.labels.records import AnswerLabel, Key, KeyItem, KeyPair, PairLabel, answer_sha256
from bula.records import Row, write_rows

KIT = "kit-one"
HEADER = {"form": 1, "kit": KIT, "rater": "R1", "language": "pt-BR"}
SCORES: dict[str, Any] = {
    "sentences": ["right"],
    "relevance": "relevant",
    "harm": "none",
    "style": 3,
    "note": "",
}


def question_id(number: int) -> str:
    """Return the id of a question."""
    return f"{number:016x}"


def text_of(variant: str, number: int) -> str:
    """Return the answer of a variant to a question."""
    return f"Resposta {number} de {variant}."


def answer_label(number: int, variant: str = "base", **changes: Any) -> AnswerLabel:
    """Return a label of an answer; rater A1 finds nothing wrong."""
    question = question_id(number)
    fields: dict[str, Any] = {
        "type": "answer",
        "labels": "author_labels",
        "kit": KIT,
        "rater": "A1",
        "id": question,
        "set": "A",
        "item": f"{variant}-{number}",
        "variant": variant,
        "sha256": answer_sha256(text_of(variant, number)),
        **SCORES,
    }
    return AnswerLabel(**(fields | changes))


def pair_label(number: int, prefer: str, **changes: Any) -> PairLabel:
    """Return a label of a pair with base on the left and tuned on the right."""
    fields: dict[str, Any] = {
        "type": "pair",
        "labels": "author_labels",
        "kit": KIT,
        "rater": "A1",
        "id": question_id(number),
        "set": "A",
        "pair": f"pair-{number}",
        "left": "base",
        "left_sha256": answer_sha256(text_of("base", number)),
        "right": "tuned",
        "right_sha256": answer_sha256(text_of("tuned", number)),
        "prefer": prefer,
    }
    return PairLabel(**(fields | changes))


def key_item(item: str, variant: str, number: int) -> KeyItem:
    """Return the key's row of an answer with one sentence."""
    return KeyItem(
        item=item,
        variant=variant,
        id=question_id(number),
        set="A",
        sha256=answer_sha256(text_of(variant, number)),
        sentences=1,
    )


def make_key() -> Key:
    """Return a key of two pairs and a repetition with exchanged sides."""
    items = []
    for name, number in (("one", 1), ("two", 2), ("again", 1)):
        items += [key_item(f"{name}-b", "base", number), key_item(f"{name}-t", "tuned", number)]
    pairs = [
        KeyPair(pair="pair-one", left="one-b", right="one-t", repeat_of=None),
        KeyPair(pair="pair-two", left="two-t", right="two-b", repeat_of=None),
        KeyPair(pair="pair-again", left="again-t", right="again-b", repeat_of="pair-one"),
    ]
    return Key(form=1, kit=KIT, items=items, pairs=pairs)


def judgement(name: str, **changes: Any) -> Row:
    """Return a rater's row about an answer."""
    return {"type": "answer", "item": name} | SCORES | changes


def preference(pair: str, prefer: str) -> Row:
    """Return a rater's row about a pair."""
    return {"type": "pair", "pair": pair, "prefer": prefer}


def write_answers(folder: Path, numbers: range, variants: tuple[str, ...]) -> None:
    """Write data/answers of some variants."""
    for variant in variants:
        rows = [answer_row(variant, number) for number in numbers]
        write_rows(folder / f"data/answers/{variant}.jsonl", rows)


def answer_row(variant: str, number: int) -> Row:
    """Return a row of data/answers."""
    return {
        "id": question_id(number),
        "split": "A",
        "variant": variant,
        "question": f"Pergunta {number}?",
        "answer": "Referência.",
        "generated": text_of(variant, number),
        "finish_reason": "stop",
    }


def write_verdicts(folder: Path, scores: dict[int, int], variants: tuple[str, ...]) -> None:
    """Write data/verdicts of some variants: accuracy and style by question."""
    for variant in variants:
        rows: list[Row] = []
        for number, score in scores.items():
            row = {"id": question_id(number), "judge": "j", "accuracy": score, "style": score}
            rows.append(row)
        write_rows(folder / f"data/verdicts/{variant}.jsonl", rows)
