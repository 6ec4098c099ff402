"""Test merged cells, formulas, delimiters in texts, nested questions and symbolic links."""

import io
import json
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from bula.errors import UserError
from bula.params import FilesSource
from bula.records import Row
from stages.ingest import excel_files, sources
from stages.ingest.excel_sheets import cell_place
from stages.ingest.json_forms import nested_rows
from stages.ingest.look import look_at
from stages.ingest.proposals import propose_columns, propose_filter
from stages.ingest.survey import new_survey
from stages.ingest.user_files import data_files
from tests.conftest import write_jsonl
from tests.test_ingest import LIMITS, questions, refusals
from tests.test_readers import CSV, PAIRS, TABLE, own_source, read  # noqa: F401
from tests.test_readers import Read as ReadRows

# --- Excel ---


def workbook(rows: list[list[Any]], *merged: str) -> bytes:
    """Return an Excel file with rows and merged cells."""
    book = Workbook()
    sheet = book.active
    for row in rows:
        sheet.append(row)
    for area in merged:
        sheet.merge_cells(area)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def unpack(content: bytes) -> dict[str, bytes]:
    """Return the files of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(files: dict[str, bytes]) -> bytes:
    """Return an archive of files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def read_counted(tmp_path: Path, name: str, content: bytes) -> tuple[list[Row], dict[str, int]]:
    """Return the rows of a file, and the counts of its survey."""
    file = tmp_path / name
    file.write_bytes(content)
    survey = new_survey()
    rows = list(sources.read_source(own_source(file), LIMITS, survey))
    return rows, dict(survey.counts)


def test_merged_cells_that_span_rows_have_their_value_in_each_row(tmp_path: Path) -> None:
    table = [TABLE[0], ["P1", "R2"], [None, "R3"], [None, "R4"], ["P5", "R5"]]
    rows, counts = read_counted(tmp_path, "p.xlsx", workbook(table, "A2:A4"))
    assert [(row["question"], row["answer"]) for row in rows] == [
        ("P1", "R2"),
        ("P1", "R3"),
        ("P1", "R4"),
        ("P5", "R5"),
    ]
    assert counts["merged_cells"] == 2


def test_a_header_and_a_row_of_two_merged_rows_are_read_once(tmp_path: Path) -> None:
    table = [TABLE[0], [None, None], ["P3", "R3"], [None, None], ["P5", "R5"]]
    content = workbook(table, "A1:A2", "B1:B2", "A3:A4", "B3:B4")
    rows, counts = read_counted(tmp_path, "p.xlsx", content)
    assert [row["question"] for row in rows] == ["P3", "P5"]
    assert "merged_cells" not in counts


def test_cells_that_are_merged_in_one_row_or_unread_count_nothing(tmp_path: Path) -> None:
    table = [[*TABLE[0], "nota"], ["P2", "R2", "n"], ["P3", "R3", None]]
    rows, counts = read_counted(tmp_path, "p.xlsx", workbook(table, "C2:C3", "D2:E2"))
    assert [row["question"] for row in rows] == ["P2", "P3"]
    assert "merged_cells" not in counts


def test_a_formula_without_a_stored_value_refuses_its_row(read: ReadRows) -> None:  # noqa: F811
    table = [[*TABLE[0], "nota"], ["P2", "R2", "=1+1"], ["P3", "=B2", "n"], ["P4", "R4", "n"]]
    rows = read("p.xlsx", workbook(table))
    assert questions(rows) == {2: "P2", 3: None, 4: "P4"}
    reason = "the formula in column resposta has no stored value; open the file in Excel or"
    assert refusals(rows) == {3: f"{reason} LibreOffice and save it again"}


@pytest.mark.parametrize(
    ("stored", "answer"),
    [('<c r="B2" t="str"><f>A2</f><v></v></c>', None), ('<c r="B2"><f>1</f><v>7</v></c>', 7)],
)
def test_a_stored_value_of_a_formula_is_read(
    stored: str,
    answer: Any,
    read: ReadRows,  # noqa: F811
) -> None:
    # openpyxl cannot store values of formulas, so the XML is changed here.
    files = unpack(workbook([TABLE[0], ["P2", "=A2"]]))
    [name] = [name for name in files if name.endswith("sheet1.xml")]
    before, _, rest = files[name].partition(b'<c r="B2"')
    _, _, after = rest.partition(b"</c>")
    files[name] = before + stored.encode() + after
    [row] = read("p.xlsx", pack(files))
    assert row["answer"] == answer


@pytest.mark.parametrize(
    ("name", "place"), [("A1", (1, 0)), ("$B$7", (7, 1)), ("AA10", (10, 26)), ("XFD2", (2, 16383))]
)
def test_the_place_of_a_cell_by_hand(name: str, place: tuple[int, int]) -> None:
    assert cell_place(name) == place


def read_with_little_memory(file: Path, most: int) -> str:
    """Return the error of reading a file with a limit of memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(excel_files, "memory_for_reading", lambda _: most)
        with pytest.raises(UserError) as error:
            list(sources.read_source(own_source(file), LIMITS, new_survey()))
    return str(error.value)


def test_a_file_whose_texts_take_too_much_memory_stops_the_source(tmp_path: Path) -> None:
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    part = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
    files = unpack(workbook(TABLE))
    types = files["[Content_Types].xml"].replace(b"</Types>", part.encode())
    files["[Content_Types].xml"] = types
    # Each empty text has 5 bytes in the file, and 20 times as many in memory.
    files["xl/sharedStrings.xml"] = f'<sst xmlns="{main}">{"<si/>" * 1_000_000}</sst>'.encode()
    file = tmp_path / "p.xlsx"
    file.write_bytes(pack(files))
    # A new process, because this one may have free memory of earlier tests.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        message = pool.submit(read_with_little_memory, file, 20_000_000).result()
    assert "takes more than 20000000 bytes of memory" in message


# --- CSV ---


def test_a_delimiter_before_a_space_belongs_to_the_text(tmp_path: Path) -> None:
    text = "sep=;\npergunta;resposta\nDor; febre?;Vá ao posto; beba água; descanse.\nTosse?;Sim\n"
    rows, counts = read_counted(tmp_path, "p.csv", text.encode())
    assert [(row["question"], row["answer"]) for row in rows] == [
        ("Dor; febre?", "Vá ao posto; beba água; descanse."),
        ("Tosse?", "Sim"),
    ]
    assert counts["delimiters_in_text"] == 1


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("pergunta;resposta", "a;b;c"),
        ("pergunta;resposta", "a; b; c"),
        ("pergunta;resposta", '"a; b";c; d;e'),
        ("pergunta; resposta", "a; b; c"),
    ],
)
def test_a_line_with_several_readings_is_refused(
    header: str,
    line: str,
    read: ReadRows,  # noqa: F811
) -> None:
    rows = read("p.csv", f"{header}\n{line}\nTosse?;Sim\n")
    assert list(refusals(rows)) == [2]


# --- nested questions and messages ---

ARTICLES = [
    {
        "title": "Dengue",
        "paragraphs": [
            {
                "context": "O mosquito transmite a dengue.",
                "qas": [
                    {"id": "1", "question": "Quem?", "answers": [{"text": "O mosquito"}]},
                    {"id": "2", "question": "Onde?", "answers": [], "is_impossible": True},
                ],
            },
            {"context": "A febre dura dias.", "qas": [{"id": "3", "question": "Quanto?"}]},
        ],
    }
]


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_questions_of_squad_are_proposed_and_read(wrapped: bool, tmp_path: Path) -> None:
    value: Any = {"version": "2.0", "data": ARTICLES} if wrapped else ARTICLES
    file = tmp_path / "p.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    look = look_at(file, LIMITS)
    assert look.options.rows == ("data.paragraphs.qas" if wrapped else "paragraphs.qas")
    columns, notes = propose_columns(look.columns, look.rows)
    assert columns == {
        "question": "question",
        "answer": "answers",
        "context": "context",
        "specialty": "",
        "kind": "",
    }
    assert notes == []
    assert propose_filter(look.rows) == {"is_impossible": ["False"]}
    source = own_source(file, columns=columns, rows=look.options.rows)
    first = next(iter(sources.read_source(source, LIMITS)))
    assert first["question"] == "Contexto: O mosquito transmite a dengue.\n\nPergunta: Quem?"
    assert first["answer"] == "O mosquito"


def test_nested_rows_have_the_fields_above_them() -> None:
    rows = nested_rows(json.dumps(ARTICLES), "paragraphs.qas")
    assert rows is not None
    assert rows[-1] == {
        "title": "Dengue",
        "context": "A febre dura dias.",
        "id": "3",
        "question": "Quanto?",
    }
    assert nested_rows('{"data": [{"a": 1}]}', "data") is None
    assert nested_rows('{"data": {"rows": [{"a": 1}]}}', "data.rows") is None


def test_messages_of_prompt_and_completion_are_proposed_and_joined(tmp_path: Path) -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "Posso tomar sol?"},
            {"role": "assistant", "content": "Pode."},
            {"role": "user", "content": "E à tarde?"},
        ],
        "completion": [{"role": "assistant", "content": "Depois das quatro."}],
    }
    file = tmp_path / "p.jsonl"
    write_jsonl(file, [row])
    columns, _ = propose_columns(list(row), [row])
    assert columns == {"messages": ["prompt", "completion"], "specialty": "", "kind": ""}
    [read_row] = sources.read_source(own_source(file, columns=columns), LIMITS)
    assert (read_row["question"], read_row["answer"]) == ("E à tarde?", "Depois das quatro.")
    assert read_row["history"] == [{"question": "Posso tomar sol?", "answer": "Pode."}]


# --- symbolic links ---


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of a source with one file, in a new repository."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/sources/clinic")
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text(CSV, encoding="utf-8")
    Path("outside.csv").write_text(CSV, encoding="utf-8")
    return folder


def clinic(path: Path) -> FilesSource:
    """Return a source of files at a path."""
    return own_source(path)


def test_a_link_that_leaves_the_sources_is_refused_by_name(folder: Path) -> None:
    link = folder / "b.csv"
    link.symlink_to(Path("outside.csv").resolve())
    with pytest.raises(UserError, match=r"b\.csv: it is a symbolic link that leaves"):
        data_files(clinic(folder))
    with pytest.raises(UserError, match=r"b\.csv: it is a symbolic link that leaves"):
        data_files(clinic(link))


def test_links_to_folders_and_to_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    link = folder / "more"
    link.symlink_to(tmp_path)
    with pytest.raises(UserError, match="a symbolic link to a folder, which is not followed"):
        data_files(clinic(folder))
    link.unlink()
    (folder / "c.csv").symlink_to("missing.csv")
    with pytest.raises(UserError, match="a symbolic link to a file that does not exist"):
        data_files(clinic(folder))


def test_links_inside_the_sources_and_into_the_cache_of_dvc_are_read(folder: Path) -> None:
    cached = Path(".dvc/cache/files/md5/ab") / ("c" * 30)
    cached.parent.mkdir(parents=True)
    cached.write_text(CSV, encoding="utf-8")
    (folder / "b.csv").symlink_to("a.csv")
    (folder / "c.csv").symlink_to(cached.resolve())
    (folder / "notes.txt").symlink_to(Path("outside.csv").resolve())
    assert list(data_files(clinic(folder))) == ["file-001.csv", "file-002.csv", "file-003.csv"]
    assert len(list(sources.read_source(clinic(folder), LIMITS))) == 3 * len(PAIRS)
