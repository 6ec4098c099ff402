"""Test rows and files that once ended a reader, or showed more than a shape."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bula.errors import UserError
from stages.ingest import sources
from tests.test_ingest import LIMITS, refusals, source
from tests.test_readers import QUESTIONS, TABLE, Read, excel, found, read

__all__ = ["read"]

HALF = "\\ud83d"
NOT_UTF_8 = "contains half a surrogate pair or bytes of another encoding"


@pytest.mark.parametrize(
    ("good", "columns"),
    [
        ({"d": {"q": "a", "r": "x"}}, {"question": "d.q", "answer": "d.r"}),
        ({"q": "a", "r": ["x", "y"]}, {"question": "q", "answer": "r"}),
        ({"q": "a", "r": {"text": ["x"]}}, {"question": "q", "answer": "r"}),
    ],
)
def test_half_a_surrogate_pair_below_the_top_refuses_its_row_only(
    tmp_path: Path, good: dict[str, Any], columns: dict[str, str]
) -> None:
    text = json.dumps(good)
    file = tmp_path / "p.jsonl"
    file.write_text(f"{text}\n{text.replace('x', HALF)}\n", encoding="utf-8")
    mine = source(file, columns={**columns, "specialty": "", "kind": ""})
    rows = list(sources.read_source(mine, LIMITS))
    assert found(rows) == ["a", None]
    assert refusals(rows) == {2: NOT_UTF_8}


def test_a_context_that_is_an_object_gets_advice_for_the_context(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"q": "a", "r": "b", "c": {"texto": "d"}}\n', encoding="utf-8")
    columns = {"question": "q", "answer": "r", "context": "c", "specialty": "", "kind": ""}
    with pytest.raises(UserError, match=r"write context: c\.texto"):
        list(sources.read_source(source(file, columns=columns), LIMITS))


def test_a_directory_that_moves_all_members_refuses_the_file(read: Read) -> None:
    content = bytearray(excel(TABLE))
    # The end record states the place of the directory, 6 bytes before its end.
    place = slice(len(content) - 6, len(content) - 2)
    moved = int.from_bytes(content[place], "little") + 5000
    content[place] = moved.to_bytes(4, "little")
    with pytest.raises(UserError, match="not Excel"):
        read("p.xlsx", bytes(content), sheet="Dados")


def renumbered(number: int) -> bytes:
    """Return an Excel file whose last row states another number."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(excel(TABLE))) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, part.replace(b'<row r="4"', f'<row r="{number}"'.encode()))
    return content.getvalue()


def test_a_row_number_beyond_excels_last_row_ends_the_source(read: Read) -> None:
    assert found(read("p.xlsx", renumbered(1000), sheet="Dados")) == QUESTIONS
    with pytest.raises(UserError, match="a row has a number above 1048576"):
        read("p.xlsx", renumbered(10**12), sheet="Dados")


def test_lines_that_end_with_a_carriage_return_alone_are_explained(read: Read) -> None:
    with pytest.raises(UserError, match="end with a carriage return alone"):
        read("p.csv", "pergunta,resposta\ra,b\rc,d\r")
    assert found(read("p.csv", "pergunta,resposta\r\na,b\r\n")) == ["a"]


def test_a_title_above_the_names_of_a_sheet_is_explained(read: Read) -> None:
    with pytest.raises(UserError, match=r"xlsx:1: .* a single cell, .* Delete the rows above"):
        read("p.xlsx", excel([["Perguntas de 2024"], [], *TABLE]), sheet="Dados")


@pytest.mark.parametrize("stated", ["latin-1", "iso-8859-15"])
def test_a_dash_of_windows_is_no_control_character_of_latin_1(read: Read, stated: str) -> None:
    good = "Há dose à noite?;São dez mg até três vezes ao dia.\n"
    text = f"pergunta;resposta\n{good}" + good.replace("dez", "10–20") * 2
    rows = read("p.csv", text.encode("cp1252"), encoding=stated)
    # Only the rows with a dash are refused, because one damaged byte must cost no other row.
    reason = "contains a control character; it looks like `encoding: cp1252`"
    assert [row.get("refused") for row in rows] == [None, reason, reason]
    [_, row, _] = read("p.csv", text.encode("cp1252"), encoding="cp1252")
    assert "10–20 mg" in row["answer"]


def test_a_control_character_in_an_array_costs_its_object_alone(read: Read) -> None:
    rows = [{"pergunta": f"Há dose {word}?", "resposta": "São dez mg."} for word in "à–á"]
    content = json.dumps(rows, ensure_ascii=False).encode("cp1252")
    found = read("p.json", content, encoding="latin-1")
    assert ["refused" in row for row in found] == [False, True, False]
