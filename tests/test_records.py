import errno
import json
import os
import subprocess
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bula import files
from bula.errors import UserError
from bula.files import sha256_file, staged
from bula.records import (
    SET_NAMES,
    Example,
    Row,
    example_id,
    read_examples,
    read_rows,
    read_validation_sets,
    write_rows,
)
from tests.conftest import run

GOOD: Row = {
    "id": "0123456789abcdef",
    "source": "demo",
    "license": "cc-by-4.0",
    "split": "train",
    "question": "Posso tomar dipirona?",
    "answer": "Pode, na dose da bula.",
}


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


# Example


def test_example_keeps_its_fields_and_leaves_the_optional_ones_empty() -> None:
    example = Example.model_validate(GOOD)
    assert example.model_dump() == {**GOOD, "specialty": None, "kind": None}
    assert Example.model_validate({**GOOD, "specialty": "clínica", "kind": "dose"}).kind == "dose"


@pytest.mark.parametrize("split", ["train", "dev", "A", "B", "C", "D", "E"])
def test_example_knows_the_seven_splits(split: str) -> None:
    assert Example.model_validate({**GOOD, "split": split}).split == split


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "0123456789abcde"),
        ("id", "0123456789abcdeff"),
        ("id", "0123456789ABCDEF"),
        ("id", "0123456789abcdef\n"),
        ("split", "F"),
        ("split", "test"),
        ("split", "train "),
        ("source", ""),
        ("license", ""),
        ("question", ""),
        ("answer", ""),
        ("answer", 7),
        ("answer", b"bytes"),
        ("question", None),
        ("specialty", 3),
    ],
)
def test_example_refuses_a_bad_value_and_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Example.model_validate({**GOOD, field: value})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize("field", sorted(GOOD))
def test_example_refuses_a_missing_field(field: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        Example.model_validate({name: value for name, value in GOOD.items() if name != field})


def test_example_ignores_columns_that_are_not_its_own_and_never_changes() -> None:
    example = Example.model_validate({**GOOD, "line": 4, "cpf": "segredo"})
    assert set(example.model_dump()) == {*GOOD, "specialty", "kind"}
    with pytest.raises(ValidationError, match="frozen"):
        example.answer = "outra"


def test_example_id_is_the_start_of_sha256_over_the_three_texts() -> None:
    # printf 'demo\037p\037r' | sha256sum
    assert example_id("demo", "p", "r") == "ce4352d5c9aa3ae5"
    # Where one text ends and the next begins matters.
    assert (
        len({example_id("ab", "c", "d"), example_id("a", "bc", "d"), example_id("a", "b", "cd")})
        == 3
    )


# Reading


def test_read_rows_gives_the_objects_in_file_order(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes('{"b": "não", "a": 1}\r\n{"a": [1, {"c": null}]}'.encode())
    assert list(read_rows(file)) == [{"b": "não", "a": 1}, {"a": [1, {"c": None}]}]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"a": "n\xe3o"}', "not UTF-8 (byte 9 of the line)"),
        (b'{"a": 1', "not JSON (Expecting ',' delimiter)"),
        (b"", "not JSON (Expecting value)"),
        (b"{'a': 1}", "not JSON"),
        (b"[1, 2]", "a JSON object is expected, found list"),
        (b'"texto"', "a JSON object is expected, found str"),
        (b"null", "a JSON object is expected, found NoneType"),
    ],
    ids=["latin-1", "cut off", "blank", "quotes", "list", "text", "null"],
)
def test_read_rows_names_file_line_and_fault_after_giving_the_good_rows(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": 2}\n' + line + b'\n{"a": 4}\n')
    rows = read_rows(file)
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError) as caught:
        next(rows)
    assert str(caught.value).startswith(f"{file}:3: {complaint}")


def test_read_rows_of_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere\.jsonl: the file does not exist\. `dvc repro` writes it"
    ):
        list(read_rows(tmp_path / "nowhere.jsonl"))


def test_read_examples_gives_back_what_write_rows_wrote(tmp_path: Path) -> None:
    examples = [
        Example.model_validate(GOOD),
        Example.model_validate({**GOOD, "id": "f" * 16, "split": "E", "kind": "dose"}),
    ]
    assert write_rows(tmp_path / "x.jsonl", examples) == 2
    assert read_examples(tmp_path / "x.jsonl") == examples


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "is empty"),
        ([{**GOOD, "split": "F"}], r":1: not an Example \(look at split\)"),
        ([GOOD, GOOD], "1 ids stand there more"),
    ],
)
def test_read_examples_refuses_an_empty_file_and_a_foreign_row(
    tmp_path: Path, rows: list[Row], complaint: str
) -> None:
    file = tmp_path / "x.jsonl"
    write_rows(file, rows)
    with pytest.raises(UserError, match=complaint) as caught:
        read_examples(file)
    # What the row holds stays where it is.
    assert GOOD["question"] not in str(caught.value)
    assert str(file) in str(caught.value)


def test_validation_sets_are_a_to_e_and_none_may_be_missing(tmp_path: Path) -> None:
    for number, name in enumerate("EDCBA"):
        write_rows(tmp_path / f"{name}.jsonl", [{**GOOD, "split": name, "id": str(number) * 16}])
    sets = read_validation_sets(tmp_path)
    assert list(sets) == ["A", "B", "C", "D", "E"]
    assert {name: [example.split for example in examples] for name, examples in sets.items()} == {
        name: [name] for name in SET_NAMES
    }
    (tmp_path / "D.jsonl").unlink()
    with pytest.raises(UserError, match=r"D\.jsonl: the file does not exist"):
        read_validation_sets(tmp_path)


# Writing


def test_write_rows_sorts_keys_and_writes_nfc_utf8_one_object_a_line(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "x.jsonl"
    count = write_rows(
        file, [{"b": "na\u0303o", "a": {"d": 1, "c": "linha\nnova"}}, {"z": None, "y": 0.5}]
    )
    assert count == 2
    assert (
        file.read_bytes()
        == '{"a": {"c": "linha\\nnova", "d": 1}, "b": "n\u00e3o"}\n{"y": 0.5, "z": null}\n'.encode()
    )


def test_a_mark_after_a_line_feed_joins_no_escape(tmp_path: Path) -> None:
    # As text out of a PDF has it: the line feed is written as backslash and n, and n with a cedilla is a letter.
    texts = ["hospitalizac\n\u0327a\u0303o", "a\t\u0327", "a\r\u0301", "a\x1e\u0301", "\u0327"]
    write_rows(tmp_path / "x.jsonl", [{"texts": texts, text: 1} for text in texts])
    for row, text in zip(read_rows(tmp_path / "x.jsonl"), texts, strict=True):
        assert row["texts"] == [unicodedata.normalize("NFC", each) for each in texts]
        assert row[unicodedata.normalize("NFC", text)] == 1


def test_write_rows_leaves_out_the_empty_fields_of_an_example(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", [Example.model_validate(GOOD)])
    assert json.loads((tmp_path / "x.jsonl").read_bytes()) == GOOD


def test_write_rows_writes_an_empty_file_for_no_rows(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "x.jsonl", []) == 0
    assert (tmp_path / "x.jsonl").read_bytes() == b""


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_write_rows_refuses_numbers_that_json_does_not_have(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(tmp_path / "x.jsonl", [{"a": 1}, {"a": number}])
    assert names(tmp_path) == []


def test_an_error_in_the_rows_passes_through_and_keeps_the_old_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source.jsonl", tmp_path / "target.jsonl"
    source.write_bytes(b'{"a": 1}\nnonsense\n')
    target.write_bytes(b"old")
    with pytest.raises(UserError, match=r"source\.jsonl:2: not JSON"):
        write_rows(target, read_rows(source))
    with pytest.raises(UserError, match="nowhere"):
        write_rows(target, read_rows(tmp_path / "nowhere.jsonl"))
    assert names(tmp_path) == ["source.jsonl", "target.jsonl"]
    assert target.read_bytes() == b"old"


def test_the_target_is_untouched_until_the_last_row_is_written(tmp_path: Path) -> None:
    target = tmp_path / "x.jsonl"
    target.write_bytes(b"old")
    seen: list[bytes] = []

    def rows() -> Iterator[Row]:
        for number in range(3):
            seen.append(target.read_bytes())
            yield {"a": number}

    write_rows(target, rows())
    assert seen == [b"old"] * 3
    assert target.read_bytes() == b'{"a": 0}\n{"a": 1}\n{"a": 2}\n'


# Staging


def fill_file(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def fill_folder(path: Path, content: str) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / content).write_text(content, encoding="utf-8")


def tree(root: Path) -> dict[str, str | None]:
    """Every path below a folder with its content; None for a folder."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_text(encoding="utf-8")
        for path in root.rglob("*")
    }


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_staged_file_replaces_the_old_one(tmp_path: Path, old: bool) -> None:
    target = tmp_path / "out"
    if old:
        fill_file(target, "old")
    with staged(target) as temporary:
        assert temporary.parent == tmp_path
        fill_file(temporary, "new")
    assert tree(tmp_path) == {"out": "new"}


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_staged_folder_replaces_the_old_one_whole(tmp_path: Path, old: bool) -> None:
    target = tmp_path / "deep" / "out"
    if old:
        fill_folder(target, "old")
    with staged(target) as temporary:
        fill_folder(temporary, "new")
    assert tree(tmp_path / "deep") == {"out": None, "out/inner": None, "out/inner/new": "new"}


@pytest.mark.parametrize("fill", [fill_file, fill_folder])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit("no")])
@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_failure_leaves_nothing_behind_and_the_old_output_intact(
    tmp_path: Path, fill: Any, error: BaseException, old: bool
) -> None:
    if old:
        fill(tmp_path / "out", "old")
    before = tree(tmp_path)
    with pytest.raises(type(error)), staged(tmp_path / "out") as temporary:
        fill(temporary, "new")
        raise error
    assert tree(tmp_path) == before


@pytest.mark.parametrize("fill", [fill_file, fill_folder])
def test_what_a_killed_run_left_under_the_temporary_name_does_not_get_into_the_output(
    tmp_path: Path, fill: Any
) -> None:
    with staged(tmp_path / "out") as temporary:
        name = temporary.name
        fill_file(temporary, "")
    fill(tmp_path / name, "stale")
    with staged(tmp_path / "out") as temporary:
        assert not temporary.exists()
        fill_file(temporary, "new")
    assert tree(tmp_path) == {"out": "new"}


@pytest.mark.parametrize("fill", [fill_file, fill_folder])
def test_the_bytes_are_on_the_disk_before_the_name_appears(
    tmp_path: Path, fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    target = tmp_path / "out"
    monkeypatch.setattr(files, "fsync_path", lambda path: seen.append((path.name, target.exists())))
    with staged(target) as temporary:
        fill(temporary, "new")
        name = temporary.name
    parts = {"inner", "new", name} if fill is fill_folder else {name}
    assert set(seen) == {(part, False) for part in parts} | {(tmp_path.name, True)}


# Real failures: a limit on the size of files makes the operating system refuse the write.

LIMITED = """
import resource, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from bula.errors import run_app
from bula.files import staged
from bula.records import write_rows
target, limit, many = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
"""
ROWS = "write_rows(target, ({'a': number} for number in range(many)))"
FOLDER = """
with staged(target) as temporary:
    write_rows(temporary / "small.jsonl", [{'a': 1}])
    (temporary / "large").write_bytes(bytes(many))
"""
TENSORS = """
with staged(target) as temporary:
    temporary.mkdir()
    save_file({'weight': numpy.zeros(many)}, temporary / "model.safetensors")
"""


def run_limited(code: str, target: Path, limit: int, many: int) -> subprocess.CompletedProcess[str]:
    """Run `code` where no file may grow beyond `limit` bytes (Python ignores the signal, so that writing fails with EFBIG)."""
    body = LIMITED + "def body():\n" + textwrap.indent(code, "    ") + "\nrun_app(body)\n"
    return run([sys.executable, "-c", body, str(target), str(limit), str(many)], cwd=target.parent)


@pytest.mark.parametrize(
    ("code", "limit", "many"),
    # 20 rows stay in Python's buffer until the file is closed; 20,000 fail on the way.
    [(ROWS, 100, 20), (ROWS, 4096, 20_000), (FOLDER, 100, 1000)],
    ids=["at the close", "on the way", "in a folder"],
)
@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_write_that_the_system_refuses_ends_in_one_sentence(
    tmp_path: Path, code: str, limit: int, many: int, old: bool
) -> None:
    target = tmp_path / "out"
    if old:
        (fill_folder if code == FOLDER else fill_file)(target, "old")
    before = tree(tmp_path)
    result = run_limited(code, target, limit, many)
    assert result.returncode == 1
    assert result.stdout == ""
    assert os.strerror(errno.EFBIG) in result.stderr
    # One sentence, which names an output of the user's: no traceback, no second complaint.
    assert result.stderr.startswith(str(target))
    assert ": it cannot be written (" in result.stderr
    assert result.stderr.count("\n") == 1
    assert tree(tmp_path) == before


def test_weights_that_the_system_refuses_end_in_one_sentence(tmp_path: Path) -> None:
    result = run_limited(TENSORS, tmp_path / "out", 1000, 1000)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{tmp_path / 'out'}: it cannot be written (")
    assert result.stderr.count("\n") == 1
    assert names(tmp_path) == []


def test_the_same_write_succeeds_where_the_limit_allows_it(tmp_path: Path) -> None:
    result = run_limited(ROWS, tmp_path / "out", 1_000_000, 20_000)
    assert (result.returncode, result.stderr) == (0, "")
    assert sum(row["a"] for row in read_rows(tmp_path / "out")) == 199_990_000


def test_sha256_file_is_the_hash_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    # The first example of FIPS 180-2.
    assert (
        sha256_file(tmp_path / "x")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
