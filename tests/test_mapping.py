"""Test how ingest maps joined, nested and listed columns, and names what it leaves out."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from bula.errors import UserError
from bula.records import Row
from stages.ingest import __main__ as ingest
from stages.ingest import sources
from stages.ingest.cells import find_cell, read_label, read_split
from stages.ingest.reading import Refused
from stages.ingest.survey import Survey, new_survey
from tests.conftest import write_jsonl
from tests.test_ingest import LIMITS, SETTINGS, source

BASE: Row = {"question": "q", "answer": "a", "specialty": "", "kind": ""}
Read = Callable[..., list[Row]]


@pytest.fixture
def survey() -> Survey:
    return new_survey()


@pytest.fixture
def read(tmp_path: Path, survey: Survey) -> Read:
    """Return a function that writes rows to a file and reads them with changed columns."""

    def write_and_read(rows: list[Row], suffix: str = ".jsonl", **columns: Any) -> list[Row]:
        file = tmp_path / f"rows{suffix}"
        match suffix:
            case ".jsonl":
                write_jsonl(file, rows)
            case ".json":
                file.write_text(json.dumps(rows), encoding="utf-8")
            case ".parquet":
                pandas.DataFrame(rows).to_parquet(file)
            case ".csv":
                pandas.DataFrame(rows).to_csv(file, index=False)
        mapping = columns if "messages" in columns else BASE | columns
        return list(sources.read_files(source(file, columns=mapping), LIMITS, survey))

    return write_and_read


def pairs(rows: list[Row]) -> list[tuple[Any, Any]]:
    """Return question and answer of each row."""
    return [(row["question"], row["answer"]) for row in rows]


# --- joined questions and contexts ---


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_the_parts_of_a_question_are_joined_and_empty_parts_left_out(
    suffix: str, read: Read
) -> None:
    rows = [
        {"instruction": "Responda.", "input": "Dói aqui?", "output": "Sim."},
        {"instruction": "O que é asma?", "input": "", "output": "Uma doença."},
        {"instruction": None, "input": "E gripe?", "output": "Outra."},
    ]
    found = read(rows, suffix, question=["instruction", "input"], answer="output")
    assert pairs(found) == [
        ("Responda.\nDói aqui?", "Sim."),
        ("O que é asma?", "Uma doença."),
        ("E gripe?", "Outra."),
    ]


def test_a_row_may_lack_a_part_but_not_all_parts_of_a_question(read: Read) -> None:
    rows = [{"p": "Dói?", "a": "Sim."}, {"q": "x", "a": "Sim."}, {"p": "E?", "r": "y", "a": "Não."}]
    first, second, third = read(rows, question=["p", "r"])
    assert first["question"] == "Dói?"
    assert second["refused"] == "no column p, r"
    assert third["question"] == "E?\ny"


def test_a_part_of_the_question_that_no_row_has_is_an_error(read: Read) -> None:
    with pytest.raises(UserError, match="no row has a column r"):
        read([{"p": "Dói?", "a": "Sim."}], question=["p", "r"])


def test_a_context_is_put_before_its_question(read: Read) -> None:
    rows = [{"q": "Quem?", "a": "Ele.", "c": "Ele veio."}, {"q": "Onde?", "a": "Ali.", "c": ""}]
    found = read(rows, context="c")
    assert [row["question"] for row in found] == [
        "Contexto: Ele veio.\n\nPergunta: Quem?",
        "Onde?",
    ]


# --- nested fields and lists of answers ---


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_name_with_dots_reads_a_nested_field(suffix: str, read: Read) -> None:
    rows = [{"data": {"pergunta": "Dói?", "r": {"texto": "Sim."}}}] * 2
    found = read(rows, suffix, question="data.pergunta", answer="data.r.texto")
    assert pairs(found) == [("Dói?", "Sim.")] * 2


def test_a_column_whose_own_name_has_dots_comes_first() -> None:
    assert find_cell({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert find_cell({"a": {"b": 2}}, "a.b") == 2


def test_a_filter_reads_a_nested_field(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"q": "1", "a": "1", "m": {"l": x}} for x in ("pt", "en")])
    mine = source(file, columns=BASE, filter={"m.l": ["en"]})
    [row] = sources.read_files(mine, LIMITS, new_survey())
    assert row["line"] == 2


SQUAD = {"q": "Qual?", "a": {"text": ["um", "dois", "um"], "answer_start": [1, 2, 1]}}


@pytest.mark.parametrize("cell", [["um", "dois", "um"], SQUAD["a"]])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_first_answer_is_read_and_the_others_are_counted(
    suffix: str, cell: object, read: Read, survey: Survey
) -> None:
    found = read([{"q": "Qual?", "a": cell}, {"q": "Onde?", "a": cell}], suffix)
    assert pairs(found) == [("Qual?", "um"), ("Onde?", "um")]
    assert survey.counts["answers_left_out"] == 2
    assert "2 further answers were left out; `answers: each` makes each a row" in survey.notes()


def test_each_different_answer_becomes_a_row(read: Read, survey: Survey) -> None:
    found = read([SQUAD], answers="each")
    assert pairs(found) == [("Qual?", "um"), ("Qual?", "dois")]
    assert [row["line"] for row in found] == [1, 1]
    assert survey.counts["answers_left_out"] == 0


def test_an_empty_list_of_answers_is_a_missing_answer(read: Read) -> None:
    found = read([{"q": "Qual?", "a": []}, {"q": "Qual?", "a": {"text": []}}])
    assert pairs(found) == [("Qual?", None)] * 2


# --- messages ---

SHAREGPT = [
    {"from": "system", "value": "Responda."},
    {"from": "human", "value": "P1"},
    {"from": "gpt", "value": "R1"},
    {"from": "human", "value": "P2"},
    {"from": "gpt", "value": "R2"},
]
CHAT = {"messages": "conversations", "specialty": "", "kind": ""}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_sharegpt_conversations_are_read_as_messages(suffix: str, read: Read) -> None:
    [row] = read([{"conversations": SHAREGPT}], suffix, **CHAT)
    assert (row["question"], row["answer"]) == ("P2", "R2")
    assert row["history"] == [{"question": "P1", "answer": "R1"}]


def test_a_csv_cell_may_have_messages_as_json(read: Read) -> None:
    [row] = read([{"conversations": json.dumps(SHAREGPT[:3])}], ".csv", **CHAT)
    assert (row["question"], row["answer"]) == ("P1", "R1")


def test_turns_may_become_single_rows(read: Read) -> None:
    found = read(
        [{"conversations": SHAREGPT, "e": 7}], **(CHAT | {"specialty": "e"}), turns="apart"
    )
    assert pairs(found) == [("P1", "R1"), ("P2", "R2")]
    assert not any("history" in row for row in found)
    assert [row["specialty"] for row in found] == ["7", "7"]


def test_another_role_of_sharegpt_is_refused(read: Read) -> None:
    chat = [{"from": "human", "value": "P"}, {"from": "tool", "value": "R"}]
    first, _ = read([{"conversations": chat}, {"conversations": SHAREGPT}], **CHAT)
    assert "another role" in first["refused"]


# --- advice ---


@pytest.mark.parametrize(
    ("cell", "advice"),
    [
        (
            [{"role": "user", "content": "segredo"}],
            "a is a list of messages and not text; "
            "write columns: {messages: a, specialty: e, kind: ''}",
        ),
        (
            [{"from": "human", "value": "segredo"}],
            "write columns: {messages: a, specialty: e, kind: ''}",
        ),
        ({"texto": "segredo", "n": 1}, "a is an object and not text; write answer: a.texto"),
        ({"t": "segredo", "u": "x"}, "write answer: a.t (its texts are t, u)"),
        ([1, 2], "a is a list and not text"),
    ],
)
def test_a_list_or_object_is_refused_with_the_entry_to_write(
    cell: object, advice: str, read: Read
) -> None:
    rows = [{"q": "Dói?", "a": cell, "e": "x"}, {"q": "Dói muito?", "a": "Sim.", "e": "x"}]
    refused, _ = read(rows, specialty="e")
    assert advice in refused["refused"]
    assert "segredo" not in refused["refused"]


def test_a_column_inside_an_object_is_proposed(read: Read) -> None:
    with pytest.raises(UserError, match=r"no column q; an object of the row has it: write data\.q"):
        read([{"data": {"q": "Dói?"}, "a": "Sim."}])


# --- splits ---


@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("train", "train"),
        (" Treino ", "train"),
        ("validation", "dev"),
        ("val", "dev"),
        ("Validação", "dev"),
        ("test", "A"),
        ("B", "B"),
        ("e", "E"),
        ("", None),
        (None, None),
        ("nan", None),
    ],
)
def test_names_of_splits_have_a_table(value: object, split: str | None) -> None:
    assert read_split(value, "conjunto") == split


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("holdout", "'holdout'"),
        ("fold_1", "'fold_1'"),
        (3, "'3'"),
        ("Maria tem dor", "a text of 13 characters"),
        ("529.982.247-25", "a text of 14 characters"),
        ("ana@example.org", "a text of 15 characters"),
    ],
)
def test_an_unknown_split_is_refused_and_a_word_is_shown(value: object, shown: str) -> None:
    reason = f"conjunto is {shown} and not train, dev, validation, test or A to E"
    assert read_split(value, "conjunto") == Refused(reason, "")


def test_a_row_without_a_split_has_the_role_of_its_source(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"q": "1", "a": "1", "s": name} for name in ("test", "", "x")])
    mine = source(file, columns=BASE | {"split": "s"}, role="train")
    rows = list(sources.read_files(mine, LIMITS, new_survey()))
    assert [row.get("split") for row in rows] == ["A", "train", "train"]
    assert rows[2]["refused"].startswith("s is 'x'")


# --- labels and empty cells ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Cardiologia", "Cardiologia"),
        (225125, "225125"),
        (225125.0, "225125"),
        (1.5, "1.5"),
        (" NaN ", None),
        ("None", None),
        ("null", None),
        ("-", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_a_number_is_a_label_and_an_empty_text_is_none(value: object, text: str | None) -> None:
    counts: Counter[str] = Counter()
    assert read_label(value, "specialty", counts) == text
    assert not counts


@pytest.mark.parametrize("value", [True, ["Cardiologia"], {"a": 1}])
def test_a_label_that_is_no_text_is_counted_and_said(
    value: object, read: Read, survey: Survey
) -> None:
    [row] = read([{"q": "1", "a": "1", "e": value}], specialty="e")
    assert row["specialty"] is None
    assert survey.notes() == ["1 cells of `specialty` are no text and were left out"]


def test_texts_for_empty_cells_are_missing_questions_and_answers(read: Read) -> None:
    assert pairs(read([{"q": "nan", "a": "-"}])) == [(None, None)]


# --- unread columns ---


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_unread_columns_are_named(suffix: str, read: Read, survey: Survey) -> None:
    rows = [{"q": f"{n}?", "a": "Sim.", "id": n, "fonte": "x y z"} for n in range(3)]
    read(rows, suffix)
    assert survey.notes() == ["no key of `columns` reads these columns of the file: id, fonte"]


def test_columns_of_a_filter_and_of_nested_fields_are_read(tmp_path: Path, survey: Survey) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"d": {"q": "1"}, "a": "1", "l": "pt"}])
    mine = source(file, columns=BASE | {"question": "d.q"}, filter={"l": ["pt"]})
    list(sources.read_files(mine, LIMITS, survey))
    assert survey.notes() == []


def test_the_stage_writes_and_prints_unread_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"q": "1", "a": "1", "id\u202e": 7, "e": [1]}])
    mine = source(file, columns=BASE | {"specialty": "e"})
    figures = ingest.ingest_source(mine, tmp_path, SETTINGS)
    assert figures["unread_columns"] == "id\u202e"
    assert figures["specialty_not_text"] == 1
    printed = capsys.readouterr().err
    assert printed.count("ingest: mine: ") == 2
    assert "reads these columns of the file: id" in printed
    assert "\u202e" not in printed


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_equal_questions_with_an_unread_text_stop_the_source(suffix: str, read: Read) -> None:
    rows = [
        {"q": "Responda.", "a": "Sim.", "id": f"c{n}", "x": f"Dor no pé {n}?"} for n in range(3)
    ]
    wanted = (
        "its 3 rows have 1 different questions, and column x, which no key of `columns` reads, has "
        "3 texts"
    )
    with pytest.raises(UserError, match=wanted) as error:
        read(rows, suffix)
    assert "write columns: {question: [q, x], answer: a, specialty: '', kind: ''}" in str(
        error.value
    ).replace("Write", "write")


@pytest.mark.parametrize(("count", "stops"), [(40, True), (39, False)])
def test_a_few_instructions_for_many_rows_stop_the_source_too(
    count: int, stops: bool, read: Read
) -> None:
    rows = []
    for number in range(count):
        rows.append({"q": f"Tarefa {number % 2}.", "a": "Sim.", "x": f"Dor no pé {number}?"})
    if not stops:
        assert len(read(rows)) == count
        return
    with pytest.raises(UserError, match="its 40 rows have 2 different questions"):
        read(rows)


@pytest.mark.parametrize("unread", ["a comum a todas", "id-{n}"])
def test_equal_questions_without_another_text_are_read(unread: str, read: Read) -> None:
    rows = [{"q": "Dói?", "a": f"Sim {n}.", "x": unread.format(n=n)} for n in range(4)]
    assert len(read(rows)) == 4


def test_a_long_list_of_unread_columns_is_shortened(read: Read, survey: Survey) -> None:
    read([{"q": "1", "a": "1"} | {f"c{n:02}": 1 for n in range(30)}])
    [note] = survey.notes()
    assert note.endswith("c18, c19 and 10 more")
