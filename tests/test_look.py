"""Test the command `bula look`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pandas
import pytest
from ruamel.yaml import YAML

from bula.commands import look as look_command
from bula.errors import UserError
from bula.params import FilesSource
from stages.ingest.look import look_at
from stages.ingest.proposals import propose_columns, source_entry, to_yaml
from tests.conftest import run, write_jsonl
from tests.test_ingest import LIMITS
from tests.test_readers import CSV, PAIRS, TABLE, excel

HEADING = "entry for ingest.sources in params.yaml"


@pytest.fixture
def looked(workspace: Path) -> Any:
    """Return a function that writes a file and runs the command on it."""

    def write_and_look(name: str, content: bytes) -> "subprocess.CompletedProcess[str]":
        file = workspace / "data/sources" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return run(["python", "-m", "bula", "look", f"data/sources/{name}"], workspace)

    return write_and_look


def entry_of(output: str) -> dict[str, Any]:
    """Return the entry that the command printed."""
    _, _, text = output.partition(HEADING)
    [entry] = YAML(typ="safe").load(text.partition("\n")[2])
    return dict(entry)


def test_the_command_describes_a_file_and_shows_no_word_of_it(looked: Any) -> None:
    done = looked("p.csv", CSV.encode("cp850"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        "form: CSV (semicolon)",
        "compression: none",
        "encoding: cp850",
        "columns: pergunta, resposta",
        "rows: 3 read",
    ]
    assert "  pergunta: x xxx x xxxxx?" in lines
    assert "febre" not in done.stdout
    entry = FilesSource.model_validate(entry_of(done.stdout))
    assert (entry.path, entry.encoding) == ("data/sources/p.csv", "cp850")
    assert entry.columns.model_dump()["question"] == "pergunta"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.pdf", b"%PDF", "only .jsonl"),
        ("p.xlsx", b"PK", "the file cannot be read: not Excel"),
        ("p.jsonl", b"", "it has no row that can be read; it is empty"),
    ],
)
def test_a_file_that_cannot_be_read_ends_with_one_sentence(
    looked: Any, name: str, content: bytes, message: str
) -> None:
    done = looked(name, content)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_is_refused() -> None:
    with pytest.raises(UserError, match=r"https://example\.org/a\.csv: it is an address"):
        look_command.look("https://example.org/a.csv")


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("p.json", json.dumps(PAIRS).encode(), "JSON array"),
        ("p.json", "\n".join(map(json.dumps, PAIRS)).encode(), "JSON Lines"),
        ("p.json", json.dumps({"data": PAIRS}).encode(), "JSON, with the rows below a key"),
        ("p.xlsx", excel(TABLE), "Excel"),
        ("p.csv", ("sep=;\n" + CSV).encode(), "CSV (semicolon)"),
        ("p.tsv", CSV.replace(";", "\t").encode("utf-16"), "CSV (tab)"),
    ],
)
def test_the_form_of_a_file_is_found(tmp_path: Path, name: str, content: bytes, form: str) -> None:
    (tmp_path / name).write_bytes(content)
    look = look_at(tmp_path / name, LIMITS)
    assert look.form == form
    assert look.columns == ["pergunta", "resposta"]
    assert len(look.rows) == 3
    assert look.options.rows == ("data" if "below" in form else "")
    # The first sheet is empty.
    assert look.options.sheet == ("Dados" if form == "Excel" else "")


def test_a_parquet_file_is_described(tmp_path: Path) -> None:
    pandas.DataFrame(PAIRS).to_parquet(tmp_path / "p.parquet")
    look = look_at(tmp_path / "p.parquet", LIMITS)
    assert (look.form, look.columns, len(look.rows)) == ("Parquet", ["pergunta", "resposta"], 3)


def test_a_folder_with_two_forms_gets_a_pattern(workspace: Path) -> None:
    folder = workspace / "data/sources/d"
    write_jsonl(folder / "a.jsonl", PAIRS)
    write_jsonl(folder / "b.jsonl", PAIRS)
    (folder / "c.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    (folder / "state.json").write_text("{}", encoding="utf-8")
    done = run(["python", "-m", "bula", "look", "data/sources/d"], workspace)
    assert done.returncode == 0, done.stderr
    assert "left out file-004.json (state.json)" in done.stderr
    assert "files: 3, of which 3 were opened" in done.stdout
    entry = FilesSource.model_validate(entry_of(done.stdout))
    assert (entry.path, entry.pattern) == ("data/sources/d", "*.jsonl")


CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHARE_GPT = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"messages": CHAT}, {"messages": "messages"}),
        ({"id": 1, "conversations": SHARE_GPT}, {"messages": "conversations"}),
        ({"chat": SHARE_GPT}, {"messages": "chat"}),
        (
            {"instruction": "a", "input": "b", "output": "c"},
            {"question": ["instruction", "input"], "answer": "output"},
        ),
        (
            {"instruction": "a", "input": "", "output": "c"},
            {"question": "instruction", "answer": "output"},
        ),
        (
            {"Pergunta ": "a", "Contexto": "b", "answer": "c", "split": "train"},
            {"question": "Pergunta ", "answer": "answer", "context": "Contexto", "split": "split"},
        ),
    ],
)
def test_columns_are_proposed_by_name_and_form(row: dict[str, Any], columns: Any) -> None:
    proposed, notes = propose_columns(list(row), [row])
    assert proposed == {"specialty": "", "kind": "", **columns}
    assert notes == []
    [entry] = YAML(typ="safe").load(to_yaml(source_entry("data/sources/p", proposed, "utf-8", {})))
    assert FilesSource.model_validate(entry).role == "split"


def test_columns_without_usual_names_are_chosen_by_length_and_marked() -> None:
    row = {"x": "uma palavra", "y": "um texto bem mais longo", "z": "3"}
    proposed, notes = propose_columns(list(row), [row])
    assert (proposed["question"], proposed["answer"]) == ("x", "y")
    assert notes == ["no column has a usual name; question and answer are chosen by their length"]


@pytest.mark.parametrize("name", ["pergunta", "Pergunta ", "per\ngunta", "a: b #c", "não"])
def test_the_entry_passes_the_validation_of_params(name: str) -> None:
    columns: dict[str, Any] = {"question": name, "answer": "b", "specialty": "", "kind": ""}
    entry = source_entry("data/sources/p.csv", columns, "cp850", {"sheet": "A", "rows": ""})
    [loaded] = YAML(typ="safe").load(to_yaml(entry))
    parsed = FilesSource.model_validate(loaded)
    assert parsed.columns.model_dump()["question"] == name
    assert (parsed.sheet, parsed.rows) == ("A", None)
