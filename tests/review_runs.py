"""Write the files of small runs, which tests compare with each other."""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench.clones import ROOT, edit_params
from bula.params import Params, load_params
from bula.records import SET_NAMES, Row, write_rows
from bula.review.runs import Run
from bula.stats import LN2

PROFILE = ROOT / "profiles/smollm2-135m.yaml"
VARIANT = "tuned"
CHARACTERS = 50
# Bits per character of the run that others are compared with.
BITS = 2.0
# The hash of the validation sets in dvc.lock.
ITEMS_HASH = "a" * 32
GATE = {
    "figure": "tuned.bits_per_character",
    "direction": "lower",
    "max_drop": 0.02,
    "floor": None,
    "min_effect": 0.005,
    "not_comparable": "warn",
}


def edit(params: dict[str, Any]) -> None:
    """Keep one variant, three measures beside safety and judge, and one gate."""
    params["variants"] = {VARIANT: {"model": "models/merged", "engine": "transformers"}}
    params["compare"].update(pairs=[], primary=["bits_per_character", "degenerate", "rougeL_f"])
    params["review"].update(alpha=0.05, resamples=200, gates=[dict(GATE)])


def texts(number: int) -> tuple[str, str]:
    """Return a question and a reference that no other item resembles."""
    word = f"palavra{number}"
    return f"Pergunta sobre {word}?", f"Resposta com {word} e mais {word}x."


def ids(per_set: int) -> dict[str, list[str]]:
    """Return the ids of each validation set."""
    names = iter(f"{number:016x}" for number in range(per_set * len(SET_NAMES)))
    return {split: [next(names) for _ in range(per_set)] for split in SET_NAMES}


def write_run(
    folder: Path,
    *,
    per_set: int = 4,
    bits: Mapping[int, float] | float = BITS,
    loops: Iterable[int] = (),
    generated: Mapping[int, str] | None = None,
    references: Mapping[int, str] | None = None,
    rows: bool = True,
) -> Path:
    """Write params.yaml, the rows and the metrics of a run.

    `bits` are the bits per character of each item, by number or for all. `loops` are the numbers of
    degenerate answers. `references` replace the text of references, whose ids stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROFILE, folder / "params.yaml")
    edit_params(folder / "params.yaml", edit)
    numbers = range(per_set * len(SET_NAMES))
    level = [_at(bits, number, BITS) for number in numbers]
    examples = _examples(per_set, references or {})
    if rows:
        _write_rows(folder, examples, level, set(loops), generated or {})
    _write_metrics(folder, level, len(set(loops)))
    return folder


def _at(values: Mapping[int, float] | float, number: int, default: float) -> float:
    """Return the value of one item."""
    return values.get(number, default) if isinstance(values, Mapping) else values


def _examples(per_set: int, references: Mapping[int, str]) -> list[Row]:
    """Return the validation examples."""
    examples: list[Row] = []
    for split, names in ids(per_set).items():
        for name in names:
            number = len(examples)
            question, answer = texts(number)
            row = {"id": name, "source": "demo", "license": "cc-by-4.0", "split": split}
            row |= {"question": question, "answer": references.get(number, answer)}
            examples.append(row)
    return examples


def _write_rows(
    folder: Path,
    examples: list[Row],
    level: list[float],
    loops: set[int],
    generated: Mapping[int, str],
) -> None:
    """Write the validation sets, and the rows of each scoring stage but the benchmark."""
    data = folder / "data"
    for split in SET_NAMES:
        members = [row for row in examples if row["split"] == split]
        write_rows(data / f"clean/validation/{split}.jsonl", members)
    stages: dict[str, list[Row]] = {"answers": [], "likelihood": [], "scores": [], "verdicts": []}
    for number, example in enumerate(examples):
        name = {"id": example["id"]}
        text = generated.get(number, f"Texto número {number}.")
        answer = {"generated": text, "finish_reason": "stop", "degenerate": number in loops}
        stages["answers"].append({**example, **answer})
        nats = level[number] * LN2 * CHARACTERS
        size = {"characters": CHARACTERS, "bytes": CHARACTERS}
        stages["likelihood"].append({**name, **size, "nats": nats})
        scores = {"rouge1_f": 0.5, "rouge2_f": 0.5, "rougeL_f": 0.5}
        stages["scores"].append({**name, **scores})
        stages["verdicts"].append({**name, "judge": "j", "accuracy": 2, "style": 2})
    for stage, found in stages.items():
        write_rows(data / stage / f"{VARIANT}.jsonl", found)


def _write_metrics(folder: Path, level: list[float], loops: int) -> None:
    """Write the committed figures of a run."""
    items = len(level)
    settings = {"compute_dtype": "bfloat16"}
    bits = sum(level) / items
    pooled = {"items": items, "bits_per_character": bits}
    # The loss and its error are 10 % of each other, so the error of the bits is a tenth of them.
    pooled |= {"loss_nats": 3.0, "loss_nats_stderr": 0.3}
    rouge = {"items": items, "rougeL_f": 0.5, "rougeL_f_low": 0.4, "rougeL_f_high": 0.6}
    judge = {"judge": "j", "items": items, "scored": items, "accuracy_withheld": False}
    judge |= {"accuracy_mean": 2.0, "accuracy_stderr": 0.1}
    generate = {"items": items, "degenerate_share": loops / items, "personal_data_answers": 0}
    metrics: dict[str, Any] = {
        f"generate/{VARIANT}": {**generate, "settings": settings},
        f"likelihood/{VARIANT}": {"pooled": pooled, "settings": settings},
        f"rouge/{VARIANT}": {"pooled": rouge},
        f"judge/{VARIANT}": judge,
        "ingest": {"source_demo": {"rows": items}},
        "preprocess": {"privacy": {"cpf": 0}},
        "train": {"run": settings},
    }
    for name, content in metrics.items():
        change_json(folder / f"metrics/{name}.json", content)


def change_json(file: Path, content: Mapping[str, Any]) -> None:
    """Merge an object into that of a JSON file, or write a new file."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**known, **content}), encoding="utf-8")


def run_of(folder: Path, name: str = "this run", items_hash: str = ITEMS_HASH) -> Run:
    """Return the run in a folder, without git and DVC."""
    entry = {"path": "data/clean/validation", "md5": items_hash}
    lock = {f"likelihood@{VARIANT}": {"deps": [entry]}}
    params = YAML(typ="safe").load((folder / "params.yaml").read_text(encoding="utf-8"))
    return Run(name, "abc1234", False, folder, params, lock, {}, [])


def params_of(folder: Path) -> Params:
    """Return the checked parameters of a run."""
    return load_params(folder / "params.yaml")


def shifted(count: int, shift: float) -> dict[int, float]:
    """Return the bits per character of items of which the first `count` are shifted."""
    return dict.fromkeys(range(count), BITS + shift)


def two_sided(z: float) -> float:
    """Return the two-sided p-value of a standard normal deviate."""
    return math.erfc(z / math.sqrt(2))
