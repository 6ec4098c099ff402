"""Test the choice of few-shot examples, and the prompts that contain them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.clones import edit_params
from bula.errors import UserError
from bula.few_shot import check_context, read_shots, with_shots
from bula.models import load_model, load_tokenizer
from bula.params import load_params, variant_of
from bula.prompts import encode, encode_prompt, encode_prompts
from bula.records import MOST_SHOTS, Row, Turn, read_examples, read_rows, read_validation_sets
from stages import generate, likelihood, safety
from stages.preprocess.few_shot import draw, place_of, write_few_shot
from tests.conftest import validation_examples, write_jsonl, write_validation_sets

SHOT = Turn(question="Posso tomar café?", answer="Pode, com moderação.")


def train_row(number: int, specialty: str | None = None) -> Row:
    return {
        "id": f"{number:016x}",
        "source": "s",
        "license": "l",
        "split": "train",
        "question": "Dói?",
        "answer": "Não.",
        "specialty": specialty,
    }


def chosen(folder: Path, rows: list[Row], tokens: list[int] | None = None) -> list[Row]:
    """Return the few-shot examples that are chosen from rows of train."""
    write_jsonl(folder / "train.jsonl", rows)
    write_few_shot(folder, tokens or [10] * len(rows), load_params())
    return list(read_rows(folder / "few_shot.jsonl"))


def prompted(params: dict[str, Any]) -> None:
    """Add a variant with two few-shot examples."""
    params["dtype"] = "float32"
    variant = {"model": "models/base", "engine": "transformers"}
    params["variants"] = {"base": variant, "prompted": variant | {"few_shot": 2}}
    params["compare"]["pairs"] = [{"variant": "prompted", "baseline": "base"}]


def lengthen(section: str, tokens: int, params: dict[str, Any]) -> None:
    """Let a section ask for answers of so many tokens."""
    params[section]["max_new_tokens"] = tokens


@pytest.fixture
def asked(workspace: Path, tiny: Path) -> Path:
    """Return the workspace with a prompted variant, questions and few-shot examples."""
    (workspace / "models/base").symlink_to(tiny)
    write_validation_sets(workspace)
    examples = []
    for number in range(3):
        texts = {"question": f"Posso comer {number}?", "answer": f"Pode comer {number}."}
        examples.append(train_row(number) | texts)
    write_jsonl(workspace / "data/clean/few_shot.jsonl", examples)
    edit_params(workspace / "params.yaml", prompted)
    return workspace


def metrics_of(folder: Path, stage: str, variant: str) -> dict[str, Any]:
    text = (folder / f"metrics/{stage}/{variant}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


# --- the choice ---


def test_examples_of_distinct_specialties_come_first(workspace: Path) -> None:
    rows = [train_row(number, "cardiologia") for number in range(20)]
    rows += [train_row(100, "pediatria"), train_row(101)]
    found = chosen(workspace, rows)
    assert len(found) == MOST_SHOTS
    assert {row["specialty"] for row in found[:3]} == {"cardiologia", "pediatria", None}
    assert {row["specialty"] for row in found[3:]} == {"cardiologia"}
    assert len({row["id"] for row in found}) == MOST_SHOTS


def test_an_example_is_the_first_of_its_specialty_in_the_drawing_order(workspace: Path) -> None:
    rows = [train_row(number, "cardiologia") for number in range(20)]
    found = chosen(workspace, rows)
    drawn = draw(workspace / "train.jsonl", [10] * 20, load_params())
    ordered = [row for _, row in sorted(drawn, key=place_of)]
    assert found == ordered[:MOST_SHOTS]


def test_another_sampling_seed_draws_other_examples(workspace: Path) -> None:
    rows = [train_row(number) for number in range(100)]
    first = chosen(workspace, rows)
    edit_params(workspace / "params.yaml", lambda params: params.update(sampling_seed=7))
    assert chosen(workspace, rows) != first


def test_a_new_row_of_train_replaces_at_most_one_example(workspace: Path) -> None:
    rows = [train_row(number) for number in range(100)]
    before = {row["id"] for row in chosen(workspace, rows)}
    for number in range(100, 120):
        after = {row["id"] for row in chosen(workspace, [*rows, train_row(number)])}
        assert len(before - after) <= 1


def test_long_rows_and_conversations_are_no_examples(workspace: Path) -> None:
    rows = [train_row(number) for number in range(5)]
    rows[4]["history"] = [SHOT.model_dump()]
    # The median of 10, 20, 30, 40 and 50 is 30.
    found = chosen(workspace, rows, [20, 40, 30, 50, 10])
    assert {row["id"] for row in found} == {rows[0]["id"], rows[2]["id"]}


def test_preprocess_writes_examples_of_train(ready: Path) -> None:
    train = {row["id"] for row in read_rows(ready / "data/clean/train.jsonl")}
    found = [example.id for example in read_examples(ready / "data/clean/few_shot.jsonl")]
    assert 0 < len(found) <= MOST_SHOTS
    assert set(found) <= train


# --- the prompts ---


def test_examples_are_earlier_turns_after_one_system_prompt(asked: Path, tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    shots = read_shots(asked / "data/clean", variant_of(load_params(), "prompted"))
    example = validation_examples("A", 1)[0].model_copy(update={"history": [SHOT]})
    [prompt] = encode_prompts(tokenizer, [example], shots)
    text = tokenizer.decode(prompt)
    assert text.count("Você é um assistente de saúde") == 1
    asked_in_order = [shots[0].question, shots[1].question, SHOT.question, example.question]
    places = [text.index(question) for question in asked_in_order]
    assert places == sorted(places)
    assert text.index(shots[0].answer) < places[1]
    assert prompt == encode_prompt(tokenizer, example.question, [*shots, SHOT])
    assert with_shots(example, shots).history == [*shots, SHOT]


def test_a_variant_without_the_key_reads_no_examples(asked: Path) -> None:
    base = variant_of(load_params(), "base")
    assert read_shots(asked / "no such folder", base) == []


def test_generate_and_likelihood_put_the_examples_before_each_question(asked: Path) -> None:
    for variant in ("base", "prompted"):
        generate.main(variant)
        likelihood.main(variant)
    base, few = (list(read_rows(asked / f"data/answers/{name}.jsonl")) for name in names())
    assert [row["id"] for row in few] == [row["id"] for row in base]
    assert "history" not in few[0]
    hashes = {row["prompt_hash"] for row in base}
    assert hashes.isdisjoint(row["prompt_hash"] for row in few)
    plain, shown = (list(read_rows(asked / f"data/likelihood/{name}.jsonl")) for name in names())
    assert [row["tokens"] for row in shown] == [row["tokens"] for row in plain]
    assert [row["nats"] for row in shown] != [row["nats"] for row in plain]
    for stage in ("generate", "likelihood"):
        counts = [metrics_of(asked, stage, name)["settings"]["few_shot"] for name in names()]
        assert counts == [0, 2]


def names() -> tuple[str, str]:
    return "base", "prompted"


def test_the_loss_of_a_prompted_variant_is_that_of_the_longer_conversation(asked: Path) -> None:
    likelihood.main("prompted")
    rows = {row["id"]: row for row in read_rows(asked / "data/likelihood/prompted.jsonl")}
    params = load_params()
    tokenizer = load_tokenizer(asked / "models/base")
    model = load_model(asked / "models/base", params.dtype)
    shots = read_shots(asked / "data/clean", variant_of(params, "prompted"))
    example = read_validation_sets(asked / "data/clean/validation")["A"][0]
    conversation = example.model_copy(update={"history": shots})
    encoded = [encode(tokenizer, conversation)]
    [score] = likelihood.score(model, encoded, 4096, tokenizer.pad_token_id)
    assert rows[example.id]["nats"] == pytest.approx(score.nats, rel=1e-4)


def test_safety_questions_follow_the_examples(asked: Path) -> None:
    limits = {"items_per_slice": 1, "max_new_tokens": 2}
    edit_params(asked / "params.yaml", lambda params: params["safety"].update(limits))
    for variant in names():
        safety.main(variant)
    base, few = (list(read_rows(asked / f"data/safety/{name}.jsonl")) for name in names())
    hashes = {row["prompt_hash"] for row in base}
    assert hashes.isdisjoint(row["prompt_hash"] for row in few)


def test_too_few_examples_are_refused_with_their_number(asked: Path) -> None:
    edit_params(
        asked / "params.yaml", lambda params: params["variants"]["prompted"].update(few_shot=4)
    )
    message = r"few_shot.jsonl: it has 3 examples, and few_shot asks for 4\. Lower `few_shot`"
    with pytest.raises(UserError, match=message):
        generate.main("prompted")
    assert not (asked / "data/answers").exists()


def test_a_prompt_that_exceeds_the_context_is_refused(asked: Path, tiny: Path) -> None:
    context = json.loads((tiny / "config.json").read_text())["max_position_embeddings"]
    check_context(tiny, [context], [SHOT], "shorten it")
    message = rf"{context + 1} tokens with 1 few-shot examples, and the context has {context}"
    with pytest.raises(UserError, match=rf"{message}\. Lower `few_shot` .*, or shorten it"):
        check_context(tiny, [3, context + 1], [SHOT], "shorten it")
    edit_params(asked / "params.yaml", partial(lengthen, "generate", context))
    with pytest.raises(UserError, match="Lower `few_shot`"):
        generate.main("prompted")


def test_the_context_also_limits_prompts_without_examples(asked: Path, tiny: Path) -> None:
    context = json.loads((tiny / "config.json").read_text())["max_position_embeddings"]
    message = rf"have {context + 1} tokens, and the context has {context}\. Shorten it"
    with pytest.raises(UserError, match=message):
        check_context(tiny, [context + 1], [], "shorten it")
    for section, stage in (("generate", generate), ("safety", safety)):
        edit_params(asked / "params.yaml", partial(lengthen, section, context))
        with pytest.raises(UserError, match=rf"Lower {section}\.max_new_tokens"):
            stage.main("base")


@pytest.mark.parametrize("count", [-1, MOST_SHOTS + 1])
def test_the_number_of_examples_has_limits(count: int, asked: Path) -> None:
    edit_params(
        asked / "params.yaml", lambda params: params["variants"]["prompted"].update(few_shot=count)
    )
    with pytest.raises(UserError, match=r"variants\.prompted\.few_shot"):
        load_params()
