"""Test what preprocess says of the rows that each source loses, and when it stops."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest

from bench.clones import edit_params
from bula.errors import UserError
from bula.params import FilesSource, Params
from bula.records import SET_NAMES, Row, read_rows
from stages.preprocess import __main__ as stage
from stages.preprocess.losses import (
    Losses,
    Refusals,
    check_losses,
    check_splits,
    count_lines,
    count_refusals,
    empty_refusals,
    reason_name,
    source_line,
)
from stages.preprocess.minhash import Indices
from stages.preprocess.splits import SPLITS
from tests.conftest import leftovers, write_jsonl
from tests.test_preprocess import QUESTION, deduplicate_rows, row, settings
from tests.test_preprocess_stage import prepare, read_metrics, rows_of_all_splits

QUARANTINE = Path("data/quarantine.jsonl")
CLINIC: dict[str, Any] = {
    "kind": "files",
    "name": "clinic",
    "path": "data/sources/clinic.csv",
    "names": "removed",
    "encoding": "utf-8",
    "columns": {"question": "q", "answer": "a", "specialty": "", "kind": ""},
    "filter": {},
    "limit": 0,
    "role": "split",
    "license": "cc0-1.0",
    "redistribution": "allowed",
}


def clinic_rows() -> list[Row]:
    """Return ten rows of which four are lost: two copies, a missing answer, a damaged line."""
    rows = [row() for _ in range(6)]
    rows += [dict(rows[0]), dict(rows[0]), row("Sem resposta aqui?", None)]
    for line, found in enumerate(rows, start=2):
        found.update(source="clinic", file="file-001.csv", line=line)
    place = {"source": "clinic", "license": "cc0-1.0", "file": "file-001.csv", "line": 11}
    rows.append({"refused": "a field is open", "excerpt": "xx 9", "split": "train", **place})
    return rows


def prepare_sources(workspace: Path, tiny: Path, **changes: object) -> None:
    """Write 21 good rows of the demo and ten rows of a clinic, and change parameters."""

    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["sources"].append(dict(CLINIC))
        params["preprocess"].update(changes)
        params["compute"]["workers"] = 1

    edit_params(workspace / "params.yaml", edit)
    prepare(workspace, tiny, rows_of_all_splits(3))
    write_jsonl(workspace / "data/raw/clinic.jsonl", clinic_rows())


# --- counts ---


def test_a_share_at_the_limit_passes_and_each_row_is_counted_once(
    workspace: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_sources(workspace, tiny, max_loss_share=0.4)
    stage.main()
    metrics = read_metrics(workspace, "preprocess")
    # The default train_limit is 0, which keeps all rows.
    assert metrics["train"]["examples"] == 9
    no_rows: dict[str, int] = dict.fromkeys(SET_NAMES, 0)
    assert metrics["source_clinic"] == {
        "rows_in": 10,
        "train": 6,
        "dev": 0,
        **no_rows,
        "set_aside": 0,
        "lost": 4,
        "lost_share": 0.4,
        "copies": 0,
        "lost_same_text": 2,
        "lost_answer_is_missing": 1,
        "lost_unreadable": 1,
    }
    assert metrics["source_demo"]["rows_in"] == 21
    assert metrics["source_demo"]["lost"] == 0
    reasons = {"rows": 4, "same_text": 2, "answer_is_missing": 1, "unreadable": 1}
    assert metrics["quarantine"] == reasons
    largest = "same text (2), answer is missing (1), unreadable (1)"
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "preprocess: source demo: 21 rows in, 21 kept, 0 lost (0.0%)",
        f"preprocess: source clinic: 10 rows in, 6 kept, 4 lost (40.0%); most for: {largest}",
    ]
    head = "source  rows in  train  dev  A  B  C  D  E  set aside  lost  largest reasons"
    assert lines[2].split() == head.split()
    cells = ("demo", 21, 3, 3, *[3] * 5, 0, 0, "none")
    assert lines[3].split() == list(map(str, cells))
    assert lines[4].split()[:11] == list(map(str, ("clinic", 10, 6, *[0] * 7, 4)))
    card = (workspace / "data/clean/README.md").read_text(encoding="utf-8")
    assert f"| clinic | 10 | 6 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 4 | {largest} |" in card


def test_rows_set_aside_by_the_limit_are_said_and_are_not_lost(
    workspace: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_sources(workspace, tiny, max_loss_share=0.4, train_limit=2)
    stage.main()
    metrics = read_metrics(workspace, "preprocess")
    # Train has three rows of the demo and six of the clinic, and keeps two of them.
    kept = Counter(r["source"] for r in read_rows(workspace / "data/clean/train.jsonl"))
    assert kept.total() == 2
    for name, rows in (("demo", 3), ("clinic", 6)):
        figures = metrics[f"source_{name}"]
        assert figures["train"] == kept[name]
        assert figures["set_aside"] == rows - kept[name]
    assert metrics["source_clinic"]["lost"] == 4
    assert metrics["train"]["beyond_limit"] == 7
    aside = 6 - kept["clinic"]
    message = f"{aside} set aside by preprocess.train_limit (2)"
    assert message in capsys.readouterr().out


def test_lines_are_counted_across_chunks(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n" * 700_001)
    assert count_lines(path) == 700_001


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("unreadable: a field is open", "unreadable"),
        ("near-duplicate question of 00000000000000aa in A (0.83)", "near-duplicate question"),
        ("same text as 00000000000000aa in train", "same text"),
        ("shares 13 words in a row with 00000000000000aa in A", "shares 13 words in a row"),
        ("answer in another language (es)", "answer in another language"),
    ],
)
def test_a_reason_is_named_without_its_particulars(reason: str, name: str) -> None:
    assert reason_name(reason) == name


# --- the deciding row ---


def test_the_quarantine_names_the_origin_of_the_deciding_row(workspace: Path, tiny: Path) -> None:
    prepare_sources(workspace, tiny, max_loss_share=0.4)
    stage.main()
    records = list(read_rows(workspace / QUARANTINE))
    # The third and the second copy repeat line 2, and all three have one id.
    copies = [record for record in records if record["reason"].startswith("same text")]
    assert {record["line"] for record in copies} == {8, 9}
    place = {"source": "clinic", "file": "file-001.csv", "line": 2, "set": "train"}
    for record in copies:
        assert record["decided_by"] == place | {"id": record["id"]}
    others = [record for record in records if record not in copies]
    assert not any("decided_by" in record for record in others)


def test_the_quarantine_names_the_line_of_a_benchmark_item(tiny: Path, tmp_path: Path) -> None:
    items = [{"question": "Outra pergunta qualquer?"}, {"question": QUESTION}]
    result = deduplicate_rows([row(QUESTION)], tiny, tmp_path, items={"exam": items})
    [record] = result.refused
    decider = record["decided_by"]
    assert decider["id"] in record["reason"]
    assert decider | {"id": ""} == {"id": "", "set": "exam", "file": "exam.jsonl", "line": 2}


# --- the stop ---


def test_a_source_above_the_limit_stops_with_reasons_and_masked_rows(
    workspace: Path, tiny: Path
) -> None:
    prepare_sources(workspace, tiny, max_loss_share=0.39)
    with pytest.raises(UserError) as caught:
        stage.main()
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "preprocess: more rows are lost than preprocess.max_loss_share allows",
        "source clinic lost 4 of 10 rows (40.0% > 39.0%)",
        "  same text: 2 rows, such as",
    ]
    assert lines[3].startswith("    file-001.csv:8: same text as ")
    assert lines[5:9] == [
        "  answer is missing: 1 rows, such as",
        "    file-001.csv:10: answer is missing: 'xxx xxxxxxxx xxxx?'",
        "  unreadable: 1 rows, such as",
        "    file-001.csv:11: unreadable: a field is open: 'xx 9'",
    ]
    assert lines[9].startswith("Mend the cause, or raise preprocess.max_loss_share; ")
    assert len(list(read_rows(workspace / QUARANTINE))) == 4
    assert not (workspace / "data/clean").exists()
    assert not (workspace / "metrics").exists()
    assert leftovers(workspace) == []


def losses(name: str, rows_in: int, reasons: dict[str, int], aside: int = 0) -> Losses:
    """Return the losses of a source whose other rows went to train."""
    kept: dict[str, int] = dict.fromkeys(SPLITS, 0)
    kept["train"] = rows_in - sum(reasons.values()) - aside
    examples: dict[str, list[Row]] = {reason: [] for reason in reasons}
    return Losses(name, rows_in, kept, aside, Refusals(Counter(reasons), examples, Counter()))


def test_every_source_above_the_limit_is_named_with_three_reasons() -> None:
    reasons = {"a": 1, "b": 4, "c": 2, "d": 3}
    found = [losses("one", 10, reasons), losses("two", 10, {"a": 3}), losses("six", 10, {"e": 4})]
    with pytest.raises(UserError) as caught:
        check_losses(found, 0.3, QUARANTINE)
    assert str(caught.value).splitlines()[1:-1] == [
        "source one lost 10 of 10 rows (100.0% > 30.0%)",
        "  b: 4 rows, such as",
        "  d: 3 rows, such as",
        "  c: 2 rows, such as",
        "source six lost 4 of 10 rows (40.0% > 30.0%)",
        "  e: 4 rows, such as",
    ]


def test_rows_set_aside_do_not_count_as_lost() -> None:
    found = losses("one", 10, {"a": 2}, aside=7)
    check_losses([found], 0.2, QUARANTINE)
    assert source_line(found, 1) == (
        "source one: 10 rows in, 1 kept, 2 lost (20.0%), "
        "7 set aside by preprocess.train_limit (1); most for: a (2)"
    )


LOST = {"source": "clinic", "file": "file-001.csv", "line": 1, "excerpt": "xx 9"}


def repeated(reason: str, source: str, split: str) -> Row:
    """Return the quarantine record of a clinic's row that repeats a row of a source."""
    decider = {"id": "0" * 16, "set": split, "file": "a.csv", "line": 1, "source": source}
    return {**LOST, "reason": reason, "decided_by": decider}


def test_a_copy_of_a_training_row_of_another_source_does_not_count() -> None:
    text = "near-duplicate text of 0000000000000000 in train (0.90)"
    rows = [
        repeated(text, "demo", "train"),
        repeated("same text as 0000000000000000 in train", "demo", "train"),
        # The same source, a validation set and another reason are losses.
        repeated(text, "clinic", "train"),
        repeated(text.replace("train", "A"), "demo", "A"),
        repeated("near-duplicate question of 0000000000000000 in train (0.90)", "demo", "train"),
        {**LOST, "reason": "answer is missing"},
    ]
    refusals = empty_refusals()
    assert len(list(count_refusals(rows, refusals))) == 6
    kept: dict[str, int] = dict.fromkeys(SPLITS, 0)
    kept["train"] = 4
    found = Losses("clinic", 10, kept, 0, refusals["clinic"])
    check_losses([found], 0.4, QUARANTINE)
    with pytest.raises(UserError, match=r"source clinic lost 4 of 10 rows \(40\.0% > 39\.0%\)"):
        check_losses([found], 0.39, QUARANTINE)
    line = source_line(found, 0)
    assert "10 rows in, 4 kept, 6 lost (60.0%)" in line
    assert line.endswith("; 2 of the lost rows repeat training rows of source demo")


def test_a_copy_of_a_row_that_leaves_too_is_a_loss(tiny: Path, tmp_path: Path) -> None:
    item, first, second = row(split="A"), row(), row()
    # Both repeat the item's question. The second leaves as an equal text, then the first leaves.
    for copy in (first, second):
        copy.update(question=item["question"], answer=first["answer"])
    second["question"] += "!"
    refused = deduplicate_rows([item, first, second, row()], tiny, tmp_path).refused
    left = {record["reason"][:9]: record["decided_by"].get("refused") for record in refused}
    assert left == {"same text": True, "near-dupl": None}
    [copied] = [record for record in refused if record["decided_by"].get("refused")]
    copied["decided_by"]["source"] = "other"
    refusals = empty_refusals()
    assert list(count_refusals([copied], refusals)) == [copied]
    assert not refusals["demo"].copies


def test_each_example_of_a_divided_row_counts() -> None:
    kept: dict[str, int] = dict.fromkeys(SPLITS, 0)
    kept["train"] = 6
    found = Losses("one", 4, kept, 0, Refusals(Counter({"a": 2}), {"a": []}, Counter()))
    check_losses([found], 0.25, QUARANTINE)
    with pytest.raises(UserError, match=r"source one lost 2 of 8 rows \(25\.0% > 24\.0%\)"):
        check_losses([found], 0.24, QUARANTINE)


# --- empty splits ---


def clinic_only(role: str) -> Params:
    """Return parameters with the clinic as their only source."""
    params = settings()
    source = FilesSource.model_validate(CLINIC | {"role": role})
    ingest = params.ingest.model_copy(update={"sources": [source]})
    return params.model_copy(update={"ingest": ingest})


@pytest.mark.parametrize(
    ("empty", "role", "lost", "message"),
    [
        (
            ["D"],
            "split",
            0,
            "preprocess: no examples left for D; none of the 100 rows was refused, but the draw by "
            "hash gave none to D. Add rows, add a source with `role: D`, or raise "
            "preprocess.validation_share (now 0.03).",
        ),
        (
            ["E", "dev"],
            "split",
            7,
            "preprocess: no examples left for E, dev; data/quarantine.jsonl says why 7 of 100 rows "
            "are lost. Add rows or mend the refused rows, add a source with `role: E`, or raise "
            "preprocess.dev_share (now 0.05) and preprocess.validation_share (now 0.03).",
        ),
        (
            ["train"],
            "split",
            0,
            "preprocess: no examples left for train; none of the 100 rows was refused, but the "
            "draw by hash gave none to train. Add rows, add a source with `role: train`, or lower "
            "preprocess.dev_share and preprocess.validation_share.",
        ),
        # No share matters where each source has a role.
        (
            ["A"],
            "train",
            0,
            "preprocess: no examples left for A; none of the 100 rows was refused. "
            "Add rows, or add a source with `role: A`.",
        ),
    ],
)
def test_an_empty_split_names_the_remedies(
    empty: list[str], role: str, lost: int, message: str
) -> None:
    kept: dict[str, Indices] = {split: numpy.zeros(1, numpy.int64) for split in SPLITS}
    kept |= {split: numpy.empty(0, numpy.int64) for split in empty}
    found = [losses("clinic", 100, {"a": lost} if lost else {})]
    with pytest.raises(UserError) as caught:
        check_splits(kept, found, clinic_only(role), QUARANTINE)
    assert str(caught.value) == message
