"""Test the forms of files, their encodings, and messages about headers."""

import bz2
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from backports import zstd
from openpyxl import Workbook
from pyarrow import parquet
from pydantic import ValidationError

from bula.errors import UserError
from bula.params import FilesSource
from bula.records import Row
from stages.ingest import sources
from stages.ingest.encodings import propose_encoding, wrong_share
from tests.conftest import write_jsonl
from tests.test_ingest import LIMITS, questions, refusals, source

COLUMNS = {"question": "pergunta", "answer": "resposta", "specialty": "", "kind": ""}
PAIRS = [
    {"pergunta": "O que é febre?", "resposta": "É a subida da temperatura do corpo."},
    {"pergunta": "A pressão sobe à noite?", "resposta": "Não, em geral ela cai durante o sono."},
    {"pergunta": "Posso tomar sol?", "resposta": "Sim, com proteção e fora do meio-dia."},
]
QUESTIONS = [pair["pergunta"] for pair in PAIRS]
LINES = [json.dumps(pair, ensure_ascii=False) for pair in PAIRS]
CSV = "pergunta;resposta\n" + "".join(f"{p['pergunta']};{p['resposta']}\n" for p in PAIRS)

Read = Callable[..., list[Row]]


def own_source(path: Path, **changes: Any) -> FilesSource:
    """Return a source of files with the columns of these tests."""
    return source(path, **{"columns": COLUMNS, **changes})


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that writes and reads a source of one file."""

    def write_and_read(name: str, content: str | bytes, **changes: Any) -> list[Row]:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        limits = changes.pop("limits", LIMITS)
        return list(sources.read_source(own_source(file, **changes), limits))

    return write_and_read


def found(rows: list[Row]) -> list[str | None]:
    """Return the question of each row."""
    return [row.get("question") for row in rows]


# Forms of JSON


def test_json_lines_in_a_file_named_json_are_read_without_refusals(read: Read) -> None:
    rows = read("p.json", "\n".join(LINES))
    assert questions(rows) == dict(enumerate(QUESTIONS, start=1))


def test_an_array_in_a_file_named_jsonl_is_read(read: Read) -> None:
    rows = read("p.jsonl", json.dumps(PAIRS, indent=1))
    assert found(rows) == QUESTIONS


def test_objects_that_follow_each_other_without_commas_are_read(read: Read) -> None:
    text = "\n".join(json.dumps(pair, indent=1) for pair in PAIRS)
    assert found(read("p.json", text)) == QUESTIONS


def test_an_array_without_its_bracket_is_still_reported(read: Read) -> None:
    rows = read("p.json", ",\n".join(LINES) + "\n]")
    assert found(rows)[1:] == QUESTIONS
    assert refusals(rows) == {1: "a JSON array is expected"}


def test_rows_of_an_array_on_one_line_are_numbered(read: Read) -> None:
    text = "[" + ", ".join([LINES[0], '{"pergunta": "Sem resposta"}', LINES[1]]) + "]"
    rows = read("p.json", text)
    assert questions(rows) == {1: QUESTIONS[0], 2: None, 3: QUESTIONS[1]}


def test_rows_below_a_key_are_read(read: Read) -> None:
    text = json.dumps({"version": [{"a": 1}], "data": {"items": PAIRS}, "end": 1}, indent=1)
    assert found(read("p.json", text, rows="data.items")) == QUESTIONS


def test_damage_below_a_key_loses_only_the_damaged_row(read: Read) -> None:
    text = '{"data": [\n' + ",\n".join([LINES[0], '{"pergunta": "cortad', LINES[2]]) + "\n]}"
    assert found(read("p.json", text, rows="data")) == [QUESTIONS[0], None, QUESTIONS[2]]


def test_a_cut_array_below_a_key_is_reported(read: Read) -> None:
    rows = read("p.json", '{"data": [\n' + ",\n".join(LINES), rows="data")
    assert list(refusals(rows).values()) == ["the array is never closed"]


@pytest.mark.parametrize("indent", [None, 1])
def test_rows_below_a_key_are_proposed(read: Read, indent: int | None) -> None:
    what = r"its rows are a list below the key data\. Add `rows: data` to source mine"
    with pytest.raises(UserError, match=what):
        read("p.json", json.dumps({"data": PAIRS}, indent=indent))


def test_a_missing_key_is_reported_with_the_keys(read: Read) -> None:
    what = "no list of rows below the key dados; the keys are version, data"
    with pytest.raises(UserError, match=what):
        read("p.json", json.dumps({"version": 1, "data": PAIRS}), rows="dados")


# Excel


def excel(rows: list[list[Any]], title: str = "Dados") -> bytes:
    """Return an Excel file with one sheet of rows after an empty sheet."""
    book = Workbook()
    sheet = book.create_sheet(title)
    for row in rows:
        sheet.append(row)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


TABLE: list[list[Any]] = [
    ["pergunta", "resposta"],
    *([p["pergunta"], p["resposta"]] for p in PAIRS),
]


def test_a_sheet_is_read_with_the_row_numbers_of_excel(read: Read) -> None:
    rows = read("p.xlsx", excel([[], *TABLE[:2], [], *TABLE[2:]]), sheet="Dados")
    assert questions(rows) == {3: QUESTIONS[0], 5: QUESTIONS[1], 6: QUESTIONS[2]}


def test_without_a_sheet_the_first_one_is_read_and_the_others_are_named(
    read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no row could be used"):
        read("p.xlsx", excel(TABLE))
    note = "reads the first sheet; `sheet` chooses another one of Sheet, Dados"
    assert note in capsys.readouterr().err


def test_an_unknown_sheet_is_reported_with_the_sheets(read: Read) -> None:
    with pytest.raises(UserError, match="no sheet dados; the sheets are Sheet, Dados"):
        read("p.xlsx", excel(TABLE), sheet="dados")


def test_whole_numbers_of_excel_have_no_point(read: Read) -> None:
    columns = {**COLUMNS, "specialty": "cbo"}
    table = [["cbo", *TABLE[0]], [225125.0, *TABLE[1]]]
    [row] = read("p.xlsx", excel(table), sheet="Dados", columns=columns)
    assert str(row["specialty"]) == "225125"


def test_a_cell_in_the_last_row_of_excel_takes_no_memory(read: Read) -> None:
    book = Workbook()
    sheet = book.active
    for row in TABLE:
        sheet.append(row)
    sheet["XFD200000"] = "x"
    content = io.BytesIO()
    book.save(content)
    assert found(read("p.xlsx", content.getvalue()))[:3] == QUESTIONS


@pytest.mark.parametrize("size", [0, 100, 4000])
def test_a_damaged_excel_file_stops_the_source(read: Read, size: int) -> None:
    with pytest.raises(UserError, match=r"file-001\.xlsx: the file cannot be read: not Excel"):
        read("p.xlsx", excel(TABLE)[:size])


def test_an_excel_file_that_unpacks_to_too_much_stops_the_source(read: Read) -> None:
    limits = LIMITS.model_copy(update={"unpacked_bytes": 1000})
    with pytest.raises(UserError, match="it unpacks to more than 1000 bytes"):
        read("p.xlsx", excel(TABLE), limits=limits)


# Compression

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zstd.compress,
}


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_compressed_text_is_read(read: Read, name: str, suffix: str) -> None:
    text = {"csv": CSV, "jsonl": "\n".join(LINES), "json": json.dumps(PAIRS)}[suffix]
    compress = COMPRESSORS[name]
    # A file may consist of several compressed parts.
    half = len(text) // 2
    content = compress(text[:half].encode()) + compress(text[half:].encode())
    rows = read(f"p.{suffix}.{name}", content)
    assert found(rows) == QUESTIONS
    assert rows[0]["file"] == f"file-001.{suffix}.{name}"


@pytest.mark.parametrize("name", COMPRESSORS)
def test_damaged_compression_stops_the_source(read: Read, name: str) -> None:
    content = COMPRESSORS[name](("\n".join(LINES) * 50).encode())
    what = rf"file-001\.jsonl\.{name}: the file cannot be read: its compression is damaged"
    with pytest.raises(UserError, match=what):
        read(f"p.jsonl.{name}", content[:-10])
    with pytest.raises(UserError, match=what):
        read(f"p.jsonl.{name}", b"no compression at all")


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_file_that_unpacks_to_too_much_stops_the_source(read: Read, name: str) -> None:
    limits = LIMITS.model_copy(update={"unpacked_bytes": 100_000})
    content = COMPRESSORS[name](b" " * 200_000)
    with pytest.raises(UserError, match="it unpacks to more than 100000 bytes"):
        read(f"p.jsonl.{name}", content, limits=limits)


# Folders


def test_side_files_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "train.jsonl", PAIRS)
    for name in ("dataset_info.json", "joana.json", "README.md"):
        (tmp_path / name).write_text('{"features": {}}', encoding="utf-8")
    rows = list(sources.read_source(own_source(tmp_path), LIMITS))
    assert found(rows) == QUESTIONS
    assert rows[0]["file"] == "file-003.jsonl"
    printed = capsys.readouterr().err
    assert "left out file-001.json (dataset_info.json), which has no rows" in printed
    assert "left out file-002.json, which has no rows" in printed
    assert "joana" not in printed


def test_a_row_in_a_file_of_its_own_is_no_side_file(tmp_path: Path) -> None:
    for number, pair in enumerate(PAIRS):
        (tmp_path / f"{number}.json").write_text(json.dumps(pair, indent=1), encoding="utf-8")
    assert found(list(sources.read_source(own_source(tmp_path), LIMITS))) == QUESTIONS


def test_a_pattern_narrows_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "2023/train.jsonl", PAIRS[:1])
    write_jsonl(tmp_path / "2024/train.jsonl", PAIRS[1:])
    narrowed = own_source(tmp_path, pattern="2024/*.jsonl")
    assert found(list(sources.read_source(narrowed, LIMITS))) == QUESTIONS[1:]
    assert "left out 1 files that do not match 2024/*.jsonl" in capsys.readouterr().err


def test_a_pattern_without_files_is_reported(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", PAIRS)
    with pytest.raises(UserError, match=r"no file there matches the pattern \*\.csv"):
        list(sources.read_source(own_source(tmp_path, pattern="*.csv"), LIMITS))


def test_a_single_file_of_an_unknown_form_is_reported(read: Read) -> None:
    with pytest.raises(UserError, match=r"only \.jsonl, .* can be read\. Convert it, .* to \.csv"):
        read("p.xls", b"x")


# Parquet


def test_text_that_parquet_stores_as_bytes_is_decoded(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    answers = [PAIRS[0]["resposta"].encode(), b"N\xe3o sei dizer."]
    table = pyarrow.table({"pergunta": QUESTIONS[:2], "resposta": answers})
    parquet.write_table(table, file)
    rows = list(sources.read_source(own_source(file), LIMITS))
    assert rows[0]["answer"] == PAIRS[0]["resposta"]
    assert refusals(rows) == {2: "row cannot be read (UnicodeDecodeError)"}


# CSV


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n"])
def test_excels_line_with_the_separator_is_skipped(read: Read, first: str) -> None:
    rows = read("p.csv", first + CSV)
    assert questions(rows) == dict(enumerate(QUESTIONS, start=3))


def test_a_name_with_a_line_feed_is_read(read: Read) -> None:
    text = CSV.replace("pergunta;", '"pergunta\n(paciente)";')
    columns = {**COLUMNS, "question": "pergunta\n(paciente)"}
    assert questions(read("p.csv", text, columns=columns)) == dict(enumerate(QUESTIONS, start=3))


def test_a_delimiter_without_quotes_is_explained(read: Read) -> None:
    rows = read("p.csv", CSV + "a;b;c\n")
    reason = "3 fields instead of 2; a field with a delimiter in it must be in quotes"
    assert refusals(rows) == {5: reason}


# Headers


def test_surrounding_spaces_of_a_name_are_ignored(read: Read) -> None:
    assert found(read("p.csv", CSV.replace("pergunta;", " pergunta ;"))) == QUESTIONS
    spaced = [{"pergunta ": p["pergunta"], "resposta": p["resposta"]} for p in PAIRS]
    assert found(read("p.json", json.dumps(spaced))) == QUESTIONS
    assert found(read("p.xlsx", excel([["pergunta", " resposta"], *TABLE[1:]]), sheet="Dados"))


def test_an_exact_name_is_preferred_to_one_with_spaces(read: Read) -> None:
    text = "pergunta ,pergunta,resposta\na,b,c\n"
    assert found(read("p.csv", text)) == ["b"]


@pytest.mark.parametrize(
    ("names", "shown", "proposed"),
    [
        ("Pergunta ; RESPOSTA", '"Pergunta ", " RESPOSTA"', '"Pergunta " for pergunta'),
        ('"per\ngunta";resposta', r'"per\\ngunta", "resposta"', r'"per\\ngunta" for pergunta'),
        ("'pergunta';resposta", '"\'pergunta\'", "resposta"', "\"'pergunta'\" for pergunta"),
        ("perguntas;resposta", '"perguntas", "resposta"', '"perguntas" for pergunta'),
    ],
)
def test_a_header_that_nearly_matches_is_shown_with_a_proposal(
    read: Read, names: str, shown: str, proposed: str
) -> None:
    with pytest.raises(UserError) as caught:
        read("p.csv", CSV.replace("pergunta;resposta", names))
    message = str(caught.value).replace("\\", "\\\\")
    assert f"the header is {shown}" in message
    assert f"write {proposed}" in message


@pytest.mark.parametrize(
    "line",
    [
        "Tenho dor no peito há dois dias, o que faço?;Procure o pronto-socorro.",
        "Maria Souza;12/03/1980",
        "ana@example.org;sim",
    ],
)
def test_a_first_line_with_data_is_masked(read: Read, line: str) -> None:
    with pytest.raises(UserError) as caught:
        read("p.csv", f"{line}\na;b\n")
    assert "masked, because it looks like a row of data" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("peito", "Souza", "1980", "ana"))


def test_a_name_of_a_person_in_a_header_is_masked(read: Read) -> None:
    with pytest.raises(UserError) as caught:
        read("p.csv", "Maria Souza;idade\na;b\n")
    assert 'the header is "xxxxx xxxxx", "idade"' in str(caught.value)


def test_a_json_key_that_nearly_matches_is_proposed(read: Read) -> None:
    rows = [{"Pergunta": "a", "resposta": "b"}]
    what = 'file-001.json:1: no column pergunta; write "Pergunta" for pergunta'
    with pytest.raises(UserError, match=what):
        read("p.json", json.dumps(rows))


def test_parquet_and_excel_show_their_names(read: Read, tmp_path: Path) -> None:
    what = 'no column pergunta; the header is "Pergunta", "resposta"'
    table = [["Pergunta", "resposta"], *TABLE[1:]]
    with pytest.raises(UserError, match=what):
        read("p.xlsx", excel(table), sheet="Dados")
    parquet.write_table(
        pyarrow.table({"Pergunta": ["a"], "resposta": ["b"]}), tmp_path / "p.parquet"
    )
    with pytest.raises(UserError, match=what):
        list(sources.read_source(own_source(tmp_path / "p.parquet"), LIMITS))


# Encodings


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "cp850", "cp858", "cp860", "mac-roman"]
)
@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_a_stated_encoding_is_read(read: Read, encoding: str, suffix: str) -> None:
    text = {"csv": CSV, "jsonl": "\n".join(LINES), "json": json.dumps(PAIRS, ensure_ascii=False)}
    rows = read(f"p.{suffix}", text[suffix].encode(encoding), encoding=encoding)
    assert found(rows) == QUESTIONS


@pytest.mark.parametrize(
    ("stated", "actual"),
    [
        ("latin-1", "cp850"),
        ("cp1252", "cp850"),
        ("latin-1", "mac-roman"),
        ("latin-1", "utf-8"),
        ("cp850", "cp1252"),
        ("utf-16", "utf-8"),
    ],
)
def test_another_encoding_is_refused_with_a_proposal(read: Read, stated: str, actual: str) -> None:
    with pytest.raises(UserError, match=f"write `encoding: {actual}` for source mine"):
        read("p.csv", CSV.encode(actual), encoding=stated)


def test_rows_that_do_not_decode_name_the_probable_encoding(read: Read) -> None:
    rows = read(
        "p.jsonl", "\n".join([*LINES, '{"pergunta": "a", "resposta": "b"}']).encode("cp850")
    )
    reason = r"not utf-8 (byte 21 of the line); it looks like `encoding: cp850`"
    assert refusals(rows)[1] == reason
    assert rows[-1]["question"] == "a"


def test_a_utf_16_file_that_is_read_as_utf_8_names_its_encoding(read: Read) -> None:
    with pytest.raises(UserError, match="the file is UTF-16; write `encoding: utf-16`"):
        read("p.csv", CSV.encode("utf-16"))


def test_a_missing_byte_of_utf_16_stops_the_source(read: Read) -> None:
    content = CSV.encode("utf-16-le")
    with pytest.raises(UserError, match="a byte is missing, so it is no utf-16-le"):
        read("p.csv", content[:61] + content[62:], encoding="utf-16-le")


def test_latin_1_without_accents_is_read(read: Read) -> None:
    assert found(read("p.csv", "pergunta;resposta\na;b\n", encoding="latin-1")) == ["a"]


def test_the_share_of_characters_out_of_place_is_counted() -> None:
    # ã and ç are Portuguese, Æ is not, and ¢ stands within a word.
    assert wrong_share("não faça Æ a¢b") == 0.5
    assert wrong_share("plain") == 0.0


def test_random_bytes_have_no_encoding() -> None:
    assert propose_encoding(bytes(range(128, 256)) * 4) == ""


# Parameters


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoding", "utf-7"),
        ("pattern", "/etc/*"),
        ("pattern", "../*.csv"),
        ("rows", "data..items"),
        ("rows", "a\n"),
        ("sheet", "a\x1b"),
    ],
)
def test_a_malformed_key_of_a_source_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValidationError):
        own_source(Path("p"), **{key: value})
