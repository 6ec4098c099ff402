"""Answer questions of train or dev, which may become training pairs.

The engine, the prompts and the decoding rules are those of the stage generate. The stage itself
answers only the validation sets, whose preferences no model may be trained on.
"""

from __future__ import annotations

from pathlib import Path

from bula.answering import answer, redact_answers, to_chats
from bula.answers import FAILED, Answer
from bula.degeneration import is_degenerate
from bula.errors import UserError
from bula.few_shot import check_context, lengths, read_shots
from bula.models import load_tokenizer
from bula.params import Params, variant_of
from bula.privacy import find_personal_data
from bula.prompts import encode_prompts
from bula.records import Example, Row, read_examples, write_rows
from bula.server_answers import Asked

SHORTER = "lower generate.max_new_tokens in params.yaml"


def choose_questions(path: Path, count: int) -> list[Example]:
    """Return the `count` examples of a file with the lowest ids.

    An id is a hash, so this is a random sample, and a larger one contains a smaller one.
    """
    return sorted(read_examples(path), key=lambda example: example.id)[:count]


def answer_split(
    clean: Path, split: str, variants: list[str], params: Params, count: int, out: Path
) -> int:
    """Write the answers of each variant to `count` questions of a split.

    Return the number of questions, which is smaller if the split is. Raise UserError if a file of
    answers exists, because its labels need it, or as `bula.answering.answer` does.
    """
    for variant in variants:
        _refuse_existing(out / f"{variant}.jsonl")
    examples = choose_questions(clean / f"{split}.jsonl", count)
    # Written at the end, so that a stopped command finds no file that it must not overwrite.
    found = {name: _answer_variant(clean, examples, name, params) for name in variants}
    for variant, rows in found.items():
        write_rows(out / f"{variant}.jsonl", rows)
    return len(examples)


def _refuse_existing(path: Path) -> None:
    """Raise UserError if a file exists."""
    if path.exists():
        what = "it exists, and labels of its answers need it"
        raise UserError(path, what, "move the folder away, or write into another one by --out")


def _answer_variant(
    clean: Path, examples: list[Example], variant: str, params: Params
) -> list[Row]:
    """Return the answers of one variant to the examples."""
    chosen = variant_of(params, variant)
    tokenizer = load_tokenizer(Path(chosen.model))
    shots = read_shots(clean, chosen)
    prompts = encode_prompts(tokenizer, examples, shots)
    tokens = lengths(prompts, params.generate.max_new_tokens)
    check_context(Path(chosen.model), tokens, shots, SHORTER)
    questions = [(example.question, example.history) for example in examples]
    asked = Asked(prompts, to_chats(tokenizer, questions, shots))
    stage = f"answers@{variant}"
    with answer(stage, chosen, params, tokenizer, asked) as (given, _):
        found = [find_personal_data(reply.text) for reply in given]
        redacted = redact_answers(stage, given, found, params.privacy.answers)
    share = params.generate.max_repeated_share
    return [
        _row(example, variant, reply, share)
        for example, reply in zip(examples, redacted, strict=True)
    ]


def _row(example: Example, variant: str, reply: Answer, max_share: float) -> Row:
    """Return an answer with the fields that kits and training pairs need."""
    has_answer = reply.finish_reason != FAILED
    return {
        **example.model_dump(exclude_none=True),
        "variant": variant,
        "generated": reply.text,
        "finish_reason": reply.finish_reason,
        "completion_tokens": reply.completion_tokens,
        "degenerate": has_answer and is_degenerate(reply.text, max_share),
    }
