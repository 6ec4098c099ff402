"""Check `bula labels import`: faults, merging, and the labels that it writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from bula.commands.labels import import_labels
from bula.errors import UserError
from bula.labels.files import read_labels
from bula.labels.raters import Raters
from bula.labels.records import AnswerLabel, PairLabel
from bula.records import Row, write_rows
from tests.conftest import leftovers
from tests.labels_data import (
    HEADER,
    answer_row,
    judgement,
    make_key,
    preference,
    write_answers,
)

OUT = Path("data/labels/labels.jsonl")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a key and the judged answers, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.json").write_text(make_key().model_dump_json(), encoding="utf-8")
    write_answers(tmp_path, range(1, 3), ("base", "tuned"))
    return tmp_path


def write_form(rows: list[Any], name: str = "r1.jsonl", **header: Any) -> Path:
    """Write a rater's file."""
    path = Path(name)
    lines = [json.dumps(row, ensure_ascii=False) for row in [HEADER | header, *rows]]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run_import(*paths: Path, raters: Raters = "clinician", **options: Any) -> None:
    """Import files with the tests' key."""
    settings = {"past_answers": False, "replace": False} | options
    import_labels(
        list(paths), Path("key.json"), raters, OUT, answers=Path("data/answers"), **settings
    )


def refusal(*paths: Path, **options: Any) -> list[str]:
    """Return the lines of the error of an import that writes nothing."""
    before = OUT.read_bytes() if OUT.exists() else None
    with pytest.raises(UserError) as caught:
        run_import(*paths, **options)
    after = OUT.read_bytes() if OUT.exists() else None
    assert after == before
    assert leftovers(Path()) == []
    return caught.value.what.splitlines()


def complete() -> list[Row]:
    """Return the judgements of a rater who judged everything."""
    items = [item.item for item in make_key().items]
    rows = [judgement(item) for item in items]
    pairs = [preference(pair.pair, "left") for pair in make_key().pairs]
    return [*rows, *pairs]


def test_labels_name_the_answer_and_the_kind_of_raters(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_import(write_form([judgement("two-t", harm="mild"), preference("pair-two", "right")]))
    answer, pair = read_labels([OUT])
    assert isinstance(answer, AnswerLabel)
    assert isinstance(pair, PairLabel)
    assert (answer.variant, answer.id[-1], answer.harm) == ("tuned", "2", "mild")
    assert answer.labels == "clinician_labels"
    assert answer.sha256 == make_key().items[3].sha256
    assert (pair.left, pair.right, pair.prefer) == ("tuned", "base", "right")
    assert (answer.rater, answer.repeat_of, pair.repeat_of) == ("R1", None, None)
    assert "1 rater, 2 judgements (clinician_labels)" in capsys.readouterr().out


def test_a_repetition_names_the_first_item_with_the_same_answer(kit: Path) -> None:
    run_import(write_form(complete()))
    labels = read_labels([OUT])
    repeats = {label.item: label.repeat_of for label in labels if isinstance(label, AnswerLabel)}
    assert repeats == {
        "one-b": None,
        "one-t": None,
        "two-b": None,
        "two-t": None,
        "again-b": "one-b",
        "again-t": "one-t",
    }
    pairs = {label.pair: label.repeat_of for label in labels if isinstance(label, PairLabel)}
    assert pairs == {"pair-one": None, "pair-two": None, "pair-again": "pair-one"}


def test_all_faults_of_all_files_are_listed_with_their_lines(kit: Path) -> None:
    first = write_form(
        [
            judgement("one-b"),
            judgement("one-b"),
            judgement("nobody"),
            judgement("one-t", sentences=[]),
            judgement("two-b", style=7),
            judgement("two-t", note="Falei com Maria da Silva, CPF 529.982.247-25."),
            preference("pair-none", "left"),
        ]
    )
    second = write_form([judgement("one-b"), {"type": "pair"}], "r2.jsonl")
    with second.open("a", encoding="utf-8") as file:
        file.write("\nnot JSON\n")
    assert refusal(first, second) == [
        "9 faults, and nothing was written",
        "r1.jsonl:3: line 2 judges one-b too",
        "r1.jsonl:4: the key has no item nobody",
        "r1.jsonl:5: 0 of 1 sentences have a score",
        "r1.jsonl:6: style: Input should be less than or equal to 3",
        "r1.jsonl:7: the note has personal data (cpf, name); remove it on the page",
        "r1.jsonl:8: the key has no pair pair-none",
        "r2.jsonl:3: pair: Field required; prefer: Field required",
        "r2.jsonl:4: not JSON",
        "r1.jsonl, r2.jsonl: 2 files have the rater R1; each person has a code",
    ]


def test_the_error_shows_no_word_of_a_note(kit: Path) -> None:
    lines = refusal(write_form([judgement("two-t", note="CPF 529.982.247-25", harm="Maria")]))
    assert "Maria" not in "".join(lines)
    lines = refusal(write_form([judgement("two-t", note="CPF 529.982.247-25")]))
    assert "529" not in "".join(lines)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"kit": "kit-two"}, "r1.jsonl:1: the file belongs to kit kit-two, and the key to kit-one"),
        ({"form": 2}, "r1.jsonl:1: it is no header of a rater's file (form: "),
        ({"rater": "Maria"}, "r1.jsonl:1: it is no header of a rater's file (rater: "),
    ],
)
def test_another_kit_or_form_is_the_only_fault_of_its_file(
    header: dict[str, Any], message: str, kit: Path
) -> None:
    lines = refusal(write_form([judgement("nobody")], **header))
    assert len(lines) == 2
    assert lines[1].startswith(message)


def test_two_files_of_one_rater_are_refused(kit: Path) -> None:
    rows = [judgement("one-b")]
    lines = refusal(write_form(rows), write_form(rows, "r2.jsonl"))
    assert lines[1:] == ["r1.jsonl, r2.jsonl: 2 files have the rater R1; each person has a code"]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(content: str, kit: Path) -> None:
    Path("r1.jsonl").write_text(content, encoding="utf-8")
    assert refusal(Path("r1.jsonl"))[1:] == ["r1.jsonl: the file contains no row"]


def test_a_file_without_a_judgement_is_refused(kit: Path) -> None:
    expected = "r1.jsonl:1: the file has no finished judgement after this row"
    assert refusal(write_form([]))[1:] == [expected]


def draft(item: str, **changes: Any) -> Row:
    """Return a rater's row about an answer that is unfinished."""
    missing = {"sentences": [None], "relevance": None, "harm": None, "style": None}
    return judgement(item, finished=False) | missing | changes


def test_unfinished_judgements_are_left_out_and_counted(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [judgement("one-b"), draft("one-t", harm="mild"), draft("two-t", note="Ver depois.")]
    run_import(write_form(rows))
    (label,) = read_labels([OUT])
    assert isinstance(label, AnswerLabel)
    assert label.item == "one-b"
    output = capsys.readouterr().out
    assert "labels: 1 rater, 1 judgement (clinician_labels)" in output
    assert "labels: 2 unfinished judgements of R1 were left out; the rater can load" in output
    run_import(write_form([judgement("one-b"), judgement("one-t"), draft("two-t")]))
    assert len(read_labels([OUT])) == 2
    assert "1 unfinished judgement of R1 was left out" in capsys.readouterr().out


def test_a_file_of_unfinished_judgements_only_is_refused(kit: Path) -> None:
    assert refusal(write_form([draft("one-b")])) == [
        "1 fault, and nothing was written",
        "r1.jsonl:1: the file has no finished judgement after this row",
    ]


def test_the_faults_of_unfinished_judgements_are_listed(kit: Path) -> None:
    rows = [judgement("one-b"), draft("one-b"), draft("nobody"), draft("one-t", sentences=[])]
    assert refusal(write_form([*rows, draft("two-b", style=7)]))[1:] == [
        "r1.jsonl:3: line 2 judges one-b too",
        "r1.jsonl:4: the key has no item nobody",
        "r1.jsonl:5: 0 of 1 sentences have a score",
        "r1.jsonl:6: style: Input should be less than or equal to 3",
    ]


def weighted_key() -> str:
    """Return the tests' key with a weight and a level for each item and pair."""
    key = make_key()
    items = [item.model_copy(update={"weight": 2.5, "level": "clear"}) for item in key.items]
    pairs = [pair.model_copy(update={"weight": 5.0, "level": "clear"}) for pair in key.pairs]
    return key.model_copy(update={"items": items, "pairs": pairs}).model_dump_json()


def test_labels_have_the_weights_of_the_key_and_a_newer_key_adds_them(kit: Path) -> None:
    run_import(write_form(complete()))
    assert {label.weight for label in read_labels([OUT])} == {None}
    (kit / "key.json").write_text(weighted_key(), encoding="utf-8")
    run_import(write_form(complete()))
    labels = read_labels([OUT])
    assert {(label.type, label.weight) for label in labels} == {("answer", 2.5), ("pair", 5.0)}
    assert {label.level for label in labels} == {"clear"}


def test_a_missing_file_is_refused(kit: Path) -> None:
    assert refusal(Path("r9.jsonl"))[1:] == [
        "r9.jsonl: it cannot be read (No such file or directory)"
    ]


def test_a_byte_order_mark_and_carriage_returns_do_no_harm(kit: Path) -> None:
    path = write_form([judgement("one-b")])
    content = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + content)
    run_import(path)
    assert len(read_labels([OUT])) == 1


def test_answers_that_changed_are_refused_unless_they_are_past(kit: Path) -> None:
    rows = [answer_row("tuned", 1), answer_row("tuned", 2) | {"generated": "Outra."}]
    write_rows(kit / "data/answers/tuned.jsonl", rows)
    path = write_form(complete())
    (line,) = refusal(path)[1:]
    assert line.startswith(
        "data/answers/tuned.jsonl: 1 of 2 answers of the kit have another text or are missing "
        "(first: 0000000000000002)"
    )
    run_import(path, past_answers=True)
    assert len(read_labels([OUT])) == 9


def test_a_longer_file_of_a_rater_adds_judgements(kit: Path) -> None:
    run_import(write_form(complete()[:4]))
    run_import(write_form(complete()))
    assert len(read_labels([OUT])) == 9


def test_another_rater_is_added(kit: Path) -> None:
    run_import(write_form(complete()))
    run_import(write_form(complete(), rater="R2"))
    labels = read_labels([OUT])
    assert [label.rater for label in labels] == ["R1"] * 9 + ["R2"] * 9


def test_changed_judgements_of_a_rater_need_replace(kit: Path) -> None:
    run_import(write_form(complete()))
    changed = write_form([judgement("one-b", style=1)])
    (line,) = refusal(changed)[1:]
    assert line.startswith("rater R1 of kit kit-one: the file lacks or changes 9 of the judgements")
    run_import(changed, replace=True)
    (label,) = read_labels([OUT])
    assert isinstance(label, AnswerLabel)
    assert label.style == 1


def test_a_rater_cannot_be_a_clinician_and_an_author(kit: Path) -> None:
    path = write_form(complete())
    run_import(path)
    assert refusal(path, raters="author")[1:] == [
        "rater R1 has clinician_labels already; give this person another code",
        "rater R1 of kit kit-one: the file lacks or changes 9 of the judgements that are there; "
        "give another person another code, or use --replace",
    ]


def test_equal_labels_give_equal_bytes_in_any_order(kit: Path) -> None:
    run_import(write_form(complete()))
    before = OUT.read_bytes()
    run_import(write_form(complete()[::-1]), replace=True)
    assert OUT.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{}", '{"form": 1}', "[]"])
def test_a_damaged_key_is_refused(content: str, kit: Path) -> None:
    Path("key.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="it is no key") as caught:
        run_import(write_form(complete()))
    assert "review-kit" in caught.value.fix


def test_many_faults_are_cut(kit: Path) -> None:
    lines = refusal(write_form([judgement(f"nobody-{number}") for number in range(60)]))
    assert lines[0] == "60 faults, and nothing was written"
    assert len(lines) == 52
    assert lines[-1] == "and 10 more"


def test_a_label_that_occurs_twice_is_refused(kit: Path) -> None:
    run_import(write_form(complete()))
    with pytest.raises(UserError, match="R1 of kit kit-one judges again-b twice"):
        read_labels([OUT, OUT])


def test_a_damaged_label_is_refused_with_its_line(kit: Path) -> None:
    run_import(write_form(complete()))
    rows = [json.loads(line) for line in OUT.read_text(encoding="utf-8").splitlines()]
    rows[1]["harm"] = "some"
    write_rows(OUT, rows)
    with pytest.raises(UserError, match=r"labels\.jsonl:2: the row is no label \(harm: "):
        read_labels([OUT])
