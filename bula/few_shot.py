"""Read the few-shot examples of a prompted variant.

A variant of params.yaml with `few_shot: N` sees the same N training examples before each question,
as earlier turns of the chat. Preprocess chooses them once (stages/preprocess/few_shot.py).
"""

from pathlib import Path

from bula.errors import UserError
from bula.models import load_config
from bula.params import Variant
from bula.records import FEW_SHOT_FILE, Example, Turn, read_examples

FEWER = "lower `few_shot` of the variant in params.yaml"


def read_shots(clean: Path, variant: Variant) -> list[Turn]:
    """Return the few-shot examples of a variant as turns; most variants have none.

    Raise UserError if preprocess found fewer examples.
    """
    if not variant.few_shot:
        return []
    path = clean / FEW_SHOT_FILE
    examples = read_examples(path)
    if len(examples) < variant.few_shot:
        what = f"it has {len(examples)} examples, and few_shot asks for {variant.few_shot}"
        raise UserError(path, what, f"{FEWER}, or add rows to train")
    return [example.turns[-1] for example in examples[: variant.few_shot]]


def with_shots(example: Example, shots: list[Turn]) -> Example:
    """Return an example whose history starts with the few-shot examples."""
    if not shots:
        return example
    history = [*shots, *(example.history or [])]
    return example.model_copy(update={"history": history})


def lengths(prompts: list[list[int]], answer_tokens: int) -> list[int]:
    """Return the tokens of each prompt with the longest possible answer."""
    return [len(prompt) + answer_tokens for prompt in prompts]


def check_context(model: Path, tokens: list[int], shots: list[Turn], fix: str) -> None:
    """Raise UserError if a sequence is longer than the model's context.

    `tokens` contains the length of each sequence: the prompt with the longest possible answer.
    `fix` is the advice that makes the sequences of the stage shorter.
    """
    context = getattr(load_config(model).get_text_config(), "max_position_embeddings", None)
    longest = max(tokens, default=0)
    if context is None or longest <= context:
        return
    counts = f"{longest} tokens"
    if shots:
        counts = f"{counts} with {len(shots)} few-shot examples"
        fix = f"{FEWER}, or {fix}"
    what = f"a prompt and its answer have {counts}, and the context has {context}"
    raise UserError(model, what, fix)
