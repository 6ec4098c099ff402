"""Read, check and divide preference pairs.

A row has the fields `prompt`, `chosen` and `rejected`, each a list of chat messages, as TRL's
conversational preference data sets have them. Other fields are ignored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bula.errors import UserError
from bula.prompts import SYSTEM_PROMPT, Encoded, encode
from bula.question_groups import question_group
from bula.records import Example, Turn, example_id, read_validation_sets
from bula.text import comparison_key, normalise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A limit on the lines of one message.
MOST_LINES = 30
FIX = "correct or remove these rows"


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class PairRow(BaseModel):
    """One row of a file of preference pairs."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    prompt: list[Message] = Field(min_length=1)
    chosen: list[Message] = Field(min_length=1, max_length=1)
    rejected: list[Message] = Field(min_length=1, max_length=1)


class Chat(NamedTuple):
    """A question with its earlier turns and two answers, all normalised."""

    line: int
    history: list[Turn]
    question: str
    chosen: str
    rejected: str

    @property
    def questions(self) -> list[str]:
        """Return all questions of the conversation."""
        return [*(turn.question for turn in self.history), self.question]


class Pair(NamedTuple):
    """The token ids of both answers to one prompt."""

    group: str
    """Key of the question, which paraphrases share."""
    chosen: Encoded
    rejected: Encoded


class Validation(NamedTuple):
    """Keys of all questions and answers of the validation sets."""

    questions: set[str]
    answers: set[str]


class Problem(Exception):  # noqa: N818
    """Say why a row cannot be used."""


def read_pairs(
    path: Path, validation: Validation, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[Pair]:
    """Return the encoded pairs of a file.

    A prompt with an answer has at most `max_tokens` tokens. Raise a UserError that lists all rows
    that cannot be used, or says that there is no row.
    """
    refuse_missing_file(path)
    pairs = []
    problems = []
    for number, line in _numbered_lines(path):
        try:
            chat = _parse_chat(number, line)
            _refuse_leak(chat, validation)
            pairs.append(_encode_pair(chat, tokenizer, max_tokens))
        except Problem as problem:
            problems.append(f"  line {number}: {problem}")
    if problems:
        raise UserError(path, _summary(problems), FIX)
    if not pairs:
        raise UserError(path, "the file has no row", "export preference pairs to it")
    return pairs


def refuse_missing_file(path: Path) -> None:
    """Raise a UserError unless the file of pairs exists."""
    if not path.is_file():
        fix = "correct prefer in params.yaml, or run `python -m bula labels export-pairs FILE`"
        raise UserError(path, "the file does not exist", fix)


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not empty, with their numbers."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _summary(problems: list[str]) -> str:
    """Return the text about all rows that cannot be used."""
    shown = problems[:MOST_LINES]
    if len(problems) > MOST_LINES:
        shown.append(f"  and {len(problems) - MOST_LINES} more")
    return "\n".join([f"{len(problems)} rows cannot be used:", *shown])


def _parse_chat(number: int, line: bytes) -> Chat:
    """Return the chat on one line. Raise a Problem if it has another form."""
    try:
        row = PairRow.model_validate_json(line)
    except ValidationError as error:
        raise Problem(_form_problem(error)) from error
    # Training and scoring write a system prompt of their own.
    turns = row.prompt[1:] if row.prompt[0].role == "system" else row.prompt
    roles = [message.role for message in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise Problem("in prompt, user and assistant must alternate, and a user's message ends it")
    if {row.chosen[0].role, row.rejected[0].role} != {"assistant"}:
        raise Problem("the messages of chosen and rejected must have the role assistant")
    texts = [normalise(message.content) for message in turns]
    # `bula labels` writes the system prompt there for a model without a system role.
    texts[0] = texts[0].removeprefix(SYSTEM_PROMPT).strip()
    chosen = normalise(row.chosen[0].content)
    rejected = normalise(row.rejected[0].content)
    if not all([*texts, chosen, rejected]):
        raise Problem("a message has no text")
    if chosen == rejected:
        raise Problem("chosen and rejected are the same answer")
    starts = range(0, len(texts) - 1, 2)
    history = [Turn(question=texts[start], answer=texts[start + 1]) for start in starts]
    return Chat(number, history, texts[-1], chosen, rejected)


def _form_problem(error: ValidationError) -> str:
    """Return the first wrong field of a row, without the row's text."""
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "json_invalid":
        return "not JSON"
    field = ".".join(map(str, first["loc"])) or "the row"
    return f"{field}: {first['msg']}"


def validation_keys(clean: Path) -> Validation:
    """Return the keys of the questions and answers of the sets A to E."""
    examples = [example for members in read_validation_sets(clean).values() for example in members]
    turns = [turn for example in examples for turn in example.turns]
    questions = {question_group(turn.question) for turn in turns}
    answers = {comparison_key(turn.answer) for turn in turns}
    return Validation(questions, answers)


def _refuse_leak(chat: Chat, validation: Validation) -> None:
    """Raise a Problem if a text of the pair belongs to a validation set.

    A model that was trained on it would be scored on it.
    """
    if {question_group(question) for question in chat.questions} & validation.questions:
        raise Problem("its question is in the validation sets, which score the model")
    if {comparison_key(chat.chosen), comparison_key(chat.rejected)} & validation.answers:
        raise Problem("an answer is a reference answer of the validation sets")


def _encode_pair(chat: Chat, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Pair:
    """Return the token ids of a pair.

    Raise a Problem if an answer with its prompt has too many.
    """
    chosen = encode(tokenizer, _example(chat, chat.chosen))
    rejected = encode(tokenizer, _example(chat, chat.rejected))
    tokens = max(len(chosen.input_ids), len(rejected.input_ids))
    if tokens > max_tokens:
        raise Problem(f"{tokens} tokens, more than preprocess.max_tokens ({max_tokens})")
    return Pair(question_group(chat.question), chosen, rejected)


def _example(chat: Chat, answer: str) -> Example:
    """Return a prompt with one answer in the form that all stages encode."""
    return Example(
        id=example_id("pairs", *chat.questions, answer),
        source="pairs",
        license="unknown",
        split="train",
        question=chat.question,
        answer=answer,
        history=chat.history or None,
    )


def hold_out(pairs: list[Pair], share: float, path: Path) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs for training and the held-out pairs.

    All pairs of a question are on one side. The questions with the lowest hashes are held out, so
    that the order of the file has no effect. Raise a UserError if there are fewer than two.
    """
    groups = sorted({pair.group for pair in pairs}, key=_hash)
    if len(groups) < 2:
        what = "all rows have one question, and none is left to be held out"
        raise UserError(path, what, "add pairs of other questions")
    count = min(len(groups) - 1, math.ceil(share * len(groups)))
    chosen = set(groups[:count])
    train = [pair for pair in pairs if pair.group not in chosen]
    return train, [pair for pair in pairs if pair.group in chosen]


def _hash(group: str) -> str:
    """Return the SHA-256 of a question's key."""
    return hashlib.sha256(group.encode()).hexdigest()
