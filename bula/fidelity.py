"""Measure how much the forms of one model differ.

The first form is the reference. A form is a LoRA adapter with its base, a model directory or a GGUF
file. All forms are scored in float32 over the full vocabulary, so only their stored weights differ.
GGUF weights are unpacked first: the figures do not include the arithmetic of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bula.divergence import divergence_metrics, score_examples
from bula.errors import UserError
from bula.model_files import is_adapter
from bula.prompts import Encoded, encode
from bula.records import Example, example_id, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bula.divergence import Scored

# The bits of a quantized type of GGUF, such as Q4_K or IQ3_S.
BITS = re.compile(r"I?Q(\d)")
Figures = dict[str, float | int]


class Result(NamedTuple):
    """The difference of one form from the first one."""

    form: Path
    kind: str
    """Kind of the form, such as "adapter", "model" or "GGUF, q4"."""
    figures: Figures
    """Figures of `divergence_metrics`; empty if the logits cannot be compared."""
    limit_nats: float
    """Largest KL in nats per token that the rounding of this kind explains."""
    problems: list[str]
    """What is wrong with the form, each as a sentence."""


def read_questions(files: Sequence[Path], count: int) -> list[Example]:
    """Return the first examples of JSON Lines files, in turn.

    A row has `question` and `answer`. Raise a UserError for another row, or if there is none.
    """
    columns = [_examples(file) for file in files]
    found: list[Example] = []
    while columns and len(found) < count:
        columns = [column for column in columns if _take(column, found)]
    if not found:
        raise UserError(str(files[0]), "it has no row", "name a file with questions and answers")
    return found[:count]


def _examples(file: Path) -> Iterator[Example]:
    """Yield the examples of a JSON Lines file."""
    for number, row in enumerate(read_rows(file), start=1):
        question = row.get("question")
        answer = row.get("answer")
        if not (isinstance(question, str) and isinstance(answer, str) and question and answer):
            fix = "give each row a `question` and an `answer`, both texts"
            raise UserError(f"{file}:{number}", "it has no question with an answer", fix)
        yield Example(
            id=example_id(str(file), question, answer),
            source="rows",
            license="unknown",
            split="A",
            question=question,
            answer=answer,
        )


def _take(column: Iterator[Example], found: list[Example]) -> bool:
    """Append the next example; return whether there was one."""
    taken = list(islice(column, 1))
    found += taken
    return bool(taken)


def describe_form(path: Path) -> tuple[str, float]:
    """Return the kind of a form and its KL limit in nats.

    The limit of a quantized file is that of its type with the fewest bits.
    """
    from bula.gguf_export import LIMITS_NATS, SIXTEEN_BIT_LIMIT_NATS
    from bula.gguf_files import check_gguf

    if is_adapter(path):
        return "adapter", SIXTEEN_BIT_LIMIT_NATS
    if path.suffix != ".gguf":
        return "model", SIXTEEN_BIT_LIMIT_NATS
    types = set(check_gguf(path).types.values())
    bits = [int(match[1]) for match in map(BITS.match, types) if match]
    if not bits:
        return "GGUF, 16 bits or more", SIXTEEN_BIT_LIMIT_NATS
    name = f"q{max(2, min(bits))}"
    return f"GGUF, {name}", LIMITS_NATS[name]


def load_form(path: Path, base: Path) -> PreTrainedModel:
    """Load a form in float32; an adapter is loaded on its base."""
    from bula.models import load_adapted, load_model

    if is_adapter(path):
        return load_adapted(base, path, "float32")
    return load_model(path, "float32")


def load_form_tokenizer(path: Path, base: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a form; an adapter uses that of its base."""
    from bula.models import load_tokenizer

    return load_tokenizer(base if is_adapter(path) else path)


def compare_forms(paths: Sequence[Path], base: Path, examples: list[Example]) -> list[Result]:
    """Return the difference of each form from the first one, which comes first.

    The logits of two forms are in memory at a time: tokens x vocabulary x 4 bytes each.
    """
    first, *others = paths
    tokenizer = load_form_tokenizer(first, base)
    encoded = [encode(tokenizer, example) for example in examples]
    pad_id = tokenizer.pad_token_id
    reference = list(score_examples(load_form(first, base), encoded, pad_id))
    kind, _ = describe_form(first)
    results = [Result(first, kind, divergence_metrics(reference, reference), 0.0, [])]
    for path in others:
        problems = tokenizer_problems(load_form_tokenizer(path, base), examples, encoded)
        scored = score_examples(load_form(path, base), encoded, pad_id)
        results.append(compare_form(path, reference, list(scored), problems))
    return results


def tokenizer_problems(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example], encoded: list[Encoded]
) -> list[str]:
    """Return the faults of the token ids that a form's own tokenizer gives."""
    other = []
    for example, item in zip(examples, encoded, strict=True):
        if encode(tokenizer, example) != item:
            other.append(example)
    if not other:
        return []
    of_all = f"{len(other)} of {len(examples)} chats"
    return [f"its tokenizer or chat template gives other token ids for {of_all}"]


def compare_form(
    path: Path, reference: list[Scored], scored: list[Scored], problems: list[str]
) -> Result:
    """Return the difference of one form from the reference."""
    kind, limit = describe_form(path)
    size = reference[0][0].shape[-1]
    own_size = scored[0][0].shape[-1]
    if own_size != size:
        what = f"its vocabulary has {own_size} tokens, and that of the first form {size}"
        return Result(path, kind, {}, limit, [*problems, what])
    figures = divergence_metrics(reference, scored)
    # A NaN is no number within the limit.
    if not figures["kl_nats"] <= limit:
        what = f"KL {figures['kl_nats']:.2g} nats per token is above {limit:g}, more than rounding"
        problems = [*problems, what]
    return Result(path, kind, figures, limit, problems)
