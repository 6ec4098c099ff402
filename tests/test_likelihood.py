import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.clones import edit_params
from bula.errors import UserError
from bula.hardware import compute_dtype
from bula.models import load_model, load_tokenizer
from bula.prompts import encode
from bula.records import SET_NAMES, Row, read_rows
from bula.scoring import pad_batch
from stages import likelihood
from tests.conftest import validation_examples, write_validation_sets


@pytest.fixture
def local(workspace: Path, tiny: Path) -> Path:
    """Return the workspace with validation sets and the two-layer model as base."""
    write_validation_sets(workspace)
    shutil.copytree(tiny, workspace / "models/base")
    return workspace


def rows_of(folder: Path) -> list[Row]:
    return list(read_rows(folder / "data/likelihood/base.jsonl"))


def metrics_of(folder: Path) -> dict[str, Any]:
    text = (folder / "metrics/likelihood/base.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def expected_ids(count: int) -> list[str]:
    """Return the ids of the first examples of each set."""
    ids = []
    for split in SET_NAMES:
        ids += [example.id for example in validation_examples(split, count)]
    return ids


def use_float32(params: dict[str, Any]) -> None:
    params["dtype"] = "float32"


def test_the_figures_of_a_set_equal_a_calculation_by_hand() -> None:
    first = {
        "tokens": 2,
        "nats": 2.0,
        "tokens_right": 1,
        "entropy_nats": 1.0,
        "characters": 8,
        "bytes": 10,
    }
    second = {
        "tokens": 6,
        "nats": 2.0,
        "tokens_right": 3,
        "entropy_nats": 3.0,
        "characters": 12,
        "bytes": 14,
    }
    expected = {
        "items": 2,
        "tokens": 8,
        "loss_nats": 0.5,
        # Residuals 2 - 0.5 * 2 = 1 and 2 - 0.5 * 6 = -1; sqrt(2 / 1 * 2) / 8.
        "loss_nats_stderr": 0.25,
        "perplexity": 1.6487213,
        "bits_per_token": 0.7213475,
        # 4 nats are 5.7707802 bits, over 20 characters and 24 bytes.
        "bits_per_character": 0.2885390,
        "bits_per_byte": 0.2404492,
        "token_accuracy": 0.5,
        # Half of the tokens of both answers are correct, so the residuals are 0.
        "token_accuracy_stderr": 0.0,
        "entropy_bits": 0.5 / math.log(2),
        "entropy_bits_stderr": 0.0,
    }
    assert likelihood.summarise([first, second]) == pytest.approx(expected)


def test_scores_do_not_depend_on_the_batches(local: Path) -> None:
    edit_params(local / "params.yaml", use_float32)
    likelihood.main("base")
    together = rows_of(local)
    edit_params(local / "params.yaml", lambda params: params["likelihood"].update(batch_tokens=1))
    likelihood.main("base")
    for batched, single in zip(together, rows_of(local), strict=True):
        assert batched == single | {
            "nats": pytest.approx(single["nats"], rel=1e-4),
            "entropy_nats": pytest.approx(single["entropy_nats"], rel=1e-4),
        }


def test_all_items_are_scored_and_summarised_by_set(local: Path) -> None:
    likelihood.main("base")
    assert [row["id"] for row in rows_of(local)] == expected_ids(3)
    figures = metrics_of(local)
    assert list(figures) == ["A", "B", "C", "D", "E", "pooled", "settings"]
    assert figures["pooled"]["items"] == 15
    assert figures["pooled"]["bits_per_byte"] < figures["pooled"]["bits_per_character"]


@pytest.mark.parametrize(("items_per_set", "scored"), [(1, 1), (2, 2), (0, 3), (9, 3)])
def test_the_first_items_of_each_set_are_scored(
    items_per_set: int, scored: int, local: Path
) -> None:
    edit_params(
        local / "params.yaml",
        lambda params: params["likelihood"].update(items_per_set=items_per_set),
    )
    likelihood.main("base")
    assert [row["id"] for row in rows_of(local)] == expected_ids(scored)
    figures = metrics_of(local)
    assert figures["C"]["items"] == scored
    assert figures["settings"] == {"dtype": "bfloat16", "compute_dtype": compute_dtype("bfloat16")}


def test_the_loss_equals_the_loss_of_transformers(local: Path, tiny: Path) -> None:
    edit_params(local / "params.yaml", use_float32)
    likelihood.main("base")
    tokenizer = load_tokenizer(tiny)
    model = load_model(tiny, "float32")
    examples = validation_examples("A")
    for row, example in zip(rows_of(local)[: len(examples)], examples, strict=True):
        batch = pad_batch([encode(tokenizer, example)], tokenizer.pad_token_id)
        with torch.inference_mode():
            loss = model(**batch).loss
        assert row["nats"] / row["tokens"] == pytest.approx(float(loss), rel=1e-4)


def test_an_empty_validation_set_is_refused_before_any_output(local: Path) -> None:
    (local / "data/clean/validation/C.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"data/clean/validation/C\.jsonl: the file is empty"):
        likelihood.main("base")
    assert not (local / "metrics").exists()
    assert not (local / "data/likelihood").exists()
