"""Give a base model a chat template from templates/.

A pretrained model has no chat template. Its turns can end with the token that ends a text, which
the model knows, or with another token of its vocabulary.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.models import END_TOKENS
from bula.turn_ends import rendered_end

FIX = "end each turn with eos_token or another special token of the base model"


def read_template(file: str) -> str:
    """Return the text of a template file, or an empty text without a file."""
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "correct ingest.chat_template in params.yaml"
        raise UserError(file, f"it cannot be read ({error})", fix) from error


def name_end_of_turn(tokenizer: PreTrainedTokenizerBase, file: str) -> None:
    """Make the token that ends a template file's turns the EOS token.

    Without a file, the tokenizer keeps its EOS token. Raise UserError if the template ends turns
    without a special token.
    """
    if not file:
        return
    end = rendered_end(tokenizer)
    if end is None:
        what = "it names no end-of-turn token of the base model's vocabulary"
        raise UserError(file, what, FIX)
    tokenizer.eos_token = end


def name_unknown_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make an end of turn that llama.cpp does not know the tokenizer's EOS token.

    The base's own template may end turns with such a token, and llama.cpp then stops at the EOS
    token alone.
    """
    end = rendered_end(tokenizer)
    if end is not None and end not in END_TOKENS:
        tokenizer.eos_token = end
