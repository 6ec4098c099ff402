"""Test `bula why`: the refused row, the reason and the deciding row."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bula.__main__ import app
from bula.commands.why import longest_run, why
from bula.errors import UserError
from bula.records import Row, example_id
from tests.conftest import write_jsonl

KEPT = "00000000000000aa"
LOST = "00000000000000bb"
COPY = "00000000000000cc"
ITEM = "00000000000000dd"


def raw(line: int, question: str, answer: str, file: str = "file-001.csv", **more: object) -> Row:
    """Return a row as ingest writes it."""
    place = {"source": "clinic", "license": "other", "file": file, "line": line}
    return {"question": question, "answer": answer, **place, **more}


def refused(identity: str, line: int, reason: str, decider: Row | None = None) -> Row:
    """Return a quarantine record."""
    record = {"id": identity, "source": "clinic", "file": "file-001.csv", "line": line}
    record |= {"reason": reason, "excerpt": "xxxx"}
    return record | ({"decided_by": decider} if decider else {})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write raw rows, a benchmark and their quarantine, and enter the folder."""
    monkeypatch.chdir(tmp_path)
    rows = [
        raw(2, "Posso tomar café hoje?", "Ana Souza: não tome café antes do exame."),
        raw(3, "Posso tomar CAFE hoje, doutora?", "Sim, um pouco."),
        raw(4, "", "", refused="a field is open", excerpt="xx"),
        raw(5, "Dói muito?", "Sim.", history=[{"question": "Oi?", "answer": "Bom dia."}]),
    ]
    write_jsonl(tmp_path / "data/raw/clinic.jsonl", rows)
    items: list[Row] = [
        {"question": "Outra?"},
        {"question": "Qual?", "options": ["dói muito à noite", "b"]},
    ]
    write_jsonl(tmp_path / "data/benchmarks/exam.jsonl", items)
    kept = {"id": KEPT, "set": "A", "source": "clinic", "file": "file-001.csv", "line": 2}
    item = {"id": ITEM, "set": "exam", "file": "exam.jsonl", "line": 2}
    records = [
        refused(LOST, 3, f"near-duplicate question of {KEPT} in A (0.80)", kept),
        refused("0" * 16, 4, "unreadable: a field is open"),
        refused(COPY, 5, f"shares 2 words in a row with {ITEM} in exam", item),
    ]
    write_jsonl(tmp_path / "data/quarantine.jsonl", records)
    return tmp_path


def show(*arguments: str) -> str:
    """Return what the command prints."""
    result = CliRunner().invoke(app, ["why", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("place", [LOST, "file-001.csv:3"])
def test_both_rows_and_their_longest_run_are_shown_in_full(place: str, data: Path) -> None:
    assert show(place).splitlines() == [
        "These rows are shown as they came, with any personal data. Keep them on this machine.",
        "",
        f"refused: source clinic, file-001.csv:3, id {LOST}",
        f"reason: near-duplicate question of {KEPT} in A (0.80)",
        "  question: Posso tomar CAFE hoje, doutora?",
        "  answer: Sim, um pouco.",
        f"decided by: in A, source clinic, file-001.csv:2, id {KEPT}",
        "  question: Posso tomar café hoje?",
        "  answer: Ana Souza: não tome café antes do exame.",
        "longest run of words in both (4): posso tomar cafe hoje",
    ]


def test_the_id_of_a_deciding_row_shows_the_rows_that_it_removed(data: Path) -> None:
    assert show(KEPT) == show(LOST)


def test_a_benchmark_item_is_shown_with_the_run_that_it_shares(data: Path) -> None:
    lines = show(COPY).splitlines()
    assert "  question: Oi?" in lines
    assert f"decided by: in exam, benchmark, exam.jsonl:2, id {ITEM}" in lines
    assert "  options: ['dói muito à noite', 'b']" in lines
    assert lines[-1] == "longest run of words in both (2): dói muito"


def test_an_unreadable_row_has_no_words_in_data_raw(data: Path) -> None:
    lines = show("file-001.csv:4").splitlines()
    assert "  could not be read, so its words are only in the source's own file" in lines
    assert lines[-1] == "No other row decided."


def test_rows_at_one_place_are_told_apart_by_their_source(data: Path) -> None:
    with pytest.raises(UserError, match=r"of source other: no refused row has the id or place"):
        why("file-001.csv:3", source="other")
    assert show("file-001.csv:3", "--source", "clinic") == show("file-001.csv:3")


def test_of_several_rows_at_one_place_the_id_selects_one(data: Path) -> None:
    rows = [raw(4, "Primeira?", "Sim."), raw(4, "Segunda?", "Não.")]
    write_jsonl(data / "data/raw/clinic.jsonl", rows)
    identity = example_id("clinic", "Segunda?", "Não.")
    write_jsonl(data / "data/quarantine.jsonl", [refused(identity, 4, "answer is missing")])
    assert "  question: Segunda?" in show(identity)
    assert "Primeira?" not in show(identity)
    # Cleaning changed the text, so that the id selects no row as it came.
    write_jsonl(data / "data/quarantine.jsonl", [refused(LOST, 4, "answer is missing")])
    assert "  question: Primeira?\n  answer: Sim.\n  question: Segunda?" in show(LOST)


def test_an_empty_quarantine_says_that_no_row_was_refused(data: Path) -> None:
    write_jsonl(data / "data/quarantine.jsonl", [])
    with pytest.raises(UserError, match="it is empty, because no row was refused"):
        why("data/demo/train.jsonl:1")


def test_at_most_five_rows_are_shown(data: Path) -> None:
    rows = [raw(line, "Igual?", "Sim.") for line in range(1, 9)]
    write_jsonl(data / "data/raw/clinic.jsonl", rows)
    records = [refused(LOST, line, "answer is missing") for line in range(1, 9)]
    write_jsonl(data / "data/quarantine.jsonl", records)
    output = show(LOST)
    assert output.count("refused:") == 5
    assert output.endswith("3 more refused rows have this id, place or deciding row.\n")


def test_control_characters_do_not_reach_the_terminal(data: Path) -> None:
    write_jsonl(data / "data/raw/clinic.jsonl", [raw(4, "\x1b[2Jlimpa", "Sim.")])
    assert "  question: \N{REPLACEMENT CHARACTER}[2Jlimpa" in show("file-001.csv:4")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "file-009.csv:1",
            "data/quarantine.jsonl: no refused row has the id or place file-009.csv:1. "
            "Take an `id`, or `file`:`line`, from data/quarantine.jsonl.",
        ),
        ("f" * 16, f"no refused row has the id or place {'f' * 16}"),
    ],
)
def test_an_unknown_place_is_an_error_with_a_remedy(place: str, message: str, data: Path) -> None:
    with pytest.raises(UserError) as caught:
        why(place)
    assert message in str(caught.value)


def test_raw_rows_of_another_run_are_an_error(data: Path) -> None:
    write_jsonl(data / "data/raw/clinic.jsonl", [raw(4, "Outra?", "Sim.")])
    message = r"data/raw/clinic\.jsonl: it has no row file-001\.csv:[23], which .* names. Run `dvc"
    with pytest.raises(UserError, match=message):
        why(LOST)


def test_the_command_writes_nothing(data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    show(LOST)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_the_longest_run_ignores_case_and_accents() -> None:
    # The texts share "tomar", and then a run of three words.
    assert longest_run("Tomar à noite, sempre.", "A NOITE SEMPRE tomar") == "à noite sempre"
    assert longest_run("um", "dois") == ""
