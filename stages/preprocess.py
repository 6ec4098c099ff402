"""Validate, normalise, de-duplicate and split the rows that ingest brought in; refused rows go to quarantine with a reason.

Validation rows are settled before training rows, so that a question of the validation sets can never be trained on.

    python -m stages.preprocess
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from bula.models import load_tokenizer
from bula.params import Params, Preprocess, load_params
from bula.prompts import encode
from bula.records import Example, Row, example_id, read_rows, staged, write_rows
from bula.reports import write_metrics, write_plot
from bula.text import comparison_key, ngrams, normalise

VALIDATION = ("A", "B", "C", "D", "E")
# Validation first: of two rows with the same question, the validation row stays.
ORDER = (*VALIDATION, "dev", "train")
OVERLAP_WORDS = 5
BIN_TOKENS = 32


class Sorted(BaseModel):
    """Examples kept, by split; their lengths in tokens; and the rows refused."""

    examples: dict[str, list[Example]]
    tokens: dict[str, list[int]]
    refused: list[Row]


def mask(text: object) -> str:
    """The shape of a text without its content: letters become x, digits 9; at most 60 characters."""
    shape = ("x" if c.isalpha() else "9" if c.isdigit() else c for c in str(text)[:60])
    return "".join(shape)


def refuse(row: Row, reason: str) -> Row:
    """The quarantine record of a row: where it came from and why it was refused, without its words."""
    where = {"source": row["source"], "file": row["file"], "line": row["line"]}
    identity = example_id(row["source"], str(row.get("question")), str(row.get("answer")))
    return {"id": identity, **where, "reason": reason, "excerpt": mask(row.get("question"))}


def why_invalid(row: Row) -> str:
    """Why a row cannot be an example, or an empty string."""
    for name in ("question", "answer"):
        value = row.get(name)
        if not isinstance(value, str):
            return f"{name} is missing" if value is None else f"{name} is no text"
        if not comparison_key(value):
            return f"{name} has no words"
    return ""


def assign_split(row: Row, key: str, params: Preprocess) -> str:
    """The row's own split, or one by a hash of its question, so that adding rows moves no other row."""
    if isinstance(row.get("split"), str) and row["split"] in ORDER:
        return str(row["split"])
    position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    if position < params.dev_share:
        return "dev"
    index = (position - params.dev_share) / params.validation_share if params.validation_share else len(VALIDATION)
    return VALIDATION[int(index)] if index < len(VALIDATION) else "train"


def to_example(row: Row, params: Preprocess) -> Example:
    """A validated row as an Example with normalised text."""
    question, answer = normalise(row["question"]), normalise(row["answer"])
    optional = {name: normalise(row[name]) or None for name in ("specialty", "kind") if isinstance(row.get(name), str)}
    return Example(
        id=example_id(row["source"], question, answer),
        source=row["source"],
        license=row["license"],
        split=assign_split(row, comparison_key(question), params),
        question=question,
        answer=answer,
        **optional,
    )


def sort_rows(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, params: Preprocess) -> Sorted:
    """Validate every row, then keep the first of those that repeat each other, validation before dev before train."""
    result = Sorted(examples={s: [] for s in ORDER}, tokens={s: [] for s in ORDER}, refused=[])
    waiting: dict[str, list[tuple[Row, Example]]] = defaultdict(list)
    for row in rows:
        if reason := why_invalid(row):
            result.refused.append(refuse(row, reason))
        else:
            example = to_example(row, params)
            waiting[example.split].append((row, example))
    seen: dict[str, dict[str, Example]] = {"question": {}, "answer": {}, "pair": {}}
    for split in ORDER:
        # By id, which is a hash: the first items of a split are an unbiased, stable sample of it.
        for row, example in sorted(waiting[split], key=lambda pair: pair[1].id):
            reason = why_duplicate(example, seen) or keep(example, tokenizer, params, result)
            if reason:
                result.refused.append(refuse(row, reason))
    return result


def why_duplicate(example: Example, seen: dict[str, dict[str, Example]]) -> str:
    """Why an example repeats one that came before, or an empty string; `seen` is then told of it.

    Within a split only a whole pair is a duplicate: two people may answer one question. Across splits the same question
    or the same answer is, so that nothing of validation is trained on.
    """
    question, answer = comparison_key(example.question), comparison_key(example.answer)
    keys = {"question": question, "answer": answer, "pair": f"{question}\n{answer}"}
    for name, key in keys.items():
        twin = seen[name].setdefault(key, example)
        if twin is not example and (name == "pair" or twin.split != example.split):
            return f"same {name} as {twin.id} in {twin.split}"
    return ""


def keep(example: Example, tokenizer: PreTrainedTokenizerBase, params: Preprocess, result: Sorted) -> str:
    """Add an example to the result if its length allows; else the reason why not."""
    encoded = encode(tokenizer, example)
    if len(encoded.prompt) > params.max_prompt_tokens:
        return f"prompt longer than {params.max_prompt_tokens} tokens"
    if len(encoded.input_ids) > params.max_tokens:
        return f"longer than {params.max_tokens} tokens"
    result.examples[example.split].append(example)
    result.tokens[example.split].append(len(encoded.input_ids))
    return ""


def limit_train(result: Sorted, limit: int) -> None:
    """Keep the first `limit` training examples."""
    del result.examples["train"][limit:], result.tokens["train"][limit:]


def nearest_overlap(items: list[Example], train: list[Example]) -> dict[str, tuple[float, str]]:
    """For each item: the largest share of its word 5-grams found in one training example, and that example's id."""
    grams = {item.id: set(ngrams(f"{item.question} {item.answer}", OVERLAP_WORDS)) for item in items}
    owners: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for item, own in grams.items():
        for gram in own:
            owners[gram].append(item)
    best: dict[str, tuple[float, str]] = {item.id: (0.0, "") for item in items}
    for example in train:
        shared = Counter(
            item for gram in set(ngrams(f"{example.question} {example.answer}", OVERLAP_WORDS)) for item in owners.get(gram, ())
        )
        for item, count in shared.items():
            best[item] = max(best[item], (count / len(grams[item]), example.id))
    return best


def length_table(tokens: dict[str, list[int]]) -> list[dict[str, int | str]]:
    """Histogram rows of example lengths: split (group), lower edge of the bin in tokens, examples."""
    table: list[dict[str, int | str]] = []
    for split, lengths in tokens.items():
        counts = Counter(length // BIN_TOKENS * BIN_TOKENS for length in lengths)
        table += [{"group": split, "tokens": edge, "examples": counts[edge]} for edge in sorted(counts)]
    return table


def summarise(result: Sorted, overlap: dict[str, tuple[float, str]]) -> dict[str, dict[str, int | float]]:
    """Counts and token lengths of each split, the refusals by reason, and how near training comes to validation."""
    metrics: dict[str, dict[str, int | float]] = {}
    for split in ORDER:
        lengths = result.tokens[split]
        metrics[split] = {"examples": len(lengths), "tokens": sum(lengths), "tokens_longest": max(lengths)}
        if split in VALIDATION:
            metrics[split]["overlap_5gram_largest"] = max(overlap[example.id][0] for example in result.examples[split])
    reasons = Counter(row["reason"].split(" as ")[0] for row in result.refused)
    metrics["quarantine"] = {"rows": len(result.refused)} | {reason.replace(" ", "_"): n for reason, n in sorted(reasons.items())}
    return metrics


def card(params: Params, result: Sorted) -> str:
    """The data set card, in the form that the Hugging Face hub reads."""
    licenses = sorted({source.license for source in params.ingest.sources})
    names = ", ".join(source.name for source in params.ingest.sources)
    table = "\n".join(f"| {split} | {len(result.examples[split])} |" for split in ORDER)
    head = "".join(f"- {license}\n" for license in licenses)
    return (
        f"---\nlanguage:\n- pt\nlicense:\n{head}task_categories:\n- question-answering\n---\n\n# Questions and answers on health\n\n"
        f"Made by `dvc repro` from: {names}. Rows were validated, normalised and de-duplicated;\n{len(result.refused)} were refused.\n\n"
        f"| split | examples |\n|---|---|\n{table}\n\nNot medical advice.\n"
    )


def read_raw(folder: Path, params: Params) -> Iterator[Row]:
    """Rows of every source, in the order of params.yaml."""
    for source in params.ingest.sources:
        yield from read_rows(folder / f"{source.name}.jsonl")


def write_splits(folder: Path, result: Sorted, overlap: dict[str, tuple[float, str]], text: str) -> None:
    """Write the splits, each validation item's nearest training example, and the card."""
    with staged(folder) as temporary:
        for split in ORDER:
            name = f"validation/{split}" if split in VALIDATION else split
            write_rows(temporary / f"{name}.jsonl", result.examples[split])
        nearest = ({"id": item, "overlap_5gram": share, "nearest": twin} for item, (share, twin) in overlap.items())
        write_rows(temporary / "overlap.jsonl", nearest)
        (temporary / "README.md").write_text(text, encoding="utf-8")


def main(
    raw: Annotated[Path, typer.Option(help="Folder of ingested pairs.")] = Path("data/raw"),
    base: Annotated[Path, typer.Option(help="Base model, for its tokenizer.")] = Path("models/base"),
    clean: Annotated[Path, typer.Option(help="Folder for the splits.")] = Path("data/clean"),
    quarantine: Annotated[Path, typer.Option(help="File for refused rows.")] = Path("data/quarantine.jsonl"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/preprocess.json"),
    plot: Annotated[Path, typer.Option(help="Plot of lengths.")] = Path("plots/lengths.json"),
) -> None:
    """Turn raw rows into train, dev and the validation sets."""
    params = load_params()
    try:
        result = sort_rows(read_raw(raw, params), load_tokenizer(base), params.preprocess)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    limit_train(result, params.preprocess.train_limit)
    write_rows(quarantine, result.refused)
    if empty := [split for split in ORDER if not result.examples[split]]:
        raise SystemExit(f"no examples left for {', '.join(empty)}; {quarantine} says why {len(result.refused)} rows were refused")
    overlap = nearest_overlap([e for s in VALIDATION for e in result.examples[s]], result.examples["train"])
    write_splits(clean, result, overlap, card(params, result))
    write_metrics(metrics, summarise(result, overlap))
    write_plot(plot, length_table(result.tokens))
    print(f"preprocess: {sum(map(len, result.examples.values()))} examples in {clean}, {len(result.refused)} rows refused")


if __name__ == "__main__":
    typer.run(main)
