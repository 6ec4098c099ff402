"""Give a base model a chat template from templates/.

A pretrained model has no chat template, and its tokenizer names no end of turn: the token that ends
a text is another one.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.models import END_TOKENS


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
    """Make the token with which a template file ends a turn the tokenizer's EOS token.

    Without a file, the tokenizer keeps its own EOS token. Raise UserError if the template names no
    end-of-turn token of the vocabulary.
    """
    if not file:
        return
    text = str(tokenizer.chat_template)
    vocabulary = tokenizer.get_vocab()
    named = [token for token in END_TOKENS if token in text and token in vocabulary]
    if not named:
        what = "it names no end-of-turn token of the base model's vocabulary"
        raise UserError(file, what, f"end each turn with one of {', '.join(END_TOKENS)}")
    end = max(named, key=text.rfind)
    if end == tokenizer.pad_token:
        what = f"it ends a turn with {end}, which is the padding token of the base model"
        raise UserError(file, what, "end each turn with another token")
    tokenizer.eos_token = end
