"""Clean one shard into one part of the work folder.

A part contains the rows and the arrays that later steps need. Part NUMBER lies in the work folder:
NUMBER.jsonl contains the accepted rows, NUMBER.refused.jsonl the refused rows, and the other files
(NUMBER.npz, NUMBER.turns.npz, NUMBER.frames.npz, NUMBER.question.npy, NUMBER.turns.npy and
NUMBER.text.npy) contain hashes by which repetitions are found without reading the rows again.
"""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy

from bula.errors import UserError
from bula.params import NearDuplicates
from bula.prompts import token_lengths
from bula.question_groups import question_group
from bula.records import Example, Row, json_line, row_turns, turn_texts
from bula.text import words
from stages.preprocess.clean import Settings, clean_row, refuse
from stages.preprocess.courtesy import core
from stages.preprocess.frames import find_frames
from stages.preprocess.long_rows import fit_example
from stages.preprocess.minhash import Hashes, band_hashes, comparison_hash, hash64
from stages.preprocess.shards import Shard, shard_lines
from stages.preprocess.splits import SPLITS
from stages.preprocess.tokens import cached_tokenizer, control_token_pattern
from stages.preprocess.weights import count_words

# Ingest writes these keys into every row.
RAW_KEYS = {"source", "license", "file", "line"}


class Accepted(NamedTuple):
    """A row that passed the filters, and its place in the shard."""

    place: int
    row: Row
    example: Example


def full_text(example: Row) -> str:
    """Return all questions and answers as one text."""
    return " ".join(turn_texts(example))


def question_text(example: Row) -> str:
    """Return all questions of a conversation as one text."""
    return " ".join(turn["question"] for turn in row_turns(example))


def question_core(example: Row) -> str:
    """Return all questions of a conversation without greetings, for comparisons."""
    return " ".join(core(turn["question"]) for turn in row_turns(example))


def answer_text(example: Row) -> str:
    """Return all answers of a conversation as one text."""
    return " ".join(turn["answer"] for turn in row_turns(example))


def clean_shard(shard: Shard, settings: Settings) -> Counter[str]:
    """Clean a shard, write its part and return the counts."""
    counts: Counter[str] = Counter()
    refused: dict[int, Row] = {}
    accepted = _clean_lines(shard, settings, refused, counts)
    accepted = _refuse_control_tokens(accepted, settings.base, refused)
    rows, tokens = _fit_rows(accepted, settings, refused, counts)
    write_part(
        settings.work,
        shard.number,
        rows,
        tokens,
        settings.preprocess.near_duplicates,
    )
    in_order = [refused[place] for place in sorted(refused)]
    _write_lines(settings.work / f"{shard.number}.refused.jsonl", in_order)
    return counts


def _write_lines(path: Path, rows: list[Row]) -> list[int]:
    """Write rows as JSON Lines, and return the bytes of each line."""
    lines = [json_line(row).encode() for row in rows]
    path.write_bytes(b"".join(lines))
    return [len(line) for line in lines]


def _clean_lines(
    shard: Shard, settings: Settings, refused: dict[int, Row], counts: Counter[str]
) -> list[Accepted]:
    """Return the accepted rows of a shard, and refuse the others."""
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
            "it contains a line that ingest did not write",
            "run `dvc repro --force ingest`",
        )
    return row


def _refuse_control_tokens(
    accepted: list[Accepted], base: Path, refused: dict[int, Row]
) -> list[Accepted]:
    """Refuse rows with control tokens, and return the others."""
    pattern = control_token_pattern(base)
    passed = []
    for item in accepted:
        text = full_text(item.example.model_dump(exclude_none=True))
        if pattern.search(text):
            reason = "holds a control token of the chat template"
            refused[item.place] = refuse(item.row, reason)
        else:
            passed.append(item)
    return passed


def _fit_rows(
    accepted: list[Accepted], settings: Settings, refused: dict[int, Row], counts: Counter[str]
) -> tuple[list[Row], list[int]]:
    """Return the rows that training receives with their lengths in tokens.

    Long rows are refused, truncated or split, as `preprocess.long_rows` says.
    """
    tokenizer = cached_tokenizer(settings.base)
    lengths = token_lengths(tokenizer, [item.example for item in accepted])
    rows = []
    tokens = []
    for item, sizes in zip(accepted, lengths, strict=True):
        fitted = fit_example(item.example, sizes, tokenizer, settings.preprocess, counts)
        if isinstance(fitted, str):
            refused[item.place] = refuse(item.row, fitted)
            continue
        for piece, (example, length) in enumerate(fitted):
            row = {
                "file": item.row["file"],
                "line": item.row["line"],
                # Preprocess never moves a row whose source chose the split.
                "fixed": item.row.get("split") in SPLITS,
                "piece": piece,
                "example": example.model_dump(exclude_none=True),
            }
            rows.append(row)
            tokens.append(length)
    return rows, tokens


def write_part(
    work: Path, number: int, rows: list[Row], tokens: list[int], settings: NearDuplicates
) -> None:
    """Write the rows of a part (file, line, example) and their arrays.

    `tokens` contains the length of each row.
    """
    sizes = _write_lines(work / f"{number}.jsonl", rows)
    examples = [row["example"] for row in rows]
    questions = [question_core(example) for example in examples]
    answers = [answer_text(example) for example in examples]
    texts = [full_text(example) for example in examples]
    first_questions = [row_turns(example)[0]["question"] for example in examples]
    # Benchmark items have no split; load_table sets the number of their benchmark.
    splits = [SPLITS.index(example.get("split", SPLITS[0])) for example in examples]
    ids = [int(example["id"], 16) for example in examples]
    numpy.savez(
        work / f"{number}.npz",
        start=numpy.cumsum([0, *sizes], dtype=numpy.int64),
        id=numpy.array(ids, dtype=numpy.uint64),
        split=numpy.array(splits, dtype=numpy.int16),
        tokens=numpy.array(tokens, dtype=numpy.int32),
        question=_comparison_hashes(questions),
        text=_comparison_hashes(texts),
        answer=_comparison_hashes(answers),
        answer_words=numpy.array([len(words(answer)) for answer in answers], dtype=numpy.int32),
        fixed=numpy.array([row.get("fixed", True) for row in rows], dtype=bool),
        group=_hashes_of_groups(first_questions),
        piece=numpy.array([row.get("piece", 0) for row in rows], dtype=numpy.int32),
    )
    _write_turns(work, number, examples, settings)
    numpy.save(work / f"{number}.words.npy", count_words(texts))
    numpy.save(work / f"{number}.question.npy", band_hashes(questions, settings))
    numpy.save(work / f"{number}.text.npy", band_hashes(texts, settings))


def _write_turns(work: Path, number: int, examples: list[Row], settings: NearDuplicates) -> None:
    """Write the hashes of single questions.

    NUMBER.turns.npz has each turn of the conversations with several turns: `row` is the number of
    its row in the part, `turn` its own number, `question` the hash of its question, `group` the
    hash of the question's group, and `text` the hash of the conversation up to its answer.
    NUMBER.frames.npz has the frames of the questions of the other rows, and of these turns.
    """
    rows: list[int] = []
    numbers: list[int] = []
    questions: list[str] = []
    texts: list[str] = []
    single = []
    for place, example in enumerate(examples):
        turns = row_turns(example)
        single.append(core(turns[0]["question"]) if len(turns) == 1 else "")
        conversation = ""
        for count, turn in enumerate(turns if len(turns) > 1 else []):
            conversation += f" {turn['question']} {turn['answer']}"
            rows.append(place)
            numbers.append(count)
            questions.append(core(turn["question"]))
            texts.append(conversation)
    numpy.savez(
        work / f"{number}.turns.npz",
        row=numpy.array(rows, dtype=numpy.int64),
        turn=numpy.array(numbers, dtype=numpy.int64),
        question=_comparison_hashes(questions),
        group=_hashes_of_groups(questions),
        text=_comparison_hashes(texts),
    )
    numpy.save(work / f"{number}.turns.npy", band_hashes(questions, settings))
    frames = find_frames(single + questions)
    numpy.savez(
        work / f"{number}.frames.npz",
        text=frames.text,
        key=frames.key,
        frame=frames.frame,
        rows=numpy.array(len(examples)),
        turns=numpy.array(len(questions)),
    )


def _hashes_of_groups(questions: list[str]) -> Hashes:
    """Return the hash of the group of each question."""
    groups = [hash64(question_group(question)) for question in questions]
    return numpy.array(groups, dtype=numpy.uint64)


def _comparison_hashes(texts: list[str]) -> Hashes:
    """Return the comparison hash of each text."""
    hashes = [comparison_hash(text) for text in texts]
    return numpy.array(hashes, dtype=numpy.uint64)
