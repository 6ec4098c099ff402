"""Answer prompts with the engine of a variant, by params.yaml's decoding rules.

transformers answers for a model directory, in batches of prompts of similar length, or one vLLM
server on a GPU. llama.cpp servers answer for a GGUF file, each one request at a time. The prompt
travels as token ids, and with it vLLM's end tokens, so that every engine sees exactly the prompt of
training and stops at the same tokens. Any other server receives messages (bula/server_answers.py).
Finished answers survive a kill (bula/answer_ledger.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from bula.answer_key import fingerprint
from bula.answer_ledger import (
    PersonalDataError,
    append_answers,
    batch_key,
    open_ledger,
    read_ledger,
)
from bula.answers import Answer, Prompts, without_reasoning
from bula.hardware import precision_settings
from bula.models import end_token_ids, load_model
from bula.params import Params, Variant
from bula.privacy import Finding, redact
from bula.prompts import has_system_role, to_messages
from bula.records import Turn
from bula.server_answers import (
    Asked,
    Chats,
    Keep,
    answer_by_server,
    draw_seed,
    request_fields,
    servers_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Personal data, one list per answer.
Findings = list[list[Finding]]


class Answered(NamedTuple):
    """The answers to all prompts, in their order."""

    answers: list[Answer]
    new_tokens: int
    """Tokens that this run generated; a killed run generated the others."""


def to_chats(
    tokenizer: PreTrainedTokenizerBase,
    questions: Iterable[tuple[str, Sequence[Turn] | None]],
    shots: Sequence[Turn],
) -> Chats:
    """Return the messages of each question after few-shot examples and its earlier turns."""
    has_system = has_system_role(tokenizer)
    chats = []
    for question, history in questions:
        turns = [*shots, *(history or [])]
        chats.append(to_messages(question, turns, has_system=has_system))
    return chats


@contextmanager
def answer(
    stage: str,
    variant: Variant,
    params: Params,
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
) -> Iterator[Answered]:
    """Yield the answers of the variant's engine.

    `stage` is STAGE@VARIANT. The finished answers of a killed run are used again. They are deleted
    after the block, which writes the outputs of the stage, or if it raises PersonalDataError. Raise
    UserError if a server answers none of the questions or leaves more than
    `generate.max_failed_share` of them without an answer, or if another process runs the same
    stage.
    """
    from bula.generation import batches_of_prompts

    with open_ledger(stage, fingerprint(variant, params), params.variants) as ledger:
        size = params.generate.batch_size if variant.engine == "transformers" else 1
        places = batches_of_prompts(asked.prompts, size)
        batches = [[asked.prompts[index] for index in batch] for batch in places]
        found = read_answers(ledger)
        missing = {batch_key(batch): batch for batch in batches}
        # Equal prompts share one answer.
        new = [batch for key, batch in missing.items() if key not in found]
        keep = partial(append_answers, ledger)
        if variant.engine == "transformers":
            generated = answer_locally(Path(variant.model), params, tokenizer, new, keep)
        else:
            servers = servers_of(variant, params, asked.prompts)
            fields = request_fields(variant, params, end_token_ids(tokenizer), asked)
            prompts = [prompt for [prompt] in new]
            generated = [[given] for given in answer_by_server(servers, prompts, fields, keep)]
        for batch, answers in zip(new, generated, strict=True):
            found[batch_key(batch)] = answers
        yield Answered(in_order(places, batches, found), count_tokens(generated))


def read_answers(ledger: FileIO) -> dict[str, list[Answer]]:
    """Return the finished answers of a killed run, by the key of their batch."""
    lines = read_ledger(ledger)
    return {key: [Answer(*parts) for parts in answers] for key, answers in lines.items()}


def in_order(
    places: list[list[int]], batches: list[Prompts], found: dict[str, list[Answer]]
) -> list[Answer]:
    """Return the answers of all batches in the order of the prompts."""
    answers: dict[int, Answer] = {}
    for batch, asked in zip(places, batches, strict=True):
        answers.update(zip(batch, found[batch_key(asked)], strict=True))
    return [answers[index] for index in range(len(answers))]


def count_tokens(batches: list[list[Answer]]) -> int:
    """Return the number of tokens of all answers."""
    return sum(given.completion_tokens for answers in batches for given in answers)


def answer_locally(
    path: Path,
    params: Params,
    tokenizer: PreTrainedTokenizerBase,
    batches: list[Prompts],
    keep: Keep,
) -> list[list[Answer]]:
    """Return the answers of transformers to each batch of prompts."""
    import torch

    from bula.generation import generate_batch

    if not batches:
        return []
    model = load_model(path, params.dtype)
    end_ids = end_token_ids(tokenizer)
    limits = params.generate
    found = []
    for batch in tqdm(batches, desc="generate", unit="batch"):
        if limits.decoding.temperature:
            # A seed per batch, so that a resumed run draws the same tokens.
            torch.manual_seed(draw_seed(params.sampling_seed, batch))
        generated = generate_batch(model, tokenizer, batch, limits.max_new_tokens, limits.decoding)
        answers = [to_answer(tokenizer, ids, end_ids) for ids in generated]
        keep(batch, answers)
        found.append(answers)
    return found


def to_answer(tokenizer: PreTrainedTokenizerBase, ids: list[int], end_ids: list[int]) -> Answer:
    """Return the answer that consists of the generated ids."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    stopped = bool(ids) and ids[-1] in end_ids
    reason = "stop" if stopped else "length"
    return without_reasoning(Answer(text.strip(), reason, len(ids)))


def redact_answers(stage: str, answers: list[Answer], found: Findings, rule: str) -> list[Answer]:
    """Return the answers with placeholders for personal data.

    `stage` is STAGE@VARIANT, for the error. `found` contains the personal data of each answer.
    `rule` is privacy.answers of params.yaml: redact or fail. Raise PersonalDataError if there is
    personal data and the rule is fail.
    """
    if rule == "fail" and any(found):
        kinds = sorted(count_kinds(found))
        variant = stage.partition("@")[2]
        fault = f"answers of {variant} contain personal data ({', '.join(kinds)})"
        what = f"{fault}, and privacy.answers is fail"
        kept = "nothing was written, and the finished answers were deleted"
        fix = f"{kept}; set privacy.answers to redact, or use another model"
        raise PersonalDataError(stage, what, fix)
    redacted = []
    for original, findings in zip(answers, found, strict=True):
        text = redact(original.text, findings)
        redacted.append(original._replace(text=text))
    return redacted


def count_kinds(found: Findings) -> Counter[str]:
    """Return the number of findings per kind of personal data."""
    kinds: Counter[str] = Counter()
    for findings in found:
        kinds.update(finding.kind for finding in findings)
    return kinds


def settings(variant: Variant, params: Params) -> dict[str, str | int]:
    """Return few-shot examples, engine, precision and layers on a GPU, for the metrics."""
    found: dict[str, str | int] = {"engine": variant.engine, "few_shot": variant.few_shot}
    if variant.engine == "transformers":
        return found | precision_settings(params.dtype)
    if variant.engine == "vllm":
        return found | {"dtype": params.dtype, "compute_dtype": params.dtype}
    # The file and llama.cpp's kernels determine the precision, or a server that is not ours.
    own = "the engine's own"
    found |= {"dtype": own, "compute_dtype": own}
    if variant.engine == "openai":
        return found | {"served_model": str(variant.served_model), "other_decoding_rules": own}
    if params.generate.gpu_layers != 0:
        found["gpu_layers"] = str(params.generate.gpu_layers)
    return found
