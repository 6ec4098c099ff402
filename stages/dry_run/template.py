"""Try the base's chat template and its padding."""

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from bula.errors import UserError
from bula.params import ChatColumns
from bula.prompts import FIX, SYSTEM_PROMPT, Encoded, encode, encode_turns
from bula.records import Turn
from bula.trial_example import TRIAL
from stages.dry_run.trial import ANSWER_TOKENS, OTHER_BASE, PAIRS, Trial, step

# The first and the last row, which every model has room for.
SHORT_ROWS = 2


def encode_trials(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> list[Encoded]:
    """Return the trial pairs as the model reads them.

    Raise UserError if the template loses a text, or the padding is a token that ends a turn.
    """
    encoded = []
    for question, answer in PAIRS:
        example = TRIAL.model_copy(update={"question": question, "answer": answer})
        item = encode(tokenizer, example)
        check_texts(tokenizer, item, question, answer)
        encoded.append(item)
    if tokenizer.pad_token_id in {item.completion[-1] for item in encoded}:
        raise UserError("tokenizer", "its padding token ends each turn", "set another pad_token")
    return within_context(encoded, config)


def within_context(encoded: list[Encoded], config: PreTrainedConfig) -> list[Encoded]:
    """Return the rows that fit into the model's context, at least two."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return encoded
    fitting = [item for item in encoded if len(item.input_ids) + ANSWER_TOKENS <= context]
    if len(fitting) < SHORT_ROWS:
        what = f"its context of {context} tokens is too short for a short question"
        raise UserError("config.json", what, OTHER_BASE)
    return fitting


def check_texts(
    tokenizer: PreTrainedTokenizerBase, encoded: Encoded, question: str, answer: str
) -> None:
    """Raise UserError if the rendered chat lacks one of its texts."""
    prompt = tokenizer.decode(encoded.prompt)
    completion = tokenizer.decode(encoded.completion)
    wanted = {
        "the system prompt": SYSTEM_PROMPT in prompt,
        "the question": question.strip() in prompt,
        "the answer": answer.strip() in completion,
    }
    missing = [name for name, is_there in wanted.items() if not is_there]
    if missing:
        what = f"its chat template leaves out {' and '.join(missing)}"
        raise UserError("chat template", what, FIX)


def try_conversation(trial: Trial) -> None:
    """Raise UserError if a source has conversations that the template changes."""
    columns = [getattr(source, "columns", None) for source in trial.params.ingest.sources]
    if not any(isinstance(found, ChatColumns) for found in columns):
        return
    question, answer = PAIRS[0]
    earlier = Turn(question=question, answer=answer)
    question, answer = PAIRS[-1]
    changes = {"question": question, "answer": answer, "history": [earlier]}
    example = TRIAL.model_copy(update=changes)
    with step(trial.base, "a conversation of two turns", OTHER_BASE):
        encode_turns(trial.tokenizer, example)
