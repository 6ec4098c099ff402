"""Walk from answers to dev questions to the training pairs of the stage prefer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from bench.clones import ROOT, edit_params
from bula.__main__ import app
from bula.commands.answers import choose_variants
from bula.errors import UserError
from bula.labels.records import Key
from bula.labels.split_answers import answer_split, choose_questions
from bula.models import load_model, load_tokenizer, save_model
from bula.params import load_params
from bula.privacy import find_personal_data
from bula.records import Row, read_examples, read_rows
from stages import generate
from stages.prefer.pairs import read_pairs, validation_keys
from tests.conftest import validation_examples, write_jsonl

CLEAN = Path("data/clean")
ANSWERS = Path(".bula/answers-dev")
LABELS = Path("data/labels/preferences.jsonl")
PAIRS = Path("data/labels/pairs.jsonl")


def write_tuned(tiny: Path, path: Path) -> None:
    """Write a model that answers otherwise than the two-layer one."""
    torch.manual_seed(1)
    model = load_model(tiny, "float32")
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    save_model(model, load_tokenizer(tiny), path)


@pytest.fixture
def trained(ready: Path, tiny: Path) -> Path:
    """Return the current directory with data/clean, a base and a tuned model."""
    write_tuned(tiny, ready / "models/merged")
    return ready


def bula(*arguments: str) -> Result:
    """Run a command of bula in the current directory."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def judgements(key: Key, variant: str) -> list[Row]:
    """Return the file of a rater who always prefers the answer of one variant."""
    rows: list[Row] = [{"form": 1, "kit": key.kit, "rater": "R1", "language": "pt-BR"}]
    variants = {item.item: item.variant for item in key.items}
    for item in key.items:
        scores: dict[str, Any] = {"relevance": "partly", "harm": "none", "style": 2, "note": ""}
        sentences = ["right"] * item.sentences
        rows.append({"type": "answer", "item": item.item, "sentences": sentences, **scores})
    for pair in key.pairs:
        side = "left" if variants[pair.left] == variant else "right"
        rows.append({"type": "pair", "pair": pair.pair, "prefer": side})
    return rows


def test_preferences_about_dev_answers_become_training_pairs(trained: Path) -> None:
    output = bula("answers", "dev", "--questions", "3").output
    assert "base and tuned answered 3 questions of dev, in .bula/answers-dev" in output
    kit = ["--answers", str(ANSWERS), "--out", "review-dev", "--repeats", "1"]
    output = bula("review-kit", *kit).output
    assert "4 pairs of answers, 1 of them repetitions" in output
    assert "questions of dev" in output
    key = Key.model_validate_json(Path("review-dev/key.json").read_text(encoding="utf-8"))
    assert {item.set for item in key.items} == {"dev"}
    write_jsonl(Path("R1.jsonl"), judgements(key, "tuned"))
    options = ["--key", "review-dev/key.json", "--raters", "clinician", "--out", str(LABELS)]
    output = bula("labels", "import", "R1.jsonl", *options, "--answers", str(ANSWERS)).output
    assert "export them by `bula labels export-pairs`" in output
    sources = ["--labels", str(LABELS), "--answers", str(ANSWERS)]
    output = bula("labels", "export-pairs", str(PAIRS), *sources).output
    assert "3 pairs in data/labels/pairs.jsonl" in output
    check_pairs()


def check_pairs() -> None:
    """Assert that the stage prefer accepts the pairs, and that the tuned answers are chosen."""
    found = {
        variant: {row["question"]: row["generated"] for row in read_rows(ANSWERS / variant)}
        for variant in ("base.jsonl", "tuned.jsonl")
    }
    rows = list(read_rows(PAIRS))
    for row in rows:
        question = row["prompt"][-1]["content"]
        assert row["chosen"][0]["content"] == found["tuned.jsonl"][question]
        assert row["rejected"][0]["content"] == found["base.jsonl"][question]
    tokenizer = load_tokenizer(Path("models/base"))
    validation = validation_keys(CLEAN / "validation")
    pairs = read_pairs(PAIRS, validation, tokenizer, load_params().preprocess.max_tokens)
    assert len(pairs) == len(rows) == 3


def test_changed_answers_are_refused_by_the_import(trained: Path) -> None:
    bula("answers", "dev", "--questions", "2")
    bula("review-kit", "--answers", str(ANSWERS), "--repeats", "0")
    key = Key.model_validate_json(Path("review/key.json").read_text(encoding="utf-8"))
    write_jsonl(Path("R1.jsonl"), judgements(key, "tuned"))
    rows = [row | {"generated": "Outra."} for row in read_rows(ANSWERS / "base.jsonl")]
    write_jsonl(ANSWERS / "base.jsonl", rows)
    options = ["--key", "review/key.json", "--raters", "clinician", "--answers", str(ANSWERS)]
    with pytest.raises(UserError, match="2 of 2 answers of the kit have another text"):
        bula("labels", "import", "R1.jsonl", *options)


def test_an_answer_equals_that_of_generate_to_the_same_question(trained: Path) -> None:
    # In other batches a matmul may round otherwise.
    edit_params(Path("params.yaml"), lambda params: params["generate"].update(batch_size=1))
    generate.main("base")
    expected = {row["id"]: row for row in read_rows(Path("data/answers/base.jsonl"))}
    out = Path("answers")
    count = answer_split(CLEAN / "validation", "B", ["base"], load_params(), 2, out)
    rows = list(read_rows(out / "base.jsonl"))
    assert count == len(rows) == 2
    for row in rows:
        own = expected[row["id"]]
        assert row == {name: own[name] for name in row}


def test_personal_data_in_answers_is_redacted(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bula.labels.split_answers.find_personal_data",
        lambda text: find_personal_data("11 91234-5678"),
    )
    bula("answers", "dev", "--questions", "1", "--variants", "base")
    (row,) = read_rows(ANSWERS / "base.jsonl")
    assert row["generated"].startswith("[TELEFONE]")


def test_the_questions_with_the_lowest_ids_are_answered(tmp_path: Path) -> None:
    examples = validation_examples("A", 5)
    rows = [example.model_dump(exclude_none=True) for example in reversed(examples)]
    path = tmp_path / "train.jsonl"
    write_jsonl(path, rows)
    assert choose_questions(path, 3) == examples[:3]
    assert len(choose_questions(path, 9)) == len(read_examples(path)) == 5


def test_existing_answers_are_never_overwritten(trained: Path) -> None:
    write_jsonl(ANSWERS / "tuned.jsonl", [{"id": "0"}])
    with pytest.raises(UserError, match="labels of its answers need it"):
        bula("answers", "dev")
    assert [path.name for path in ANSWERS.iterdir()] == ["tuned.jsonl"]


def test_a_stopped_command_writes_no_answers(trained: Path) -> None:
    (trained / "models/merged/model.safetensors").unlink()
    with pytest.raises(UserError, match="models/merged"):
        bula("answers", "dev", "--questions", "1")
    assert not ANSWERS.exists()


def test_a_kit_of_missing_answers_names_the_command(trained: Path) -> None:
    with pytest.raises(UserError, match=r"answers-dev/base\.jsonl") as caught:
        bula("review-kit", "--answers", str(ANSWERS))
    assert "`python -m bula answers`" in caught.value.fix


def test_options_choose_the_variants() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert choose_variants(params, "") == ["base", "tuned"]
    assert choose_variants(params, "tuned, quantized,tuned") == ["tuned", "quantized"]
    with pytest.raises(UserError, match="variants has no 'other'"):
        choose_variants(params, "base,other")
    compare = params.compare.model_copy(update={"pairs": []})
    with pytest.raises(UserError, match=r"compare\.pairs is empty"):
        choose_variants(params.model_copy(update={"compare": compare}), "")
