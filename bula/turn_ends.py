"""Find the token with which a chat template ends the assistant's turn."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A chat that every template can render. No template contains the answer.
QUESTION = "Posso tomar sol?"
ANSWER = "Sim, com protetor."
# A template can raise these errors while it is rendered; the sandbox raises TemplateErrors.
RENDER_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TemplateError,
    TypeError,
    ValueError,
)
# Tokenizers whose ends are remembered; a stage loads one or two.
CACHED_TOKENIZERS = 8


def rendered_end(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the special token that the chat template writes after an answer.

    Return None if the template cannot be rendered, or writes no such token.
    """
    template = str(tokenizer.chat_template)
    return _find_end(tokenizer, template, len(tokenizer), tokenizer.eos_token)


@lru_cache(maxsize=CACHED_TOKENIZERS)
def _find_end(
    tokenizer: PreTrainedTokenizerBase, _template: str, _size: int, _eos: str | None
) -> str | None:
    """Render a chat once per tokenizer, template, vocabulary and EOS token."""
    chat: Any = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, enable_thinking=False)
    except RENDER_ERRORS:
        return None
    _, answer, after = str(text).rpartition(ANSWER)
    if not answer:
        return None
    special = _special_tokens(tokenizer)
    found = [token for token in special if after.lstrip().startswith(token)]
    # A token may begin with another one.
    return max(found, key=len, default=None)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the special tokens of a vocabulary, without empty ones."""
    added = tokenizer.added_tokens_decoder.values()
    return [token.content for token in added if token.special and token.content]
