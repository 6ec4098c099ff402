"""Test the entries that `bula look` proposes, and the files for which it proposes none."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bula.errors import UserError
from bula.params import FilesSource
from stages.ingest.advice import flow
from stages.ingest.look import look_at, look_at_folder, place_in_sources
from stages.ingest.proposals import propose_columns, source_entry, to_yaml
from stages.ingest.sources import read_source
from stages.ingest.survey import new_survey
from tests.conftest import write_jsonl
from tests.test_ingest import LIMITS
from tests.test_look import CHAT
from tests.test_readers import LINES, PAIRS, QUESTIONS, found, own_source

ROW = {"pergunta": "O que é febre?", "resposta": "É a subida da temperatura."}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"id": 1, "messages": json.dumps(CHAT)}, {"messages": "messages"}),
        ({"data": {"chat": CHAT}}, {"messages": "data.chat"}),
        ({"id": 1, "d": ROW}, {"question": "d.pergunta", "answer": "d.resposta"}),
        (
            {**ROW, "d": {"pergunta": "outra", "area": "x"}},
            {"question": "pergunta", "answer": "resposta", "specialty": "d.area"},
        ),
        (
            {"question": "a", "answers": {"text": ["b"], "answer_start": [0]}},
            {"question": "question", "answer": "answers"},
        ),
    ],
)
def test_nested_columns_and_conversations_as_text_are_proposed(
    row: dict[str, Any], columns: dict[str, str]
) -> None:
    proposed, notes = propose_columns(list(row), [row])
    assert proposed == {"specialty": "", "kind": "", **columns}
    assert notes == []


def test_a_known_question_stays_if_only_the_answer_has_no_usual_name() -> None:
    row = {"prompt": "a", "chosen": "a longer text", "rejected": "b"}
    proposed, notes = propose_columns(list(row), [row])
    assert (proposed["question"], proposed["answer"]) == ("prompt", "chosen")
    assert notes == ["no column has a usual name for the answer; the longest other one is proposed"]


def test_columns_named_by_a_letter_are_question_and_answer() -> None:
    row = {"q": "Uma pergunta bem mais longa que a resposta?", "a": "Sim."}
    proposed, notes = propose_columns(list(row), [row])
    assert (proposed["question"], proposed["answer"], notes) == ("q", "a", [])


def test_a_single_conversation_is_a_row_and_no_list_of_rows(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"chat": CHAT}), encoding="utf-8")
    look = look_at(file, LIMITS)
    assert (look.options.rows, look.columns) == ("", ["chat"])


def test_values_that_are_no_splits_are_not_proposed_as_a_split() -> None:
    row = {**ROW, "split": "fold1"}
    proposed, notes = propose_columns(list(row), [row])
    assert "split" not in proposed
    assert notes == ["the values of the column split are no splits, so it is not proposed"]


@pytest.mark.parametrize("name", ["Qual é a sua dúvida?", "a, b", "[x]", "{y}", "é: z", "- w", "%"])
def test_names_with_signs_are_quoted_for_yaml(name: str) -> None:
    columns: dict[str, Any] = {"question": name, "answer": "b", "specialty": "", "kind": ""}
    [loaded] = YAML(typ="safe").load(to_yaml(source_entry("data/sources/p", columns, "utf-8", {})))
    assert FilesSource.model_validate(loaded).columns.model_dump()["question"] == name
    assert YAML(typ="safe").load(flow(columns)) == columns
    assert YAML(typ="safe").load(flow({"question": [name, "b"]})) == {"question": [name, "b"]}


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"a": {"b": {"items": PAIRS}}}, "a.b.items"),
        ({"dados.2024": PAIRS}, "dados.2024"),
        ({"minhas perguntas": PAIRS}, "minhas perguntas"),
    ],
)
def test_a_proposed_key_of_rows_is_valid_and_reads_all_rows(
    tmp_path: Path, content: dict[str, Any], keys: str
) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert look_at(file, LIMITS).options.rows == keys
    rows = read_source(own_source(file, rows=keys), LIMITS, new_survey())
    assert found(list(rows)) == QUESTIONS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "Ana Lima,tem dor\nRui Sá,tem febre\n", r"masked: 'xxx xxxx, xxx xxx'"),
        ("p.csv", "Tem dor há 3 dias.,Tome água.\na,b\n", "look like a row of data"),
        ("p.csv", "Ana Lima tem dor?,A\nRui Sá tem febre?,B\n", "look like a row of data"),
        ("p.json", '{"Ana Lima": {"q": "a"}, "Rui Sá": {"q": "b"}}', "Name two keys of each row"),
        ("p.jsonl", '{"sha256": "9e", "rater": "A1"}', "no key of its rows has a usual name"),
        ("p.jsonl", '{"id": "e-1", "question": "Dói?"}', "no column with answers. Add the answers"),
        ("p.json", '{"q": {"0": "a"}, "r": {"0": "b"}}', "one object with objects or lists"),
        ("p.json", '{"q": ["a", "b"], "r": ["c", "d"]}', "one object with objects or lists"),
        ("p.csv", "texto\numa linha\n", "it has one column"),
        ("p.zip", "PK", "Unpack it"),
    ],
)
def test_no_entry_is_proposed_without_names_of_two_columns(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        look_at(tmp_path / name, LIMITS)
    assert "Ana" not in str(caught.value)


def test_a_file_without_rows_does_not_end_the_look_at_its_folder(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", PAIRS)
    (tmp_path / "b.jsonl").write_text("", encoding="utf-8")
    look, pattern, notes = look_at_folder(tmp_path, LIMITS)
    assert (len(look.rows), pattern) == (len(LINES), "")
    assert any("b.jsonl: it has no row that can be read" in note for note in notes)
    (tmp_path / "a.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no file can be read"):
        look_at_folder(tmp_path, LIMITS)


def test_a_saved_data_set_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/data-00000-of-00001.arrow").write_bytes(b"x")
    (tmp_path / "train/state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="Write the data set with to_parquet or to_json"):
        look_at_folder(tmp_path, LIMITS)


def test_a_path_that_params_refuses_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    place, notes = place_in_sources(Path("data/sources/ficha #1.csv"))
    assert place == "data/sources/ficha #1.csv"
    assert [note.partition(":")[0] for note in notes] == ["rename it"]
    assert place_in_sources(Path("data/sources/ficha 1.csv"))[1] == []
