import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bula import generation
from bula.generation import (
    GREEDY,
    batches_of_prompts,
    generate_batch,
    generate_greedy,
    until_end,
)
from bula.models import load_model, load_tokenizer
from bula.params import Decoding
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


def test_batching_prompts_of_unequal_lengths_does_not_change_answers(
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


def rules(**changes: float) -> Decoding:
    """Return the greedy rules with changes."""
    return Decoding.model_validate(GREEDY.model_dump() | changes)


@torch.inference_mode()
def penalised(model: PreTrainedModel, prompt: list[int], penalty: float, tokens: int) -> list[int]:
    """Return a greedy answer in which every earlier token is penalised, without `generate`."""
    ids = list(prompt)
    for _ in range(tokens):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].clone()
        for token in set(ids):
            logits[token] *= 1 / penalty if logits[token] > 0 else penalty
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.fixture
def few_words(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model that answers with 40 different tokens, so that it must repeat some."""
    limited = copy.deepcopy(model)
    head = limited.get_output_embeddings()
    weight = torch.zeros_like(head.weight)
    weight[1000:1040] = head.weight[1000:1040]
    head.weight = torch.nn.Parameter(weight.detach())
    return limited


def test_the_penalty_counts_tokens_of_prompt_and_answer_and_no_padding(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    few_words: PreTrainedModel,
) -> None:
    expected = [penalised(few_words, prompt, 1.2, NEW_TOKENS) for prompt in prompts]
    assert expected != generate_greedy(few_words, tokenizer, prompts, NEW_TOKENS)
    harsh = rules(repetition_penalty=1.2)
    assert generate_batch(few_words, tokenizer, prompts, NEW_TOKENS, harsh) == expected


def test_no_pair_of_tokens_occurs_twice(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    absent = [token for token in range(1000, 2000) if token not in prompts[0]]
    first, second, third = absent[:3]
    bias = torch.zeros(model.config.vocab_size)
    bias[[first, second, third]] = torch.tensor([3000.0, 2000.0, 1000.0])

    def answer_with(decoding: Decoding) -> list[int]:
        [ids] = generate_batch(model, tokenizer, prompts[:1], 5, decoding)
        return ids

    hook = model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
    try:
        assert answer_with(GREEDY) == [first] * 5
        # Each token that has already followed `first` is forbidden behind it.
        expected = [first, first, second, first, third]
        assert answer_with(rules(no_repeat_ngram=2)) == expected
    finally:
        hook.remove()


def test_rules_of_the_models_own_files_do_not_change_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    answers: list[list[int]],
    tiny: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny, folder)
    unwanted = {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [answers[0][0]],
        "do_sample": True,
        "temperature": 2.0,
    }
    (folder / "generation_config.json").write_text(json.dumps(unwanted), encoding="utf-8")
    loaded = load_model(folder, "float32")
    own = loaded.generation_config
    assert own.repetition_penalty == 1.3
    assert generate_greedy(loaded, tokenizer, prompts, NEW_TOKENS) == answers
    # The model keeps its own rules for other callers.
    assert loaded.generation_config is own


def test_a_seed_repeats_draws_from_all_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]
) -> None:
    warm = rules(temperature=1.5)

    def draw(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return generate_batch(model, tokenizer, prompts, NEW_TOKENS, warm)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor(prompts[:1])).logits[0, -1]
    likely = set(logits.topk(50).indices.tolist())
    # A random model has nearly equal probabilities, and 50 of 49,152 tokens are few of them.
    firsts = [draw(seed)[0][0] for seed in range(5)]
    assert not likely.issuperset(firsts)


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
