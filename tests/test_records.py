"""Check the Example, and reading and writing of JSON Lines files."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from bula.errors import UserError
from bula.records import (
    SET_NAMES,
    Example,
    Row,
    append_row,
    example_id,
    read_examples,
    read_rows,
    read_validation_sets,
    write_rows,
)

GOOD: Row = {
    "id": "0123456789abcdef",
    "source": "demo",
    "license": "cc-by-4.0",
    "split": "train",
    "question": "Posso tomar dipirona?",
    "answer": "Pode, na dose da bula.",
}


# Example


def test_example_keeps_its_fields_and_leaves_optional_fields_empty() -> None:
    example = Example.model_validate(GOOD)
    assert example.model_dump() == {**GOOD, "specialty": None, "kind": None, "history": None}
    assert Example.model_validate({**GOOD, "specialty": "clínica", "kind": "dose"}).kind == "dose"


@pytest.mark.parametrize("split", ["train", "dev", "A", "B", "C", "D", "E"])
def test_example_accepts_each_of_the_seven_splits(split: str) -> None:
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


def test_example_ignores_other_columns() -> None:
    example = Example.model_validate({**GOOD, "line": 4, "cpf": "segredo"})
    assert set(example.model_dump()) == {*GOOD, "specialty", "kind", "history"}


def test_example_cannot_change() -> None:
    example = Example.model_validate(GOOD)
    with pytest.raises(ValidationError, match="frozen"):
        example.answer = "outra"


def test_example_id_is_the_start_of_sha256_over_the_three_texts() -> None:
    # printf 'demo\037p\037r' | sha256sum
    assert example_id("demo", "p", "r") == "ce4352d5c9aa3ae5"


def test_example_id_depends_on_the_boundaries_between_the_texts() -> None:
    splits = [("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd")]
    assert len({example_id(*texts) for texts in splits}) == 3


# Reading


def test_read_rows_yields_the_objects_in_file_order(tmp_path: Path) -> None:
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
def test_read_rows_yields_good_rows_and_then_reports_the_damaged_line(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": 2}\n' + line + b'\n{"a": 4}\n')
    rows = read_rows(file)
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError) as caught:
        next(rows)
    assert str(caught.value).startswith(f"{file}:3: {complaint}")


def test_read_rows_refuses_nan_which_is_not_json(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": NaN}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:1: not JSON \(NaN is not a JSON value\)"):
        list(read_rows(file))


def test_read_rows_reports_a_missing_file_with_the_fix(tmp_path: Path) -> None:
    message = r"nowhere\.jsonl: the file does not exist\. `dvc repro` writes it"
    with pytest.raises(UserError, match=message):
        list(read_rows(tmp_path / "nowhere.jsonl"))


def test_read_examples_returns_the_examples_that_write_rows_wrote(tmp_path: Path) -> None:
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
        ([GOOD, GOOD], "1 ids occur more"),
    ],
)
def test_read_examples_reports_bad_files_without_the_text_of_rows(
    tmp_path: Path, rows: list[Row], complaint: str
) -> None:
    file = tmp_path / "x.jsonl"
    write_rows(file, rows)
    with pytest.raises(UserError, match=complaint) as caught:
        read_examples(file)
    assert GOOD["question"] not in str(caught.value)
    assert str(file) in str(caught.value)


def write_validation_sets(folder: Path) -> None:
    """Write the sets A to E with one row each, E first."""
    for number, name in enumerate(reversed(SET_NAMES)):
        row = {**GOOD, "split": name, "id": str(number) * 16}
        write_rows(folder / f"{name}.jsonl", [row])


def test_validation_sets_are_read_from_a_to_e(tmp_path: Path) -> None:
    write_validation_sets(tmp_path)
    sets = read_validation_sets(tmp_path)
    splits = [(name, example.split) for name, examples in sets.items() for example in examples]
    assert splits == [("A", "A"), ("B", "B"), ("C", "C"), ("D", "D"), ("E", "E")]


def test_a_missing_validation_set_is_reported(tmp_path: Path) -> None:
    write_validation_sets(tmp_path)
    (tmp_path / "D.jsonl").unlink()
    with pytest.raises(UserError, match=r"D\.jsonl: the file does not exist"):
        read_validation_sets(tmp_path)


# Writing


def test_write_rows_writes_one_object_per_line_with_sorted_keys_in_nfc(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "x.jsonl"
    rows: list[Row] = [{"b": "na\u0303o", "a": {"d": 1, "c": "linha\nnova"}}, {"z": None, "y": 0.5}]
    assert write_rows(file, rows) == 2
    first, second = file.read_bytes().decode().splitlines(keepends=True)
    assert first == '{"a": {"c": "linha\\nnova", "d": 1}, "b": "n\u00e3o"}\n'
    assert second == '{"y": 0.5, "z": null}\n'


def test_a_combining_mark_after_a_line_feed_does_not_change_the_escape(tmp_path: Path) -> None:
    # Text from PDFs has such marks, and JSON writes the line feed as a backslash and an n.
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
def test_write_rows_refuses_nan_and_infinity(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(tmp_path / "x.jsonl", [{"a": 1}, {"a": number}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"), [("damaged", "damaged:2: not JSON"), ("nowhere", "nowhere")]
)
def test_an_error_in_the_rows_passes_through_and_keeps_the_old_file(
    tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "damaged").write_bytes(b'{"a": 1}\nnonsense\n')
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(UserError, match=message):
        write_rows(target, read_rows(tmp_path / source))
    assert {path.name for path in tmp_path.iterdir()} == {"damaged", "target"}
    assert target.read_bytes() == b"old"


def test_the_old_file_stays_until_the_last_row_is_written(tmp_path: Path) -> None:
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


def test_append_row_adds_one_line_and_keeps_the_others(tmp_path: Path) -> None:
    file = tmp_path / "new" / "ledger.jsonl"
    append_row(file, {"b": 1, "a": "não"})
    append_row(file, {"a": "sim"})
    assert file.read_bytes().decode() == '{"a": "não", "b": 1}\n{"a": "sim"}\n'
