"""Test the comparison of anybody's adapters, models and GGUF files."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from bench.clones import ROOT, build_tiny
from bula.__main__ import app
from bula.commands.fidelity import question_files
from bula.errors import UserError
from bula.fidelity import compare_forms, describe_form, read_questions
from bula.gguf_export import LIMITS_NATS, SIXTEEN_BIT_LIMIT_NATS, export
from bula.models import load_model, load_tokenizer, save_model

ROWS = [
    {"question": "Posso tomar sol?", "answer": "Sim, pela manhã."},
    {"question": "Dói a cabeça.", "answer": "Descanse e beba água."},
]


@pytest.fixture(scope="module")
def forms(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base, its adapter, the merged model and a GGUF file."""
    folder = tmp_path_factory.mktemp("forms")
    build_tiny(smollm2, folder / "base")
    tokenizer = load_tokenizer(folder / "base")
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(folder / "base", "float32"), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    save_model(model.merge_and_unload(), tokenizer, folder / "merged")
    export(folder / "merged", "q8_0", folder / "q8_0.gguf")
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a file of two questions with answers."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_the_merged_model_and_its_file_equal_the_adapter(forms: Path, rows: Path) -> None:
    paths = [forms / "adapter", forms / "merged", forms / "q8_0.gguf"]
    first, merged, file = compare_forms(paths, forms / "base", read_questions([rows], 2))
    assert first.figures["kl_nats"] == 0
    assert merged.figures["kl_nats"] < 1e-6
    assert 0 < file.figures["kl_nats"] < LIMITS_NATS["q8"]
    assert not merged.problems
    assert not file.problems


def test_the_base_in_place_of_the_merged_model_is_found(forms: Path, rows: Path) -> None:
    paths = [forms / "adapter", forms / "base"]
    _, other = compare_forms(paths, forms / "base", read_questions([rows], 2))
    assert other.figures["kl_nats"] > SIXTEEN_BIT_LIMIT_NATS
    [problem] = other.problems
    assert "nats per token is above 0.001" in problem


def test_a_changed_chat_template_is_found(forms: Path, rows: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(forms / "merged")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>", "<|im_start|> ")
    save_model(load_model(forms / "merged", "float32"), tokenizer, tmp_path / "other")
    paths = [forms / "merged", tmp_path / "other"]
    _, other = compare_forms(paths, forms / "base", read_questions([rows], 2))
    [problem] = other.problems
    assert problem == "its tokenizer or chat template gives other token ids for 2 of 2 chats"


def test_a_form_has_the_limit_of_its_fewest_bits(forms: Path) -> None:
    assert describe_form(forms / "adapter") == ("adapter", SIXTEEN_BIT_LIMIT_NATS)
    assert describe_form(forms / "merged") == ("model", SIXTEEN_BIT_LIMIT_NATS)
    assert describe_form(forms / "q8_0.gguf") == ("GGUF, q8", LIMITS_NATS["q8"])


def test_questions_come_from_each_file_in_turn(rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"question": "Q", "answer": "A"}) + "\n", encoding="utf-8")
    questions = [example.question for example in read_questions([rows, other], 8)]
    assert questions == ["Posso tomar sol?", "Q", "Dói a cabeça."]


def test_a_row_without_an_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Q", "answer": "A"}\n{"question": "Q"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"rows.jsonl:2: it has no question with an answer"):
        read_questions([path], 8)


def test_the_command_exits_with_1_for_another_model(forms: Path, rows: Path) -> None:
    base = ["--base", str(forms / "base"), "--rows", str(rows)]
    same = ["fidelity", str(forms / "adapter"), str(forms / "merged"), *base]
    result = CliRunner().invoke(app, same)
    assert result.exit_code == 0
    assert "within 0.001 nats: rounding" in result.output
    other = ["fidelity", str(forms / "adapter"), str(forms / "base"), *base]
    result = CliRunner().invoke(app, other)
    assert result.exit_code == 1
    assert "DIFFERS" in result.output


def test_another_file_is_refused_before_a_model_is_loaded() -> None:
    result = CliRunner().invoke(app, ["fidelity", str(ROOT / "data"), str(ROOT / "README.md")])
    assert isinstance(result.exception, UserError)
    assert "README.md: it is no model. Name a folder" in str(result.exception)


def test_one_form_is_refused() -> None:
    result = CliRunner().invoke(app, ["fidelity", "models/base"])
    assert "one form has nothing to be compared with" in str(result.exception)


def test_missing_questions_are_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the folder has no questions") as caught:
        question_files(None)
    assert "--rows" in caught.value.fix
    with pytest.raises(UserError, match="it is not a file"):
        question_files(tmp_path)
