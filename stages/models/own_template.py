"""Give a base model a chat template from templates/.

A pretrained model has no chat template. Its turns can end with the token that ends a text, which
the model knows, or with another token of its vocabulary.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.models import END_TOKENS

# The variable by which a template writes the tokenizer's EOS token.
EOS_VARIABLE = "eos_token"


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

    Without a file, or if the template writes `eos_token` and no other end-of-turn token, the
    tokenizer keeps its EOS token. Raise UserError if the template names no token that ends turns.
    """
    if not file:
        return
    text = str(tokenizer.chat_template)
    vocabulary = tokenizer.get_vocab()
    named = [token for token in END_TOKENS if token in text and token in vocabulary]
    if not named and EOS_VARIABLE in text:
        named = [str(tokenizer.eos_token)]
    if not named:
        what = "it names no end-of-turn token of the base model's vocabulary"
        known = ", ".join([EOS_VARIABLE, *END_TOKENS])
        raise UserError(file, what, f"end each turn with one of {known}")
    tokenizer.eos_token = max(named, key=text.rfind)
