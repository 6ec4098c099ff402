"""Generate answers with transformers, in left-padded batches.

The generate stage, `python -m bula ask` and bench/engines.py share this code, so that they stop at
the same tokens and pad in the same way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from bula.models import end_token_ids
from bula.params import Decoding

GREEDY = Decoding(temperature=0, repetition_penalty=1, no_repeat_ngram=0)


def batches_of_prompts(prompts: list[list[int]], batch_size: int) -> list[list[int]]:
    """Return the indices of the prompts in batches of similar length.

    The shortest prompts come first. Prompts of similar length need little padding.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    starts = range(0, len(order), batch_size)
    return [order[start : start + batch_size] for start in starts]


def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the most probable new token ids of each prompt, as `generate_batch` does."""
    return generate_batch(model, tokenizer, prompts, max_new_tokens, GREEDY)


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    decoding: Decoding,
    streamer: Any = None,
) -> list[list[int]]:
    """Return the new token ids of each prompt.

    The prompts form one batch. An answer stops at its first end token, which is returned too, or
    after `max_new_tokens` tokens. A streamer of transformers receives the ids of one prompt, and
    then each new id at once.
    """
    longest = max(len(prompt) for prompt in prompts)
    end_ids = end_token_ids(tokenizer)
    ids = []
    mask = []
    for prompt in prompts:
        # Padding on the left puts the last token of every prompt next to its first new token.
        padding = longest - len(prompt)
        # A token of the prompt itself, because the penalty would also count another one.
        ids.append([prompt[0]] * padding + prompt)
        mask.append([0] * padding + [1] * len(prompt))
    config = _to_config(decoding, max_new_tokens)
    config.eos_token_id = end_ids
    config.pad_token_id = tokenizer.pad_token_id
    with _only(config, model):
        output = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=config,
            streamer=streamer,
        )
    new_ids = output[:, longest:].tolist()
    return [until_end(row, end_ids) for row in new_ids]


def _to_config(decoding: Decoding, max_new_tokens: int) -> GenerationConfig:
    """Return transformers' form of the decoding rules."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=decoding.temperature > 0,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram,
        use_cache=True,
    )
    if config.do_sample:
        config.temperature = decoding.temperature
        # transformers would draw from the 50 most probable tokens.
        config.top_k = 0
        config.top_p = 1.0
    return config


@contextmanager
def _only(config: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """Replace the generation configuration of a model's own files.

    `generate` would otherwise take every value from it that `config` leaves open.
    """
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def until_end(ids: list[int], end_ids: list[int]) -> list[int]:
    """Return the ids up to and including the first end token.

    transformers pads the answers that stop before the longest answer of their batch.
    """
    for place, token in enumerate(ids):
        if token in end_ids:
            return ids[: place + 1]
    return ids
