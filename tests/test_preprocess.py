from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from bula.models import load_tokenizer
from bula.params import Preprocess, load_params
from bula.prompts import encode
from bula.records import Row, read_rows
from stages import preprocess
from tests.conftest import ROOT, edit_params, leftovers, write_jsonl

SETTINGS = Preprocess(max_tokens=640, max_prompt_tokens=256, dev_share=0.1, validation_share=0.1, train_limit=1000)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(smollm2)


def row(question: object, answer: object = ..., split: str | None = "train", line: int = 1) -> Row:
    """A raw row; without an answer given, each question has one of its own."""
    answer = f"Beba água e repouse, {question}" if answer is ... else answer
    return {"question": question, "answer": answer, "split": split, "file": "f.csv", "line": line, "source": "s", "license": "cc0-1.0"}


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (None, "Sim.", "question is missing"),
        ("Dói?", None, "answer is missing"),
        ("Dói?", 3, "answer is no text"),
        ("Dói?", " ?! ", "answer has no words"),
    ],
)
def test_a_row_without_question_or_answer_goes_to_quarantine(
    question: object, answer: object, reason: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    result = preprocess.sort_rows([row(question, answer, line=7)], tokenizer, SETTINGS)
    refused = result.refused[0]
    assert {name: refused[name] for name in ("source", "file", "line", "reason")} == {
        "source": "s",
        "file": "f.csv",
        "line": 7,
        "reason": reason,
    }
    assert refused["excerpt"] == preprocess.mask(question)
    assert len(refused["id"]) == 16
    assert not any(result.examples.values())


def test_quarantine_shows_the_shape_of_a_text_and_none_of_its_words() -> None:
    assert preprocess.mask("Sou João, CPF 123.456") == "xxx xxxx, xxx 999.999"
    assert len(preprocess.mask("a" * 500)) == 60


def test_equal_questions_are_kept_once_and_validation_wins(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [row("Posso tomar sol?", "No treino.", "train"), row("posso  tomar SOL", "Na validação.", "B"), row("Outra?", split="train")]
    result = preprocess.sort_rows(rows, tokenizer, SETTINGS)
    assert [e.answer for e in result.examples["B"]] == ["Na validação."]
    assert [e.question for e in result.examples["train"]] == ["Outra?"]
    assert [r["reason"] for r in result.refused] == [f"same question as {result.examples['B'][0].id} in B"]


def test_an_answer_of_validation_is_never_trained_on(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [row("Dói a cabeça?", "Beba água.", "train"), row("Dói o pé?", "beba água", "C"), row("Dói a mão?", "Repouse.", "train")]
    result = preprocess.sort_rows(rows, tokenizer, SETTINGS)
    assert [e.question for e in result.examples["train"]] == ["Dói a mão?"]
    assert result.refused[0]["reason"] == f"same answer as {result.examples['C'][0].id} in C"


def test_two_answers_to_one_question_are_both_kept_within_a_split(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [row("Dói?", "Beba água."), row("dói", "Repouse."), row("Dói!", "Beba  água")]
    result = preprocess.sort_rows(rows, tokenizer, SETTINGS)
    assert {e.answer.rstrip(".").replace("  ", " ") for e in result.examples["train"]} == {"Beba água", "Repouse"}
    assert [r["reason"].split(" as ")[0] for r in result.refused] == ["same pair"]


def test_text_is_normalised_and_ids_are_stable(tokenizer: PreTrainedTokenizerBase) -> None:
    decomposed = row("Na\u0303o\u200b  dói?\r\n", " Beba\u00a0água. ")
    example = preprocess.sort_rows([decomposed], tokenizer, SETTINGS).examples["train"][0]
    assert (example.question, example.answer) == ("Não dói?", "Beba água.")
    # printf 's\x1fNão dói?\x1fBeba água.' | sha256sum, first 16 hex digits.
    assert example.id == "6e67973c546654ad"


@pytest.mark.parametrize(("limit", "reason"), [("max_prompt_tokens", "prompt longer than"), ("max_tokens", "longer than")])
def test_a_row_longer_than_the_limit_is_refused_never_cut(limit: str, reason: str, tokenizer: PreTrainedTokenizerBase) -> None:
    result = preprocess.sort_rows([row("Dói?")], tokenizer, SETTINGS.model_copy(update={limit: 20}))
    assert result.refused[0]["reason"] == f"{reason} 20 tokens"


def test_a_new_row_moves_no_old_row_between_splits(tokenizer: PreTrainedTokenizerBase) -> None:
    old = [row(f"Pergunta número {n}?", split=None) for n in range(300)]
    new = [row(f"Pergunta nova {n}?", split=None) for n in range(30)]

    def splits(rows: list[Row]) -> dict[str, str]:
        kept = preprocess.sort_rows(rows, tokenizer, SETTINGS).examples.values()
        return {example.question: example.split for examples in kept for example in examples}

    before, after = splits(old), splits(new[:10] + old + new[10:])
    assert {question: after[question] for question in before} == before
    counts = {split: list(before.values()).count(split) for split in preprocess.ORDER}
    # 0.4 of 300 in train, 0.1 in each other; three standard deviations of a binomial are 26 and 16.
    assert abs(counts["train"] - 120) <= 26
    assert all(abs(counts[split] - 30) <= 16 for split in preprocess.ORDER if split != "train")


def test_nearest_overlap_is_the_share_of_word_5_grams() -> None:
    from bula.records import Example

    def example(id_: str, answer: str) -> Example:
        return Example(id=id_ * 16, source="s", license="l", split="A", question="q", answer=answer)

    # "q a b c d e f" has the 5-grams qabcd, abcde, bcdef; "x a b c d e" shares abcde alone: one of three.
    overlap = preprocess.nearest_overlap([example("1", "a b c d e f")], [example("2", "z z z z z"), example("3", "x a b c d e")])
    assert overlap["1" * 16][0] == pytest.approx(1 / 3)
    assert overlap["1" * 16][1] == "3" * 16


def prepare(workspace: Path, tiny: Path, rows: list[Row]) -> None:
    (workspace / "models/base").symlink_to(tiny)
    write_jsonl(workspace / "data/raw/demo.jsonl", rows)


def test_the_stage_writes_splits_card_overlap_and_metrics(workspace: Path, tiny: Path) -> None:
    rows = [row(f"Pergunta {split} {n}?", split=split, line=n) for split in preprocess.ORDER for n in range(3)]
    prepare(workspace, tiny, [*rows, row("Sem resposta?", None, line=9)])
    preprocess.main()
    names = sorted(str(p.relative_to(workspace / "data/clean")) for p in (workspace / "data/clean").rglob("*") if p.is_file())
    assert names == ["README.md", "dev.jsonl", "overlap.jsonl", "train.jsonl", *(f"validation/{s}.jsonl" for s in "ABCDE")]
    assert next(read_rows(workspace / "data/quarantine.jsonl"))["reason"] == "answer is missing"
    assert (workspace / "data/clean/README.md").read_text(encoding="utf-8").startswith("---\nlanguage:\n- pt\nlicense:\n- cc-by-4.0\n")
    assert leftovers(workspace) == []


def test_an_empty_validation_set_is_a_sentence_and_no_output(workspace: Path, tiny: Path) -> None:
    prepare(workspace, tiny, [row(f"Pergunta {s}?", split=s) for s in ("A", "B", "C", "D", "dev", "train")])
    with pytest.raises(SystemExit, match=r"no examples left for E; data/quarantine\.jsonl says why 0 rows were refused"):
        preprocess.main()
    assert not (workspace / "data/clean").exists()
    assert not (workspace / "metrics").exists()


def test_prompts_longer_than_the_limit_are_counted_in_the_metrics(workspace: Path, tiny: Path) -> None:
    rows = [row(f"Pergunta {s}?", split=s) for s in preprocess.ORDER] + [row("longa " * 400 + "?", line=2)]
    prepare(workspace, tiny, rows)
    preprocess.main()
    import json

    metrics: dict[str, Any] = json.loads((workspace / "metrics/preprocess.json").read_text(encoding="utf-8"))
    assert metrics["quarantine"] == {"rows": 1, "prompt_longer_than_256_tokens": 1}


def test_train_is_limited_to_an_unbiased_stable_sample(workspace: Path, tiny: Path) -> None:
    rows = [row(f"Pergunta {s} {n}?", split=s) for s in preprocess.ORDER for n in range(10)]
    prepare(workspace, tiny, rows)
    edit_params(workspace / "params.yaml", lambda p: p["preprocess"].update(train_limit=4))
    preprocess.main()
    ids = [r["id"] for r in read_rows(workspace / "data/clean/train.jsonl")]
    assert len(ids) == 4
    assert ids == sorted(ids)


def test_every_demo_row_survives_preprocessing(tokenizer: PreTrainedTokenizerBase) -> None:
    from bula.params import DemoSource
    from stages.ingest import read_source

    params = load_params(ROOT / "params.yaml")
    demo = DemoSource.model_validate({"kind": "demo", "name": "demo", "path": str(ROOT / "data/demo"), "license": "cc-by-4.0"})
    result = preprocess.sort_rows(read_source(demo), tokenizer, params.preprocess)
    assert result.refused == []
    example = result.examples["train"][0]
    assert tokenizer.decode(encode(tokenizer, example).completion) == example.answer + "<|im_end|>"
