"""Measure time, memory and recall of preprocess.

The recall is the share of planted repetitions that preprocess finds. The rows have the number and
shape of MedPT (384,000 pairs) and words of the demo corpus. Of the rows, 10 % repeat an earlier row
with other case, punctuation and spacing, and 5 % repeat an earlier row with a few words changed.
The stage runs as `dvc repro` runs it, in a temporary folder. With --times 10 a second run has ten
times the rows, and the ratio of the two times is printed.

    python -m bench.preprocess [--rows 384000] [--times 10]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy
import psutil
import typer
from numpy.typing import NDArray
from ruamel.yaml import YAML

from bench.summary import show
from bula.text import words

ROOT = Path(__file__).resolve().parent.parent
EXACT_SHARE = 0.10
NEAR_SHARE = 0.05
# Share of the words that a near-duplicate changes.
CHANGED_WORDS = 0.05
BATCH = 4000
# At most this many rows wait to be repeated.
WAITING_ROWS = 50_000
MIN_WORDS = 8
SAMPLE_SECONDS = 0.5
# Goals. The time is for ROWS rows and grows with their number.
ROWS = 384_000
SECONDS = 240
MEMORY_GB = 2.0
LARGE_MEMORY_GB = 3.0
EXACT_FOUND = 0.99
NEAR_FOUND = 0.95
CLEAN_LOST = 0.005
TIME_RATIO_PER_TIMES = 1.1

Figures = dict[str, float]
Words = list[str]
Rows = Annotated[int, typer.Option(help="Rows of the first run.")]
Times = Annotated[int, typer.Option(help="Run with so many times the rows too; 1: do not.")]


class Length(NamedTuple):
    """The normal distribution of a text's length in words."""

    mean: int
    deviation: int


QUESTION = Length(22, 7)
ANSWER = Length(55, 20)


class Original(NamedTuple):
    """A row that may be repeated later: its number and its words."""

    number: int
    question: Words
    answer: Words


class Vocabulary(NamedTuple):
    """The words of the demo corpus, their shares and a generator of random numbers."""

    words: Words
    shares: NDArray[numpy.float64]
    random: numpy.random.Generator


def load_vocabulary(seed: int) -> Vocabulary:
    """Count the words of the demo corpus."""
    counts: Counter[str] = Counter()
    with (ROOT / "data/demo/train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            counts.update(words(f"{row['question']} {row['answer']}"))
    frequency = numpy.array(list(counts.values()), float)
    return Vocabulary(
        words=list(counts),
        shares=frequency / frequency.sum(),
        random=numpy.random.default_rng(seed),
    )


def random_texts(vocabulary: Vocabulary, count: int, length: Length) -> list[Words]:
    """Return texts of random words, as word lists."""
    lengths = vocabulary.random.normal(length.mean, length.deviation, count)
    lengths = numpy.clip(lengths, MIN_WORDS, 3 * length.mean).astype(int)
    chosen = vocabulary.random.choice(
        len(vocabulary.words),
        lengths.sum(),
        p=vocabulary.shares,
    )
    ends = numpy.cumsum(lengths)
    texts = []
    for indices in numpy.split(chosen, ends[:-1]):
        texts.append([vocabulary.words[index] for index in indices])
    return texts


def random_word(vocabulary: Vocabulary) -> str:
    """Return one word of the vocabulary."""
    index = vocabulary.random.integers(len(vocabulary.words))
    return vocabulary.words[int(index)]


def restyle(vocabulary: Vocabulary, text: Words) -> str:
    """Return the same words with other case, punctuation and spacing."""
    signs = vocabulary.random.choice(["  ", " ", ", ", " - "], len(text))
    pairs = zip(text, signs, strict=True)
    joined = "".join(word + sign for word, sign in pairs)
    if vocabulary.random.random() < 0.5:
        return joined.upper() + "!!"
    return joined.capitalize() + " ..."


def edit(vocabulary: Vocabulary, text: Words) -> str:
    """Return the text with some words replaced, removed or added."""
    edited = list(text)
    changes = max(1, int(CHANGED_WORDS * len(text)))
    places = vocabulary.random.integers(0, len(text), changes)
    actions = vocabulary.random.integers(0, 3, changes)
    for chosen, action in zip(places, actions, strict=True):
        place = min(int(chosen), len(edited) - 1)
        if action == 0:
            edited[place] = random_word(vocabulary)
        elif action == 1 and len(edited) > MIN_WORDS:
            del edited[place]
        else:
            edited.insert(place, random_word(vocabulary))
    return " ".join(edited)


def make_rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield raw rows as ingest writes them.

    `specialty` labels a row: own N, exact N or near N, where N is the number of the original.
    """
    vocabulary = load_vocabulary(seed)
    waiting: list[Original] = []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        questions = random_texts(vocabulary, size, QUESTION)
        answers = random_texts(vocabulary, size, ANSWER)
        draws = vocabulary.random.random(size)
        for offset, draw in enumerate(draws):
            number = start + offset
            original = Original(number, questions[offset], answers[offset])
            label, question, answer = _vary(vocabulary, original, draw, waiting)
            yield {
                "question": question,
                "answer": answer,
                "specialty": label,
                "file": "bench",
                "line": number + 1,
            }


def _vary(
    vocabulary: Vocabulary,
    row: Original,
    draw: float,
    waiting: list[Original],
) -> tuple[str, str, str]:
    """Return the label, question and answer of a row.

    A low draw replaces the row by a repetition of a waiting row. Each row is repeated at most once,
    so that every planted pair is counted separately.
    """
    if draw < EXACT_SHARE + NEAR_SHARE and waiting:
        index = vocabulary.random.integers(len(waiting))
        original = waiting.pop(int(index))
        if draw < EXACT_SHARE:
            question = restyle(vocabulary, original.question)
            answer = restyle(vocabulary, original.answer)
            return f"exact {original.number}", question, answer
        question = edit(vocabulary, original.question)
        answer = edit(vocabulary, original.answer)
        return f"near {original.number}", question + "?", answer + "."
    if len(waiting) < WAITING_ROWS:
        waiting.append(row)
    question = " ".join(row.question).capitalize()
    answer = " ".join(row.answer).capitalize()
    return f"own {row.number}", question + "?", answer + "."


def prepare(folder: Path, rows: int) -> None:
    """Fill a folder in which the stage can run.

    It contains the parameters, tokenizer, benchmark items and raw rows.
    """
    params = _params(rows)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(params, file)
    (folder / "models").mkdir()
    (folder / "models/base").symlink_to(ROOT / "models/base")
    (folder / "data/benchmarks").mkdir(parents=True)
    for task in params["ingest"]["benchmarks"]:
        shutil.copy(ROOT / task["path"], folder / f"data/benchmarks/{task['name']}.jsonl")
    (folder / "data/raw").mkdir()
    with (folder / "data/raw/bench.jsonl").open("w", encoding="utf-8") as file:
        for row in make_rows(rows, 1):
            row["source"] = "bench"
            row["license"] = "cc0-1.0"
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _params(rows: int) -> dict[str, Any]:
    """Return the small profile with one large source and all cores."""
    yaml = YAML(typ="safe")
    small = (ROOT / "profiles/smollm2-135m.yaml").read_text(encoding="utf-8")
    large = (ROOT / "profiles/llama-3.2-1b.yaml").read_text(encoding="utf-8")
    params: dict[str, Any] = yaml.load(small)
    real: dict[str, Any] = yaml.load(large)
    source = real["ingest"]["sources"][0]
    source["name"] = "bench"
    params["ingest"]["sources"] = [source]
    params["compute"]["workers"] = os.cpu_count() or 1
    for share in ("dev_share", "validation_share"):
        params["preprocess"][share] = real["preprocess"][share]
    params["preprocess"]["train_limit"] = rows
    return params


def run(folder: Path, command: list[str]) -> tuple[float, float]:
    """Run a command, and return its seconds and peak memory (GB).

    The memory is the sum over all its processes (proportional set size).
    """
    environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    started = time.perf_counter()
    peak = 0.0
    process = subprocess.Popen(command, cwd=folder, env=environment)
    top = psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, _memory_gb(top))
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed with {process.returncode}")
    return seconds, peak


def _memory_gb(top: psutil.Process) -> float:
    """Return the memory of a process and its children in GB."""
    total = 0
    for process in [top, *_children(top)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e9


def _children(process: psutil.Process) -> list[psutil.Process]:
    """Return the children of a process, or nothing if it has exited."""
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def score(folder: Path) -> Figures:
    """Return the shares of repetitions found and other rows lost.

    A repetition is found if preprocess did not keep both rows.
    """
    kept = _labels(folder / "data/clean")
    labels = _labels(folder / "data/raw")
    unrepeated = {label for label in labels if label.startswith("own")}
    figures = {}
    originals = 0
    lost = 0
    for kind in ("exact", "near"):
        copies = {label for label in labels if label.startswith(kind)}
        found = 0
        for label in copies:
            original = label.replace(kind, "own")
            kept_rows = kept & {label, original}
            found += len(kept_rows) < 2
            lost += len(kept_rows) == 0
            unrepeated.discard(original)
        originals += len(copies)
        figures[f"{kind}_found"] = found / max(1, len(copies))
    lost += len(unrepeated - kept)
    figures["clean_lost"] = lost / max(1, len(unrepeated) + originals)
    return figures


def _labels(folder: Path) -> set[str]:
    """Return the labels of all rows in a folder."""
    labels = set()
    for file in folder.rglob("*.jsonl"):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                labels.add(json.loads(line).get("specialty"))
    return labels - {None}


def measure(rows: int) -> Figures:
    """Run the stage over `rows` rows, and return its figures."""
    command = [sys.executable, "-m", "stages.preprocess"]
    with tempfile.TemporaryDirectory(prefix="bula-bench.") as name:
        folder = Path(name)
        prepare(folder, rows)
        seconds, memory = run(folder, command)
        found = score(folder)
    figures = {
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "peak_memory_gb": memory,
    }
    figures.update(found)
    return figures


def meets_goals(figures: Figures, seconds: float, memory_gb: float) -> bool:
    """Return whether a run met all its goals."""
    return (
        figures["seconds"] <= seconds
        and figures["peak_memory_gb"] <= memory_gb
        and figures["exact_found"] >= EXACT_FOUND
        and figures["near_found"] >= NEAR_FOUND
        and figures["clean_lost"] <= CLEAN_LOST
    )


def main(rows: Rows = ROWS, times: Times = 1) -> None:
    """Measure preprocess."""
    if not (ROOT / "models/base").exists():
        raise SystemExit(
            "models/base is missing; run `make repro` or `python -m stages.models` first"
        )
    figures = measure(rows)
    goals = {
        "seconds": SECONDS * rows / ROWS,
        "peak_memory_gb": MEMORY_GB,
        "exact_found": EXACT_FOUND,
        "near_found": NEAR_FOUND,
        "clean_lost": CLEAN_LOST,
    }
    met = meets_goals(figures, goals["seconds"], MEMORY_GB)
    if times > 1:
        large = measure(times * rows)
        ratio_goal = TIME_RATIO_PER_TIMES * times
        met = met and meets_goals(large, ratio_goal * figures["seconds"], LARGE_MEMORY_GB)
        goals["time_ratio"] = ratio_goal
        goals[f"peak_memory_gb_times_{times}"] = LARGE_MEMORY_GB
        ratio = large["seconds"] / figures["seconds"]
        for name, value in large.items():
            figures[f"{name}_times_{times}"] = value
        figures["time_ratio"] = ratio
    show("preprocess", figures, goals, met)


if __name__ == "__main__":
    typer.run(main)
