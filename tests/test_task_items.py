"""Test how ingest maps public data sets, and the tasks that read the mapped items."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import (
    ChoiceColumns,
    HubTask,
    LocalTask,
    StatementColumns,
    UrlTask,
    load_params,
)
from bula.records import Row, read_rows
from stages.benchmark.tasks import find_tasks, load_task, task_facts
from stages.ingest import sources
from stages.ingest.sources import read_task
from stages.preprocess.benchmarks import benchmark_rows, duplicate_options
from tests.conftest import write_jsonl

# Real items of two data sets, which lie beside some checkouts.
REAL = ROOT.parent / "shared/real"
LIMITS = load_params(ROOT / "profiles/smollm2-135m.yaml").ingest.limits
LETTERED = {
    "question": "enunciado",
    "options": ["a", "b", "c"],
    "answer": "gabarito",
    "answer_is": "letter",
    "annulled": ["Anulada"],
    "slice": "",
    "group": "",
}
# A row of our own in the form of a data set with one column per option.
EXAM = {"enunciado": "Qual é o dia?", "a": "Ontem", "b": "Hoje", "c": "Amanhã", "gabarito": "b"}
# A row of our own in the form of HealthBench-BR.
PROTOCOL = {
    "arquivo": "x.pdf",
    "titulo": "Protocolo da gripe",
    "perguntas": ["É verdadeira ou falsa? Há febre.", "É verdadeira ou falsa? Não há febre."],
}
SUITE = ["bula_healthqa_br", "bula_revalida", "bula_enamed", "bula_pcdt_qa"]
FORGETTING = {"bula_general_pt": "Pergunta", "bula_general_en": "Question"}


def task_of(path: Path, columns: dict[str, Any], name: str = "bula_revalida") -> LocalTask:
    """Return a benchmark over a file, which may lie outside the repository."""
    kind = StatementColumns if "statements" in columns else ChoiceColumns
    mapped = kind.model_validate(columns)
    return LocalTask.model_construct(
        kind="files", name=name, path=str(path), license="mit", columns=mapped
    )


def items_of(folder: Path, rows: list[Row], **columns: Any) -> list[Row]:
    """Return the items that ingest makes of rows."""
    path = folder / "items.jsonl"
    write_jsonl(path, rows)
    return list(read_task(task_of(path, LETTERED | columns), LIMITS))


def test_columns_of_a_data_set_become_question_options_and_target(tmp_path: Path) -> None:
    [item] = items_of(tmp_path, [EXAM])
    assert len(item.pop("id")) == 16
    options = ["Ontem", "Hoje", "Amanhã"]
    assert item == {"question": "Qual é o dia?", "options": options, "target": 1}


def test_repeated_questions_have_ids_of_their_own(tmp_path: Path) -> None:
    other = EXAM | {"gabarito": "a"}
    ids = [item["id"] for item in items_of(tmp_path, [EXAM, other, EXAM, EXAM])]
    assert ids == [ids[0], ids[1], f"{ids[0]}-2", f"{ids[0]}-3"]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("form", "answer"),
    [("letter", "B"), ("letter", " b "), ("index", 1), ("number", "2"), ("text", "Hoje")],
)
def test_the_four_forms_of_an_answer(form: str, answer: Any, tmp_path: Path) -> None:
    [item] = items_of(tmp_path, [EXAM | {"gabarito": answer}], answer_is=form)
    assert item["target"] == 1


@pytest.mark.parametrize(
    "cell", [["Ontem", "Hoje", "Amanhã"], {"A": "Ontem", "B": "Hoje", "C": "Amanhã", "D": None}]
)
def test_one_column_may_contain_all_options(cell: Any, tmp_path: Path) -> None:
    [item] = items_of(tmp_path, [EXAM | {"a": cell}], options=["a"])
    assert item["options"] == ["Ontem", "Hoje", "Amanhã"]
    assert item["target"] == 1


def test_letters_of_an_object_are_its_keys(tmp_path: Path) -> None:
    cell = {"B": "Hoje", "A": "Ontem"}
    [item] = items_of(tmp_path, [EXAM | {"a": cell}], options=["a"])
    assert item["options"][item["target"]] == "Hoje"


def test_empty_options_at_the_end_are_left_out(tmp_path: Path) -> None:
    [item] = items_of(tmp_path, [EXAM | {"c": ""}])
    assert item["options"] == ["Ontem", "Hoje"]


def test_annulled_questions_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = items_of(tmp_path, [EXAM, EXAM | {"gabarito": "Anulada"}])
    assert len(found) == 1
    assert "benchmark bula_revalida: 1 annulled questions are left out" in capsys.readouterr().err


def test_an_item_may_name_its_slice(tmp_path: Path) -> None:
    [item] = items_of(tmp_path, [EXAM | {"area": "pediatria"}], slice="area")
    assert item["slice"] == "pediatria"


def test_an_item_may_name_its_group(tmp_path: Path) -> None:
    cases: list[Any] = [7, "", None]
    rows = [{**EXAM, "caso": case} for case in cases]
    first, second, third = items_of(tmp_path, rows, group="caso")
    assert first["group"] == "7"
    assert "group" not in second
    assert "group" not in third
    with pytest.raises(UserError, match="it has no column caso"):
        items_of(tmp_path, [EXAM], group="caso")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gabarito": "D"}, "its answer names no option, or more than one"),
        ({"gabarito": None}, "its answer names no option"),
        ({"a": "", "b": ""}, "an option is not a text"),
        ({"b": "", "c": ""}, "it has 1 options"),
        ({"enunciado": " "}, "enunciado is not a text"),
    ],
)
def test_a_damaged_item_is_refused_with_its_line_and_without_its_words(
    change: Row, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"benchmark bula_revalida: item 2: {message}") as error:
        items_of(tmp_path, [EXAM, EXAM | change])
    assert "Ontem" not in str(error.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    row = {name: value for name, value in EXAM.items() if name != "gabarito"}
    with pytest.raises(UserError, match="item 1: it has no column gabarito"):
        items_of(tmp_path, [row])


def test_statements_are_true_and_false_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    path.write_text(f"[{json_text(PROTOCOL)}, {json_text(PROTOCOL)}]", encoding="utf-8")
    items = list(read_task(task_of(path, {"statements": "perguntas"}), LIMITS))
    assert [item["target"] for item in items] == [0, 1, 0, 1]
    assert {tuple(item["options"]) for item in items} == {("verdadeira", "falsa")}
    assert [item["question"] for item in items[:2]] == PROTOCOL["perguntas"]
    # The statements of one row are about one text.
    groups = [item["group"] for item in items]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert len({item["id"] for item in items}) == 4


def json_text(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False)


def test_an_odd_number_of_statements_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [PROTOCOL | {"perguntas": ["Há febre."]}])
    with pytest.raises(UserError, match="its statements are not a list of pairs"):
        list(read_task(task_of(path, {"statements": "perguntas"}), LIMITS))


def test_a_file_behind_an_address_is_checked_and_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def download(url: str, sha256: str, path: Path, limits: Any) -> None:
        asked.append((url, sha256))
        path.write_text(f"[{json_text(PROTOCOL)}]", encoding="utf-8")

    monkeypatch.setattr(sources, "download", download)
    fields = {"kind": "url", "name": "bula_healthbench_br", "license": "mit"}
    fields |= {"url": "https://example.org/a.json", "sha256": "0" * 64}
    task = UrlTask.model_validate(fields | {"columns": {"statements": "perguntas"}})
    assert len(list(read_task(task, LIMITS))) == 2
    assert asked == [("https://example.org/a.json", "0" * 64)]


def test_without_columns_the_items_keep_their_form(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [EXAM])
    task = task_of(path, LETTERED).model_copy(update={"columns": None})
    assert list(read_task(task, LIMITS)) == [EXAM]


@pytest.mark.parametrize("revision", [None, "main", "a" * 39])
def test_a_data_set_of_the_hub_needs_the_commit(revision: str | None) -> None:
    fields = {"kind": "hub", "name": "bula_healthqa_br", "id": "Larxel/healthqa-br"}
    fields |= {"subset": "default", "split": "test", "license": "mit"}
    HubTask.model_validate(fields | {"revision": "a" * 40})
    pin = {} if revision is None else {"revision": revision}
    with pytest.raises(ValidationError, match="revision"):
        HubTask.model_validate(fields | pin)


@pytest.mark.skipif(not REAL.exists(), reason="the real items are not in this repository")
def test_the_items_of_healthbench_br_are_read() -> None:
    path = REAL / "healthbench-br/benchmark_perguntas_unificado.json"
    items = list(read_task(task_of(path, {"statements": "perguntas"}), LIMITS))
    # 100 guidelines with 10 statements each.
    assert [item["target"] for item in items] == [0, 1] * 500
    assert len({item["group"] for item in items}) == 100
    assert len({item["id"] for item in items}) == 1000


@pytest.mark.skipif(not REAL.exists(), reason="the real items are not in this repository")
def test_the_items_of_medqa_are_read() -> None:
    path = REAL / "medqa-us4-test/phrases_no_exclude_test.jsonl"
    changes = {"question": "question", "options": ["options"], "answer": "answer_idx"}
    items = list(read_task(task_of(path, LETTERED | changes), LIMITS))
    rows = list(read_rows(path))
    assert len(items) == 1273
    for item, row in zip(items, rows, strict=True):
        assert item["options"][item["target"]] == row["answer"].strip()


# --- the tasks ---


def load(name: str, items: str, rows: list[Row], folder: Path) -> Any:
    """Return a task of the suite over rows."""
    write_jsonl(folder / f"data/benchmarks/{items}.jsonl", rows)
    manager = find_tasks(ROOT / "tasks", [name])
    return load_task(name, manager, folder / "cache")


@pytest.mark.parametrize("name", SUITE)
def test_the_suite_asks_for_a_letter_and_for_an_option(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = items_of(tmp_path, [EXAM, EXAM | {"c": ""}])
    task = load(name, name, rows, tmp_path)
    first, second = task.eval_docs
    assert task.doc_to_text(first) == (
        "Pergunta: Qual é o dia?\nA. Ontem\nB. Hoje\nC. Amanhã\nResposta:"
    )
    assert task.doc_to_choice(first) == ["A", "B", "C"]
    assert task.doc_to_choice(second) == ["A", "B"]
    assert task.doc_to_target(first) == 1
    cloze = load(f"{name}_cloze", name, rows, tmp_path)
    assert cloze.doc_to_text(first) == "Pergunta: Qual é o dia?\nResposta:"
    assert cloze.doc_to_choice(second) == ["Ontem", "Hoje"]
    assert task_facts({name: task})[f"{name}_pinned"] == 1


def test_statements_are_answered_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [PROTOCOL])
    rows = list(read_task(task_of(path, {"statements": "perguntas"}), LIMITS))
    task = load("bula_healthbench_br", "bula_healthbench_br", rows, tmp_path)
    _, false = task.eval_docs
    assert task.doc_to_text(false) == "É verdadeira ou falsa? Não há febre.\nResposta:"
    assert task.doc_to_choice(false)[task.doc_to_target(false)] == "falsa"


@pytest.mark.parametrize(("name", "prompt"), FORGETTING.items())
def test_tasks_of_forgetting_ask_in_their_own_language(
    name: str, prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = load(name, name, items_of(tmp_path, [EXAM]), tmp_path)
    [item] = task.eval_docs
    assert task.doc_to_text(item).startswith(f"{prompt}: Qual é o dia?\n")
    assert task.doc_to_choice(item)[task.doc_to_target(item)] == "Hoje"


def test_preprocess_compares_train_with_question_and_options(tmp_path: Path) -> None:
    path = tmp_path / "bula_revalida.jsonl"
    twice = EXAM | {"c": "hoje"}
    write_jsonl(path, items_of(tmp_path, [EXAM, twice]))
    [first, _] = benchmark_rows(path)
    assert first["example"]["question"] == "Qual é o dia?"
    assert first["example"]["answer"] == "Ontem Hoje Amanhã"
    assert duplicate_options(path) == [2]
