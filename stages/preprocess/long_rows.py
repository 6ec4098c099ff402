"""Refuse, truncate or split examples that are longer than training allows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bula.params import Preprocess
from bula.prompts import token_lengths
from bula.records import Example, example_id
from bula.text import sentences, words
from stages.preprocess.tokens import excess_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# An example with its length in tokens.
Sized = tuple[Example, int]


def fit_example(
    example: Example,
    lengths: tuple[int, int],
    tokenizer: PreTrainedTokenizerBase,
    params: Preprocess,
    counts: Counter[str],
) -> list[Sized] | str:
    """Return the examples that training receives with their lengths, or why none.

    `lengths` are the tokens of prompt and complete example. Only the last answer is ever cut, and
    only at the end of a sentence; cuts are added to `counts`.
    """
    prompt_length, length = lengths
    reason = excess_length(prompt_length, length, params)
    if not reason:
        return [(example, length)]
    if params.long_rows == "refuse" or prompt_length > params.max_prompt_tokens:
        return reason
    parts = _cut_answer(example, length, tokenizer, params)
    # The later part of an answer is no reference for the question.
    if params.long_rows == "truncate" or example.split != "train":
        parts = parts[:1]
    if not parts:
        return reason
    is_complete = sum(len(part.answer.split()) for part, _ in parts) == len(example.answer.split())
    counts["repaired answers_split"] += len(parts) > 1
    counts["repaired answers_truncated"] += not is_complete
    return parts


def _cut_answer(
    example: Example, length: int, tokenizer: PreTrainedTokenizerBase, params: Preprocess
) -> list[Sized]:
    """Return examples with parts of the answer.

    Each part has as many sentences as fit. A sentence that does not fit alone ends a truncated
    answer, and is left out of a split one, as a part with fewer words than `min_answer_words` is.
    """
    rest = sentences(example.answer)
    encoded = tokenizer(rest, add_special_tokens=False)["input_ids"]
    sizes = [len(ids) for ids in encoded]
    other_tokens = length - sum(sizes)
    parts = []
    while rest:
        estimate = _count_fitting(sizes, params.max_tokens - other_tokens)
        count, part = _longest_part(example, rest, estimate, tokenizer, params)
        if part and len(words(part[0].answer)) >= params.min_answer_words:
            parts.append(part)
        if params.long_rows == "truncate":
            break
        count = max(count, 1)
        rest = rest[count:]
        sizes = sizes[count:]
    return parts


def _count_fitting(sizes: list[int], room: int) -> int:
    """Return how many of the first sizes fit into `room` together, at least 1."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > room:
            return max(count, 1)
    return len(sizes)


def _longest_part(
    example: Example,
    rest: list[str],
    estimate: int,
    tokenizer: PreTrainedTokenizerBase,
    params: Preprocess,
) -> tuple[int, Sized | None]:
    """Return the largest number of sentences that fit, and the example with them.

    Tokens at the borders of sentences differ from the estimate, so it is corrected in both
    directions.
    """
    best: Sized | None = None
    count = estimate
    while count and best is None:
        best = _fitting(example, rest[:count], tokenizer, params)
        count -= best is None
    while count and count < len(rest):
        longer = _fitting(example, rest[: count + 1], tokenizer, params)
        if longer is None:
            break
        best = longer
        count += 1
    return count, best


def _fitting(
    example: Example, parts: list[str], tokenizer: PreTrainedTokenizerBase, params: Preprocess
) -> Sized | None:
    """Return the example with these sentences as its answer.

    Return None if it is too long.
    """
    answer = "".join(parts).strip()
    if not answer:
        return None
    turns = [*example.turns[:-1], example.turns[-1].model_copy(update={"answer": answer})]
    texts = [text for turn in turns for text in (turn.question, turn.answer)]
    changes = {"answer": answer, "id": example_id(example.source, *texts)}
    shorter = example.model_copy(update=changes)
    [(_, length)] = token_lengths(tokenizer, [shorter])
    return (shorter, length) if length <= params.max_tokens else None
