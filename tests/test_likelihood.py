import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.hardware import compute_dtype
from bula.models import load_model, load_tokenizer
from bula.params import load_params
from bula.prompts import encode
from bula.records import SET_NAMES, Example, Row, Turn, read_rows, write_rows
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
    computed = ("nats", "entropy_nats", "wrong_question_nats")
    for batched, single in zip(together, rows_of(local), strict=True):
        close = {name: pytest.approx(single[name], rel=1e-4) for name in computed}
        assert batched == single | close


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
    expected = {"dtype": "bfloat16", "compute_dtype": compute_dtype("bfloat16"), "few_shot": 0}
    assert figures["settings"] == expected


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


# The question's worth


def asking(*questions: str) -> list[Example]:
    """Return one example per question, with the ids 0, 1, 2, ..."""
    [pattern] = validation_examples("A", 1)
    examples = []
    for number, question in enumerate(questions):
        examples.append(pattern.model_copy(update={"id": f"{number:016d}", "question": question}))
    return examples


@pytest.mark.parametrize("seed", range(20))
def test_each_answer_gets_the_question_of_another_example(seed: int) -> None:
    examples = asking("Um?", "Dois?", "Três?", "Quatro?", "Cinco?")
    partners = likelihood.other_questions(examples, seed)
    assert set(partners) == {example.id for example in examples}
    assert {partner.id for partner in partners.values()} == set(partners)
    assert all(partner.id != own for own, partner in partners.items())


@pytest.mark.parametrize("seed", range(20))
def test_no_answer_gets_an_equal_question(seed: int) -> None:
    examples = asking("Posso?", "posso", "POSSO!", "Um?", "um", "Dois?")
    keys = {example.id: likelihood.question_key(example) for example in examples}
    partners = likelihood.other_questions(examples, seed)
    assert len(partners) == 6
    assert all(keys[partner.id] != keys[own] for own, partner in partners.items())


def test_answers_without_another_question_have_no_partner() -> None:
    assert likelihood.other_questions(asking("Posso?", "posso"), 1) == {}
    assert likelihood.other_questions(asking("Posso?"), 1) == {}
    # Three questions are equal, and the fourth can replace just one.
    partners = likelihood.other_questions(asking("Posso?", "posso", "POSSO", "Um?"), 1)
    assert len(partners) == 2


def test_the_partners_depend_on_the_seed_only() -> None:
    examples = asking(*(f"Pergunta {number}?" for number in range(10)))
    first = likelihood.other_questions(examples, 1)
    assert likelihood.other_questions(examples, 1) == first
    assert likelihood.other_questions(examples, 2) != first


def test_the_wrong_question_brings_its_conversation() -> None:
    own, partner = asking("Um?", "E então?")
    history = [Turn(question="Posso?", answer="Sim.")]
    partner = partner.model_copy(update={"history": history})
    mixed = likelihood.with_question_of(own, partner)
    assert mixed.turns[0] == history[0]
    assert (mixed.id, mixed.question, mixed.answer) == (own.id, "E então?", own.answer)


def test_the_worth_of_the_question_equals_a_calculation_by_hand() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    bits = math.log(2)
    rows = [
        {"nats": 10 * bits, "wrong_question_nats": 18 * bits, "characters": 8},
        {"nats": 20 * bits, "wrong_question_nats": 20 * bits, "characters": 12},
        {"nats": 20 * bits, "characters": 12},
    ]
    # 8 bits over 8 characters and 0 bits over 12: the values are 1 and 0. The deviation is
    # sqrt(0.5), and the error is sqrt(0.5 / 2). Half of the resamples of two values have the mean
    # 0.5, a quarter 0 and a quarter 1.
    assert likelihood.question_worth(rows, params) == pytest.approx(
        {
            "question_worth_items": 2,
            "question_worth_bits": 0.5,
            "question_worth_bits_stderr": 0.5,
            "question_worth_bits_low": 0.0,
            "question_worth_bits_high": 1.0,
        }
    )
    assert likelihood.question_worth(rows[2:], params) == {}


def set_worth_items(folder: Path, count: int) -> None:
    edit_params(
        folder / "params.yaml",
        lambda params: params["likelihood"].update(worth_items_per_set=count),
    )


def test_wrong_questions_are_scored_like_correct_ones(local: Path, tiny: Path) -> None:
    edit_params(local / "params.yaml", use_float32)
    set_worth_items(local, 2)
    likelihood.main("base")
    rows = rows_of(local)
    assert ["wrong_question_nats" in row for row in rows] == [True, True, False] * 5
    # With two examples, each one gets the question of the other.
    first, second, _ = validation_examples("A")
    mixed = first.model_copy(update={"question": second.question})
    tokenizer = load_tokenizer(tiny)
    model = load_model(tiny, "float32")
    batch = pad_batch([encode(tokenizer, mixed)], tokenizer.pad_token_id)
    with torch.inference_mode():
        loss = model(**batch).loss
    wrong = rows[0]["wrong_question_nats"]
    assert wrong / rows[0]["tokens"] == pytest.approx(float(loss), rel=1e-4)
    assert wrong != pytest.approx(rows[0]["nats"], rel=1e-4)
    figures = metrics_of(local)
    assert figures["A"]["question_worth_items"] == 2
    assert figures["pooled"]["question_worth_items"] == 10


def test_a_wrong_question_that_exceeds_the_context_is_refused(local: Path, tiny: Path) -> None:
    set_worth_items(local, 2)
    # A long question with a short answer, and a short question with a long answer.
    first, second = validation_examples("A", 2)
    asking_long = first.model_copy(update={"question": "Posso tomar água? " * 20})
    answering_long = second.model_copy(update={"answer": "Beba água. " * 20})
    write_rows(local / "data/clean/validation/A.jsonl", [asking_long, answering_long])
    tokenizer = load_tokenizer(tiny)
    longest = max(len(encode(tokenizer, each).input_ids) for each in (asking_long, answering_long))
    config = json.loads((local / "models/base/config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = longest
    (local / "models/base/config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=rf"the context has {longest}\. Lower preprocess\."):
        likelihood.main("base")
    assert not (local / "data/likelihood").exists()
    # The own questions fit.
    set_worth_items(local, 0)
    likelihood.main("base")


def test_no_wrong_question_is_scored_if_the_number_is_0(local: Path) -> None:
    set_worth_items(local, 0)
    likelihood.main("base")
    assert not any("wrong_question_nats" in row for row in rows_of(local))
    assert not any("worth" in key for key in metrics_of(local)["pooled"])
