"""Clean one shard into one part: the rows and arrays that later steps need.

A part NUMBER lies in the work folder: NUMBER.jsonl contains the accepted rows, NUMBER.refused.jsonl
the refused rows, and NUMBER.npz, NUMBER.question.npy and NUMBER.text.npy contain hashes by which
repetitions are found without reading the rows again.
"""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy

from bula.errors import UserError
from bula.params import NearDuplicates
from bula.prompts import token_lengths
from bula.records import Example, Row, json_line
from stages.preprocess.clean import Settings, clean_row, refuse
from stages.preprocess.minhash import band_hashes, comparison_hash
from stages.preprocess.shards import Shard, shard_lines
from stages.preprocess.splits import SPLITS
from stages.preprocess.tokens import cached_tokenizer, control_token_pattern, excess_length

# Ingest writes these keys into every row.
RAW_KEYS = {"source", "license", "file", "line"}


class Accepted(NamedTuple):
    """A row that passed the filters: its place in the shard, the raw row and the example."""

    place: int
    row: Row
    example: Example


def full_text(example: Row) -> str:
    """Return question and answer as one text."""
    return f"{example['question']} {example['answer']}"


def clean_shard(shard: Shard, settings: Settings) -> Counter[str]:
    """Clean a shard, write its part into the work folder and return the counts."""
    counts: Counter[str] = Counter()
    refused: dict[int, Row] = {}
    accepted = _clean_lines(shard, settings, refused, counts)
    accepted = _refuse_control_tokens(accepted, settings.base, refused)
    rows, tokens = _refuse_long(accepted, settings, refused)
    write_part(settings.work, shard.number, rows, tokens, settings.preprocess.near_duplicates)
    lines = [json_line(refused[place]).encode() for place in sorted(refused)]
    (settings.work / f"{shard.number}.refused.jsonl").write_bytes(b"".join(lines))
    return counts


def _clean_lines(
    shard: Shard, settings: Settings, refused: dict[int, Row], counts: Counter[str]
) -> list[Accepted]:
    """Return the accepted rows of a shard, and add the other rows to `refused`."""
    accepted = []
    for place, line in enumerate(shard_lines(shard)):
        row = _parse_raw(line, shard.path)
        result = clean_row(row, settings, counts)
        if isinstance(result, Example):
            accepted.append(Accepted(place, row, result))
        else:
            excerpt = row.get("excerpt") if "refused" in row else None
            refused[place] = refuse(row, result, excerpt)
    return accepted


def _parse_raw(line: bytes, path: Path) -> Row:
    """Return a row that ingest wrote; UserError for any other line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not row.keys() >= RAW_KEYS:
        raise UserError(
            f"data/raw/{path.name}",
            "it holds a line that ingest did not write",
            "run `dvc repro --force ingest`",
        )
    return row


def _refuse_control_tokens(
    accepted: list[Accepted], base: Path, refused: dict[int, Row]
) -> list[Accepted]:
    """Return the rows without tokens that would steer the model; refuse the others."""
    pattern = control_token_pattern(base)
    passed = []
    for item in accepted:
        if pattern.search(full_text(item.example.model_dump())):
            reason = "holds a control token of the chat template"
            refused[item.place] = refuse(item.row, reason)
        else:
            passed.append(item)
    return passed


def _refuse_long(
    accepted: list[Accepted], settings: Settings, refused: dict[int, Row]
) -> tuple[list[Row], list[int]]:
    """Return the rows within the length limits and their lengths in tokens; refuse the others."""
    texts = [(item.example.question, item.example.answer) for item in accepted]
    lengths = token_lengths(cached_tokenizer(settings.base), texts)
    rows = []
    tokens = []
    for item, (prompt_length, length) in zip(accepted, lengths, strict=True):
        if reason := excess_length(prompt_length, length, settings.preprocess):
            refused[item.place] = refuse(item.row, reason)
            continue
        example = item.example.model_dump(exclude_none=True)
        rows.append({"file": item.row["file"], "line": item.row["line"], "example": example})
        tokens.append(length)
    return rows, tokens


def write_part(
    work: Path, number: int, rows: list[Row], tokens: list[int], settings: NearDuplicates
) -> None:
    """Write the rows of a part (file, line, example) and their arrays.

    `tokens` contains the length of each row.
    """
    lines = [json_line(row).encode() for row in rows]
    (work / f"{number}.jsonl").write_bytes(b"".join(lines))
    examples = [row["example"] for row in rows]
    questions = [example["question"] for example in examples]
    texts = [full_text(example) for example in examples]
    ids = [int(example["id"], 16) for example in examples]
    # Benchmark items have no split; load_table numbers them itself.
    splits = [SPLITS.index(example.get("split", SPLITS[0])) for example in examples]
    numpy.savez(
        work / f"{number}.npz",
        start=numpy.cumsum([0, *map(len, lines)], dtype=numpy.int64),
        id=numpy.array(ids, dtype=numpy.uint64),
        split=numpy.array(splits, dtype=numpy.int16),
        tokens=numpy.array(tokens, dtype=numpy.int32),
        question=numpy.array(list(map(comparison_hash, questions)), dtype=numpy.uint64),
        text=numpy.array(list(map(comparison_hash, texts)), dtype=numpy.uint64),
    )
    numpy.save(work / f"{number}.question.npy", band_hashes(questions, settings))
    numpy.save(work / f"{number}.text.npy", band_hashes(texts, settings))
