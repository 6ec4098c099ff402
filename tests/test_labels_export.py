"""Check the training pairs that `bula labels export-pairs` writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bula.commands.labels import export_preferences
from bula.errors import UserError
from bula.labels.files import write_labels
from bula.labels.preference_pairs import Exported, export_pairs, read_sources
from bula.labels.records import Label, answer_sha256
from bula.prompts import SYSTEM_PROMPT
from bula.records import write_rows
from tests.labels_data import answer_row, pair_label, question_id, text_of, write_answers

OUT = Path("pairs.jsonl")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with answers to 4 questions, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    write_answers(tmp_path, range(4), ("base", "tuned"))
    return tmp_path


def export(labels: Sequence[Label], excluded: set[str] | None = None) -> Exported:
    """Return the training pairs of some labels."""
    answers = read_sources([Path("data/answers")])
    return export_pairs(labels, answers, excluded or set(), has_system=True)


def test_a_row_has_the_prompt_of_training_and_two_answers(run: Path) -> None:
    exported = export([pair_label(1, "right", set="train")])
    assert exported.rows == [
        {
            "prompt": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": "Pergunta 1?"},
            ],
            "chosen": [{"role": "assistant", "content": text_of("tuned", 1)}],
            "rejected": [{"role": "assistant", "content": text_of("base", 1)}],
        }
    ]
    assert exported.left_out == {}


def test_earlier_turns_are_a_part_of_the_prompt(run: Path) -> None:
    turn = {"question": "Antes?", "answer": "Sim."}
    for variant in ("base", "tuned"):
        row = answer_row(variant, 1) | {"history": [turn]}
        write_rows(run / f"data/answers/{variant}.jsonl", [row])
    (row,) = export([pair_label(1, "left", set="train")]).rows
    contents = [message["content"] for message in row["prompt"]]
    assert contents == [SYSTEM_PROMPT, "Antes?", "Sim.", "Pergunta 1?"]


def test_only_strict_preferences_of_a_majority_are_exported(run: Path) -> None:
    labels = [
        pair_label(0, "both"),
        pair_label(1, "left"),
        pair_label(1, "right", rater="A2"),
        pair_label(2, "left"),
        pair_label(2, "left", rater="A2"),
        pair_label(2, "right", rater="A3"),
        pair_label(9, "left"),
    ]
    exported = export(labels)
    (row,) = exported.rows
    assert row["chosen"][0]["content"] == text_of("base", 2)
    assert exported.left_out == {"without a strict preference": 2, "without their answers": 1}


def test_labels_of_clinicians_replace_those_of_authors(run: Path) -> None:
    labels = [
        pair_label(1, "left"),
        pair_label(1, "right", rater="R1", labels="clinician_labels"),
        pair_label(2, "left"),
    ]
    (row,) = export(labels).rows
    assert row["chosen"][0]["content"] == text_of("tuned", 1)


def test_equal_answers_are_no_preference(run: Path) -> None:
    same = answer_sha256(text_of("base", 1))
    write_rows(
        run / "data/answers/tuned.jsonl",
        [answer_row("tuned", 1) | {"generated": text_of("base", 1)}],
    )
    exported = export([pair_label(1, "left", right_sha256=same)])
    assert exported.left_out == {"of equal answers": 1}


def test_an_empty_answer_is_no_training_text(run: Path) -> None:
    write_rows(run / "data/answers/base.jsonl", [answer_row("base", 1) | {"generated": ""}])
    exported = export([pair_label(1, "right", left_sha256=answer_sha256(""))])
    assert exported.left_out == {"with an empty answer": 1}


def command(model: Path, **options: Any) -> None:
    """Run the command in the current directory."""
    settings: dict[str, Any] = {"labels": None, "answers": None, "allow_validation": False}
    export_preferences(OUT, model=model, clean=Path("data/clean"), **(settings | options))


def test_validation_questions_never_become_training_data(
    run: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(Path("data/labels/labels.jsonl"), [pair_label(1, "left")])
    with pytest.raises(UserError, match="1 of validation sets") as caught:
        command(tiny)
    assert "questions of train or dev" in caught.value.fix
    assert "--allow-validation" in caught.value.fix
    assert not OUT.exists()
    command(tiny, allow_validation=True)
    assert len(OUT.read_text(encoding="utf-8").splitlines()) == 1
    assert "1 pairs in pairs.jsonl" in capsys.readouterr().out


def test_a_validation_question_under_another_name_is_left_out_too(
    run: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [pair_label(number, "left", set="train") for number in (1, 2)]
    write_labels(Path("data/labels/labels.jsonl"), labels)
    write_rows(run / "data/clean/validation/C.jsonl", [{"id": question_id(2)}])
    command(tiny)
    (row,) = [json.loads(line) for line in OUT.read_text(encoding="utf-8").splitlines()]
    assert row["prompt"][-1]["content"] == "Pergunta 1?"
    assert "1 pairs in pairs.jsonl; left out: 1 of validation sets" in capsys.readouterr().out


def test_no_labels_of_pairs_and_no_model_are_errors(run: Path, tiny: Path) -> None:
    write_labels(Path("data/labels/labels.jsonl"), [])
    with pytest.raises(UserError, match="there are no labels of pairs"):
        command(tiny)
    with pytest.raises(UserError, match="none: the model does not exist"):
        command(Path("none"))
    with pytest.raises(UserError, match="nowhere: it has no answers"):
        command(tiny, answers=[Path("nowhere")])


def test_trl_reads_the_rows_as_preferences(run: Path, tiny: Path) -> None:
    from trl import maybe_apply_chat_template

    from bula.models import load_tokenizer

    (row,) = export([pair_label(1, "right", set="train")]).rows
    text = maybe_apply_chat_template(row, load_tokenizer(tiny))
    assert text["prompt"].endswith("<|im_start|>assistant\n")
    assert text["chosen"].startswith(text_of("tuned", 1))
    assert text["rejected"].startswith(text_of("base", 1))
