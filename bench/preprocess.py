"""How fast preprocess is, how much memory it takes, and whether it finds what was planted.

Makes rows of MedPT's number and shape (384,000 pairs) from the words of the demo corpus: 10 % repeat an earlier row but for
case, punctuation and spacing, 5 % repeat one with a few words changed, the rest are their own. Runs the stage as `dvc repro`
would, in a temporary folder. With --times 10 it runs ten times the rows too and gives the ratio of the two times.

    python -m bench.preprocess [--rows 384000] [--times 10]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy
import psutil
import typer
from ruamel.yaml import YAML

from bench.summary import show
from bula.text import words

ROOT = Path(__file__).resolve().parent.parent
EXACT, NEAR = 0.10, 0.05
# Words of a question and of an answer: mean and standard deviation.
QUESTION, ANSWER = (22, 7), (55, 20)
BATCH = 4000
SAMPLE_SECONDS = 0.5


def vocabulary() -> tuple[list[str], numpy.ndarray[Any, Any]]:
    """Words of the demo corpus and their shares."""
    counts: dict[str, int] = {}
    for line in (ROOT / "data/demo/train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for word in words(f"{row['question']} {row['answer']}"):
            counts[word] = counts.get(word, 0) + 1
    share = numpy.array(list(counts.values()), float)
    return list(counts), share / share.sum()


def texts(
    random: numpy.random.Generator, names: list[str], share: Any, count: int, shape: tuple[int, int]
) -> list[list[str]]:
    """Word lists of normally distributed length."""
    lengths = numpy.clip(random.normal(*shape, count), 8, 3 * shape[0]).astype(int)
    flat = random.choice(len(names), lengths.sum(), p=share)
    ends = numpy.cumsum(lengths)
    return [
        [names[i] for i in flat[end - length : end]]
        for end, length in zip(ends, lengths, strict=True)
    ]


def shout(random: numpy.random.Generator, text: list[str]) -> str:
    """The same words with other case, punctuation and spacing."""
    signs = random.choice(["  ", " ", ", ", " - "], len(text))
    joined = "".join(word + sign for word, sign in zip(text, signs, strict=True))
    return joined.upper() + "!!" if random.random() < 0.5 else joined.capitalize() + " ..."


def edit(
    random: numpy.random.Generator, names: list[str], text: list[str], changes: int
) -> list[str]:
    """The text with some words replaced, dropped or added."""
    text = list(text)
    for place, what in zip(
        random.integers(0, len(text), changes), random.integers(0, 3, changes), strict=True
    ):
        place = min(int(place), len(text) - 1)
        if what == 0:
            text[place] = names[int(random.integers(len(names)))]
        elif what == 1 and len(text) > 8:
            del text[place]
        else:
            text.insert(place, names[int(random.integers(len(names)))])
    return text


def make_rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Raw rows as ingest writes them; `specialty` says what a row is: own N, exact N or near N (of the row N)."""
    random = numpy.random.default_rng(seed)
    names, share = vocabulary()
    sample: list[tuple[int, list[str], list[str]]] = []
    number = 0
    while number < count:
        size = min(BATCH, count - number)
        questions, answers = (
            texts(random, names, share, size, shape) for shape in (QUESTION, ANSWER)
        )
        draws = random.random(size)
        for draw, question, answer in zip(draws, questions, answers, strict=True):
            what = f"own {number}"
            asked, said = " ".join(question).capitalize() + "?", " ".join(answer).capitalize() + "."
            if draw < EXACT + NEAR and sample:
                # Each row is repeated at most once, so that every planted pair can be counted by itself.
                original, question, answer = sample.pop(int(random.integers(len(sample))))
                if draw < EXACT:
                    what, asked, said = (
                        f"exact {original}",
                        shout(random, question),
                        shout(random, answer),
                    )
                else:
                    changes = max(1, int(0.05 * len(question))), max(1, int(0.05 * len(answer)))
                    question, answer = (
                        edit(random, names, t, n)
                        for t, n in zip((question, answer), changes, strict=True)
                    )
                    what, asked, said = (
                        f"near {original}",
                        " ".join(question) + "?",
                        " ".join(answer) + ".",
                    )
            elif len(sample) < 50_000:
                sample.append((number, question, answer))
            yield {
                "question": asked,
                "answer": said,
                "specialty": what,
                "file": "bench",
                "line": number + 1,
            }
            number += 1


def prepare(folder: Path, rows: int) -> None:
    """A folder in which the stage can run: parameters, tokenizer, benchmark items and rows."""
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "profiles/smollm2-135m.yaml").read_text(encoding="utf-8"))
    real = yaml.load((ROOT / "profiles/llama-3.2-1b.yaml").read_text(encoding="utf-8"))
    params["ingest"]["sources"] = [real["ingest"]["sources"][0] | {"name": "bench"}]
    params["compute"]["workers"] = os.cpu_count() or 1
    params["preprocess"] |= {
        key: real["preprocess"][key] for key in ("dev_share", "validation_share")
    }
    params["preprocess"]["train_limit"] = rows
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    shutil.copytree(
        ROOT / "models/base", folder / "models/base", ignore=shutil.ignore_patterns("*.safetensors")
    )
    (folder / "data/benchmarks").mkdir(parents=True)
    for task in params["ingest"]["benchmarks"]:
        shutil.copy(ROOT / task["path"], folder / f"data/benchmarks/{task['name']}.jsonl")
    (folder / "data/raw").mkdir()
    with (folder / "data/raw/bench.jsonl").open("w", encoding="utf-8") as file:
        for row in make_rows(rows, 1):
            file.write(
                json.dumps(row | {"source": "bench", "license": "cc0-1.0"}, ensure_ascii=False)
                + "\n"
            )


def run(folder: Path, command: list[str]) -> tuple[float, float]:
    """Seconds of a stage, and the largest sum over its processes of memory (proportional set size), in GB."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, cwd=folder, env=environment)
    top = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for member in [top, *_children(top)]:
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total / 1e9)
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed with {process.returncode}")
    return seconds, peak


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def score(folder: Path, rows: int) -> dict[str, float]:
    """Shares of planted repetitions that were found (not both are kept), and of other rows that were lost."""
    kept = set()
    for file in [*folder.glob("data/clean/*.jsonl"), *folder.glob("data/clean/validation/*.jsonl")]:
        with file.open(encoding="utf-8") as lines:
            kept |= {label for line in lines if (label := json.loads(line).get("specialty"))}
    with (folder / "data/raw/bench.jsonl").open(encoding="utf-8") as lines:
        labels = [json.loads(line)["specialty"] for line in lines]
    copies = {
        kind: [label for label in labels if label.startswith(kind)] for kind in ("exact", "near")
    }
    repeated = {label.split()[1] for some in copies.values() for label in some}
    own = [
        label for label in labels if label.startswith("own") and label.split()[1] not in repeated
    ]
    both_lost = sum(
        label not in kept and f"own {label.split()[1]}" not in kept
        for some in copies.values()
        for label in some
    )
    found = {
        f"{kind}_found": sum(
            not (label in kept and f"own {label.split()[1]}" in kept) for label in some
        )
        / max(1, len(some))
        for kind, some in copies.items()
    }
    return found | {
        "clean_lost": (sum(label not in kept for label in own) + both_lost)
        / max(1, len(own) + len(repeated))
    }


def measure(rows: int) -> dict[str, float]:
    """One run over `rows` rows."""
    with tempfile.TemporaryDirectory(prefix="bula-bench.") as name:
        folder = Path(name)
        prepare(folder, rows)
        seconds, memory = run(folder, [sys.executable, "-m", "stages.preprocess"])
        return {
            "rows": rows,
            "seconds": seconds,
            "rows_per_second": rows / seconds,
            "peak_memory_gb": memory,
            **score(folder, rows),
        }


def main(
    rows: Annotated[int, typer.Option(help="Rows of the first run.")] = 384_000,
    times: Annotated[int, typer.Option(help="Run so many times the rows too; 1: do not.")] = 1,
) -> None:
    """Measure preprocess."""
    if not (ROOT / "models/base").exists():
        raise SystemExit(
            "models/base is missing; run `make repro` or `python -m stages.ingest` first"
        )
    runs = [measure(count) for count in ([rows] if times == 1 else [rows, times * rows])]
    first, last = runs[0], runs[-1]
    figures = {
        **first,
        **({f"{name}_times_{times}": value for name, value in last.items()} if times > 1 else {}),
    }
    goals = {
        "seconds": 240 * rows / 384_000,
        "peak_memory_gb": 2.0,
        "exact_found": 0.99,
        "near_found": 0.95,
        "clean_lost": 0.005,
    }
    met = first["seconds"] <= goals["seconds"] and first["peak_memory_gb"] <= 2
    if times > 1:
        figures["time_ratio"] = last["seconds"] / first["seconds"]
        goals |= {"time_ratio": 1.1 * times, f"peak_memory_gb_times_{times}": 3.0}
        met = met and figures["time_ratio"] <= goals["time_ratio"] and last["peak_memory_gb"] <= 3
    met = met and all(
        run["exact_found"] >= 0.99 and run["near_found"] >= 0.95 and run["clean_lost"] <= 0.005
        for run in runs
    )
    show("preprocess", figures, goals, met)


if __name__ == "__main__":
    typer.run(main)
