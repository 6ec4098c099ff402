"""Test how items of validation sets and benchmarks are found in train."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.clones import ROOT
from bula.params import Params
from bula.records import Row, example_id, read_rows
from stages.preprocess import benchmarks
from tests.conftest import write_jsonl
from tests.test_preprocess import (
    ANSWER,
    OTHER,
    QUESTION,
    Result,
    deduplicate_rows,
    row,
    settings,
)

MULTIPLE_CHOICE: Row = {
    "id": "q1",
    "question": QUESTION,
    "opa": "Banho frio",
    "opb": "Água",
    "opc": "água!",
    "opd": "Álcool",
    "cop": 1,
}
COMPLETION: Row = {
    "doc_id": "l1",
    "title": "Febre",
    "context": ANSWER,
    "question": "Quando procurar?",
    "text": ANSWER + " Procure se a febre",
    "value": "durar",
}
REORDERED = (
    "Desde ontem minha filha de dois anos está com febre alta, posso dar banho frio para baixar?"
)
ITEMS: dict[str, list[Row]] = {"mcq": [MULTIPLE_CHOICE], "leaf": [COMPLETION]}


def contaminated_rows() -> list[Row]:
    """Return four rows, two of which contain an item.

    The first quotes the completion, and the second asks the question of the item of multiple choice
    in another order of words.
    """
    quoted = quote(COMPLETION["text"])
    return [row(answer=quoted), row(REORDERED, OTHER), row(), row(split="A")]


def quote(text: str) -> str:
    """Return a longer answer that contains a text."""
    return f"Pode ser outra coisa. {text} Converse com quem atende você."


def with_policy(policy: str) -> Params:
    """Return the parameters with a policy for contaminated rows."""
    contamination = settings().preprocess.contamination
    return settings(contamination=contamination.model_copy(update={"policy": policy}))


@pytest.fixture(scope="module")
def removed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Return the result for contaminated rows under the policy remove."""
    folder = tmp_path_factory.mktemp("removed")
    return deduplicate_rows(contaminated_rows(), tiny, folder, items=ITEMS)


def test_a_training_row_that_contains_a_benchmark_item_leaves(removed: Result) -> None:
    assert len(removed.kept["train"]) == 1
    reasons = sorted(refused["reason"] for refused in removed.refused)
    assert len(reasons) == 2
    assert reasons[0].startswith("contains the text of ")
    assert reasons[1].startswith("near-duplicate question of ")


def test_the_matrix_counts_how_each_item_was_found(removed: Result) -> None:
    assert removed.matrix["mcq"] == {
        "items": 1,
        "train_rows": 1,
        "train_rows_left": 0,
        "items_shared_run": 0,
        "items_near_duplicate": 1,
        "train_rows_shared_run": 0,
        "train_rows_near_duplicate": 1,
    }
    assert removed.matrix["leaf"] == {
        "items": 1,
        "train_rows": 1,
        "train_rows_left": 0,
        "items_shared_run": 1,
        "items_near_duplicate": 0,
        "train_rows_shared_run": 1,
        "train_rows_near_duplicate": 0,
    }
    assert removed.matrix["A"]["items"] == 1
    assert removed.matrix["A"]["train_rows"] == 0


def test_the_policy_keep_keeps_contaminated_rows_and_counts_them(
    tiny: Path, tmp_path: Path
) -> None:
    kept = deduplicate_rows(contaminated_rows(), tiny, tmp_path, with_policy("keep"), ITEMS)
    assert len(kept.kept["train"]) == 3
    assert kept.matrix["mcq"]["train_rows_left"] == 1
    assert kept.matrix["leaf"]["train_rows_left"] == 1


DAMAGE: dict[str, Callable[[str], str]] = {
    "soft hyphens": lambda text: text.replace("a", "a\u00ad"),
    "entities": lambda text: text.replace("o", "&#111;"),
    "tags": lambda text: text.replace("e", "<b>e</b>"),
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "mojibake": lambda text: text.encode().decode("latin-1"),
    "personal data": lambda text: text.replace("febre", "febre CPF 529.982.247-25"),
}


def damaged_items(damage: str) -> dict[str, list[Row]]:
    """Return one item of multiple choice and one completion, both damaged."""
    hurt = DAMAGE[damage]
    choices = {"text": ["Banho", "Soro"]}
    return {
        "mcq": [{"question": hurt(QUESTION), "choices": choices}],
        "leaf": [{"question": "Quando procurar?", "text": hurt(ANSWER)}],
    }


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_benchmark_item_finds_its_clean_copy_in_train(
    damage: str, tiny: Path, tmp_path: Path
) -> None:
    question = QUESTION
    answer = ANSWER
    if damage == "personal data":
        question = DAMAGE[damage](question)
        answer = DAMAGE[damage](answer)
    rows = [row(question), row(answer=quote(answer)), row()]
    result = deduplicate_rows(rows, tiny, tmp_path, items=damaged_items(damage))
    assert len(result.kept["train"]) == 1
    assert result.matrix["mcq"]["train_rows_near_duplicate"] == 1
    assert result.matrix["leaf"]["train_rows_shared_run"] == 1


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_id_of_a_damaged_item_is_the_id_of_its_original_text(
    damage: str, tmp_path: Path
) -> None:
    items = damaged_items(damage)["mcq"]
    write_jsonl(tmp_path / "mcq.jsonl", items)
    expected = example_id("mcq", items[0]["question"], "Banho Soro")
    assert benchmarks.benchmark_rows(tmp_path / "mcq.jsonl")[0]["example"]["id"] == expected


@pytest.mark.parametrize("policy", ["remove", "keep"])
def test_many_items_with_one_question_do_not_hide_a_validation_question(
    policy: str, tiny: Path, tmp_path: Path
) -> None:
    items = [MULTIPLE_CHOICE | {"id": str(n), "opa": str(n)} for n in range(20)]
    rows = [row(QUESTION, split="train") for _ in range(10)]
    rows += [row(QUESTION, ANSWER, "A"), row()]
    result = deduplicate_rows(rows, tiny, tmp_path, with_policy(policy), {"mcq": items})
    # Questions of validation are never trained on, also if the policy keeps those of benchmarks.
    assert len(result.kept["train"]) == 1
    assert result.matrix["mcq"]["items_near_duplicate"] == 20
    assert result.matrix["A"]["train_rows_near_duplicate"] == 10


@pytest.mark.parametrize(
    ("item", "texts"),
    [
        (MULTIPLE_CHOICE, (QUESTION, "Banho frio Água água! Álcool")),
        (
            {
                "question": "Qual é?",
                "options": {"A": "um texto", "B": "outro"},
                "answers": {"text": ["um texto"]},
            },
            ("Qual é?", "um texto outro um texto"),
        ),
        # The context is part of the text, so it is not repeated.
        (COMPLETION, ("Quando procurar?", COMPLETION["text"])),
        # The names of slice and license are no text of the item.
        (
            {
                "id": "dose-01",
                "slice": "dose",
                "question": "Quanto?",
                "right": "Uma gota.",
                "wrong": "Um frasco.",
                "license": "cc-by-4.0",
            },
            ("Quanto?", "Uma gota. Um frasco."),
        ),
    ],
    ids=["options in fields", "options in a mapping", "context inside the text", "contrast pair"],
)
def test_the_texts_of_an_item_are_read_in_every_form(item: Row, texts: tuple[str, str]) -> None:
    assert benchmarks.item_texts(item) == texts


def test_items_with_equal_options_are_found(tmp_path: Path) -> None:
    different = MULTIPLE_CHOICE | {"opc": "Soro"}
    nested: Row = {"question": "q", "choices": {"text": ["a", "A"]}}
    equal = {"question": "q", "right": "Pode.", "wrong": "pode"}
    unequal = {"question": "q", "right": "Pode.", "wrong": "Não pode."}
    write_jsonl(tmp_path / "mcq.jsonl", [MULTIPLE_CHOICE, different, nested, equal, unequal])
    assert benchmarks.duplicate_options(tmp_path / "mcq.jsonl") == [1, 3, 4]


@pytest.fixture(scope="module")
def real_items() -> Path:
    """Return the file of real MedQA items, or skip the test."""
    real = ROOT.parent / "shared/real/medqa-us4-test"
    if not real.exists():
        pytest.skip("the real items are not on this machine")
    return next(real.glob("*.jsonl"))


def test_real_benchmark_items_are_read(real_items: Path) -> None:
    examples = [r["example"] for r in benchmarks.benchmark_rows(real_items)]
    assert len(examples) == 1273
    assert min(len(example["question"]) for example in examples) > 20
    assert all(example["answer"] for example in examples)
    # Item 263 has four different options of arrows.
    assert benchmarks.duplicate_options(real_items) == []


def test_a_real_benchmark_item_is_found_in_train(
    real_items: Path, tiny: Path, tmp_path: Path
) -> None:
    items = list(read_rows(real_items))
    question = items[700]["question"]
    excerpt = " ".join(question.split()[5:25])
    rows = [row(answer=quote(question)), row(answer=quote(excerpt)), row(split="A")]
    result = deduplicate_rows(
        rows, tiny, tmp_path, settings(languages=["pt", "en"]), {"medqa": items}
    )
    counts = dict(result.matrix["medqa"])
    del counts["items"]
    assert counts == {
        "items_near_duplicate": 0,
        "items_shared_run": 1,
        "train_rows": 1,
        "train_rows_left": 0,
        "train_rows_near_duplicate": 0,
        "train_rows_shared_run": 1,
    }
