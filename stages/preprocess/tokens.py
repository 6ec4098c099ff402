"""Check control tokens and lengths with the base tokenizer."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bula.models import load_tokenizer
from bula.params import Preprocess

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@lru_cache(maxsize=1)
def cached_tokenizer(base: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the base model, loaded once per process."""
    return load_tokenizer(base)


@lru_cache(maxsize=1)
def control_token_pattern(base: Path) -> re.Pattern[str]:
    """Return a pattern that matches every token that steers the model.

    A tokenizer's `all_special_tokens` contains few of them (3 of the 256 of Llama 3).
    """
    tokenizer = cached_tokenizer(base)
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special}
    tokens = sorted(special.union(tokenizer.all_special_tokens))
    return re.compile("|".join(map(re.escape, tokens)))


def excess_length(prompt_tokens: int, tokens: int, params: Preprocess) -> str:
    """Return why an example is too long, or an empty string."""
    if prompt_tokens > params.max_prompt_tokens:
        return f"prompt longer than {params.max_prompt_tokens} tokens"
    if tokens > params.max_tokens:
        return f"longer than {params.max_tokens} tokens"
    return ""
