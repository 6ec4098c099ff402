"""The system prompt and the way from an Example to token ids, for training, scoring and generation alike.

If two stages built prompts on their own, a stray space would train the model on one text and test it on another.
"""

import hashlib
from typing import Any

from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedTokenizerBase

from bula.records import Example

SYSTEM_PROMPT = (
    "Você é um assistente de saúde. Responda em português do Brasil, em linguagem simples e acolhedora, e diga quando procurar atendimento."
)
# Llama 3.2's own template writes today's date unless it is given one; a fixed date makes runs repeatable.
DATE = "26 Jul 2024"
# Examples whose lengths are counted at once: an encoding holds offsets and masks too, about 50 KB an example.
LENGTHS_AT_ONCE = 256


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


def render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, prompt: bool) -> list[int]:
    """Token ids of a chat by the model's own template; with `prompt`, up to where the assistant starts to speak."""
    text: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, date_string=DATE)
    # The template writes the special tokens itself: adding them again would give Llama 3 a second BOS.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Token ids that the model is given to answer `question`."""
    return render(tokenizer, to_messages(question), prompt=True)


def encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> Encoded:
    """Token ids of an example; the completion ends with the end-of-turn token, so the model learns to stop.

    Raises ValueError if the template does not continue its own prompt, or ends the turn with no end-of-turn token.
    """
    prompt = encode_prompt(tokenizer, example.question)
    chat = [*to_messages(example.question), {"role": "assistant", "content": example.answer}]
    whole = render(tokenizer, chat, prompt=False)
    if whole[: len(prompt)] != prompt:
        raise ValueError(f"the chat template does not continue its own prompt (example {example.id})")
    completion = whole[len(prompt) :]
    if tokenizer.eos_token_id not in completion:
        raise ValueError(f"the chat template ends a turn without {tokenizer.eos_token!r} (example {example.id})")
    # Some templates write a line feed after the end-of-turn token; nothing after it is ever generated.
    end = len(completion) - completion[::-1].index(tokenizer.eos_token_id)
    return Encoded(prompt=prompt, completion=completion[:end])


def token_lengths(tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]]) -> list[tuple[int, int]]:
    """Lengths of prompt and whole example in tokens, as `encode` gives them, for many questions with their answers.

    Raises ValueError if the template does not continue its own prompt, or ends a turn with no end-of-turn token.
    """
    lengths = []
    for start in range(0, len(pairs), LENGTHS_AT_ONCE):
        texts, prompts = zip(*(_texts(tokenizer, *pair) for pair in pairs[start : start + LENGTHS_AT_ONCE]), strict=True)
        encoded = tokenizer(list(texts), add_special_tokens=False)
        for index, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
            ids: list[int] = encoded["input_ids"][index]
            end = encoded.char_to_token(index, len(prompt))
            if end is None or not text.startswith(prompt) or tokenizer.eos_token_id not in ids[end:]:
                raise ValueError(f"the chat template does not continue its own prompt, or ends a turn without {tokenizer.eos_token!r}")
            lengths.append((end, len(ids) - ids[::-1].index(tokenizer.eos_token_id)))
    return lengths


def _texts(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> tuple[str, str]:
    """A whole example and its prompt, rendered by the chat template."""
    asked: Any = to_messages(question)
    chat = [*asked, {"role": "assistant", "content": answer}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, date_string=DATE)
    return str(tokenizer.apply_chat_template(chat, tokenize=False, date_string=DATE)), str(prompt)


def prompt_hash(prompt: list[int]) -> str:
    """First 64 bits of SHA-256 over the prompt's token ids: equal exactly when two variants saw the same prompt."""
    return hashlib.sha256(" ".join(map(str, prompt)).encode()).hexdigest()[:16]
