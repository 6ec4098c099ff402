"""Build the prompts and token ids of training, scoring and generation.

All stages share this code, because a stray space in one of them would train the model on one text
and test it on another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from bula.errors import UserError
from bula.models import end_token_ids
from bula.records import Example, Turn
from bula.turn_ends import RENDER_ERRORS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM_PROMPT = (
    "Você é um assistente de saúde. Responda em português do Brasil, em linguagem simples e "
    "acolhedora, e diga quando procurar atendimento."
)
# Without a fixed date, Llama 3.2's template writes today's, and no run could be repeated.
DATE = "26 Jul 2024"
# Variables of every template: thinking models answer at once, as the training rows do.
TEMPLATE_VARIABLES = {"date_string": DATE, "enable_thinking": False}
# Hides transformers' clock from templates that call it without asking for `date_string`.
FIXED_CLOCK = "{%- macro strftime_now(format) -%}" + DATE + "{%- endmacro %}"
# The tokenizer's output takes about 50 KB per example, so lengths are counted in batches.
LENGTHS_BATCH = 256
TEMPLATE_ERRORS = RENDER_ERRORS
# An error message of a template may be as long as the template.
MESSAGE_CHARACTERS = 300
# Tokenizers whose decisions are remembered; a stage loads one or two.
CACHED_TOKENIZERS = 8
FIX = "correct the model's chat template (chat_template.jinja), or use another model"

Messages = list[dict[str, str]]


class TrainingRow(NamedTuple):
    """Token ids of one conversation, and one label per id; -100 is not supervised."""

    input_ids: list[int]
    labels: list[int]


class Encoded(BaseModel):
    """Token ids of one example.

    The completion, which is supervised, is the last answer and the end-of-turn token.
    """

    model_config = ConfigDict(frozen=True)

    prompt: list[int]
    completion: list[int]

    @property
    def input_ids(self) -> list[int]:
        """Return prompt and completion, as the model reads them."""
        return self.prompt + self.completion

    @property
    def labels(self) -> list[int]:
        """Return one label per input id; -100 is not supervised."""
        return [-100] * len(self.prompt) + self.completion


def to_messages(
    question: str, history: Sequence[Turn] = (), *, has_system: bool = True
) -> Messages:
    """Return the chat that asks a question after the turns of `history`.

    Without a system role, the system prompt is the first paragraph of the first question.
    """
    messages = []
    for turn in history:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    messages.append({"role": "user", "content": question})
    if has_system:
        return [{"role": "system", "content": SYSTEM_PROMPT}, *messages]
    first = messages[0]["content"]
    return [{"role": "user", "content": f"{SYSTEM_PROMPT}\n\n{first}"}, *messages[1:]]


def to_chat(
    question: str, answer: str, history: Sequence[Turn] = (), *, has_system: bool = True
) -> Messages:
    """Return the chat that asks a question and answers it."""
    messages = to_messages(question, history, has_system=has_system)
    return [*messages, {"role": "assistant", "content": answer}]


def has_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template writes a system message.

    Gemma 2's template raises an error for a system message, and some others leave it out.
    """
    return _writes_system_message(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=CACHED_TOKENIZERS)
def _writes_system_message(tokenizer: PreTrainedTokenizerBase, _template: str) -> bool:
    """Try the template once; the template is a part of the cache's key."""
    try:
        text = render_text(tokenizer, to_messages("Dói?"), prompt=True)
    except UserError:
        return False
    return SYSTEM_PROMPT in text


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, prompt: bool) -> list[int]:
    """Return the token ids of a chat by the model's own template.

    With `prompt`, the chat stops where the assistant's turn starts.
    """
    text = render_text(tokenizer, messages, prompt=prompt)
    # The template writes the special tokens, so the tokenizer must not add a second BOS to Llama 3.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def render_text(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, prompt: bool) -> str:
    """Return the text of a chat.

    Raise UserError if the template cannot be rendered.
    """
    chat: Any = messages
    try:
        text = tokenizer.apply_chat_template(
            chat,
            chat_template=with_fixed_clock(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=prompt,
            **TEMPLATE_VARIABLES,
        )
    except TEMPLATE_ERRORS as error:
        raise unrenderable(tokenizer.name_or_path, error) from error
    return str(text)


def with_fixed_clock(template: str) -> str:
    """Return a template whose `strftime_now` is a constant.

    SmolLM3's template writes today's date, and no run could be repeated.
    """
    return FIXED_CLOCK + template if "strftime_now" in template else template


def unrenderable(model: str, error: Exception) -> UserError:
    """Return the UserError for an error of a chat template."""
    lines = str(error).strip().splitlines() or ["no message"]
    first = lines[0][:MESSAGE_CHARACTERS]
    what = f"its chat template cannot be rendered ({type(error).__name__}: {first})"
    return UserError(model or "the model", what, FIX)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, history: Sequence[Turn] | None = None
) -> list[int]:
    """Return the token ids that ask the model a question after earlier turns."""
    messages = to_messages(question, history or (), has_system=has_system_role(tokenizer))
    return render(tokenizer, messages, prompt=True)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example], shots: list[Turn]
) -> list[list[int]]:
    """Return the prompt of each example, with few-shot examples before its earlier turns."""
    prompts = []
    for example in examples:
        history = [*shots, *(example.history or [])]
        prompts.append(encode_prompt(tokenizer, example.question, history))
    return prompts


def encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> Encoded:
    """Return the token ids of an example; only its last answer is the completion.

    The completion ends with the end-of-turn token, so that the model learns to stop. Raise
    UserError if the template does not continue its own prompt, or ends a turn without that token.
    """
    return _encode_last(tokenizer, example.turns)


def _encode_last(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> Encoded:
    """Return the token ids of a conversation up to its last answer."""
    *history, last = turns
    prompt = encode_prompt(tokenizer, last.question, history)
    has_system = has_system_role(tokenizer)
    chat = to_chat(last.question, last.answer, history, has_system=has_system)
    ids = render(tokenizer, chat, prompt=False)
    if ids[: len(prompt)] != prompt:
        raise _other_prompt(tokenizer)
    end = _length_to_end(tokenizer, ids, len(prompt))
    return Encoded(prompt=prompt, completion=ids[len(prompt) : end])


def encode_turns(tokenizer: PreTrainedTokenizerBase, example: Example) -> TrainingRow:
    """Return the token ids of an example with all its answers supervised.

    The conversation up to each answer is rendered to find the tokens of that answer. Raise
    UserError if the complete rendering does not continue one of these renderings.
    """
    turns = example.turns
    complete = _encode_last(tokenizer, turns)
    ids = complete.input_ids
    labels = complete.labels
    for count in range(1, len(turns)):
        part = _encode_last(tokenizer, turns[:count])
        end = len(part.input_ids)
        if ids[:end] != part.input_ids:
            raise _changed_turn(tokenizer)
        labels[len(part.prompt) : end] = part.completion
    return TrainingRow(ids, labels)


def _length_to_end(tokenizer: PreTrainedTokenizerBase, ids: list[int], start: int) -> int:
    """Return an example's length up to the end-of-turn token of its last answer.

    Some templates write a line feed or another end token after that token, as Phi 3's does, and no
    model generates them. Raise UserError if no such token occurs after `start`.
    """
    ends = _turn_ends(tokenizer, tokenizer.eos_token_id)
    length = 0
    for place in range(len(ids) - 1, start - 1, -1):
        if ids[place] in ends:
            length = place + 1
        elif length and tokenizer.decode([ids[place]]).strip():
            # The text of the answer.
            break
    if length:
        return length
    what = f"its chat template ends a turn without {tokenizer.eos_token!r}"
    raise UserError(tokenizer.name_or_path or "the model", what, FIX)


@lru_cache(maxsize=CACHED_TOKENIZERS)
def _turn_ends(tokenizer: PreTrainedTokenizerBase, eos_id: int) -> list[int]:
    """Return the ids that may end a turn.

    Gemma's template ends turns with <end_of_turn>, while its tokenizer names <eos>.
    """
    return [eos_id, *end_token_ids(tokenizer)]


def _other_prompt(tokenizer: PreTrainedTokenizerBase) -> UserError:
    """Return the UserError for a chat that starts without its prompt."""
    what = "its chat template does not continue its own prompt"
    return UserError(tokenizer.name_or_path or "the model", what, FIX)


def _changed_turn(tokenizer: PreTrainedTokenizerBase) -> UserError:
    """Return the UserError for a template that changes earlier turns."""
    what = "its chat template writes an earlier turn in another way once more turns follow"
    fix = "use another model, or sources with one question and answer per row"
    return UserError(tokenizer.name_or_path or "the model", what, fix)


def token_lengths(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> list[tuple[int, int]]:
    """Return the lengths of prompt and complete example in tokens.

    The lengths equal the lengths that `encode` returns. The templates that `encode_turns` refuses
    raise a UserError here, too.
    """
    lengths = []
    for start in range(0, len(examples), LENGTHS_BATCH):
        batch = examples[start : start + LENGTHS_BATCH]
        lengths += _batch_lengths(tokenizer, batch)
    return lengths


def _batch_lengths(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> list[tuple[int, int]]:
    """Return the lengths of one batch, which is tokenized at once."""
    has_system = has_system_role(tokenizer)
    prompts = []
    texts = []
    for example in examples:
        history = example.history or []
        if history:
            encode_turns(tokenizer, example)
        messages = to_messages(example.question, history, has_system=has_system)
        chat = to_chat(example.question, example.answer, history, has_system=has_system)
        prompts.append(render_text(tokenizer, messages, prompt=True))
        texts.append(render_text(tokenizer, chat, prompt=False))
    encoded = tokenizer(texts, add_special_tokens=False)
    lengths = []
    for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids: list[int] = encoded["input_ids"][index]
        # The first token after the prompt's characters is where the completion starts.
        start = encoded.char_to_token(index, len(prompt))
        if start is None or not text.startswith(prompt):
            raise _other_prompt(tokenizer)
        lengths.append((start, _length_to_end(tokenizer, ids, start)))
    return lengths


def prompt_hash(prompt: list[int]) -> str:
    """Return the first 64 bits of SHA-256 over a prompt's token ids.

    Two variants saw the same prompt exactly if their hashes are equal.
    """
    text = " ".join(map(str, prompt))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
