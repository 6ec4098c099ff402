"""Score the reference answers of the validation sets under one variant.

The stage computes loss, perplexity, bits, token accuracy and entropy per set and over all sets. It
also scores answers after another question: the difference is the worth of the right question.

    python -m stages.likelihood base
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from tqdm import tqdm

from bula.errors import run_stage
from bula.few_shot import check_context, read_shots, with_shots
from bula.hardware import precision_settings, prepare_device, seed_everything
from bula.models import load_model, load_tokenizer
from bula.params import Params, load_params, variant_of
from bula.prompts import Encoded, encode
from bula.records import SET_NAMES, Example, Row, Turn, read_validation_sets, write_rows
from bula.reports import write_metrics
from bula.stats import LN2, bootstrap_mean, ratio_standard_error, standard_error
from bula.text import comparison_key

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Figures = dict[str, int | float]

# A question of the longest allowed prompt may meet the longest allowed answer.
SHORTER = "lower preprocess.max_tokens or preprocess.max_prompt_tokens in params.yaml"


class Score(NamedTuple):
    """Totals over the supervised tokens of one example."""

    nats: float
    tokens_correct: int
    entropy_nats: float


def score(
    model: PreTrainedModel, encoded: list[Encoded], batch_tokens: int, pad_id: int
) -> list[Score]:
    """Return the score of each example, in the order given.

    The examples are scored in batches of similar length, which need little padding. A batch has at
    most `batch_tokens` tokens, padding included.
    """
    from bula.scoring import batches_by_length

    scores: dict[int, Score] = {}
    batches = batches_by_length(encoded, batch_tokens)
    for batch in tqdm(batches, desc="likelihood", unit="batch"):
        members = [encoded[index] for index in batch]
        found = score_batch(model, members, pad_id)
        scores.update(zip(batch, found, strict=True))
    return [scores[index] for index in range(len(encoded))]


def score_batch(model: PreTrainedModel, encoded: list[Encoded], pad_id: int) -> list[Score]:
    """Return the score of each example of one batch."""
    from bula.scoring import supervised_logits

    nats = []
    correct = []
    entropy = []
    for logits, targets in supervised_logits(model, encoded, pad_id):
        chunk_nats, chunk_correct, chunk_entropy = score_tokens(logits, targets)
        nats.append(chunk_nats)
        correct.append(chunk_correct)
        entropy.append(chunk_entropy)
    sizes = [len(item.completion) for item in encoded]
    columns = zip(
        sum_by_example(nats, sizes),
        sum_by_example(correct, sizes),
        sum_by_example(entropy, sizes),
        strict=True,
    )
    scores = []
    for total_nats, total_correct, total_entropy in columns:
        score_of_example = Score(
            nats=total_nats,
            tokens_correct=int(total_correct),
            entropy_nats=total_entropy,
        )
        scores.append(score_of_example)
    return scores


def score_tokens(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three values per supervised token.

    They are the negative log-likelihood of the target in nats, whether the target is the most
    probable token, and the entropy of the predicted distribution in nats. The return frees the
    large intermediate tensors before the next chunk needs memory.
    """
    log_p = logits.log_softmax(-1)
    target_log_p = log_p.gather(1, targets[:, None]).squeeze(1)
    correct = logits.argmax(-1) == targets
    weighted_log_p = log_p.exp() * log_p
    return -target_log_p, correct, -weighted_log_p.sum(-1)


def sum_by_example(chunks: list[Tensor], sizes: list[int]) -> list[float]:
    """Return the sum over each example's tokens, in float64.

    The chunks contain one value per token. `sizes` contains the number of tokens of each example.
    """
    import torch

    values = torch.cat(chunks).double().cpu()
    parts = torch.split(values, sizes)
    return [float(part.sum()) for part in parts]


def to_rows(
    examples: list[Example], encoded: list[Encoded], scores: list[Score], variant: str
) -> list[Row]:
    """Return one row per example.

    Nats and entropy are totals over the answer's tokens, the end-of-turn token included.
    """
    rows = []
    for example, tokens, found in zip(examples, encoded, scores, strict=True):
        row: Row = {
            "id": example.id,
            "split": example.split,
            "variant": variant,
            "tokens": len(tokens.completion),
            "characters": len(example.answer),
            "bytes": len(example.answer.encode()),
            "nats": found.nats,
            "tokens_right": found.tokens_correct,
            "entropy_nats": found.entropy_nats,
        }
        rows.append(row)
    return rows


def other_questions(examples: list[Example], seed: int) -> dict[str, Example]:
    """Return for each example, by id, another one whose question replaces its own.

    `examples` is one validation set. The examples are shuffled, and examples with equal questions
    are placed side by side. Each example takes the question that lies n places further, where n is
    the number of times that the most frequent question occurs. So every question is used once, and
    no example gets its own. If n exceeds half of the examples, some examples have no partner.
    """
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    by_question: dict[str, list[Example]] = {}
    for example in shuffled:
        by_question.setdefault(question_key(example), []).append(example)
    order = [example for equal in by_question.values() for example in equal]
    step = max((len(equal) for equal in by_question.values()), default=0)
    partners = {}
    for place, example in enumerate(order):
        partner = order[(place + step) % len(order)]
        if question_key(partner) != question_key(example):
            partners[example.id] = partner
    return partners


def question_key(example: Example) -> str:
    """Return all questions of an example, without case, punctuation and spacing."""
    return comparison_key(" ".join(turn.question for turn in example.turns))


def with_question_of(example: Example, partner: Example) -> Example:
    """Return an example with the question and the earlier turns of another one."""
    asked = {"question": partner.question, "history": partner.history}
    return example.model_copy(update=asked)


def read_first_examples(folder: Path, count: int) -> list[Example]:
    """Return the first examples of each validation set, or all if `count` is 0."""
    sets = read_validation_sets(folder)
    return [example for items in sets.values() for example in items[: count or None]]


def encode_parts(
    path: Path, tokenizer: PreTrainedTokenizerBase, parts: list[list[Example]], shots: list[Turn]
) -> list[list[Encoded]]:
    """Return the encoded examples of each part, after the few-shot examples.

    Raise UserError if an example does not fit into the context of the model at `path`. An answer
    after another question may be longer than preprocess allows.
    """
    found = []
    for examples in parts:
        encoded = [encode(tokenizer, with_shots(example, shots)) for example in examples]
        lengths = [len(item.input_ids) for item in encoded]
        check_context(path, lengths, shots, SHORTER)
        found.append(encoded)
    return found


def with_wrong_questions(examples: list[Example], params: Params) -> list[Example]:
    """Return the first scored examples of each set with the question of another one.

    `likelihood.worth_items_per_set` is the number per set.
    """
    found = []
    for name in SET_NAMES:
        members = [example for example in examples if example.split == name]
        chosen = members[: params.likelihood.worth_items_per_set]
        partners = other_questions(chosen, params.sampling_seed)
        for example in chosen:
            if example.id in partners:
                found.append(with_question_of(example, partners[example.id]))
    return found


def add_wrong_nats(rows: list[Row], wrong: list[Example], scores: list[Score]) -> None:
    """Write the nats of each answer after another question into its row."""
    nats = {}
    for example, found in zip(wrong, scores, strict=True):
        nats[example.id] = found.nats
    for row in rows:
        if row["id"] in nats:
            row["wrong_question_nats"] = nats[row["id"]]


def question_worth(rows: list[Row], params: Params) -> Figures:
    """Return the bits per character that the right question saves against a wrong one.

    The figure is a mean over answers. There is none if no answer was scored after another question.
    """
    values = []
    for row in rows:
        if "wrong_question_nats" in row:
            saved = row["wrong_question_nats"] - row["nats"]
            values.append(saved / LN2 / row["characters"])
    if not values:
        return {}
    settings = params.likelihood
    low, high = bootstrap_mean(
        values, settings.resamples, settings.confidence, params.sampling_seed
    )
    return {
        "question_worth_items": len(values),
        "question_worth_bits": sum(values) / len(values),
        "question_worth_bits_stderr": standard_error(values),
        "question_worth_bits_low": low,
        "question_worth_bits_high": high,
    }


def summarise(rows: list[Row]) -> Figures:
    """Return the figures of one set, or of all sets together.

    Means are per token over all rows, so that long answers weigh more than short ones. Standard
    errors treat the answers as clusters of tokens. docs/metrics.md defines each figure.
    """
    tokens = [row["tokens"] for row in rows]
    nats = [row["nats"] for row in rows]
    correct = [row["tokens_right"] for row in rows]
    entropy_nats = [row["entropy_nats"] for row in rows]
    entropy_bits = [value / LN2 for value in entropy_nats]
    characters = sum(row["characters"] for row in rows)
    encoded_bytes = sum(row["bytes"] for row in rows)
    all_tokens = sum(tokens)
    all_bits = sum(nats) / LN2
    loss = sum(nats) / all_tokens
    return {
        "items": len(rows),
        "tokens": all_tokens,
        "loss_nats": loss,
        "loss_nats_stderr": ratio_standard_error(nats, tokens),
        "perplexity": math.exp(loss),
        "bits_per_token": all_bits / all_tokens,
        "bits_per_character": all_bits / characters,
        "bits_per_byte": all_bits / encoded_bytes,
        "token_accuracy": sum(correct) / all_tokens,
        "token_accuracy_stderr": ratio_standard_error(correct, tokens),
        "entropy_bits": sum(entropy_nats) / LN2 / all_tokens,
        "entropy_bits_stderr": ratio_standard_error(entropy_bits, tokens),
    }


def summarise_sets(rows: list[Row], names: Iterable[str], params: Params) -> dict[str, Figures]:
    """Return the figures of each set, and the pooled figures."""
    figures = {}
    for name in names:
        members = [row for row in rows if row["split"] == name]
        figures[name] = summarise(members) | question_worth(members, params)
    figures["pooled"] = summarise(rows) | question_worth(rows, params)
    return figures


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    out: Annotated[Path, typer.Option(help="Folder for item scores.")] = Path("data/likelihood"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/likelihood"),
) -> None:
    """Score the reference answers under one variant."""
    params = load_params()
    prepare_device(params.device, params.dtype)
    seed_everything(params.sampling_seed)
    chosen = variant_of(params, variant)
    path = Path(chosen.model)
    examples = read_first_examples(clean / "validation", params.likelihood.items_per_set)
    wrong = with_wrong_questions(examples, params)
    tokenizer = load_tokenizer(path)
    shots = read_shots(clean, chosen)
    encoded, encoded_wrong = encode_parts(path, tokenizer, [examples, wrong], shots)
    model = load_model(path, params.dtype)
    batch_tokens = params.likelihood.batch_tokens
    scores = score(model, encoded, batch_tokens, tokenizer.pad_token_id)
    wrong_scores = score(model, encoded_wrong, batch_tokens, tokenizer.pad_token_id)
    rows = to_rows(examples, encoded, scores, variant)
    add_wrong_nats(rows, wrong, wrong_scores)
    figures = summarise_sets(rows, SET_NAMES, params)
    write_rows(out / f"{variant}.jsonl", rows)
    settings = precision_settings(params.dtype) | {"few_shot": chosen.few_shot}
    write_metrics(metrics / f"{variant}.json", {"settings": settings, **figures})
    perplexity = figures["pooled"]["perplexity"]
    print(f"likelihood: {variant} has perplexity {perplexity:.4g} on {len(rows)} items")


if __name__ == "__main__":
    run_stage(main, less_memory="lower likelihood.batch_tokens")
