"""The system prompt and the way from an Example to token ids, for training, scoring and generation alike.

If two stages built prompts on their own, a stray space would train the model on one text and test it on another.
"""

import hashlib
from typing import Any

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.records import Example

SYSTEM_PROMPT = "Você é um assistente de saúde. Responda em português do Brasil, em linguagem simples e acolhedora, e diga quando procurar atendimento."
# Llama 3.2's own template writes today's date unless it is given one; a fixed date makes runs repeatable.
DATE = "26 Jul 2024"
# Examples whose lengths are counted at once: an encoding holds offsets and masks too, about 50 KB an example.
LENGTHS_AT_ONCE = 256
# What a template raises while it is rendered; the sandbox's refusals are TemplateErrors.
TEMPLATE_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TemplateError,
    TypeError,
    ValueError,
)
FIX = "correct the model's chat template (chat_template.jinja), or use another model"


class Encoded(BaseModel):
    """Token ids of one example: the prompt, and the completion that is supervised (answer and end-of-turn token)."""

    model_config = ConfigDict(frozen=True)

    prompt: list[int]
    completion: list[int]

    @property
    def input_ids(self) -> list[int]:
        """Prompt and completion, as the model reads them."""
        return self.prompt + self.completion

    @property
    def labels(self) -> list[int]:
        """As long as input_ids, -100 where nothing is supervised."""
        return [-100] * len(self.prompt) + self.completion


def to_messages(question: str) -> list[dict[str, str]]:
    """The chat that a question is asked in."""
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]


def render(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, prompt: bool
) -> list[int]:
    """Return the token ids of a chat by the model's own template.

    With `prompt`, the chat ends where the assistant starts to speak.
    """
    text = render_text(tokenizer, messages, prompt=prompt)
    # The template writes the special tokens itself: adding them again would give Llama 3 a second BOS.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def render_text(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, prompt: bool
) -> str:
    """Return the text of a chat; UserError if the template cannot be rendered."""
    chat: Any = messages
    try:
        text = tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=prompt, date_string=DATE
        )
    except TEMPLATE_ERRORS as error:
        raise unrenderable(tokenizer.name_or_path, error) from error
    return str(text)


def unrenderable(model: str, error: Exception) -> UserError:
    """Return the UserError for what a chat template raised."""
    first = (str(error).strip().splitlines() or ["no message"])[0][:300]
    what = f"its chat template cannot be rendered ({type(error).__name__}: {first})"
    return UserError(model or "the model", what, FIX)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Token ids that the model is given to answer `question`."""
    return render(tokenizer, to_messages(question), prompt=True)


def encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> Encoded:
    """Return the token ids of an example.

    The completion ends with the end-of-turn token, so that the model learns to stop. UserError if
    the template does not continue its own prompt, or ends a turn without that token.
    """
    prompt = encode_prompt(tokenizer, example.question)
    chat = [*to_messages(example.question), {"role": "assistant", "content": example.answer}]
    whole = render(tokenizer, chat, prompt=False)
    if whole[: len(prompt)] != prompt:
        raise _other_prompt(tokenizer)
    completion = whole[len(prompt) :]
    if tokenizer.eos_token_id not in completion:
        raise _no_end(tokenizer)
    # Some templates write a line feed after the end-of-turn token; nothing after it is ever generated.
    end = len(completion) - completion[::-1].index(tokenizer.eos_token_id)
    return Encoded(prompt=prompt, completion=completion[:end])


def _other_prompt(tokenizer: PreTrainedTokenizerBase) -> UserError:
    """Return the UserError for a template whose chat does not begin with its prompt."""
    what = "its chat template does not continue its own prompt"
    return UserError(tokenizer.name_or_path or "the model", what, FIX)


def _no_end(tokenizer: PreTrainedTokenizerBase) -> UserError:
    """Return the UserError for a template that does not write the end-of-turn token."""
    what = f"its chat template ends a turn without {tokenizer.eos_token!r}"
    return UserError(tokenizer.name_or_path or "the model", what, FIX)


def token_lengths(
    tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]]
) -> list[tuple[int, int]]:
    """Return the lengths of prompt and complete example in tokens, as `encode` counts them.

    Each pair is a question and its answer. UserError as in `encode`.
    """
    lengths = []
    for start in range(0, len(pairs), LENGTHS_AT_ONCE):
        chunk = [_texts(tokenizer, *pair) for pair in pairs[start : start + LENGTHS_AT_ONCE]]
        encoded = tokenizer([text for text, _ in chunk], add_special_tokens=False)
        for index, (text, prompt) in enumerate(chunk):
            ids: list[int] = encoded["input_ids"][index]
            end = encoded.char_to_token(index, len(prompt))
            if end is None or not text.startswith(prompt):
                raise _other_prompt(tokenizer)
            if tokenizer.eos_token_id not in ids[end:]:
                raise _no_end(tokenizer)
            lengths.append((end, len(ids) - ids[::-1].index(tokenizer.eos_token_id)))
    return lengths


def _texts(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> tuple[str, str]:
    """Return a complete example and its prompt, rendered by the chat template."""
    asked = to_messages(question)
    chat = [*asked, {"role": "assistant", "content": answer}]
    prompt = render_text(tokenizer, asked, prompt=True)
    return render_text(tokenizer, chat, prompt=False), prompt


def prompt_hash(prompt: list[int]) -> str:
    """First 64 bits of SHA-256 over the prompt's token ids: equal exactly when two variants saw the same prompt."""
    return hashlib.sha256(" ".join(map(str, prompt)).encode()).hexdigest()[:16]
