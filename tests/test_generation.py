from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bula import generation
from bula.generation import batches_of_prompts, generate_greedy, until_end
from bula.models import load_model, load_tokenizer
from bula.prompts import encode_prompt

QUESTIONS = (
    "Dói?",
    "Posso tomar dipirona com febre?",
    "Quantos copos de água devo beber por dia, se faz calor e eu trabalho ao ar livre?",
)
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny)


@pytest.fixture(scope="module")
def model(tiny: Path) -> PreTrainedModel:
    return load_model(tiny, "float32")


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [encode_prompt(tokenizer, question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> list[list[int]]:
    """Return the answer to each prompt in a batch of one."""
    found = []
    for prompt in prompts:
        # A single prompt needs no padding.
        found += generate_greedy(model, tokenizer, [prompt], NEW_TOKENS)
    return found


def test_prompts_of_unequal_lengths_in_one_batch_are_answered_as_they_are_singly(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    answers: list[list[int]],
) -> None:
    lengths = set(map(len, prompts))
    assert len(lengths) == len(prompts)
    # Equal answers would hide a wrong order.
    different = set(map(tuple, answers))
    assert len(different) == len(answers)
    assert generate_greedy(model, tokenizer, prompts, NEW_TOKENS) == answers


def test_an_answer_without_an_end_token_has_the_largest_length(answers: list[list[int]]) -> None:
    lengths = list(map(len, answers))
    assert lengths == [NEW_TOKENS] * len(QUESTIONS)


@pytest.mark.parametrize("stopped", range(len(QUESTIONS)))
def test_ids_are_cut_after_the_first_end_token(
    stopped: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    answers: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The fifth token of one answer is declared an end token, so that one answer stops early.
    end = answers[stopped][4]
    monkeypatch.setattr(generation, "end_token_ids", lambda tokenizer: [end])
    expected = [until_end(ids, [end]) for ids in answers]
    assert len(expected[stopped]) <= 5
    assert expected[stopped][-1] == end
    assert generate_greedy(model, tokenizer, prompts, NEW_TOKENS) == expected


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([4, 2, 5, 2], [4, 2]),
        ([0], [0]),
        ([4, 5], [4, 5]),
        ([], []),
    ],
)
def test_the_first_end_token_is_kept(ids: list[int], expected: list[int]) -> None:
    assert until_end(ids, [2, 0]) == expected


def test_batches_contain_prompts_of_similar_length() -> None:
    lengths = (5, 2, 9, 1, 7)
    prompts = [[1] * length for length in lengths]
    assert batches_of_prompts(prompts, 2) == [[3, 1], [0, 4], [2]]
    assert batches_of_prompts(prompts, 8) == [[3, 1, 0, 4, 2]]
